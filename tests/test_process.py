import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import process as pr
from mlem_jax.grids import schedules
from mlem_jax.levels import at_steps
from mlem_jax.steps import ddim
from tests.problems import normals

BETAS = np.linspace(1e-4, 0.02, 1000)
PROCESSES = {
    "cosine": pr.cosine(),
    "linear": pr.linear(),
    "exploding": pr.variance_exploding(),
    "flow": pr.rectified_flow(),
    "discrete": pr.discrete(betas=BETAS),
    "wiping": pr.discrete(betas=np.append(BETAS, 1.0)),
}
PREDICTIONS = (
    pr.predict_data,
    pr.predict_noise,
    pr.predict_v,
    pr.predict_score,
    pr.predict_velocity,
)
# Traced once each, and not for each of all their conversions.
PROCESSES = {
    name: own._replace(alpha=jax.jit(own.alpha), sigma=jax.jit(own.sigma))
    for name, own in PROCESSES.items()
}
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
def test_every_prediction_follows_from_every_other(process):
    data, noise = normals(0, 5), normals(1, 5)

    @jax.jit
    def converted(t):
        x = pr.perturb(process, data, noise, t)
        own = [truth(process, each, data, noise, t) for each in PREDICTIONS]
        found = [[pr.convert(process, source, target, x, given, t) for target in PREDICTIONS]
                 for source, given in zip(PREDICTIONS, own, strict=True)]  # fmt: skip
        return jnp.asarray(found), jnp.asarray(own)

    for share in (0.01, 0.3, 0.4, 0.8, 0.99):
        found, expected = converted(jnp.asarray(share * process.end))
        for row in found:
            np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-9)


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

    @jax.jit
    def with_slopes(t):
        def converted(given):
            return [pr.convert(process, source, target, x, given, t)
                    for source, target in itertools.product(PREDICTIONS, PREDICTIONS)]  # fmt: skip

        return jax.jvp(converted, (given,), (jnp.ones(3),))

    for end in (0.0, process.end):
        assert not np.isnan(np.asarray(with_slopes(jnp.asarray(end)))).any()


@pytest.mark.parametrize("name", ["cosine", "linear", "discrete", "wiping"])
def test_variance_preserving_processes_preserve_variance(name):
    process = PROCESSES[name]
    t = process.end * jnp.linspace(0, 1, 101)
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


def test_a_discrete_process_is_its_table_and_falls_between():
    process, kept = PROCESSES["discrete"], np.cumprod(1 - BETAS)
    alpha, sigma = schedules(process, np.arange(1001.0))
    np.testing.assert_allclose(alpha**2, np.append(1, kept), rtol=1e-12)
    np.testing.assert_allclose(sigma[1:] ** 2, 1 - kept, rtol=1e-9)
    assert sigma[0] == 0
    between = schedules(process, np.linspace(0, 1000, 7001))
    assert (np.diff(between[0]) < 0).all()
    assert (np.diff(between[1]) > 0).all()
    same = schedules(pr.discrete(alphas_cumprod=kept), np.linspace(0, 1000, 7001))
    np.testing.assert_allclose(same, between, rtol=1e-9)


def test_a_last_step_that_wipes_the_data_out_ends_in_pure_noise():
    process = PROCESSES["wiping"]
    alpha, sigma = schedules(process, [1000.0, 1000.25, 1000.5, 1001.0])
    np.testing.assert_allclose(alpha / alpha[0], [1, 0.75, 0.5, 0], rtol=1e-12)
    assert sigma[-1] == 1
    assert all(np.isfinite(column).all() for column in ddim(process, np.linspace(1001, 0, 8))[:4])
    same = pr.discrete(alphas_cumprod=np.cumprod(1 - np.append(BETAS, 1.0)))
    np.testing.assert_allclose(schedules(same, [1000.5, 1001.0])[0], alpha[2:], rtol=1e-9)


def test_a_discrete_process_has_its_digits_before_and_after_single_precision():
    process, kept = pr.discrete(betas=BETAS), np.cumprod(1 - BETAS)
    for _ in range(2):
        alpha = schedules(process, np.arange(1.0, 1001.0))[0]
        np.testing.assert_allclose(alpha**2, kept, rtol=1e-12)
        with jax.enable_x64(False):
            single = jax.jit(process.alpha)(jnp.arange(1, 1001, dtype=jnp.float32))
            np.testing.assert_allclose(single**2, kept, rtol=1e-5)


def test_a_network_of_training_steps_is_a_level():
    assert pr.step_index(jnp.arange(0.0, 4.0)).tolist() == [0, 0, 1, 2]
    assert pr.step_index(jnp.asarray(980.7)).dtype == jnp.int32
    seen = at_steps(lambda params, x, index: params * x + index.astype(x.dtype))
    assert seen(2.0, jnp.asarray([1.0]), jnp.asarray(981.0)) == 982


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of betas and alphas_cumprod, got none"),
        ({"betas": BETAS, "alphas_cumprod": BETAS}, "got both"),
        ({"betas": 0.5}, r"betas as a table of numbers, got shape \(\)"),
        ({"betas": []}, r"got shape \(0,\)"),
        ({"betas": [0.1, 0.0, 0.1]}, "got 0.0 at step 1"),
        ({"betas": [0.1, 1.0, 0.1]}, "got 1.0 at step 1"),
        ({"betas": [0.1, 0.2, 1.1]}, "got 1.1 at step 2"),
        ({"betas": [0.1, np.nan]}, "got nan at step 1"),
        ({"betas": np.cumprod(1 - BETAS)[::-1] * 2}, "at step 0|at step"),
        ({"alphas_cumprod": np.cumprod(1 - BETAS)[::-1]}, "from the cleanest step, got"),
        ({"alphas_cumprod": [1.0, 0.9, 0.8]}, "got 1.0 at step 0"),
        ({"alphas_cumprod": [0.9, 0.0, 0.0]}, "got 0.0 at step 1"),
        ({"alphas_cumprod": [0.9, 0.8, -0.1]}, "got -0.1 at step 2"),
    ],
)
def test_a_table_that_is_none_of_a_discrete_process_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        pr.discrete(**given)


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (pr.cosine, {"offset": -0.1}),
        (pr.cosine, {"offset": np.nan}),
        (pr.linear, {"beta_min": -1.0}),
        (pr.linear, {"beta_min": 20.0, "beta_max": 0.1}),
        (pr.linear, {"beta_min": 0.0, "beta_max": 0.0}),
        (pr.variance_exploding, {"maximum": 0.0}),
        (pr.variance_exploding, {"maximum": np.inf}),
    ],
)
def test_a_schedule_of_impossible_numbers_is_refused(make, numbers):
    with pytest.raises(ValueError, match="all finite, got"):
        make(**numbers)
