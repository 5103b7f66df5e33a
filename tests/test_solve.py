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
from mlem_jax.noise import brownian_path, draw_starts, store_path
from mlem_jax.problem import Problem
from mlem_jax.process import cosine
from mlem_jax.solver import (
    init_carry,
    make_table,
    mlem_step,
    solve,
    solve_chunks,
    solve_path,
)
from mlem_jax.steps import Steps, ddpm, euler_maruyama, make_steps
from tests.exact import every_draw
from tests.problems import count_of, normals, ornstein_uhlenbeck, ou_ladder, wavy, wavy_ladder

KEY = jax.random.key(1)
GRID = uniform_grid(0.0, 1.0, 12)
STEPS = euler_maruyama(GRID, lambda t: 0.5 + t)
LADDER = wavy_ladder()
X = normals(0, 4, 3)
PATH = brownian_path(KEY, STEPS, samples=jnp.arange(4))
PROBLEM = Problem(X, PATH)
LOGITS = gates.to_logits(np.tile([1.0, 0.5, 0.25], (12, 1)))
DRAWN = plans.draw_plan(draws.independent, LOGITS, jax.random.key(2))


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


def test_a_switch_is_its_two_pieces_run_apart():
    at = 5
    whole = solve(LADDER, PROBLEM, STEPS, plans.switch(12, 3, at, early=1, late=3))
    x = X
    for level, cut in ((1, slice(None, at)), (3, slice(at, None))):
        steps = rows(STEPS, cut)
        path = PATH._replace(first=PATH.first[cut], last=PATH.last[cut])
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


def test_a_sample_is_the_same_in_every_batch_and_chunk():
    x = normals(3, 64, 2)
    path = brownian_path(KEY, STEPS, samples=jnp.arange(64))
    whole = solve(LADDER, Problem(x, path), STEPS, DRAWN)
    for batch in (1, 3):
        part = Problem(x[:batch], path._replace(samples=path.samples[:batch]))
        np.testing.assert_allclose(solve(LADDER, part, STEPS, DRAWN), whole[:batch], atol=1e-14)
    for chunk in (5, 64, 100):
        chunked = solve_chunks(LADDER, Problem(x, path), STEPS, DRAWN, chunk=chunk)
        np.testing.assert_allclose(chunked, whole, atol=1e-14)


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_sample_is_the_same_in_every_chunk_under_keys_of_every_generator(generator):
    key = jax.random.key(5, impl=generator)
    x = draw_starts(key, jnp.arange(8), (2,))
    np.testing.assert_array_equal(draw_starts(key, jnp.array([6, 2]), (2,)), x[jnp.array([6, 2])])
    path = brownian_path(key, STEPS, samples=jnp.arange(8))
    whole = solve(LADDER, Problem(x, path), STEPS, DRAWN)
    for chunk in (1, 3):
        chunked = solve_chunks(LADDER, Problem(x, path), STEPS, DRAWN, chunk=chunk)
        np.testing.assert_allclose(chunked, whole, atol=1e-14)


def test_conditions_and_stored_noise_are_cut_along_with_their_samples():
    def network(params, x, t, label):
        return params * x + label[:, None]

    ladder, full = Ladder((network,), (jnp.asarray(0.3),)), plans.full(12, 1, 1)
    x, path = normals(6, 7, 2), brownian_path(KEY, STEPS, samples=jnp.arange(7))
    for noise in (path, store_path(path, x)):
        problem = Problem(x, noise, normals(5, 7))
        chunked = solve_chunks(ladder, problem, STEPS, full, chunk=3)
        np.testing.assert_allclose(chunked, solve(ladder, problem, STEPS, full), atol=1e-14)


def test_tables_can_be_made_while_a_caller_is_traced():
    def run(x):
        steps = ddpm(cosine(), uniform_grid(1.0, 0.0, 12))
        path = brownian_path(KEY, steps, samples=jnp.arange(4))
        return solve(LADDER, Problem(x, path), steps, DRAWN)

    np.testing.assert_allclose(jax.jit(run)(X), run(X), atol=1e-14)


def test_a_stored_path_is_the_path():
    stored = Problem(X, store_path(PATH, X))
    np.testing.assert_allclose(
        solve(LADDER, stored, STEPS, DRAWN), solve(LADDER, PROBLEM, STEPS, DRAWN), atol=1e-14
    )


def test_a_start_depends_on_its_sample_alone():
    starts = draw_starts(KEY, jnp.arange(5), (2, 3))
    np.testing.assert_array_equal(draw_starts(KEY, jnp.array([3]), (2, 3))[0], starts[3])
    assert len(np.unique(starts)) == 30


def test_chunks_need_the_memory_of_one():
    def memory(batch, chunk):
        problem = Problem(
            jnp.zeros((batch, 1000)), brownian_path(KEY, STEPS, samples=jnp.arange(batch))
        )
        run = jax.jit(partial(solve_chunks, chunk=chunk))
        compiled = run.lower(LADDER, problem, STEPS, DRAWN).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(256, 8) < memory(256, 256) / 4


def test_a_path_passes_through_the_states_of_shorter_solves():
    path = solve_path(LADDER, PROBLEM, STEPS, DRAWN, keep=[0, 4, 8, 12])
    np.testing.assert_array_equal(path.steps, [0, 4, 8, 12])
    np.testing.assert_array_equal(path.states[0], X)
    np.testing.assert_allclose(path.states[-1], solve(LADDER, PROBLEM, STEPS, DRAWN), atol=1e-14)
    cut = slice(4)
    half = Problem(X, PATH._replace(first=PATH.first[cut], last=PATH.last[cut]))
    np.testing.assert_allclose(
        path.states[1], solve(LADDER, half, rows(STEPS, cut), rows(DRAWN, cut)), atol=1e-14
    )


def test_a_saved_plan_replays_to_the_same_bits(tmp_path):
    plans.save_plan(tmp_path / "plan.npz", DRAWN)
    again = solve(LADDER, PROBLEM, STEPS, plans.load_plan(tmp_path / "plan.npz"))
    np.testing.assert_array_equal(again, solve(LADDER, PROBLEM, STEPS, DRAWN))


def test_params_are_pytrees_and_states_of_any_shape():
    def drift(params, x, t):
        return x @ params["matrix"] + params["bias"][0]

    ladder = Ladder((drift,), ({"matrix": jnp.eye(3), "bias": [jnp.asarray(1.0)]},))
    for shape in ((3,), (2, 3), (2, 1, 5, 3)):
        end = solve(ladder, Problem(jnp.ones(shape)), euler_maruyama(GRID), plans.full(12, 1, 1))
        np.testing.assert_allclose(end, (1 + 1 / 12) ** 12 * 2 - 1, atol=1e-12)


def test_a_state_of_several_arrays_runs_like_its_parts():
    # What does not couple its parts moves them as if each were alone; memory and noise too.
    def both(params, x, t):
        return {"place": wavy(params, x["place"], t), "speed": [wavy(params, x["speed"][0], t)]}

    both_ladder = dataclasses.replace(LADDER, drifts=(both,) * 3)
    steps = STEPS._replace(push=normals(3, 12, 2) / 10)
    held = plans.trapezoid(LOGITS > -0.5, steps)
    parts = {"place": X, "speed": [normals(8, 4)]}
    noise = {"place": normals(1, 12, 4, 3), "speed": [normals(2, 12, 4)]}
    for plan in (DRAWN, held):
        found = solve(both_ladder, Problem(parts, noise), steps, plan)
        assert jax.tree.structure(found) == jax.tree.structure(parts)
        for end, x, xi in zip(*map(jax.tree.leaves, (found, parts, noise)), strict=True):
            expected = solve(LADDER, Problem(x, xi), steps, plan)
            np.testing.assert_allclose(end, expected, atol=1e-12)
    path = solve_path(both_ladder, Problem(parts, PATH), STEPS, DRAWN, keep=[12])
    whole = solve(both_ladder, Problem(parts, PATH), STEPS, DRAWN)
    chunks = solve_chunks(both_ladder, Problem(parts, PATH), STEPS, DRAWN, chunk=3)
    for end, last, chunked in zip(*map(jax.tree.leaves, (whole, path.states, chunks)), strict=True):
        np.testing.assert_allclose(last[-1], end, atol=1e-14)
        np.testing.assert_allclose(chunked, end, atol=1e-14)


def test_the_arrays_of_one_state_are_driven_by_noise_of_their_own():
    stored = store_path(PATH, {"a": X, "b": X})
    assert jnp.abs(stored["a"] - stored["b"]).min() > 0
    alone = store_path(PATH, {"a": X})
    np.testing.assert_array_equal(alone["a"], store_path(PATH, X))


def test_noise_may_differ_by_entry_of_the_state():
    # Columns of a diagonal diffusion are so many SDEs of one number each.
    deviations = np.array([0.0, 0.3, 2.0]) * (0.5 + GRID[:-1, None]) * (1 / 12) ** 0.5
    noise = normals(1, 12, 4, 3)
    wide = euler_maruyama(GRID)._replace(noise=jnp.asarray(deviations))
    found = solve(LADDER, Problem(X, noise), wide, DRAWN)
    for column in range(3):
        narrow = wide._replace(noise=wide.noise[:, column])
        own = Problem(X[:, column], noise[..., column])
        np.testing.assert_allclose(found[:, column], solve(LADDER, own, narrow, DRAWN), atol=1e-12)
    with pytest.raises(ValueError, match=r"broadcast to the state \[4, 3\], got \[2\]"):
        solve(LADDER, Problem(X, noise), wide._replace(noise=jnp.ones((12, 2))), DRAWN)


def test_a_single_precision_state_stays_one_whatever_the_tables_are():
    params = tuple(p.astype(jnp.float32) for p in LADDER.params)
    ladder = dataclasses.replace(LADDER, params=params)
    end = solve(ladder, Problem(X.astype(jnp.float32), PATH), STEPS, DRAWN)
    assert STEPS.gain.dtype == jnp.float64
    assert end.dtype == jnp.float32


def test_a_network_may_compute_in_half_precision():
    def drift(params, x, t):
        return wavy(params, x.astype(jnp.bfloat16), t.astype(jnp.bfloat16)).astype(x.dtype)

    full = plans.full(12, 1, 1)
    exact = solve(Ladder((wavy,), (jnp.asarray(1.0),)), PROBLEM, STEPS, full)
    rough = solve(Ladder((drift,), (jnp.bfloat16(1.0),)), PROBLEM, STEPS, full)
    assert 0 < jnp.abs(rough - exact).max() < 0.02


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
                  push=jnp.zeros((1, 0)), clock=np.array([[0.0, 1.0]]))  # fmt: skip
    plan = plans.by_hand([[-1.0, 2.0, 0.0]])
    table, xi = make_table(steps, plan, X.dtype), normals(4, 4, 3)
    found = mlem_step(LADDER, init_carry(table, X), rows(table, 0), xi).x
    drift = -wavy(0.6, X, 0.2) + 2 * wavy(0.9, X, 0.2)
    np.testing.assert_allclose(found, 0.9 * X + 0.1 * drift + 0.3 * xi, atol=1e-14)
