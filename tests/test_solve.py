import collections
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates, plan
from mlem_jax import steps as sp
from mlem_jax.levels import Guided, Levels, guided_levels
from mlem_jax.noise import brownian_path, draw_starts, snr_clock, store_path
from mlem_jax.process import cosine
from mlem_jax.solve import (
    Carry,
    StepInputs,
    mlem_step,
    solve,
    solve_chunks,
    solve_path,
)
from tests.exact import every_draw
from tests.problems import count_conds, normals, ornstein_uhlenbeck, ou_ladder, wavy, wavy_ladder

KEY = jax.random.key(1)
GRID = sp.uniform_grid(0.0, 1.0, 12)
STEPS = sp.euler_maruyama(GRID, lambda t: 0.5 + t)
LEVELS, PARAMS = wavy_ladder()
X = normals(0, 4, 3)
PATH = brownian_path(KEY, GRID, samples=jnp.arange(4))
GATES = gates.constant_gates((1.0, 0.5, 0.25), 12)
DRAWN = plan.draw_plan(draws.independent, GATES, jax.random.key(2))


def euler_maruyama_by_hand(drift, x, noise, deviation):
    for n, (t, dt) in enumerate(zip(GRID[:-1], np.diff(GRID), strict=True)):
        x = x + dt * drift(x, t) + deviation(t) * dt**0.5 * noise[n]
    return x


def test_certain_gates_are_euler_maruyama_of_the_top_level():
    noise = normals(1, 12, 4, 3)
    certain = gates.constant_gates((1.0, 1.0, 1.0), 12)
    whole = plan.weigh(draws.independent(KEY, certain), certain)
    expected = euler_maruyama_by_hand(partial(wavy, 1.0), X, noise, lambda t: 0.5 + t)
    for each in (whole, plan.drop_idle(whole), plan.full_plan(12, 3, 3)):
        np.testing.assert_allclose(
            solve(LEVELS, PARAMS, X, STEPS, each, noise), expected, atol=1e-12
        )


def test_one_level_is_its_euler_maruyama():
    noise = normals(1, 12, 4, 3)
    expected = euler_maruyama_by_hand(partial(wavy, 0.9), X, noise, lambda t: 0.5 + t)
    alone = Levels((wavy,), (1.0,))
    for levels, params, each in (
        (LEVELS, PARAMS, plan.full_plan(12, 3, 2)),
        (alone, PARAMS[1:2], plan.full_plan(12, 1, 1)),
    ):
        np.testing.assert_allclose(
            solve(levels, params, X, STEPS, each, noise), expected, atol=1e-12
        )


def test_without_noise_it_is_the_euler_method():
    steps = sp.euler_maruyama(GRID)
    zero = jnp.zeros((12, 4, 3))
    expected = euler_maruyama_by_hand(partial(wavy, 1.0), X, zero, lambda t: 0 * t)
    for noise in (None, PATH):
        found = solve(LEVELS, PARAMS, X, steps, plan.full_plan(12, 3, 3), noise)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_switch_is_its_two_pieces_run_apart():
    at = 5
    switch = plan.switch_plan(12, 3, at, early=1, late=3)
    whole = solve(LEVELS, PARAMS, X, STEPS, switch, PATH)
    x = X
    for level, cut in ((1, slice(None, at)), (3, slice(at, None))):
        steps = sp.Steps(*(column[cut] for column in STEPS[:4]))
        path = PATH._replace(first=PATH.first[cut], last=PATH.last[cut])
        x = solve(LEVELS, PARAMS, x, steps, plan.full_plan(len(steps.t), 3, level), path)
    np.testing.assert_allclose(x, whole, atol=1e-12)


def mean_over_draws(levels, params, steps, logits, noise):
    return sum(
        p * solve(levels, params, X, steps, plan.weigh(fires, logits), noise)
        for p, fires in every_draw(logits)
    )


def test_one_step_is_unbiased():
    logits = gates.table_gates([[1.0, 0.4, 0.3]])
    steps = jax.tree.map(lambda column: column[:1], STEPS)
    noise = normals(1, 1, 4, 3)
    mean = mean_over_draws(LEVELS, PARAMS, steps, logits, noise)
    top = solve(LEVELS, PARAMS, X, steps, plan.full_plan(1, 3, 3), noise)
    np.testing.assert_allclose(mean, top, atol=1e-12)


def test_a_linear_drift_is_unbiased_over_all_steps():
    # The gates of different steps are independent, so with a linear drift even the end is.
    levels, params = ou_ladder()
    logits = gates.table_gates([[1.0, 0.5, 0.2], [0.9, 0.6, 0.3], [1.0, 0.3, 0.3]])
    grid = sp.uniform_grid(0.0, 0.6, 3)
    steps, noise = sp.euler_maruyama(grid, lambda t: 1 + t), normals(1, 3, 4, 3)
    mean = mean_over_draws(levels, params, steps, logits, noise)
    top = solve(levels, params, X, steps, plan.full_plan(3, 3, 3), noise)
    np.testing.assert_allclose(mean, top, atol=1e-12)


def test_ornstein_uhlenbeck_follows_its_closed_form_path_by_path():
    # X_T = e^-T x + int e^-(T-s) dW, the integral taken along the very same path.
    fine = np.linspace(0, 1, 4097)
    path = brownian_path(KEY, fine, samples=jnp.arange(4))
    levels, params = Levels((ornstein_uhlenbeck,), (1.0,)), (jnp.asarray(1.0),)
    steps = sp.euler_maruyama(fine, lambda t: jnp.ones_like(t))
    end = solve(levels, params, X, steps, plan.full_plan(4096, 1, 1), path)
    weight = sp.Steps(jnp.asarray(fine[:-1]), jnp.ones(4096), jnp.zeros(4096),
                      jnp.exp(-(1 - fine[:-1])) * (1 / 4096) ** 0.5)  # fmt: skip
    integral = solve(levels, params, jnp.zeros_like(X), weight, plan.full_plan(4096, 1, 1), path)
    np.testing.assert_allclose(end, np.exp(-1.0) * X + integral, atol=1e-3)


def test_a_linear_sde_with_time_dependent_noise_follows_its_closed_form():
    # dX = -X/(1+t) dt + (1+t) dW:  (1+t) X = x + int (1+t)^2 dW.
    def drift(params, x, t):
        return -x / (1 + t)

    fine = np.linspace(0, 1, 4097)
    path = brownian_path(KEY, fine, samples=jnp.arange(4))
    levels, full = Levels((drift,), (1.0,)), plan.full_plan(4096, 1, 1)
    end = solve(levels, ((),), X, sp.euler_maruyama(fine, lambda t: 1 + t), full, path)
    weight = sp.Steps(jnp.asarray(fine[:-1]), jnp.ones(4096), jnp.zeros(4096),
                      (1 + fine[:-1]) ** 2 * (1 / 4096) ** 0.5)  # fmt: skip
    integral = solve(levels, ((),), jnp.zeros_like(X), weight, full, path)
    np.testing.assert_allclose(end, (X + integral) / 2, atol=2e-3)


def test_a_level_is_executed_exactly_where_it_is_needed():
    ran = collections.Counter()

    def counted(k, params, x, t):
        jax.debug.callback(lambda t: ran.update([(k, round(float(t) * 12))]), t)
        return wavy(params, x, t)

    levels = Levels(tuple(partial(counted, k) for k in range(3)), LEVELS.costs)
    jax.block_until_ready(solve(levels, PARAMS, X, STEPS, DRAWN, PATH))
    jax.effects_barrier()
    expected = {(int(k), int(n)): 1 for n, k in np.argwhere(DRAWN.needed)}
    assert dict(ran) == expected
    assert 0 < len(expected) < 36


@pytest.mark.parametrize(
    "solver", [solve, partial(solve_path, stride=3), partial(solve_chunks, chunk=2)]
)
def test_each_level_is_traced_once_over_repeated_calls(solver):
    traced = collections.Counter()

    def counted(k, params, x, t):
        traced[k] += 1
        return wavy(params, x, t)

    drifts = tuple(partial(counted, k) for k in range(3))
    for seed in range(4):
        levels = Levels(drifts, (1.0, 2.0, 3.0 + seed))
        drawn = plan.draw_plan(draws.independent, GATES, jax.random.key(seed))
        path = brownian_path(jax.random.key(seed), GRID, samples=jnp.arange(4))
        solver(levels, PARAMS, X + seed, STEPS, drawn, path)
    assert traced == {0: 1, 1: 1, 2: 1}


def test_conds_survive_vmap_over_states():
    def run(x, path):
        return solve(LEVELS, PARAMS, x, STEPS, DRAWN, path)

    single = PATH._replace(samples=jnp.asarray(0))
    batched = jax.vmap(lambda x, sample: run(x, single._replace(samples=sample)))
    jaxpr = jax.make_jaxpr(batched)(X, jnp.arange(4))
    assert count_conds(jaxpr.jaxpr) == 3
    np.testing.assert_allclose(batched(X, jnp.arange(4)), run(X, PATH), atol=1e-12)


def test_a_sample_is_the_same_in_every_batch_and_chunk():
    x = normals(3, 64, 2)
    path = brownian_path(KEY, GRID, samples=jnp.arange(64))
    whole = solve(LEVELS, PARAMS, x, STEPS, DRAWN, path)
    for batch in (1, 3):
        part = path._replace(samples=path.samples[:batch])
        np.testing.assert_allclose(
            solve(LEVELS, PARAMS, x[:batch], STEPS, DRAWN, part), whole[:batch], atol=1e-14
        )
    for chunk in (5, 64, 100):
        chunked = solve_chunks(LEVELS, PARAMS, x, STEPS, DRAWN, path, chunk=chunk)
        np.testing.assert_allclose(chunked, whole, atol=1e-14)


def test_conditions_are_cut_along_with_their_samples():
    def network(params, x, t, label):
        return params * x + label[:, None]

    guided = guided_levels((network,), (1.0,))
    given = (Guided(jnp.asarray(0.3), normals(5, 7), jnp.zeros(7), 1.5),)
    x, path = normals(6, 7, 2), brownian_path(KEY, GRID, samples=jnp.arange(7))
    full = plan.full_plan(12, 1, 1)
    whole = solve(guided, given, x, STEPS, full, path)
    chunked = solve_chunks(guided, given, x, STEPS, full, path, chunk=3)
    np.testing.assert_allclose(chunked, whole, atol=1e-14)


def test_tables_can_be_made_while_a_caller_is_traced():
    def run(x):
        grid = sp.uniform_grid(1.0, 0.0, 12)
        path = brownian_path(KEY, snr_clock(cosine(), grid), samples=jnp.arange(4))
        return solve(LEVELS, PARAMS, x, sp.ddpm(cosine(), grid), DRAWN, path)

    np.testing.assert_allclose(jax.jit(run)(X), run(X), atol=1e-14)


def test_a_stored_path_is_the_path():
    stored = store_path(PATH, X)
    np.testing.assert_allclose(
        solve(LEVELS, PARAMS, X, STEPS, DRAWN, stored),
        solve(LEVELS, PARAMS, X, STEPS, DRAWN, PATH),
        atol=1e-14,
    )


def test_a_start_depends_on_its_sample_alone():
    starts = draw_starts(KEY, jnp.arange(5), (2, 3))
    np.testing.assert_array_equal(draw_starts(KEY, jnp.array([3]), (2, 3))[0], starts[3])
    assert len(np.unique(starts)) == 30


def test_chunks_need_the_memory_of_one():
    def memory(batch, chunk):
        x = jnp.zeros((batch, 1000))
        path = brownian_path(KEY, GRID, samples=jnp.arange(batch))
        run = partial(solve_chunks, LEVELS, chunk=chunk)
        compiled = jax.jit(run).lower(PARAMS, x, STEPS, DRAWN, path).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(256, 8) < memory(256, 256) / 4


def test_a_path_passes_through_the_states_of_shorter_solves():
    path = solve_path(LEVELS, PARAMS, X, STEPS, DRAWN, PATH, stride=4)
    np.testing.assert_array_equal(path.steps, [0, 4, 8, 12])
    np.testing.assert_array_equal(path.states[0], X)
    np.testing.assert_allclose(
        path.states[-1], solve(LEVELS, PARAMS, X, STEPS, DRAWN, PATH), atol=1e-14
    )
    cut = lambda tree: jax.tree.map(lambda leaf: leaf[:4], tree)  # noqa: E731
    half = PATH._replace(first=PATH.first[:4], last=PATH.last[:4])
    np.testing.assert_allclose(
        path.states[1], solve(LEVELS, PARAMS, X, cut(STEPS), cut(DRAWN), half), atol=1e-14
    )


def test_a_saved_plan_replays_to_the_same_bits(tmp_path):
    plan.save_plan(tmp_path / "plan.npz", DRAWN)
    again = solve(LEVELS, PARAMS, X, STEPS, plan.load_plan(tmp_path / "plan.npz"), PATH)
    np.testing.assert_array_equal(again, solve(LEVELS, PARAMS, X, STEPS, DRAWN, PATH))


def test_params_are_pytrees_and_states_of_any_shape():
    def drift(params, x, t):
        return x @ params["matrix"] + params["bias"][0]

    params = ({"matrix": jnp.eye(3), "bias": [jnp.ones(3)]},)
    levels = Levels((drift,), (1.0,))
    for shape in ((3,), (2, 3), (2, 1, 5, 3)):
        end = solve(levels, params, jnp.ones(shape), sp.euler_maruyama(GRID),
                    plan.full_plan(12, 1, 1))  # fmt: skip
        np.testing.assert_allclose(end, (1 + 1 / 12) ** 12 * 2 - 1, atol=1e-12)


def test_a_single_precision_state_stays_one_whatever_the_tables_are():
    params = tuple(p.astype(jnp.float32) for p in PARAMS)
    end = solve(LEVELS, params, X.astype(jnp.float32), STEPS, DRAWN, PATH)
    assert STEPS.gain.dtype == jnp.float64
    assert end.dtype == jnp.float32


def test_a_network_may_compute_in_half_precision():
    def drift(params, x, t):
        return wavy(params, x.astype(jnp.bfloat16), t.astype(jnp.bfloat16)).astype(x.dtype)

    levels, params = Levels((drift,), (1.0,)), (jnp.bfloat16(1.0),)
    full = plan.full_plan(12, 1, 1)
    exact = solve(Levels((wavy,), (1.0,)), (1.0,), X, STEPS, full, PATH)
    rough = solve(levels, params, X, STEPS, full, PATH)
    assert 0 < jnp.abs(rough - exact).max() < 0.02


def test_forward_mode_goes_through_the_solver():
    def end(logits):
        fires = draws.midpoint(None, GATES)
        return solve(LEVELS, PARAMS, X, STEPS, plan.weigh(fires, logits), PATH).sum()

    finite = GATES.at[:, 0].set(3.0)
    direction = normals(7, 12, 3)
    slope = jax.jvp(end, (finite,), (direction,))[1]
    difference = (end(finite + 1e-6 * direction) - end(finite - 1e-6 * direction)) / 2e-6
    assert slope == pytest.approx(float(difference), rel=1e-6)


def test_a_step_is_a_function_of_its_row_alone():
    row = StepInputs(
        sp.Steps(*map(jnp.asarray, (0.2, 0.9, 0.1, 0.3))),
        plan.Plan(jnp.array([-1.0, 2.0, 0.0]), jnp.array([True, True, False])),
        increment=normals(4, 4, 3),
    )
    found = mlem_step(LEVELS, PARAMS, Carry(X), row).x
    drift = -wavy(0.6, X, 0.2) + 2 * wavy(0.9, X, 0.2)
    np.testing.assert_allclose(found, 0.9 * X + 0.1 * drift + 0.3 * row.increment, atol=1e-14)
