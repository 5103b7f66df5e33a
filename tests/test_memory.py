"""Claims about plans that remember, and steps that look back at earlier estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates, plans
from mlem_jax.grids import log_snr_grid, uniform_grid
from mlem_jax.noise import brownian_path
from mlem_jax.problem import Problem
from mlem_jax.process import cosine, rectified_flow
from mlem_jax.solver import (
    init_carry,
    make_table,
    segments,
    solve,
    solve_chunks,
    solve_groups,
    solve_path,
)
from mlem_jax.steps import ddim, dpm_solver_2m, euler_maruyama
from tests.problems import count_of, normals, openings_at, time_ladder, wavy_ladder

LADDER = wavy_ladder(sizes=(0.6, 0.9, 1.0))
X = normals(1, 4, 2)
UNEVEN = [0.0, 0.1, 0.3, 0.4, 0.8, 0.9, 1.0]
LINES = time_ladder([0.5, 1.0], [-1.0, 2.0], [3.0, 0.5])


def value(level, x, t):
    return LADDER.drifts[level](LADDER.params[level], x, t)


def test_certain_gates_are_euler_maruyama_and_write_nothing():
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 6))
    for make in (plans.hold, plans.trapezoid):
        made = make(jnp.ones((6, 3), bool), steps)
        full = plans.full(6, 3, 3)
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
    held = solve(LINES, Problem(X), steps, plans.hold(openings, steps))
    assert jnp.abs(held - expected).max() > 0.01


def test_before_its_first_opening_a_constant_difference_is_made_up_for():
    ladder = time_ladder([0.5], [-1.0], [3.0])
    steps = euler_maruyama([0.0, 0.1, 0.3, 0.4, 0.8])._replace(scale=jnp.full(4, 0.7))
    openings = openings_at(4, range(4), [2], [1, 3])
    expected = solve(ladder, Problem(X), steps, plans.full(4, 3, 3))
    for make in (plans.hold, plans.trapezoid):
        found = solve(ladder, Problem(X), steps, make(openings, steps))
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_held_differences_are_those_of_the_last_opening_path_by_path():
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 5), lambda t: 0.5 + t)
    noise = normals(7, 5, *X.shape)
    made = plans.hold(openings_at(5, range(5), [0, 2], [0, 3]), steps)
    states = solve_path(LADDER, Problem(X, noise), steps, made).states
    for n, (second, third) in enumerate([(0, 0), (0, 0), (2, 0), (2, 3), (2, 3)]):
        estimate = sum(
            value(k, states[m], steps.t[m]) - (value(k - 1, states[m], steps.t[m]) if k else 0)
            for k, m in enumerate((n, second, third))
        )
        moved = states[n] + steps.gain[n] * estimate + steps.noise[n] * noise[n]
        np.testing.assert_allclose(states[n + 1], moved, rtol=1e-13)


@pytest.mark.parametrize("make", [plans.hold, plans.trapezoid])
def test_held_differences_follow_the_recursion_written_by_hand(make):
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
            share = share if make is plans.trapezoid or not opened else 0.0
            missed += gain[j] * np.prod(scale[j + 1 : n]) * share
        return scale[n] / gain[n] * missed

    x, last, since = np.asarray(X), [0.0] * 3, [None] * 3
    for n in range(count):
        outputs = [np.asarray(value(k, jnp.asarray(x), t[n])) for k in range(3)]
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
    found = solve(LADDER, Problem(X, noise), steps, make(openings, steps))
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


# Multistep methods.


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
        estimate = sum(drawn.weights[n, k] * value(k, x, steps.t[n]) for k in range(3))
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
    # With every gate open at every step but one, what is held is known, and so is the whole.
    grid = log_snr_grid(cosine(), 0.95, 0.05, 6)
    steps = dpm_solver_2m(cosine(), grid)
    made = plans.hold(openings_at(6, range(6), [0, 1, 2, 4, 5]), steps)
    table = make_table(steps, made, X.dtype)
    assert (table.read.shape, table.push.shape) == ((6, 3), (6, 1))
    ladder = wavy_ladder(sizes=(0.6, 0.9))
    x, before, held = X, jnp.zeros_like(X), None
    for n in range(6):
        low, high = (drift(own, x, steps.t[n])
                     for drift, own in zip(ladder.drifts, ladder.params, strict=True))  # fmt: skip
        held = high - low if n != 3 else held
        estimate = low + held
        x = steps.scale[n] * x + steps.gain[n] * estimate + steps.push[n, 0] * before
        before = estimate
    caught = np.asarray(made.weights).sum(axis=1)
    assert caught[4] == pytest.approx(1.0)  # A difference that is held is not made up for.
    found = solve(ladder, Problem(X), steps, made)
    np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-12)


# Any outputs of levels.


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


# What it costs.


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
    good = plans.hold(openings_at(6, range(6), [0, 3], [0, 2]), euler_maruyama(UNEVEN))
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


# What is refused.


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
        made = plans.hold(openings, euler_maruyama(uniform_grid(0.0, size, 6)))
        other = euler_maruyama(uniform_grid(0.0, 1.001 * size, 6))
        with pytest.raises(ValueError, match="expected the steps that this plan was made for"):
            solve(LADDER, Problem(X), other, made)


def test_a_plan_made_in_single_precision_runs_on_the_same_steps_in_double():
    openings = openings_at(6, range(6), [0, 3, 5], [0, 2, 5])
    with jax.enable_x64(False):
        made = plans.trapezoid(openings, ddim(cosine(), uniform_grid(0.9, 0.1, 6)))
    steps = ddim(cosine(), uniform_grid(0.9, 0.1, 6))
    assert jnp.isfinite(solve(LADDER, Problem(X), steps, made)).all()


def test_a_plan_with_memory_of_another_size_is_refused():
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 6))
    made = plans.hold(jnp.ones((6, 3), bool), steps)
    for name, columns in {"read": 5, "store": 3}.items():
        table = getattr(made.memory, name)[:5]
        cut = made._replace(memory=made.memory._replace(**{name: table}))
        with pytest.raises(ValueError, match=rf"plan\.memory\.{name} of shape \[6, {columns}\]"):
            solve(LADDER, Problem(X), steps, cut)


def test_a_step_of_no_gain_is_survived_and_what_are_no_openings_refused():
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 6))
    steps = steps._replace(gain=steps.gain.at[3].set(0.0))
    openings = openings_at(6, range(6), (0, 3, 5), (1, 3))
    for make in (plans.hold, plans.trapezoid):
        made = make(openings, steps)
        assert all(jnp.isfinite(table).all() for table in (made.weights, *made.memory))
    for wrong in (openings[:5], openings[:, 0], openings.astype(float)):
        with pytest.raises(ValueError, match=r"expected openings, bool \[6 steps, levels\]"):
            plans.trapezoid(wrong, steps)
    for counts in ((1, 2), (1, -1, 0)):
        with pytest.raises(ValueError, match="a count of at least 0 for each of 3 levels"):
            plans.remember(openings, counts)
