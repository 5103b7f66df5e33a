"""Levels from networks: adaptors against formulas by hand, and what an evaluation costs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlem_jax import levels as lv
from mlem_jax import plans
from mlem_jax import process as pr
from mlem_jax.costs import count_flops, measure_costs, never_falling
from mlem_jax.grids import uniform_grid
from mlem_jax.ladder import Ladder
from mlem_jax.problem import Problem
from mlem_jax.solver import solve
from mlem_jax.steps import ddim
from tests.problems import normals

COSINE = pr.cosine()
GRID = uniform_grid(1.0, 0.0, 6)
X = normals(0, 2, 3)


def run(drift, params):
    ladder = Ladder((drift,), (params,))
    return solve(ladder, Problem(X), ddim(COSINE, GRID), plans.full(6, 1, 1))


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
    expected = run(lambda params, x, t: x @ dense["kernel"] * t + dense["bias"][None] * t, ())
    np.testing.assert_allclose(run(lv.linen(Linen()), params), expected, atol=1e-12)
    drift, state = lv.nnx(Nnx(dense["kernel"], dense["bias"]))
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
        solve(Ladder((drift,), (0.8,)), Problem(X), ddim(COSINE, grid), plans.full(6, 1, 1))
        for drift in (knows_data, lv.data(says_otherwise, COSINE, prediction))
    ]
    np.testing.assert_allclose(*ends, atol=1e-9)


def test_clipping_bounds_the_predicted_data():
    drift = lv.data(lambda p, x, t: 5 * x, COSINE, pr.predict_v, clip=0.7)
    found = drift((), X, jnp.asarray(0.5))
    assert jnp.abs(found).max() == 0.7
    free = lv.data(lambda p, x, t: 5 * x, COSINE, pr.predict_v)((), X, jnp.asarray(0.5))
    np.testing.assert_array_equal(found, jnp.clip(free, -0.7, 0.7))


def test_a_level_computes_in_its_own_dtype_and_answers_in_that_of_the_state():
    seen = []

    def network(params, x, t, label):
        seen.append([each.dtype for each in (params["gain"], params["count"], x, t, *label)])
        return params["gain"] * jnp.tanh(x)

    half, params = jnp.bfloat16, {"gain": jnp.asarray(0.8), "count": jnp.asarray(3)}
    label = X[:, 0], jnp.arange(2)
    found = lv.in_dtype(network, half)(params, X, jnp.asarray(0.5), label)
    assert seen == [[half, jnp.int64, half, jnp.float64, half, jnp.int64]]
    assert found.dtype == X.dtype
    by_hand = jnp.asarray(0.8, half) * jnp.tanh(X.astype(half))
    np.testing.assert_array_equal(found, by_hand.astype(X.dtype))
    cast = lv.cast(params, half)
    np.testing.assert_array_equal(lv.in_dtype(network, half)(cast, X, jnp.asarray(0.5), label),
                                  found)  # fmt: skip


def test_each_level_of_a_ladder_may_have_a_dtype_of_its_own():
    def network(params, x, t):
        return params * jnp.tanh(x)

    mixed = Ladder((lv.in_dtype(network, jnp.bfloat16), network), (0.8, 0.9))
    end, whole = (solve(Ladder(drifts, mixed.params), Problem(X), ddim(COSINE, GRID),
                        plans.switch(6, 2, 3, early=1, late=2))
                  for drifts in (mixed.drifts, (network, network)))  # fmt: skip
    assert end.dtype == X.dtype
    assert 0 < jnp.abs(end - whole).max() < 1e-2
    for wrong in ((network, jnp.int32), (None, jnp.bfloat16)):
        with pytest.raises(TypeError, match="expected a callable network and a floating dtype"):
            lv.in_dtype(*wrong)


def labelled(params, x, t, label):
    return params * x + label[:, None]


def test_a_level_sees_the_condition_of_the_problem():
    ladder, labels = Ladder((labelled,), (jnp.asarray(2.0),)), jnp.array([1.0, -1.0])
    found = solve(ladder, Problem(X, condition=labels), ddim(COSINE, GRID), plans.full(6, 1, 1))
    for one, label in enumerate(labels):
        alone = Problem(X[one : one + 1], condition=label[None])
        expected = solve(ladder, alone, ddim(COSINE, GRID), plans.full(6, 1, 1))
        np.testing.assert_allclose(found[one : one + 1], expected, atol=1e-12)


def test_guidance_extrapolates_from_none_to_the_condition_and_costs_twice():
    params = jnp.asarray(2.0)
    ladder = lv.guided_ladder(Ladder((labelled, labelled), (params, params), (1.0, 3.0)))
    assert ladder.costs == (2.0, 6.0)
    label = jnp.array([1.0, -1.0])
    for scale in (0.0, 1.0, 2.5):
        given = lv.guide(label, jnp.asarray(0.5), scale)
        found = ladder.drifts[0](params, X, jnp.asarray(0.5), given)
        shift = 0.5 + scale * (label[:, None] - 0.5)
        np.testing.assert_allclose(found, 2 * X + shift, atol=1e-12)
    each = lv.Guidance(label, jnp.zeros(2), jnp.array([0.0, 3.0]))
    found = ladder.drifts[0](params, X, jnp.asarray(0.5), each)
    np.testing.assert_allclose(found, 2 * X + jnp.array([[0.0], [-3.0]]), atol=1e-12)


@pytest.mark.parametrize("prediction", [pr.predict_noise, pr.predict_v])
def test_what_a_guided_network_predicts_is_turned_into_data_after_the_guidance(prediction):
    label, scale, t = jnp.array([1.0, -1.0]), 2.5, jnp.asarray(0.6)
    level = lv.data(lv.guided(labelled), COSINE, prediction, clip=0.9)
    found = level(0.4, X, t, lv.guide(label, jnp.asarray(0.0), scale))
    mixed = 0.4 * X + scale * label[:, None]
    alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
    # x = alpha x_0 + sigma eps; v = alpha eps - sigma x_0, and alpha^2 + sigma^2 = 1.
    data = (X - sigma * mixed) / alpha if prediction is pr.predict_noise else (
        alpha * X - sigma * mixed)  # fmt: skip
    np.testing.assert_allclose(found, np.clip(data, -0.9, 0.9), rtol=1e-12)
    assert jnp.abs(data).max() > 0.9


def test_a_network_that_wants_a_time_for_each_sample_is_given_one():
    def network(params, x, t):
        return params * x * t[:, None]

    found = run(lv.batched_time(network), 0.3)
    np.testing.assert_allclose(found, run(lambda p, x, t: p * x * t, 0.3), atol=1e-12)


def test_a_network_that_takes_training_steps_is_a_level_of_a_discrete_process():
    def network(params, x, i, shift):
        return params * x * i.astype(x.dtype) + shift[:, None]

    level = lv.at_steps(network)
    found = level(2.0, X, jnp.asarray(7.0), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(found, 12 * X + jnp.array([[1.0], [2.0]]), atol=1e-12)


def heavy(params, x, t):
    return jax.lax.fori_loop(0, 40, lambda _, x: jnp.tanh(x @ params), x)


def light(params, x, t):
    return jnp.tanh(x @ params)


def test_costs_are_measured_by_time_and_by_flops():
    x, t, matrix = jnp.ones((200, 200)), jnp.asarray(0.5), jnp.eye(200)
    ladder = Ladder((light, heavy), (matrix, matrix))
    cheap, costly = measure_costs(ladder, x, t, evaluations=3, repeats=3).costs
    assert 0 < cheap < costly  # Forty times the work; nothing said of by how much.
    flops = count_flops(ladder, x, t)
    assert flops[0] == pytest.approx(2 * 200**3, rel=0.02)


def test_costs_never_fall():
    assert never_falling((3.0, 1.0, 2.0, 2.0, 5.0)) == (1.0, 1.0, 2.0, 2.0, 5.0)
    x, t, matrix = jnp.ones((200, 200)), jnp.asarray(0.5), jnp.eye(200)
    both = (lambda params, x, t: light(params, light(params, x, t), t), light)
    twice = Ladder(both, (matrix,) * 2)
    measured = measure_costs(twice, x, t, evaluations=3, repeats=3).costs
    for costs in (measured, count_flops(twice, x, t)):
        assert 0 < costs[0] <= costs[1]
    for measure in (measure_costs, count_flops):
        with pytest.raises(ValueError, match="got 2 drifts and 1 params"):
            measure(Ladder((light, heavy), (matrix,)), x, t)


def test_costs_of_conditional_levels_are_measured_with_their_condition():
    ladder, given = Ladder((labelled,), (jnp.asarray(0.5),)), jnp.ones(2)
    measured = measure_costs(ladder, X, jnp.asarray(0.5), given, evaluations=2, repeats=1)
    assert measured.costs[0] > 0
    assert count_flops(ladder, X, jnp.asarray(0.5), given)[0] > 0
