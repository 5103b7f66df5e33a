import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import process as pr
from tests.problems import normals

PROCESSES = {
    "cosine": pr.cosine(),
    "linear": pr.linear(),
    "exploding": pr.variance_exploding(),
    "flow": pr.rectified_flow(),
}
PREDICTIONS = (
    pr.predict_data,
    pr.predict_noise,
    pr.predict_v,
    pr.predict_score,
    pr.predict_velocity,
)
everywhere = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def truth(process, prediction, data, noise, t):
    """The quantity itself, from its definition."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    slopes = [jax.grad(schedule)(t) for schedule in (process.alpha, process.sigma)]
    return {
        pr.predict_data: data,
        pr.predict_noise: noise,
        pr.predict_v: alpha * noise - sigma * data,
        pr.predict_score: -noise / sigma,
        pr.predict_velocity: slopes[0] * data + slopes[1] * noise,
    }[prediction]


@everywhere
@pytest.mark.parametrize("share", [0.01, 0.3, 0.8, 0.99])
def test_every_prediction_follows_from_every_other(process, share):
    data, noise, t = normals(0, 5), normals(1, 5), jnp.asarray(share * process.end)
    x = pr.perturb(process, data, noise, t)
    for source, target in itertools.product(PREDICTIONS, PREDICTIONS):
        found = pr.convert(process, source, target, x, truth(process, source, data, noise, t), t)
        np.testing.assert_allclose(
            found, truth(process, target, data, noise, t), rtol=1e-8, atol=1e-8
        )


@everywhere
def test_there_and_back_is_where_one_began(process):
    x, given, t = normals(2, 5), normals(3, 5), jnp.asarray(0.4 * process.end)
    for source, target in itertools.product(PREDICTIONS, PREDICTIONS):
        there = pr.convert(process, source, target, x, given, t)
        back = pr.convert(process, target, source, x, there, t)
        np.testing.assert_allclose(back, given, rtol=1e-9, atol=1e-9)


@everywhere
@pytest.mark.parametrize("source", [pr.predict_v, pr.predict_velocity])
def test_data_and_noise_follow_from_v_and_velocity_at_both_ends(process, source):
    data, noise = normals(0, 5), normals(1, 5)
    for t in (jnp.asarray(0.0), jnp.asarray(process.end)):
        x = pr.perturb(process, data, noise, t)
        row = source(process, t)
        if row.factor == 0:  # An infinite velocity; its conversion to x_0 has a limit all the same.
            found = pr.convert(process, source, pr.predict_data, x, jnp.zeros(5), t)
            np.testing.assert_allclose(found, x / process.alpha(t), atol=1e-12)
            continue
        given = (row.of_data * data + row.of_noise * noise) / row.factor
        found = pr.convert(process, source, pr.predict_data, x, given, t)
        np.testing.assert_allclose(found, data, atol=1e-10)
        found = pr.convert(process, source, pr.predict_noise, x, given, t)
        np.testing.assert_allclose(found, noise, atol=1e-10)


@everywhere
def test_the_data_is_the_state_where_there_is_no_noise(process):
    t, x = jnp.asarray(0.0), normals(0, 5)
    for source in (pr.predict_noise, pr.predict_score):
        found = pr.convert(process, source, pr.predict_data, x, normals(1, 5), t)
        np.testing.assert_allclose(found, x, atol=1e-12)


@everywhere
def test_no_conversion_is_ever_nan_nor_is_its_derivative(process):
    x, given = normals(0, 3), normals(1, 3)
    for end, source, target in itertools.product((0.0, process.end), PREDICTIONS, PREDICTIONS):
        t = jnp.asarray(end)

        def converted(given, t=t, source=source, target=target):
            return pr.convert(process, source, target, x, given, t)

        value, tangent = jax.jvp(converted, (given,), (jnp.ones(3),))
        assert not jnp.isnan(value).any()
        assert not jnp.isnan(tangent).any()


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_variance_preserving_processes_preserve_variance(name):
    t = jnp.linspace(0, 1, 101)
    process = PROCESSES[name]
    np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, atol=1e-12)


def test_cosine_is_the_schedule_of_nichol_and_dhariwal():
    t = np.linspace(0, 1, 11)
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(pr.cosine().alpha(jnp.asarray(t)) ** 2, f / f[0], atol=1e-14)
    assert pr.cosine().alpha(jnp.asarray(1.0)) == 0


def test_a_prediction_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected a prediction of the state's shape \(3,\)"):
        pr.convert(
            pr.cosine(), pr.predict_v, pr.predict_data, jnp.ones(3), jnp.ones(2), jnp.asarray(0.5)
        )
