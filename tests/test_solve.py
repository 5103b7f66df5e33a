"""What `solve` computes, against closed forms, hand-written loops and sums over every draw."""

import collections
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates, plans
from mlem_jax.grids import uniform_grid
from mlem_jax.ladder import Ladder
from mlem_jax.noise import brownian_path
from mlem_jax.problem import Problem
from mlem_jax.process import cosine
from mlem_jax.solver import init_carry, make_table, mlem_step, solve, solve_chunks, solve_path
from mlem_jax.steps import Steps, ddpm, euler_maruyama, make_steps
from tests.exact import every_draw
from tests.problems import count_of, normals, ornstein_uhlenbeck, ou_ladder, wavy
from tests.twelve_steps import DRAWN, GRID, KEY, LADDER, LOGITS, PATH, PROBLEM, STEPS, X


def rows(tree, cut):
    return jax.tree.map(lambda column: column[cut], tree)


def euler_maruyama_by_hand(drift, x, noise, deviation):
    for n, (t, dt) in enumerate(zip(GRID[:-1], np.diff(GRID), strict=True)):
        x = x + dt * drift(x, t) + deviation(t) * dt**0.5 * noise[n]
    return x


def test_certain_gates_are_euler_maruyama_of_the_top_level():
    noise = normals(1, 12, 4, 3)
    certain = gates.to_logits(np.ones((12, 3)))
    whole = plans.weigh(draws.independent.openings(KEY, certain), certain)
    expected = euler_maruyama_by_hand(partial(wavy, 1.0), X, noise, lambda t: 0.5 + t)
    for each in (whole, plans.drop_idle(whole), plans.full(12, 3, 3)):
        np.testing.assert_allclose(
            solve(LADDER, Problem(X, noise), STEPS, each), expected, atol=1e-12
        )


def test_one_level_is_its_euler_maruyama():
    noise = normals(1, 12, 4, 3)
    expected = euler_maruyama_by_hand(partial(wavy, 0.9), X, noise, lambda t: 0.5 + t)
    alone = Ladder((wavy,), LADDER.params[1:2])
    for ladder, each in ((LADDER, plans.full(12, 3, 2)), (alone, plans.full(12, 1, 1))):
        found = solve(ladder, Problem(X, noise), STEPS, each)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_without_noise_it_is_the_euler_method():
    steps = euler_maruyama(GRID)
    zero = jnp.zeros((12, 4, 3))
    expected = euler_maruyama_by_hand(partial(wavy, 1.0), X, zero, lambda t: 0 * t)
    for noise in (None, PATH):
        found = solve(LADDER, Problem(X, noise), steps, plans.full(12, 3, 3))
        np.testing.assert_allclose(found, expected, atol=1e-12)


def part_of_path(cut):
    return PATH._replace(first=PATH.first[cut], last=PATH.last[cut], shares=PATH.shares[cut])


def test_a_switch_is_its_two_pieces_run_apart():
    at = 5
    whole = solve(LADDER, PROBLEM, STEPS, plans.switch(12, 3, at, early=1, late=3))
    x = X
    for level, cut in ((1, slice(None, at)), (3, slice(at, None))):
        steps = rows(STEPS, cut)
        path = part_of_path(cut)
        x = solve(LADDER, Problem(x, path), steps, plans.full(len(steps.t), 3, level))
    np.testing.assert_allclose(x, whole, atol=1e-12)


def mean_over_draws(ladder, problem, steps, logits):
    return sum(
        p * solve(ladder, problem, steps, plans.weigh(openings, logits))
        for p, openings in every_draw(logits)
    )


def test_one_step_is_unbiased():
    logits = gates.to_logits([[1.0, 0.4, 0.3]])
    steps, problem = rows(STEPS, slice(1)), Problem(X, normals(1, 1, 4, 3))
    mean = mean_over_draws(LADDER, problem, steps, logits)
    top = solve(LADDER, problem, steps, plans.full(1, 3, 3))
    np.testing.assert_allclose(mean, top, atol=1e-12)


def test_a_linear_drift_is_unbiased_over_all_steps():
    # The gates of different steps are independent, so with a linear drift even the end is.
    logits = gates.to_logits([[1.0, 0.5, 0.2], [0.9, 0.6, 0.3], [1.0, 0.3, 0.3]])
    steps = euler_maruyama(uniform_grid(0.0, 0.6, 3), lambda t: 1 + t)
    problem = Problem(X, normals(1, 3, 4, 3))
    mean = mean_over_draws(ou_ladder(), problem, steps, logits)
    top = solve(ou_ladder(), problem, steps, plans.full(3, 3, 3))
    np.testing.assert_allclose(mean, top, atol=1e-12)


def test_ornstein_uhlenbeck_follows_its_closed_form_path_by_path():
    # X_T = e^-T x + int e^-(T-s) dW, the integral taken along the very same path.
    fine = np.linspace(0, 1, 4097)
    steps = euler_maruyama(fine, lambda t: jnp.ones_like(t))
    path = brownian_path(KEY, steps, samples=jnp.arange(4))
    ladder, full = Ladder((ornstein_uhlenbeck,), (jnp.asarray(1.0),)), plans.full(4096, 1, 1)
    end = solve(ladder, Problem(X, path), steps, full)
    weight = make_steps(fine[:-1], np.ones(4096), np.zeros(4096),
                        np.exp(-(1 - fine[:-1])) * (1 / 4096) ** 0.5)  # fmt: skip
    integral = solve(ladder, Problem(jnp.zeros_like(X), path), weight, full)
    np.testing.assert_allclose(end, np.exp(-1.0) * X + integral, atol=1e-3)


def test_a_linear_sde_with_time_dependent_noise_follows_its_closed_form():
    # dX = -X/(1+t) dt + (1+t) dW:  (1+t) X = x + int (1+t)^2 dW.
    def drift(params, x, t):
        return -x / (1 + t)

    fine = np.linspace(0, 1, 4097)
    steps = euler_maruyama(fine, lambda t: 1 + t)
    path = brownian_path(KEY, steps, samples=jnp.arange(4))
    ladder, full = Ladder((drift,), ((),)), plans.full(4096, 1, 1)
    end = solve(ladder, Problem(X, path), steps, full)
    weight = make_steps(fine[:-1], np.ones(4096), np.zeros(4096),
                        (1 + fine[:-1]) ** 2 * (1 / 4096) ** 0.5)  # fmt: skip
    integral = solve(ladder, Problem(jnp.zeros_like(X), path), weight, full)
    np.testing.assert_allclose(end, (X + integral) / 2, atol=2e-3)


def test_a_level_is_executed_exactly_where_it_is_needed():
    ran = collections.Counter()

    def counted(k, params, x, t):
        jax.debug.callback(lambda t: ran.update([(k, round(float(t) * 12))]), t)
        return wavy(params, x, t)

    ladder = dataclasses.replace(LADDER, drifts=tuple(partial(counted, k) for k in range(3)))
    jax.block_until_ready(solve(ladder, PROBLEM, STEPS, DRAWN))
    jax.effects_barrier()
    expected = {(int(k), int(n)): 1 for n, k in np.argwhere(DRAWN.needed)}
    assert dict(ran) == expected
    assert 0 < len(expected) < 36


@pytest.mark.parametrize(
    "solver", [solve, partial(solve_path, keep=[0, 5, 12]), partial(solve_chunks, chunk=2)]
)
def test_new_parameters_costs_plans_and_noise_trace_nothing_anew(solver):
    traced = collections.Counter()

    def counted(k, params, x, t):
        traced[k] += 1
        return wavy(params, x, t)

    drifts = tuple(partial(counted, k) for k in range(3))
    for seed in range(4):
        params = tuple(own + 0.1 * seed for own in LADDER.params)
        ladder = Ladder(drifts, params, (1.0, 2.0, 3.0 + seed))
        drawn = plans.draw_plan(draws.independent, LOGITS, jax.random.key(seed))
        path = brownian_path(jax.random.key(seed), STEPS, samples=jnp.arange(4))
        solver(ladder, Problem(X + seed, path), STEPS, drawn)
    assert traced == {0: 1, 1: 1, 2: 1}


def test_conds_survive_vmap_over_states_one_a_level():
    single = PATH._replace(samples=jnp.asarray(0))

    def run(x, sample):
        return solve(LADDER, Problem(x, single._replace(samples=sample)), STEPS, DRAWN)

    batched = jax.vmap(run)
    jaxpr = jax.make_jaxpr(batched)(X, jnp.arange(4))
    assert count_of("cond", jaxpr.jaxpr) == 3
    found = batched(X, jnp.arange(4))
    np.testing.assert_allclose(found, solve(LADDER, PROBLEM, STEPS, DRAWN), atol=1e-12)


def test_tables_can_be_made_while_a_caller_is_traced():
    def run(x):
        steps = ddpm(cosine(), uniform_grid(1.0, 0.0, 12))
        path = brownian_path(KEY, steps, samples=jnp.arange(4))
        return solve(LADDER, Problem(x, path), steps, DRAWN)

    np.testing.assert_allclose(jax.jit(run)(X), run(X), atol=1e-14)


def test_a_path_passes_through_the_states_of_shorter_solves():
    path = solve_path(LADDER, PROBLEM, STEPS, DRAWN, keep=[0, 4, 8, 12])
    np.testing.assert_array_equal(path.steps, [0, 4, 8, 12])
    np.testing.assert_array_equal(path.states[0], X)
    np.testing.assert_allclose(path.states[-1], solve(LADDER, PROBLEM, STEPS, DRAWN), atol=1e-14)
    cut = slice(4)
    half = Problem(X, part_of_path(cut))
    np.testing.assert_allclose(
        path.states[1], solve(LADDER, half, rows(STEPS, cut), rows(DRAWN, cut)), atol=1e-14
    )


def test_a_saved_plan_replays_to_the_same_bits(tmp_path):
    plans.save_plan(tmp_path / "plan.npz", DRAWN)
    again = solve(LADDER, PROBLEM, STEPS, plans.load_plan(tmp_path / "plan.npz"))
    np.testing.assert_array_equal(again, solve(LADDER, PROBLEM, STEPS, DRAWN))


def test_forward_mode_goes_through_the_solver():
    openings = draws.midpoint.openings(None, LOGITS)

    def end(logits):
        return solve(LADDER, PROBLEM, STEPS, plans.weigh(openings, logits)).sum()

    finite = LOGITS.at[:, 0].set(3.0)
    direction = normals(7, 12, 3)
    slope = jax.jvp(end, (finite,), (direction,))[1]
    difference = (end(finite + 1e-6 * direction) - end(finite - 1e-6 * direction)) / 2e-6
    assert slope == pytest.approx(float(difference), rel=1e-6)


def test_a_step_is_a_function_of_its_row_alone():
    steps = Steps(*(jnp.asarray([each]) for each in (0.2, 0.9, 0.1, 0.3)),
                  push=jnp.zeros((1, 0)), clock=np.array([[0.0, 1.0]]),
                  ramp=np.ones((1, 2)))  # fmt: skip
    plan = plans.by_hand([[-1.0, 2.0, 0.0]])
    table, xi = make_table(steps, plan, X.dtype), normals(4, 4, 3)
    found = mlem_step(LADDER, init_carry(table, X), rows(table, 0), xi).x
    drift = -wavy(0.6, X, 0.2) + 2 * wavy(0.9, X, 0.2)
    np.testing.assert_allclose(found, 0.9 * X + 0.1 * drift + 0.3 * xi, atol=1e-14)
