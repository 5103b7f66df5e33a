"""Claims about plans that hold differences, and steps that remember their last estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates, hold, plan, stack
from mlem_jax import steps as sp
from mlem_jax.levels import Levels
from mlem_jax.problem import check_problem
from mlem_jax.solve import solve, solve_path
from tests.problems import normals, wavy_ladder

LEVELS, PARAMS = wavy_ladder(sizes=(0.6, 0.9, 1.0))
X = normals(1, 4, 2)


def fires_at(count, *columns):
    return jnp.stack([jnp.isin(jnp.arange(count), jnp.asarray(own)) for own in columns], axis=1)


def test_certain_gates_are_euler_maruyama_and_hold_nothing():
    steps = sp.euler_maruyama(sp.uniform_grid(0.0, 1.0, 6))
    for make in (hold.hold_plan, hold.trapezoid_plan):
        made = make(jnp.ones((6, 3), bool), steps)
        full = plan.full_plan(6, 3, 3)
        np.testing.assert_array_equal(made.weights, full.weights)
        np.testing.assert_array_equal(made.needed, full.needed)
        assert not made.held.renewed.any()
        found = solve(LEVELS, PARAMS, X, steps, made)
        np.testing.assert_array_equal(found, solve(LEVELS, PARAMS, X, steps, full))


def drift_of_time(params, x, t):
    return jnp.full_like(x, jnp.polyval(params, t))


TIME_LADDER = Levels((drift_of_time,) * 3, (1.0, 2.0, 4.0))


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_the_trapezoid_is_exact_for_differences_in_a_straight_line(decay):
    # Lines in time; a state that decays: what a gap missed is made up for to the last digit.
    lines = tuple(jnp.asarray(line) for line in ([0.5, 1.0], [-1.0, 2.0], [3.0, 0.5]))
    steps = sp.euler_maruyama([0.0, 0.1, 0.3, 0.4, 0.8, 0.9, 1.0])
    steps = steps._replace(scale=jnp.full(6, decay))
    fires = fires_at(6, range(6), [0, 3, 5], [0, 2, 5])
    found = solve(TIME_LADDER, lines, X, steps, hold.trapezoid_plan(fires, steps))
    expected = solve(TIME_LADDER, lines, X, steps, plan.full_plan(6, 3, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    held = solve(TIME_LADDER, lines, X, steps, hold.hold_plan(fires, steps))
    assert jnp.abs(held - expected).max() > 0.01


def test_before_its_first_opening_a_constant_difference_is_made_up_for():
    constants = tuple(jnp.asarray([value]) for value in (0.5, -1.0, 3.0))
    steps = sp.euler_maruyama([0.0, 0.1, 0.3, 0.4, 0.8])
    steps = steps._replace(scale=jnp.full(4, 0.7))
    fires = fires_at(4, range(4), [2], [1, 3])
    expected = solve(TIME_LADDER, constants, X, steps, plan.full_plan(4, 3, 3))
    for make in (hold.hold_plan, hold.trapezoid_plan):
        found = solve(TIME_LADDER, constants, X, steps, make(fires, steps))
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_held_differences_are_those_of_the_last_opening_path_by_path():
    steps = sp.euler_maruyama(sp.uniform_grid(0.0, 1.0, 5), lambda t: 0.5 + t)
    noise = normals(7, 5, *X.shape)
    made = hold.hold_plan(fires_at(5, range(5), [0, 2], [0, 3]), steps)
    states = solve_path(LEVELS, PARAMS, X, steps, made, noise).states

    def value(level, n):
        return LEVELS.drifts[level](PARAMS[level], states[n], steps.t[n])

    for n, (second, third) in enumerate([(0, 0), (0, 0), (2, 0), (2, 3), (2, 3)]):
        estimate = (value(0, n) + value(1, second) - value(0, second)
                    + value(2, third) - value(1, third))  # fmt: skip
        moved = states[n] + steps.gain[n] * estimate + steps.noise[n] * noise[n]
        np.testing.assert_allclose(states[n + 1], moved, rtol=1e-13)


def test_the_trapezoid_is_of_second_order_on_a_smooth_ode():
    steps = sp.euler_maruyama(sp.uniform_grid(0.0, 2.0, 1920))
    reference = solve(LEVELS, PARAMS, X, steps, plan.full_plan(1920, 3, 3))
    errors = []
    for count in (16, 32, 64):
        logits = gates.constant_gates((1.0, count / 1920, count / 1920), 1920)
        fires = hold.open_first(draws.midpoint(None, logits))
        found = solve(LEVELS, PARAMS, X, steps, hold.trapezoid_plan(fires, steps))
        errors.append(float(jnp.abs(found - reference).max()))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (np.abs(orders - 2) < 0.2).all()


def test_on_a_stacked_ladder_the_rungs_are_held():
    lines = tuple(jnp.asarray(line) for line in ([0.5, 1.0], [-1.0, 2.0], [3.0, 0.5]))
    steps = sp.euler_maruyama([0.0, 0.1, 0.3, 0.4, 0.8, 0.9, 1.0])
    shares = jnp.tile(jnp.asarray([1.0, 0.6, 0.7]), (6, 1))
    fires = fires_at(6, range(6), [0, 3, 5], [0, 2, 5])
    found = solve(TIME_LADDER, lines, X, steps, hold.trapezoid_plan(fires, steps, shares))
    expected = solve(TIME_LADDER, lines, X, steps, stack.stack_top(shares))
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    plain = hold.trapezoid_plan(fires, steps)
    ones = hold.trapezoid_plan(fires, steps, jnp.ones((6, 3)))
    jax.tree.map(np.testing.assert_array_equal, plain, ones)


def test_a_level_runs_only_where_its_difference_is_used(tmp_path):
    steps = sp.euler_maruyama(sp.uniform_grid(0.0, 1.0, 6))
    made = hold.trapezoid_plan(fires_at(6, range(6), [0, 4], [0, 4]), steps)
    # Both open together: the one between cancels in the weights and in what is held of both.
    np.testing.assert_array_equal(made.needed.sum(axis=0), [6, 2, 2])
    plan.save_plan(tmp_path / "held.npz", made)
    loaded = plan.load_plan(tmp_path / "held.npz")
    for name, table in made.held._asdict().items():
        np.testing.assert_array_equal(getattr(loaded.held, name), table)
    found = [solve(LEVELS, PARAMS, X, steps, each) for each in (made, loaded)]
    np.testing.assert_array_equal(*found)


def test_a_plan_with_held_tables_of_another_size_is_refused():
    steps = sp.euler_maruyama(sp.uniform_grid(0.0, 1.0, 6))
    made = hold.hold_plan(jnp.ones((6, 3), bool), steps)
    cut = made._replace(held=made.held._replace(renewed=made.held.renewed[:5]))
    with pytest.raises(ValueError, match=r"expected plan\.held\.renewed of shape"):
        check_problem(LEVELS, PARAMS, X, steps, cut, None)


def test_states_on_the_way_know_what_was_held_before_them():
    steps = sp.euler_maruyama(sp.uniform_grid(0.0, 1.0, 6))._replace(previous=jnp.full(6, 0.02))
    made = hold.trapezoid_plan(fires_at(6, range(6), [0, 4], [0, 3]), steps)
    end = solve(LEVELS, PARAMS, X, steps, made)
    for stride in (1, 2, 3):
        kept = solve_path(LEVELS, PARAMS, X, steps, made, stride=stride)
        np.testing.assert_allclose(kept.states[-1], end, rtol=1e-14)


def test_a_step_of_no_gain_is_survived_and_what_are_no_openings_refused():
    steps = sp.euler_maruyama(sp.uniform_grid(0.0, 1.0, 6))
    steps = steps._replace(gain=steps.gain.at[3].set(0.0))
    fires = fires_at(6, range(6), (0, 3, 5), (1, 3))
    for make in (hold.hold_plan, hold.trapezoid_plan):
        made = make(fires, steps)
        assert jnp.isfinite(made.weights).all()
        assert jnp.isfinite(made.held.weights).all()
    for wrong in (fires[:5], fires[:, 0], fires.astype(float)):
        with pytest.raises(ValueError, match=r"expected openings, bool \[6 steps, levels\]"):
            hold.trapezoid_plan(wrong, steps)
