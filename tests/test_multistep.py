"""Steps that look back at earlier estimates, alone and beside held differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates, plans
from mlem_jax.grids import log_snr_grid, uniform_grid
from mlem_jax.problem import Problem
from mlem_jax.process import cosine
from mlem_jax.solver import make_table, solve, solve_path
from mlem_jax.steps import dpm_solver_2m, euler_maruyama
from tests.problems import normals, openings_at, output_of, time_ladder, wavy_ladder

LADDER = wavy_ladder()
X = normals(1, 4, 2)


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_a_two_step_method_is_the_recursion_with_the_estimate_before(churn):
    grid = log_snr_grid(cosine(), 0.95, 0.05, 10)
    steps, noise = dpm_solver_2m(cosine(), grid, churn=churn), normals(7, 10, *X.shape)
    drawn = plans.draw_plan(
        draws.independent, gates.to_logits(np.tile([1.0, 0.6, 0.4], (10, 1))), jax.random.key(3)
    )
    assert steps.push.shape == (10, 1)
    x, before = X, jnp.zeros_like(X)
    for n in range(10):
        estimate = sum(drawn.weights[n, k] * output_of(LADDER, k, x, steps.t[n]) for k in range(3))
        moved = steps.scale[n] * x + steps.gain[n] * estimate + steps.push[n, 0] * before
        x, before = moved + steps.noise[n] * noise[n], estimate
    found = solve(LADDER, Problem(X, noise), steps, drawn)
    np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-12)


def test_any_number_of_earlier_estimates_is_looked_back_to():
    # Adams-Bashforth of order 4 integrates cubics in time exactly, once it has its history.
    ladder, steps = time_ladder([1.0, -2.0, 0.5, 3.0]), euler_maruyama(uniform_grid(0.0, 1.0, 10))
    coefficients = np.array([55.0, -59.0, 37.0, -9.0]) / 24 / 10
    fourth = steps._replace(gain=jnp.full(10, coefficients[0]),
                            push=jnp.tile(jnp.asarray(coefficients[1:]), (10, 1)))  # fmt: skip
    states = solve_path(ladder, Problem(X), fourth, plans.full(10, 1, 1)).states
    primitive = jnp.polyint(ladder.params[0])
    expected = jnp.polyval(primitive, 0.1 * jnp.arange(11.0))
    moved = states[3:, 0, 0] - states[3, 0, 0]
    np.testing.assert_allclose(moved, expected[3:] - expected[3], atol=1e-12)


def test_two_steps_and_held_differences_live_side_by_side():
    # With every gate open at every step but one, what is held is known, and so is the whole. What
    # the holding missed is made up for at the next opening, by the gain of a step in all estimates.
    grid = log_snr_grid(cosine(), 0.95, 0.05, 6)
    steps = dpm_solver_2m(cosine(), grid)
    made = plans.trapezoid(openings_at(6, range(6), [0, 1, 2, 4, 5]), steps)
    table = make_table(steps, made, X.dtype)
    assert (table.read.shape, table.push.shape) == ((6, 3), (6, 1))
    ladder = wavy_ladder(sizes=(0.6, 0.9))
    t, gain = steps.t, steps.gain + steps.push.sum(axis=1)
    caught = steps.scale[4] * gain[3] / gain[4] * (t[3] - t[2]) / (t[4] - t[2])
    x, before, held = X, jnp.zeros_like(X), None
    for n in range(6):
        low, high = (output_of(ladder, k, x, t[n]) for k in range(2))
        old, held = held, high - low if n != 3 else held
        estimate = low + held + (caught * (held - old) if n == 4 else 0)
        x = steps.scale[n] * x + steps.gain[n] * estimate + steps.push[n, 0] * before
        before = estimate
    found = solve(ladder, Problem(X), steps, made)
    np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-12)
