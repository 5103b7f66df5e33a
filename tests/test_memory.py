"""Slots in which a plan remembers outputs of levels: what they hold, cost and refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import plans
from mlem_jax.grids import uniform_grid
from mlem_jax.noise import brownian_path
from mlem_jax.problem import Problem
from mlem_jax.process import cosine
from mlem_jax.solver import (
    init_carry,
    make_table,
    segments,
    solve,
    solve_chunks,
    solve_groups,
    solve_path,
)
from mlem_jax.steps import dpm_solver_2m, euler_maruyama
from tests.problems import count_of, normals, openings_at, time_ladder, wavy_ladder

LADDER = wavy_ladder()
X = normals(1, 4, 2)
UNEVEN = [0.0, 0.1, 0.3, 0.4, 0.8, 0.9, 1.0]


def test_three_remembered_outputs_of_a_level_run_by_numbers_worked_out_by_hand():
    # F of level 1 at t = n is n + 1. It runs at steps 0, 1, 3 and 4, and goes round its slots:
    # before step 2 they hold 1 2 -, before step 4: 1 2 4, before step 5: 5 2 4.
    ladder = time_ladder([1.0, 1.0], [100.0])
    steps = euler_maruyama(np.arange(7.0))
    needed = np.array([[1, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]], bool).T
    memory = plans.remember(needed, (3, 0))
    np.testing.assert_array_equal(memory.store, [[0, -1], [1, -1], [-1, -1], [2, -1], [0, -1],
                                                 [-1, -1]])  # fmt: skip
    read = jnp.zeros((6, 3)).at[2].set(jnp.array([1.0, 10.0, 7.0]))
    read = read.at[4].set(jnp.array([0.5, -1.0, 1.0])).at[5].set(jnp.array([1.0, 3.0, 2.0]))
    weights = jnp.zeros((6, 2)).at[0, 0].set(2.0).at[4, 0].set(1.0).at[5, 1].set(0.01)
    made = plans.make_plan(weights, jnp.asarray(needed), memory._replace(read=read))
    states = solve_path(ladder, Problem(jnp.zeros(1)), steps, made).states
    # 2*1, 0, 10*2+1*1+7*0, 0, 5+4-2+0.5, 1+5+8+6
    np.testing.assert_allclose(np.diff(states[:, 0]), [2, 0, 21, 0, 7.5, 20], atol=1e-12)


def test_slots_of_several_levels_do_not_mix():
    needed = np.array([[True, False, True], [True, True, False], [False, True, True]])
    memory = plans.remember(needed, (1, 0, 2))
    ladder, steps = time_ladder([1.0], [10.0], [100.0, 100.0]), euler_maruyama(np.arange(4.0))
    # Before step 2: level 1 gave 1, level 3 gave 100 and nothing before.
    read = memory.read.at[2].set(jnp.array([1.0, 1.0, 5.0]))
    made = plans.make_plan(jnp.zeros((3, 3)), jnp.asarray(needed), memory._replace(read=read))
    states = solve_path(ladder, Problem(jnp.zeros(1)), steps, made).states
    np.testing.assert_allclose(np.diff(states[:, 0]), [0, 0, 101], atol=1e-12)


def test_outputs_beside_the_next_level_are_kept_until_it_runs_again():
    # F of level 1 at t = n is n + 1; level 2 runs at steps 1 and 3, where that is 2 and 4.
    needed = openings_at(6, range(6), [1, 3])
    kept = plans.beside_next(needed)
    np.testing.assert_array_equal(kept, openings_at(6, [1, 3], [1, 3]))
    memory = plans.remember(kept, (1, 1))
    read = memory.read.at[:, 0].set(1.0)
    made = plans.make_plan(jnp.zeros((6, 2)), needed, memory._replace(read=read))
    ladder, steps = time_ladder([1.0, 1.0], [100.0]), euler_maruyama(np.arange(7.0))
    states = solve_path(ladder, Problem(jnp.zeros(1)), steps, made).states
    np.testing.assert_allclose(np.diff(states[:, 0]), [0, 0, 2, 2, 4, 4], atol=1e-12)


def test_an_output_is_written_once_and_nothing_is_moved():
    needed = openings_at(6, range(6), [0, 3, 5], [0, 2, 5])
    for counts in ((2, 1, 3), (0, 0, 5)):
        made = plans.make_plan(jnp.ones((6, 3)), needed, plans.remember(needed, counts))
        steps = euler_maruyama(UNEVEN)
        jaxpr = jax.make_jaxpr(lambda x, s=steps, p=made: solve(LADDER, Problem(x), s, p))(X)
        assert count_of("dynamic_update_slice", jaxpr.jaxpr) == 3
        assert count_of("concatenate", jaxpr.jaxpr) == 0


def test_a_slot_that_is_not_there_is_refused():
    full = plans.full(6, 3, 3)
    for slot in (-2, 0, 7):
        memory = full.memory._replace(store=full.memory.store.at[2, 1].set(slot))
        with pytest.raises(ValueError, match=r"store from -1, for none, to -1, as there are"):
            solve(LADDER, Problem(X), euler_maruyama(UNEVEN), full._replace(memory=memory))


def test_slots_are_looked_after_in_stacked_and_traced_plans_too():
    good = plans.trapezoid(openings_at(6, range(6), [0, 3], [0, 2]), euler_maruyama(UNEVEN))
    steps, problem = euler_maruyama(UNEVEN), Problem(X)
    bad = good._replace(memory=good.memory._replace(store=good.memory.store.at[2, 1].set(9)))
    with pytest.raises(ValueError, match="to 4, the last of 5 slots, got -1 to 9"):
        solve_groups(LADDER, problem, steps, plans.stack_plans([good, bad]))
    assert jnp.isnan(jax.jit(lambda plan: solve(LADDER, problem, steps, plan))(bad)).all()
    twice = good._replace(memory=good.memory._replace(store=good.memory.store.at[2].set(1)))
    with pytest.raises(ValueError, match="a slot of its own for each output of a step"):
        solve(LADDER, problem, steps, twice)


def test_memory_has_no_cond_and_every_level_has_one():
    for steps in (euler_maruyama(UNEVEN), dpm_solver_2m(cosine(), uniform_grid(0.9, 0.1, 6))):
        openings = openings_at(6, range(6), [0, 3, 5], [0, 2, 5])
        memory = plans.remember(openings, (2, 1, 3))
        for plan in (plans.full(6, 3, 3), plans.trapezoid(openings, steps),
                     plans.full(6, 3, 3)._replace(memory=memory)):  # fmt: skip
            jaxpr = jax.make_jaxpr(lambda x, s=steps, p=plan: solve(LADDER, Problem(x), s, p))(X)
            assert count_of("cond", jaxpr.jaxpr) == 3


def test_a_plan_without_memory_carries_zero_slots():
    steps = euler_maruyama(UNEVEN)
    full = plans.full(6, 3, 3)
    assert full.memory.read.shape == (6, 0)
    carry = init_carry(make_table(steps, full, X.dtype), X)
    assert carry.memory.shape == carry.estimates.shape == (0, *X.shape)
    compiled = jax.jit(lambda x: solve(LADDER, Problem(x), steps, full)).lower(X).compile()
    held = plans.trapezoid(openings_at(6, range(6), [0, 3], [0, 3]), steps)
    kept = jax.jit(lambda x: solve(LADDER, Problem(x), steps, held)).lower(X).compile()
    sizes = [each.memory_analysis().temp_size_in_bytes for each in (compiled, kept)]
    assert sizes[1] >= sizes[0] + 3 * X.nbytes


def test_states_on_the_way_chunks_and_segments_remember_the_same():
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 6), lambda t: 0.3 + 0 * t)
    steps = steps._replace(push=jnp.full((6, 1), 0.02))
    made = plans.trapezoid(openings_at(6, range(6), [0, 4], [0, 3]), steps)
    problem = Problem(X, brownian_path(jax.random.key(0), steps, samples=jnp.arange(4)))
    end = solve(LADDER, problem, steps, made)
    for keep in (None, [6], [0, 2, 6], np.arange(1, 7)):
        kept = solve_path(LADDER, problem, steps, made, keep=keep)
        np.testing.assert_allclose(kept.states[-1], end, rtol=1e-13)
    np.testing.assert_allclose(solve_chunks(LADDER, problem, steps, made, chunk=3), end, rtol=1e-13)
    found = solve(LADDER, problem, steps, made, executor=segments)
    np.testing.assert_allclose(found, end, rtol=1e-13)


def test_a_plan_with_memory_of_another_size_is_refused():
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 6))
    made = plans.trapezoid(jnp.ones((6, 3), bool), steps)
    for name, columns in {"read": 5, "store": 3}.items():
        table = getattr(made.memory, name)[:5]
        cut = made._replace(memory=made.memory._replace(**{name: table}))
        with pytest.raises(ValueError, match=rf"plan\.memory\.{name} of shape \[6, {columns}\]"):
            solve(LADDER, Problem(X), steps, cut)
