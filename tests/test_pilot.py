"""Claims about sensitivities measured in one pilot run, and about the gates made from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates, plans
from mlem_jax.diagnosis import measure_sensitivities, predict_error, run_pilot
from mlem_jax.evaluate import judge, make_reference, square_errors
from mlem_jax.grids import uniform_grid
from mlem_jax.ladder import Ladder
from mlem_jax.noise import brownian_path, store_path
from mlem_jax.problem import Problem
from mlem_jax.process import cosine
from mlem_jax.solver import solve
from mlem_jax.steps import dpm_solver_2m, euler_maruyama
from tests.exact import every_draw
from tests.problems import normals, wavy_ladder

KEY = jax.random.key(3)
LADDER = wavy_ladder()
STEPS = euler_maruyama(uniform_grid(0.0, 1.0, 8), lambda t: 0.3 + t)
X = normals(1, 6, 2)
PATH = brownian_path(jax.random.key(2), STEPS, samples=jnp.arange(6))
PROBLEM = Problem(X, PATH)
SENSITIVITIES = jnp.asarray(np.random.default_rng(5).uniform(0.1, 9.0, (6, 3)))
SENSITIVITIES = SENSITIVITIES.at[:, 0].set(jnp.inf)
COSTS = (1.0, 4.0, 16.0)


def slope_of_the_end(step, difference):
    """By a central difference of the whole run in the weight of one F^k - F^{k-1}."""

    def end(size):
        weights = jnp.zeros((8, 3)).at[:, 2].set(1.0)
        weights = weights.at[step, difference].add(size).at[step, difference - 1].add(-size)
        return solve(LADDER, PROBLEM, STEPS, plans.make_plan(weights, jnp.ones((8, 3), bool)))

    return (end(1e-5) - end(-1e-5)) / 2e-5


def test_with_a_bin_for_each_step_a_sensitivity_is_the_squared_slope_of_the_end():
    found = measure_sensitivities(LADDER, PROBLEM, STEPS, KEY, bins=8)
    assert jnp.isposinf(found[:, 0]).all()
    for step in (0, 3, 7):
        for difference in (1, 2):
            expected = jnp.mean(slope_of_the_end(step, difference) ** 2)
            assert found[step, difference] == pytest.approx(float(expected), rel=1e-6)


def test_the_sensitivity_of_a_bin_is_the_mean_over_its_steps():
    # Each sample is disturbed at one step of the bin: many copies of one sample see them all.
    path = brownian_path(jax.random.key(2), STEPS, samples=jnp.zeros(512, int))
    problem = Problem(jnp.tile(X[:1], (512, 1)), path)
    each, pairs = (
        measure_sensitivities(LADDER, problem, STEPS, KEY, bins=bins, certain=0) for bins in (8, 2)
    )
    means = each.reshape(2, 4, 3).mean(axis=1)
    spread = each.reshape(2, 4, 3).std(axis=1) / 512**0.5
    assert (jnp.abs(pairs[::4] - means) < 5 * spread + 1e-12).all()
    assert (pairs[:4] == pairs[:1]).all()


def crossed(params, left, right, t):
    return params * jnp.sin(left + t) - 0.3 * right


def crossed_array(params, x, t):
    """A drift in which each entry of the state feels the other."""
    return crossed(params, x, x[:, ::-1], t)


def crossed_tree(params, x, t):
    one, other = x["one"], x["other"][:, 0]
    moved = crossed(params, one, other, t), crossed(params, other, one, t)
    return {"one": moved[0], "other": moved[1][:, None]}


def as_tree(array):
    """Arrays of different rank in the place of the last axis."""
    return {"one": array[..., 0], "other": array[..., 1:]}


@pytest.mark.parametrize("bins", [8, 3])
def test_a_state_of_several_arrays_is_piloted_as_one_array_of_them_all(bins):
    stored = normals(4, 8, 6, 2)
    array, tree = (
        run_pilot(Ladder((drift,) * 3, LADDER.params), problem, STEPS, KEY, bins=bins, certain=0)
        for drift, problem in (
            (crossed_array, Problem(X, stored)),
            (crossed_tree, Problem(as_tree(X), as_tree(stored))),
        )
    )
    jax.tree.map(lambda own, other: np.testing.assert_allclose(own, other, rtol=1e-9), array, tree)
    assert (array.products[:, :, 1, 2] != 0).all()


def test_a_path_drives_the_pilot_of_a_tree_as_its_stored_normals_do():
    ladder = Ladder((crossed_tree,) * 3, LADDER.params)
    x = as_tree(X)
    along, stored = (
        run_pilot(ladder, Problem(x, noise), STEPS, KEY, bins=4)
        for noise in (PATH, store_path(PATH, x))
    )
    jax.tree.map(lambda own, other: np.testing.assert_allclose(own, other), along, stored)


def conditioned(params, x, t, condition):
    return params * jnp.sin(x + t) - condition["rate"][:, None] * x


def conditioned_by_params(params, x, t):
    rate, size = params
    return size * jnp.sin(x + t) - rate[:, None] * x


@pytest.mark.parametrize("bins", [8, 3])
def test_conditions_reach_every_level_and_every_tangent_of_a_pilot(bins):
    rate = jnp.linspace(0.0, 2.0, 6)
    ladder = Ladder((conditioned,) * 3, LADDER.params)
    plain = Ladder((conditioned_by_params,) * 3, tuple((rate, size) for size in LADDER.params))
    found, expected, other = (
        run_pilot(own, Problem(X, PATH, condition), STEPS, KEY, bins=bins)
        for own, condition in (
            (ladder, {"rate": rate}),
            (plain, None),
            (ladder, {"rate": 0 * rate}),
        )
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, expected)
    # The first sample has the same condition in both.
    for own, without in zip(found, other, strict=True):
        differs = ~np.isclose(own, without).reshape(own.shape)
        axis = 1 if own.shape[0] == 8 else 0
        first, rest = np.split(differs, [1], axis)
        assert not first.any()
        assert rest.any()


def test_noise_for_each_entry_drives_a_pilot_as_the_same_number_for_all():
    wide = STEPS._replace(noise=jnp.tile(STEPS.noise[:, None], (1, 2)))
    one, other = (measure_sensitivities(LADDER, PROBLEM, own, KEY, bins=4) for own in (STEPS, wide))
    np.testing.assert_allclose(one, other)


def test_the_predicted_error_is_that_of_gates_where_the_end_is_linear_in_them():
    # Drifts that do not depend on x: the end is a sum, and its error under gates is exact.
    drifts = tuple(lambda params, x, t, c=c: params * (1 + c * t) * jnp.ones_like(x)
                   for c in (0.0, 1.0))  # fmt: skip
    ladder = Ladder(drifts, (jnp.asarray(0.5), jnp.asarray(0.8)), (1.0, 2.0))
    steps, problem = euler_maruyama(uniform_grid(0.0, 1.0, 3)), Problem(jnp.zeros((1, 1)))
    found = measure_sensitivities(ladder, problem, steps, KEY, bins=3, certain=0)
    logits = jnp.asarray([[0.3, -0.5], [jnp.inf, 0.2], [1.0, -1.0]])
    reference = make_reference(ladder, problem, steps).reference
    exact = sum(
        chance * square_errors(solve(ladder, problem, steps, plans.weigh(b, logits)), reference)
        for chance, b in every_draw(logits)
    )
    assert predict_error(found, logits) == pytest.approx(float(exact[0]), rel=1e-10)


def test_the_error_of_gates_that_are_all_but_certain_is_not_rounded_away():
    nearly = jnp.full((1, 1), 17.0, jnp.float32)  # 1 - p is 4e-8: p itself rounds to 1.
    error = predict_error(jnp.full((1, 1), 3.0, jnp.float32), nearly)
    assert error == pytest.approx(3 * np.exp(-17.0), rel=1e-5)
    closed = jnp.full((1, 1), -200.0, jnp.float32)
    assert predict_error(jnp.zeros((1, 1), jnp.float32), closed) == 0


def test_gates_from_sensitivities_have_the_least_predicted_error_for_their_cost():
    paid = jnp.asarray([0.0, 4.0, 20.0])
    logits = gates.from_sensitivities(SENSITIVITIES, COSTS).logits((), jnp.arange(6.0), 0.5)
    p = gates.to_probabilities(logits)
    assert (p[:, 0] == 1).all()
    assert (p[:, 1:] < 1).all()
    # Stationary: moving cost from any gate to any other gains nothing to first order.
    gain = -SENSITIVITIES[:, 1:] / p[:, 1:] ** 2 / paid[None, 1:]
    np.testing.assert_allclose(gain, gain[0, 0], rtol=1e-9)


def test_sensitivities_predict_the_error_of_close_levels():
    ladder = wavy_ladder(sizes=(0.97, 0.99, 1.0))
    found = measure_sensitivities(ladder, PROBLEM, STEPS, KEY, bins=8)
    logits = gates.from_sensitivities(found, COSTS).logits((), STEPS.t, 40.0)
    drawn = plans.draw_plans(draws.independent, logits, jax.random.key(6), 400)
    errors = judge(ladder, make_reference(ladder, PROBLEM, STEPS), STEPS, drawn).mean(axis=1)
    predicted = predict_error(found, logits)
    assert predicted > 0
    assert abs(errors.mean() - predicted) < 5 * errors.std() / 400**0.5 + 0.05 * predicted


def test_bad_pilots_are_refused():
    with pytest.raises(ValueError, match="expected from 1 to 8 time bins, at most one per step"):
        run_pilot(LADDER, PROBLEM, STEPS, KEY, bins=9)
    with pytest.raises(ValueError, match="expected fewer certain gates than 3 levels, got 3"):
        run_pilot(LADDER, PROBLEM, STEPS, KEY, bins=8, certain=3)
    multistep = dpm_solver_2m(cosine(), uniform_grid(1.0, 0.0, 8))
    with pytest.raises(ValueError, match="expected one-step steps for a pilot run"):
        run_pilot(LADDER, Problem(X), multistep, KEY, bins=8)
    wrong = Ladder((*LADDER.drifts[:2], lambda params, x, t: x[:, :1]), LADDER.params)
    with pytest.raises(ValueError, match=r"expected level 3 to return float64\[6, 2\]"):
        run_pilot(wrong, PROBLEM, STEPS, KEY, bins=8)


def test_sensitivities_of_other_levels_and_bad_scales_are_refused():
    alike = jnp.zeros((6, 3)).at[:, 0].set(jnp.inf)  # Levels that are all the same.
    own, t = gates.from_sensitivities(alike, COSTS), jnp.arange(6.0)
    with pytest.raises(ValueError, match=r"expected sensitivities \[steps, 2 levels\]"):
        gates.from_sensitivities(alike, (1.0, 4.0))
    with pytest.raises(ValueError, match="expected sensitivities without NaN"):
        gates.from_sensitivities(alike.at[0, 1].set(jnp.nan), COSTS)
    with pytest.raises(ValueError, match="expected a scale above 0, got -1"):
        own.logits((), t, -1.0)
