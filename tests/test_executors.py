"""Executors: the same samples, with and without predicates, and what can be seen on the way."""

import collections
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, plans
from mlem_jax.ladder import Ladder
from mlem_jax.noise import brownian_path
from mlem_jax.problem import Problem
from mlem_jax.solver import reporting, scan, segments, solve, solve_path
from mlem_jax.steps import dpm_solver_2m, euler_maruyama
from tests.problems import count_of, normals, openings_at, wavy
from tests.twelve_steps import DRAWN, GRID, LADDER, LOGITS, PATH, PROBLEM, STEPS, X

HELD = plans.trapezoid(openings_at(12, range(12), [0, 5, 6], [0, 7]), STEPS)


def network(params, x, t):
    return jnp.tanh(x @ params[0] + t) @ params[1]


def network_ladder(dtype):
    widths = (4, 16, 64)
    params = tuple(
        tuple(normals(k, *shape).astype(dtype) / 8 for shape in ((3, width), (width, 3)))
        for k, width in enumerate(widths)
    )
    return Ladder((network,) * 3, params)


@pytest.mark.parametrize("plan", [DRAWN, HELD, plans.full(12, 3, 2)], ids=["drawn", "held", "full"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_networks_give_the_same_bits_with_and_without_predicates(plan, dtype):
    problem = Problem(X.astype(dtype), PATH)
    ladder = network_ladder(dtype)
    ends = [solve(ladder, problem, STEPS, plan, executor=each) for each in (scan, segments)]
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("plan", [DRAWN, HELD, plans.full(12, 3, 2)], ids=["drawn", "held", "full"])
def test_elementwise_levels_give_the_same_to_rounding(plan):
    for noise in (PATH, normals(2, 12, 4, 3)):
        ends = [solve(LADDER, Problem(X, noise), STEPS, plan, executor=each)
                for each in (scan, segments, reporting(lambda *_: None, every=5))]  # fmt: skip
        for other in ends[1:]:
            np.testing.assert_allclose(other, ends[0], atol=1e-12)


def test_segments_have_no_cond_and_a_level_only_where_it_is_needed():
    def run(x, executor):
        return solve(LADDER, Problem(x, PATH), STEPS, DRAWN, executor=executor)

    jaxpr = jax.make_jaxpr(partial(run, executor=segments))(X)
    assert count_of("cond", jaxpr.jaxpr) == 0
    ran = collections.Counter()

    def counted(k, params, x, t):
        jax.debug.callback(lambda t: ran.update([(k, round(float(t) * 12))]), t)
        return wavy(params, x, t)

    ladder = dataclasses.replace(LADDER, drifts=tuple(partial(counted, k) for k in range(3)))
    jax.block_until_ready(solve(ladder, PROBLEM, STEPS, DRAWN, executor=segments))
    jax.effects_barrier()
    assert dict(ran) == {(int(k), int(n)): 1 for n, k in np.argwhere(DRAWN.needed)}


def test_segments_are_compiled_once_a_pattern_and_length():
    traced = collections.Counter()

    def counted(params, x, t):
        traced["times"] += 1
        return wavy(params, x, t)

    count = 100
    steps = euler_maruyama(np.linspace(0, 1, count + 1))
    ladder = Ladder((counted,), (jnp.asarray(1.0),))
    for size in (1.0, 2.0):
        own = dataclasses.replace(ladder, params=(jnp.asarray(size),))
        solve(own, Problem(X), steps, plans.full(count, 1, 1), executor=segments)
    assert traced["times"] <= 3


@pytest.mark.parametrize("every", [1, 3, 5, 12, 100])
def test_reports_come_at_their_steps_with_the_states_of_the_path(every):
    seen = []
    end = solve(LADDER, PROBLEM, STEPS, HELD, executor=reporting(
        lambda done, steps, x: seen.append((done, steps, x)), every=every))  # fmt: skip
    expected = [n for n in range(1, 13) if n % every == 0 or n == 12]
    assert [(done, steps) for done, steps, _ in seen] == [(n, 12) for n in expected]
    states = solve_path(LADDER, PROBLEM, STEPS, HELD, keep=expected).states
    for (_, _, x), state in zip(seen, states, strict=True):
        np.testing.assert_allclose(x, state, atol=1e-12)
    np.testing.assert_array_equal(seen[-1][2], end)


def test_a_report_may_stop_the_run():
    class EnoughError(Exception):
        pass

    def stop(done, steps, x):
        if done == 4:
            raise EnoughError

    with pytest.raises(EnoughError):
        solve(LADDER, PROBLEM, STEPS, DRAWN, executor=reporting(stop))


def test_multistep_methods_and_conditions_run_in_segments():
    def shown(params, x, t, label):
        return params * jnp.tanh(x) + label[:, None]

    from mlem_jax.process import cosine

    steps = dpm_solver_2m(cosine(), 0.9 - 0.8 * GRID, churn=1.0)
    path = brownian_path(jax.random.key(0), steps, samples=jnp.arange(4))
    problem = Problem(X, path, normals(5, 4))
    ladder = Ladder((shown,) * 3, LADDER.params)
    ends = [solve(ladder, problem, steps, DRAWN, executor=each) for each in (scan, segments)]
    np.testing.assert_allclose(*ends, atol=1e-12)


def test_gradients_go_through_segments():
    def end(params, executor):
        ladder = dataclasses.replace(LADDER, params=params)
        return solve(ladder, PROBLEM, STEPS, DRAWN, executor=executor).sum()

    slopes = [jax.grad(end)(LADDER.params, each) for each in (scan, segments)]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), *slopes)


def test_a_plan_that_is_not_known_is_refused_by_segments():
    def run(key, executor):
        plan = plans.draw_plan(draws.independent, LOGITS, key)
        return solve(LADDER, PROBLEM, STEPS, plan, executor=executor)

    for executor in (segments, reporting(lambda *_: None)):
        with pytest.raises(ValueError, match="expected a plan that is known, got a traced one"):
            jax.jit(partial(run, executor=executor))(jax.random.key(2))
    np.testing.assert_allclose(
        jax.jit(partial(run, executor=scan))(jax.random.key(2)),
        solve(LADDER, PROBLEM, STEPS, DRAWN), atol=1e-12,
    )  # fmt: skip
    with pytest.raises(ValueError, match="a report every 1 step or more, got 0"):
        reporting(lambda *_: None, every=0)
