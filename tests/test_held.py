"""What a plan holds of a difference between openings; with steps of others it is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates, plans
from mlem_jax.grids import uniform_grid
from mlem_jax.problem import Problem
from mlem_jax.process import cosine, rectified_flow
from mlem_jax.solver import solve
from mlem_jax.steps import ddim, dpm_solver_2m, euler_maruyama
from tests.problems import normals, openings_at, output_of, time_ladder, wavy_ladder

LADDER = wavy_ladder()
X = normals(1, 4, 2)
UNEVEN = [0.0, 0.1, 0.3, 0.4, 0.8, 0.9, 1.0]
LINES = time_ladder([0.5, 1.0], [-1.0, 2.0], [3.0, 0.5])


def test_certain_gates_are_euler_maruyama_and_write_nothing():
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 6))
    made, full = plans.trapezoid(jnp.ones((6, 3), bool), steps), plans.full(6, 3, 3)
    np.testing.assert_array_equal(made.weights, full.weights)
    np.testing.assert_array_equal(made.needed, full.needed)
    assert (made.memory.store == -1).all()
    found = solve(LADDER, Problem(X), steps, made)
    np.testing.assert_array_equal(found, solve(LADDER, Problem(X), steps, full))


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_the_trapezoid_is_exact_for_differences_in_a_straight_line(decay):
    # Lines in time; a state that decays: what a gap missed is made up for to the last digit.
    steps = euler_maruyama(UNEVEN)._replace(scale=jnp.full(6, decay))
    openings = openings_at(6, range(6), [0, 3, 5], [0, 2, 5])
    found = solve(LINES, Problem(X), steps, plans.trapezoid(openings, steps))
    expected = solve(LINES, Problem(X), steps, plans.full(6, 3, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_before_its_first_opening_a_constant_difference_is_made_up_for():
    ladder = time_ladder([0.5], [-1.0], [3.0])
    steps = euler_maruyama([0.0, 0.1, 0.3, 0.4, 0.8])._replace(scale=jnp.full(4, 0.7))
    openings = openings_at(4, range(4), [2], [1, 3])
    expected = solve(ladder, Problem(X), steps, plans.full(4, 3, 3))
    found = solve(ladder, Problem(X), steps, plans.trapezoid(openings, steps))
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_held_differences_follow_the_recursion_written_by_hand():
    # One difference a level, stored when its gate opens; c_n from its definition, by plain sums.
    count, process = 9, cosine()
    steps = ddim(process, uniform_grid(0.9, 0.1, count), churn=0.6)
    noise = normals(7, count, *X.shape)
    openings = openings_at(count, range(count), [0, 3, 4, 7], [2, 7])
    t, scale, gain = (np.asarray(column) for column in (steps.t, steps.scale, steps.gain))

    def catch_up(first, n, opened):
        """c_n of a gap from step `first`; where nothing was known the whole of it is missed."""
        missed = 0.0
        for j in range(first, n):
            share = (t[j] - t[first]) / (t[n] - t[first]) if opened else 1.0
            missed += gain[j] * np.prod(scale[j + 1 : n]) * share
        return scale[n] / gain[n] * missed

    x, last, since = np.asarray(X), [0.0] * 3, [None] * 3
    for n in range(count):
        outputs = [np.asarray(output_of(LADDER, k, jnp.asarray(x), t[n])) for k in range(3)]
        estimate = np.zeros_like(x)
        for k in range(3):
            new = outputs[k] - (outputs[k - 1] if k else 0.0)
            if openings[n, k]:
                c = catch_up(since[k] or 0, n, since[k] is not None)
                estimate += new + c * (new - last[k] if since[k] is not None else new)
                last[k], since[k] = new, n
            else:
                estimate += last[k]
        x = scale[n] * x + gain[n] * estimate + np.asarray(steps.noise)[n] * np.asarray(noise[n])
    found = solve(LADDER, Problem(X, noise), steps, plans.trapezoid(openings, steps))
    np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-12)


def test_the_trapezoid_is_of_second_order_on_a_smooth_ode():
    steps = euler_maruyama(uniform_grid(0.0, 2.0, 1920))
    reference = solve(LADDER, Problem(X), steps, plans.full(1920, 3, 3))
    errors = []
    for count in (16, 32, 64):
        logits = gates.to_logits(np.tile([1.0, count / 1920, count / 1920], (1920, 1)))
        openings = plans.open_first(draws.midpoint.openings(None, logits))
        found = solve(LADDER, Problem(X), steps, plans.trapezoid(openings, steps))
        errors.append(float(jnp.abs(found - reference).max()))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (np.abs(orders - 2) < 0.2).all()


def test_a_level_runs_only_where_its_difference_is_used(tmp_path):
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 6))
    made = plans.trapezoid(openings_at(6, range(6), [0, 4], [0, 4]), steps)
    # Both open together: the one between cancels in the weights and in what is held of both.
    np.testing.assert_array_equal(made.needed.sum(axis=0), [6, 2, 2])
    plans.save_plan(tmp_path / "held.npz", made)
    loaded = plans.load_plan(tmp_path / "held.npz")
    found = [solve(LADDER, Problem(X), steps, each) for each in (made, loaded)]
    np.testing.assert_array_equal(*found)


def test_a_plan_made_for_other_steps_is_refused_and_nan_where_that_cannot_be_known():
    openings = openings_at(6, range(6), [0, 3, 5], [0, 2, 5])
    grid = uniform_grid(0.9, 0.1, 6)
    steps = ddim(cosine(), grid)
    made = plans.trapezoid(openings, steps)
    others = (ddim(rectified_flow(), grid), ddim(cosine(), uniform_grid(0.9, 0.11, 6)),
              dpm_solver_2m(cosine(), grid), ddim(cosine(), grid, churn=1.0))  # fmt: skip
    for other in others:
        problem = Problem(X, normals(7, 6, *X.shape))
        with pytest.raises(ValueError, match="expected the steps that this plan was made for"):
            solve(LADDER, problem, other, made)
        traced = jax.jit(lambda steps, problem=problem: solve(LADDER, problem, steps, made))
        assert jnp.isnan(traced(other)).all()
        assert jnp.isfinite(traced(steps)).all()
        again = jax.jit(lambda plan, o=other, p=problem: solve(LADDER, p, o, plan))(made)
        assert jnp.isnan(again).all()


def test_small_steps_are_told_apart_as_well_as_large_ones():
    openings = jnp.ones((6, 3), bool)
    for size in (1.0, 1e-3, 1e-8):
        made = plans.trapezoid(openings, euler_maruyama(uniform_grid(0.0, size, 6)))
        other = euler_maruyama(uniform_grid(0.0, 1.001 * size, 6))
        with pytest.raises(ValueError, match="expected the steps that this plan was made for"):
            solve(LADDER, Problem(X), other, made)


def test_a_plan_made_in_single_precision_runs_on_the_same_steps_in_double():
    openings = openings_at(6, range(6), [0, 3, 5], [0, 2, 5])
    with jax.enable_x64(False):
        made = plans.trapezoid(openings, ddim(cosine(), uniform_grid(0.9, 0.1, 6)))
    steps = ddim(cosine(), uniform_grid(0.9, 0.1, 6))
    assert jnp.isfinite(solve(LADDER, Problem(X), steps, made)).all()


def test_a_step_of_no_gain_is_survived_and_what_are_no_openings_refused():
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 6))
    steps = steps._replace(gain=steps.gain.at[3].set(0.0))
    openings = openings_at(6, range(6), (0, 3, 5), (1, 3))
    made = plans.trapezoid(openings, steps)
    assert all(jnp.isfinite(table).all() for table in (made.weights, *made.memory))
    for wrong in (openings[:5], openings[:, 0], openings.astype(float)):
        with pytest.raises(ValueError, match=r"expected openings, bool \[6 steps, levels\]"):
            plans.trapezoid(wrong, steps)
    for counts in ((1, 2), (1, -1, 0)):
        with pytest.raises(ValueError, match="a count of at least 0 for each of 3 levels"):
            plans.remember(openings, counts)
