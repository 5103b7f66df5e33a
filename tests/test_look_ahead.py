"""Steps that look ahead: their law, their share of the path, their order, and fits on them."""

from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import Ladder, Problem, brownian_path, draw_starts, grids, plans, solve
from mlem_jax import steps as sp
from mlem_jax.fitting import along, choose_plan, fine_solution, fit_plan, states_on, tables_of
from mlem_jax.fitting.candidates import Candidate, Search, places_of
from mlem_jax.fitting.places import Density
from mlem_jax.noise import coarsen, store_path
from mlem_jax.process import cosine, linear
from mlem_jax.steps.ramps import ramp_means

PROCESS = cosine()
KEY = jax.random.key(2)


def grid_of(count):
    """Even in the log-SNR, with both ends."""
    inner = grids.log_snr_grid(PROCESS, 0.97, 0.001, count - 2)
    return np.concatenate([[1.0], inner, [0.0]])


def finer(grid, times=16):
    """Every step cut into so many."""
    cuts = [np.linspace(a, b, times + 1)[:-1] for a, b in pairwise(grid)]
    return np.concatenate([*cuts, grid[-1:]])


GRID = grid_of(10)
FINE = sp.ddpm(PROCESS, finer(GRID))
STEPS = sp.look_ahead(PROCESS, GRID)
AHEAD = sp.goes_ahead(STEPS)


def of_gaussian(params, x, t):
    """What the data is on average, if it is normal with this variance."""
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    return params * alpha * x / (params * alpha**2 + sigma**2)


def of_two(params, x, t):
    """The same for data that is -1 or 1."""
    return jnp.tanh(params * PROCESS.alpha(t) * x / PROCESS.sigma(t) ** 2)


def problem(size=4, fine=FINE):
    samples = jnp.arange(32)
    x = draw_starts(jax.random.key(0), samples, (size,))
    return Problem(x, brownian_path(KEY, fine, samples=samples))


@pytest.mark.parametrize("process", [cosine(), linear()])
def test_the_state_ahead_has_the_law_of_the_process_at_its_time(process):
    # Of the mean and the variance, given the data: exactly, at both rows and in every step.
    steps = sp.look_ahead(process, np.linspace(1, 0, 14))
    t, scale, gain, noise = (np.asarray(column, np.float64) for column in steps[:4])
    alpha, sigma = grids.schedules(process, np.append(t, 0))
    for n in np.flatnonzero(sp.goes_ahead(steps)):
        assert scale[n] * alpha[n] + gain[n] == pytest.approx(alpha[n + 1], rel=1e-6)
        there = scale[n] ** 2 * sigma[n] ** 2 + noise[n] ** 2
        assert there == pytest.approx(sigma[n + 1] ** 2, rel=1e-6)
        m = n + 1
        assert scale[m] * alpha[m] + gain[m] == pytest.approx(alpha[m + 1], rel=1e-6)


def test_first_and_last_steps_are_those_of_ddpm_and_the_rest_are_two_rows_each():
    plain = sp.ddpm(PROCESS, GRID)
    assert len(STEPS.t) == 2 * len(plain.t) - 2
    assert AHEAD.tolist() == [False, *[True, False] * (len(plain.t) - 2), False]
    for n in (0, -1):
        for ours, theirs in zip(STEPS[:4], plain[:4], strict=True):
            assert ours[n] == theirs[n]
    np.testing.assert_array_equal(STEPS.t[AHEAD], plain.t[1:-1])


@pytest.mark.parametrize("ends", [(1.0, 1.001), (0.3, 7.0), (1e-4, 2e3)])
def test_moments_of_a_ramp_are_their_integrals(ends):
    begin, end = ends
    u = np.geomspace(begin, end, 400_001)
    place = np.log(end / u) / np.log(end / begin)
    for ramp in [(1.0, 0.0), (0.0, 1.0), (0.2, 0.7)]:
        omega = ramp[1] + (ramp[0] - ramp[1]) * place
        edges = np.array([begin, begin + 0.3 * (end - begin), end])
        found = ramp_means(np.array(ends), np.array(ramp), edges)
        for piece, (low, high) in enumerate(pairwise(edges)):
            part = (u >= low) & (u <= high)
            width = np.trapezoid(np.ones(part.sum()), u[part])
            by_hand = [np.trapezoid(each[part], u[part]) / width for each in (omega, omega**2)]
            np.testing.assert_allclose(found[piece], by_hand, rtol=2e-4)


def test_with_known_data_two_rows_are_the_fine_steps_that_they_cover():
    # With x_0 fixed there is nothing to look ahead for: path by path, at every point of the grid.
    fixed = Ladder((lambda params, x, t: jnp.full_like(x, 0.3),), (None,), (1.0,))
    own = problem()
    for steps in (STEPS, sp.ddpm(PROCESS, GRID)):
        plan = plans.full(len(steps.t), 1, 1)
        ends = solve(fixed, along(own, FINE, steps), steps, plan)
        np.testing.assert_allclose(ends, 0.3, atol=1e-10)  # At the data.
    fine = fine_solution(fixed, own, FINE, [STEPS])
    path = along(own, FINE, STEPS)
    states, x = states_on(fine, STEPS, path), own.x
    xi = store_path(path.noise, own.x)
    for n in range(len(STEPS.t) - 1):
        x = STEPS.scale[n] * x + STEPS.gain[n] * 0.3 + STEPS.noise[n] * xi[n]
        np.testing.assert_allclose(states[n + 1], x, atol=1e-9)


def test_increments_drawn_once_make_every_coarser_path():
    like = {"a": jnp.zeros((3, 2)), "b": jnp.zeros((3, 2, 2))}
    drawn = store_path(brownian_path(KEY, FINE, samples=jnp.arange(3)), like)
    for steps in (STEPS, sp.ddpm(PROCESS, GRID)):
        path = brownian_path(KEY, FINE, steps, samples=jnp.arange(3))
        found, anew = coarsen(path, drawn), store_path(path, like)
        for name in like:
            np.testing.assert_allclose(found[name], anew[name], rtol=1e-12, atol=1e-14)


def test_increments_of_their_own_have_the_law_of_those_summed_from_a_fine_path():
    # The shares are the law: xi = shares . (independent normals).
    fine = sp.ddpm(PROCESS, finer(GRID, 400))
    own, summed = (brownian_path(KEY, *given, samples=jnp.arange(1))
                   for given in ((STEPS,), (fine, STEPS)))  # fmt: skip

    def covariance(path):
        rows = np.zeros((len(STEPS.t), int(path.last.max())))
        for n, (first, last) in enumerate(zip(path.first, path.last, strict=True)):
            rows[n, first:last] = path.shares[n, : last - first]
        return rows @ rows.T

    np.testing.assert_allclose(covariance(own), covariance(summed), atol=1e-4)
    np.testing.assert_allclose(np.diag(covariance(own)), 1, atol=1e-12)


def error(level, count, make):
    """Root mean square at the end, of one level with fitted weights, to a fine solution."""
    ladder, grid = Ladder((level,), (jnp.asarray(0.5),), (1.0,)), grid_of(count)
    fine = sp.ddpm(PROCESS, finer(grid, 1024 // count))
    own, steps = problem(8, fine), make(PROCESS, grid)
    path = along(own, fine, steps)
    states = states_on(fine_solution(ladder, own, fine, [steps]), steps, path)
    fit = fit_plan(ladder, path, steps, ~sp.goes_ahead(steps)[:, None], states, memory=(2,))
    return float(fit.error) ** 0.5


def test_looking_ahead_is_of_second_order_where_levels_are_linear():
    # Along a given path; without looking, steps of any weights are of first order.
    plain, ahead = ([error(of_gaussian, count, make) for count in (6, 10, 18)]
                    for make in (sp.ddpm, sp.look_ahead))  # fmt: skip
    assert 1.5 < plain[0] / plain[1] < 2.5
    assert 1.5 < plain[1] / plain[2] < 2.5
    assert ahead[0] / ahead[1] > 3
    assert ahead[1] / ahead[2] > 3
    assert ahead[2] < plain[2] / 5


def test_looking_ahead_pays_where_levels_are_not_linear():
    assert error(of_two, 18, sp.look_ahead) < 0.6 * error(of_two, 18, sp.ddpm)


def test_a_plan_of_its_own_path_is_the_same_in_any_batch():
    ladder = Ladder((of_two,), (jnp.asarray(1.0),), (1.0,))
    plan = plans.by_hand(~AHEAD[:, None])
    whole = Problem(problem().x, brownian_path(KEY, STEPS, samples=jnp.arange(32)))
    some = Problem(whole.x[5:9], brownian_path(KEY, STEPS, samples=jnp.arange(5, 9)))
    np.testing.assert_allclose(solve(ladder, some, STEPS, plan),
                               solve(ladder, whole, STEPS, plan)[5:9], atol=1e-12)  # fmt: skip


def test_a_grid_needs_steps_between_the_first_and_the_last():
    with pytest.raises(ValueError, match="at least 3 steps"):
        sp.look_ahead(PROCESS, [1.0, 0.5, 0.0])


def test_increments_are_drawn_for_steps_that_do_not_look_ahead():
    with pytest.raises(ValueError, match="do not look ahead"):
        brownian_path(KEY, STEPS, sp.ddpm(PROCESS, GRID), samples=jnp.arange(2))


def test_half_of_two_rows_has_no_path():
    cut = jax.tree.map(lambda column: column[2:], STEPS)
    with pytest.raises(ValueError, match="rows of a table"):
        brownian_path(KEY, cut, samples=jnp.arange(2))


@cache
def grid_on_fine(count):
    fine = finer(GRID)
    return grids.subgrid(fine, grid_of(count))


SEARCH = Search(
    {"plain": lambda count: sp.ddpm(PROCESS, grid_on_fine(count)),
     "look-ahead": lambda count: sp.look_ahead(PROCESS, grid_on_fine(count))},
    [(1, 2)], most=40, factors=(2,), powers=(1 / 3,), memories=((1, 2),),
)  # fmt: skip
DENSITY = Density(np.linspace(0.0, 1.0, 5), np.ones((5, 2)))


def two_levels():
    return Ladder((of_two, of_two), (jnp.asarray(0.9), jnp.asarray(1.0)), (0.05, 1.0))


def test_levels_run_where_a_step_ends_on_the_path():
    candidate = Candidate((1, 2), "look-ahead", 16, 1 / 3, (1, 2))
    needed = places_of(two_levels(), candidate, SEARCH, DENSITY, 8.0)
    assert needed is not None
    ahead = sp.goes_ahead(SEARCH.grids["look-ahead"](16))
    assert not needed[ahead].any()
    assert needed[~ahead, 0].all()
    assert not needed[0, 1]  # The start tells the top no more than the level below.
    assert 6 <= needed[:, 1].sum() <= 8


def test_a_choice_tries_both_and_its_plan_runs():
    ladder, own = two_levels(), problem(8)
    fine = fine_solution(ladder, own, FINE, tables_of(ladder, SEARCH, 8.0))
    choice = choose_plan(ladder, own, fine, DENSITY, SEARCH, 8.0)
    tried = {(each.grid, each.levels, each.steps) for each in choice.errors}
    assert {("look-ahead", (1, 2), 16), ("look-ahead", (2,), 8), ("plain", (1, 2), 16)} <= tried
    assert choice.candidate.grid == "look-ahead"
    path = along(own, FINE, choice.steps)
    kept = ladder if len(choice.candidate.levels) == 2 else None
    assert kept is not None
    ends = solve(kept, path, choice.steps, choice.fit.plan)
    again = ((np.asarray(ends) - np.asarray(fine.states[-1])) ** 2).mean()
    assert float(choice.fit.error) == pytest.approx(again, rel=1e-6)
