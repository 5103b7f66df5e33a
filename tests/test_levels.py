import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlem_jax import levels as lv
from mlem_jax import process as pr
from mlem_jax.plan import full_plan
from mlem_jax.solve import solve
from mlem_jax.steps import ddim, uniform_grid
from tests.problems import normals

COSINE = pr.cosine()
GRID = uniform_grid(1.0, 0.0, 6)
X = normals(0, 2, 3)


def run(drift, params):
    levels = lv.Levels((drift,), (1.0,))
    return solve(levels, (params,), X, ddim(COSINE, GRID), full_plan(6, 1, 1))


def test_linen_and_nnx_modules_are_levels():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x, t):
            return nn.Dense(3, param_dtype=jnp.float64)(x) * t

    class Nnx(nnx.Module):
        def __init__(self, kernel, bias):
            self.dense = nnx.Linear(3, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
            self.dense.kernel[...], self.dense.bias[...] = kernel, bias

        def __call__(self, x, t):
            return self.dense(x) * t

    params = Linen().init(jax.random.key(0), X, 0.5)
    dense = params["params"]["Dense_0"]
    expected = run(lambda params, x, t: x @ dense["kernel"] * t + dense["bias"] * t, ())
    np.testing.assert_allclose(run(lv.linen_drift(Linen()), params), expected, atol=1e-12)
    drift, state = lv.nnx_drift(Nnx(dense["kernel"], dense["bias"]))
    np.testing.assert_allclose(run(drift, state), expected, atol=1e-12)


@pytest.mark.parametrize(
    "prediction", [pr.predict_noise, pr.predict_v, pr.predict_score, pr.predict_velocity]
)
def test_networks_that_predict_the_same_in_other_words_are_the_same_level(prediction):
    def knows_data(params, x, t):
        return params * jnp.tanh(x)

    def says_otherwise(params, x, t):
        data = knows_data(params, x, t)
        return pr.convert(COSINE, pr.predict_data, prediction, x, data, t)

    grid = uniform_grid(0.98, 0.02, 6)
    ends = [
        solve(lv.Levels((drift,), (1.0,)), (0.8,), X, ddim(COSINE, grid), full_plan(6, 1, 1))
        for drift in (knows_data, lv.data_drift(says_otherwise, COSINE, prediction))
    ]
    np.testing.assert_allclose(*ends, atol=1e-9)


def test_clipping_bounds_the_predicted_data():
    drift = lv.data_drift(lambda p, x, t: 5 * x, COSINE, pr.predict_v, clip=0.7)
    found = drift((), X, jnp.asarray(0.5))
    assert jnp.abs(found).max() == 0.7
    free = lv.data_drift(lambda p, x, t: 5 * x, COSINE, pr.predict_v)((), X, jnp.asarray(0.5))
    np.testing.assert_array_equal(found, jnp.clip(free, -0.7, 0.7))


def labelled(params, x, t, label):
    return params * x + label[:, None]


def test_a_conditional_level_sees_its_condition():
    given = lv.Conditional(jnp.asarray(2.0), jnp.array([1.0, -1.0]))
    np.testing.assert_allclose(
        lv.conditional(labelled)(given, X, jnp.asarray(0.5)), 2 * X + jnp.array([[1.0], [-1.0]])
    )


def test_guidance_extrapolates_from_none_to_the_condition_and_costs_twice():
    ladder = lv.guided_levels((labelled, labelled), (1.0, 3.0))
    assert ladder.costs == (2.0, 6.0)
    label, null = jnp.array([1.0, -1.0]), jnp.zeros(2)
    for scale, shift in ((0.0, 0.0), (1.0, 1.0), (2.5, 2.5)):
        given = lv.Guided(jnp.asarray(2.0), label, null, scale)
        found = ladder.drifts[0](given, X, jnp.asarray(0.5))
        np.testing.assert_allclose(found, 2 * X + shift * label[:, None], atol=1e-12)


def heavy(params, x, t):
    return jax.lax.fori_loop(0, 40, lambda _, x: jnp.tanh(x @ params), x)


def test_costs_are_measured_by_time_and_by_flops():
    x, t, matrix = jnp.ones((200, 200)), jnp.asarray(0.5), jnp.eye(200)
    drifts = (lambda params, x, t: jnp.tanh(x @ params), heavy)
    cheap, dear = lv.measure_costs(drifts, (matrix, matrix), x, t, evaluations=3, repeats=3)
    assert 0 < cheap < dear  # Forty times the work; nothing said of by how much.
    flops = lv.count_flops(drifts[:1], (matrix,), x, t)
    assert flops[0] == pytest.approx(2 * 200**3, rel=0.02)


def test_ladders_that_are_none_are_refused():
    with pytest.raises(ValueError, match="got 2 levels and 1 costs"):
        lv.check_levels(lv.Levels((heavy, heavy), (1.0,)))
    with pytest.raises(ValueError, match="got 0 levels"):
        lv.check_levels(lv.Levels((), ()))
    with pytest.raises(ValueError, match="cheapest level first"):
        lv.check_levels(lv.Levels((heavy, heavy), (2.0, 1.0)))
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected positive costs"):
            lv.check_costs((wrong,))
    with pytest.raises(ValueError, match="expected positive costs"):
        lv.check_levels(lv.Levels((heavy,), (0.0,)))
