"""Where evaluations go, and which fitted plan is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import (
    Ladder,
    Problem,
    brownian_path,
    draw_starts,
    grids,
    pick_levels,
    plans,
    solve,
)
from mlem_jax import steps as sp
from mlem_jax.diagnosis import measure_sensitivities
from mlem_jax.fitting import (
    Candidate,
    Search,
    along,
    choose_plan,
    density_of,
    fine_solution,
    fit_plan,
    part_of,
    place_levels,
    sensitivities_on,
    states_on,
    tables_of,
)
from mlem_jax.fitting.candidates import filled_steps, places_of
from mlem_jax.fitting.choose import chosen_of
from mlem_jax.noise import coarsen, store_path
from mlem_jax.process import cosine

PROCESS = cosine()
FINE = sp.ddpm(PROCESS, grids.uniform_grid(1.0, 0.0, 48))
KEY = jax.random.key(5)
BUDGET = 161.0


def steps_of(count):
    fine = grids.uniform_grid(1.0, 0.0, 48)
    return sp.ddpm(PROCESS, grids.subgrid(fine, grids.uniform_grid(1.0, 0.0, count)))


SEARCH = Search({"uniform": steps_of}, [(1, 2)], most=24, factors=(2, 3))


def curved(params, x, t):
    return jnp.tanh(x @ params) * (1 - 0.5 * t)


def ladder(gap, costs=(1.0, 20.0)):
    rng = np.random.default_rng(0)
    top = rng.normal(size=(4, 4)) / 2
    below = top + gap * rng.normal(size=(4, 4))
    return Ladder((curved, curved), (jnp.asarray(below), jnp.asarray(top)), costs)


def problem(first=0, count=192):
    """As many samples almost throughout, so that what one test compiles serves the others."""
    samples = np.arange(first, first + count)
    x = draw_starts(jax.random.key(1), samples, (4,))
    return Problem(x, brownian_path(KEY, FINE, samples=samples))


def pilot(own, count=192):
    """A problem, its fine solution and where the levels count."""
    whole, measured = problem(count=count), steps_of(12)
    fine = fine_solution(own, whole, FINE, tables_of(own, SEARCH, BUDGET))
    some, _ = part_of(along(whole, FINE, measured), fine, 16)
    return whole, fine, density_of(measure_sensitivities(own, some, measured, KEY, bins=12),
                                   measured)  # fmt: skip


def of_upper(column):
    """Sensitivities of two levels, the lower of which runs at every step."""
    return jnp.asarray(np.stack([np.full(len(column), np.inf), column], axis=1), float)


@pytest.mark.parametrize("power", [0.0, 1 / 3, 1.0])
@pytest.mark.parametrize("budget", [60.0, 150.0, 400.0])
def test_placed_levels_cost_the_budget_at_most_and_an_evaluation_less_at_least(power, budget):
    own = ladder(0.1, costs=(1.0, 20.0))
    values = of_upper(np.random.default_rng(2).gamma(1.0, size=24))
    ran = place_levels(own, values, budget, power=power)
    assert ran[:, 0].all()
    assert not ran[0, 1]
    assert budget - 20.0 < ran.sum(axis=0) @ np.array(own.costs) <= budget


@pytest.mark.parametrize("budget", [70.0, 111.0, 249.0, 350.0])
def test_what_does_not_pay_for_the_top_goes_to_the_cheaper_levels(budget):
    own = Ladder((curved,) * 3, (jnp.eye(4),) * 3, (1.0, 4.0, 20.0))
    shares = np.random.default_rng(5).gamma(1.0, size=(24, 2))
    values = jnp.asarray(np.concatenate([np.full((24, 1), np.inf), shares], axis=1))
    cost = place_levels(own, values, budget, power=1 / 3).sum(axis=0) @ np.array(own.costs)
    assert budget - 4.0 < cost <= budget


@pytest.mark.parametrize(
    ("count", "filled"),
    [(15, 14), (16, 14), (20, 20), (7, 7)],  # Left over: 0.97 and 0.84 of a run, 0.3 and 0.05.
)
def test_steps_are_a_few_fewer_where_that_pays_for_the_top_once_more(count, filled):
    assert filled_steps((0.135, 1.0), 5.0, count) == filled


def test_levels_run_more_often_where_leaving_them_out_does_more():
    values = of_upper(np.where(np.arange(60) < 30, 1.0, 1000.0))
    ran = place_levels(ladder(0.1), values, 60 + 20 * 24.0, power=1 / 3)[:, 1]
    early, late = ran[:30].sum(), ran[30:].sum()
    assert 5 <= late / early <= 12  # 1000^(1/3) = 10.


@pytest.mark.parametrize("budget", [5.0, 5000.0])
def test_a_budget_that_suits_no_places_is_refused(budget):
    values = of_upper(np.ones(24))
    with pytest.raises(ValueError, match="expected a budget above 24"):
        place_levels(ladder(0.1), values, budget, power=0.5)


def test_a_density_read_off_where_it_was_measured_is_what_was_measured():
    steps = steps_of(16)
    values = of_upper(np.random.default_rng(3).gamma(1.0, size=16))
    found = sensitivities_on(density_of(values, steps), steps)
    np.testing.assert_allclose(found, values, rtol=1e-9)


@pytest.mark.parametrize("budget", np.linspace(10, 140, 27))
def test_places_are_left_out_or_found_but_never_refused(budget):
    own = Ladder((curved,) * 2, (jnp.eye(4),) * 2, (1.0, 20.0))
    density = density_of(of_upper(np.ones(16)), steps_of(16))
    for count in (2, 3, 5, 7):
        each = Candidate((1, 2), "uniform", count, 1 / 3, (2, 3))
        ran = places_of(own, each, SEARCH, density, budget)
        assert ran is None or (ran.sum(axis=0) @ np.array(own.costs) <= budget)
    assert budget < 27 or places_of(own, each, SEARCH, density, budget) is not None or budget > 126


def test_the_fine_solution_is_kept_where_candidates_step():
    whole = problem()
    fine = fine_solution(ladder(0.1), whole, FINE, [steps_of(6), steps_of(24)])
    assert len(fine.done) == 25
    path = states_on(fine, steps_of(6), whole)
    np.testing.assert_array_equal(path[0], whole.x)
    assert path.shape == (7, 192, 4)


@pytest.fixture(scope="module")
def close():
    """Where the lower level lies close: the pilot, what is chosen, and all that was tried."""
    own, seen = ladder(0.02), {}
    given = pilot(own)
    return given, choose_plan(own, *given, SEARCH, BUDGET, report=seen.__setitem__), seen


def test_a_lower_level_that_leaves_no_run_of_the_top_is_left_out():
    own = ladder(0.02, (12.0, 20.0))  # 14 steps, the fewest, cost 168.
    assert choose_plan(own, *pilot(own), SEARCH, BUDGET).candidate.levels == (2,)


def test_a_lower_level_that_lies_close_is_used(close):
    _, choice, seen = close
    assert choice.candidate.levels == (1, 2)
    assert choice.cost <= BUDGET
    assert seen == choice.errors
    assert min(seen.values()) == choice.errors[choice.candidate]
    assert any(len(candidate.levels) == 1 for candidate in seen)


def test_levels_are_left_out_where_samples_are_too_few_to_tell():
    own = ladder(0.02)
    choice = choose_plan(own, *pilot(own, 48), SEARCH, BUDGET)
    assert choice.candidate.levels == (2,)
    assert len(min(choice.errors, key=choice.errors.__getitem__).levels) == 2


@pytest.mark.parametrize(("gained", "better"), [
    ([1.0, 1.0, 1.0, 1.0], True),
    ([4.0, -1.0, 4.0, -1.0], True),  # The mean is 1.5, its standard error 1.44.
    ([4.0, -1.1, 4.0, -1.1], False),  # 1.45 and 1.47.
    ([9.0, 0.0, 0.0, -1.0], False),
    ([-1.0, -1.0, -1.0, -1.0], False),
    ([np.nan, 1.0, 1.0, 1.0], False),
    ([9.9, 9.9, 9.9, -8.0], True),
    ([5.0, 5.0, 0.0, -1.0], True),  # Logarithms: 0.32 and 0.22.
    ([5.0, 5.0, -2.0, -2.0], False),  # 1.5 and 2.02.
])  # fmt: skip
def test_levels_have_to_gain_more_than_one_standard_error(gained, better):
    with_levels, alone = (Candidate(levels, "any", 9, 0.0, (0, 1)) for levels in [(1, 2), (2,)])
    errors = {with_levels: 10.0 - np.array(gained), alone: np.full(4, 10.0)}
    assert chosen_of(errors) == (with_levels if better else alone)
    assert chosen_of({with_levels: errors[with_levels]}) == with_levels
    assert chosen_of(errors | {alone: np.full(4, np.nan)}) == with_levels


def test_levels_have_to_gain_in_the_typical_sample_too():
    with_levels, alone = (Candidate(levels, "any", 9, 0.0, (0, 1)) for levels in [(1, 2), (2,)])
    theirs = np.concatenate([np.full(90, 1.0), np.full(10, 1000.0)])
    few = np.concatenate([np.full(90, 2.0), np.full(10, 500.0)])  # Half as large in a tenth.
    assert (theirs - few).mean() > 2 * (theirs - few).std() / 10
    assert chosen_of({with_levels: few, alone: theirs}) == alone
    assert chosen_of({with_levels: few / 3, alone: theirs}) == with_levels


def test_a_level_that_is_not_finite_is_not_chosen():
    def broken(params, x, t):
        return jnp.where(t > 0.5, curved(params, x, t), jnp.nan)

    sound = ladder(0.02)
    own = Ladder((broken, curved), sound.params, sound.costs)
    given = pilot(sound)
    choice = choose_plan(own, *given, SEARCH, BUDGET)
    assert choice.candidate.levels == (2,)
    assert {error for candidate, error in choice.errors.items() if len(candidate.levels) == 2} == {
        np.inf
    }


def test_three_levels_with_conditions_on_samples_that_no_three_folds_share_evenly():
    def shifted(params, x, t, condition):
        return curved(params, x, t) + condition[:, None]

    rng = np.random.default_rng(4)
    params = tuple(jnp.asarray(rng.normal(size=(4, 4)) / 2) for _ in range(3))
    own = Ladder((shifted,) * 3, params, (1.0, 4.0, 20.0))
    ode = sp.ddim(PROCESS, grids.uniform_grid(1.0, 0.0, 48))

    def make(count):
        times = grids.subgrid(grids.uniform_grid(1.0, 0.0, 48), grids.uniform_grid(1.0, 0.0, count))
        return sp.ddim(PROCESS, times)

    search = Search({"uniform": make}, [(1, 2, 3), (2, 3), (1, 3)], most=24, factors=(2, 3))
    whole = Problem(problem(count=50).x, None, jnp.linspace(-1, 1, 50))
    fine = fine_solution(own, whole, ode, tables_of(own, search, BUDGET))
    measured = make(12)
    some, _ = part_of(whole, fine, 16)
    found = measure_sensitivities(own, some, measured, KEY, bins=12)
    choice = choose_plan(own, whole, fine, density_of(found, measured), search, BUDGET)
    tried = {(each.levels, each.steps) for each in choice.errors if each.power == 1 / 3}
    # 24 steps of the bottom level leave 6.85 runs of the top, 16 of the next one 4.85.
    assert tried >= {((1, 2, 3), 16), ((1, 2, 3), 21), ((2, 3), 15), ((2, 3), 24),
                     ((1, 3), 16), ((1, 3), 21)}  # fmt: skip
    assert {each.memory for each in choice.errors if each.levels == (3,)} == {(0, 3)}
    assert choice.cross_validated.shape == (50,)
    assert np.isfinite(choice.cross_validated).all()


def test_each_sample_is_judged_by_a_fit_on_the_other_folds(close):
    (whole, fine, _), choice, _ = close
    own, apart = ladder(0.02), np.arange(64, 128)
    path = along(whole, FINE, choice.steps)
    states, needed = states_on(fine, choice.steps, path), choice.fit.plan.needed
    rest = np.setdiff1d(np.arange(192), apart)
    others = path._replace(x=path.x[rest], noise=path.noise._replace(samples=rest))
    fit = fit_plan(own, others, choice.steps, needed, states[:, rest],
                   memory=choice.candidate.memory)  # fmt: skip
    assert not choice.candidate.paired
    ends = solve(own, path, choice.steps, fit.plan)
    errors = ((ends - states[-1]) ** 2).mean(axis=1)
    np.testing.assert_allclose(choice.cross_validated[apart], errors[apart], rtol=1e-6)


def test_every_place_power_and_memory_is_tried_from_the_best_before(close):
    seen = close[2]
    both = [candidate for candidate in seen if len(candidate.levels) == 2]
    assert {candidate.steps for candidate in both} == {16, 21}  # With 24, 0.85 of a run is left.
    assert {candidate.power for candidate in both} == set(SEARCH.powers)
    assert {candidate.memory for candidate in both} == set(SEARCH.memories)
    plain = min((each for each in both if not each.paired), key=seen.__getitem__)
    assert [each for each in both if each.paired] == [plain._replace(paired=True)]


def test_grids_are_compared_at_first_and_once_more_and_the_best_has_every_number_of_steps():
    def late(count):  # Where this drift changes less.
        times = 1 - np.linspace(0, 1, count + 1) ** 0.8
        return sp.ddpm(PROCESS, grids.subgrid(grids.uniform_grid(1.0, 0.0, 48), times))

    own, search = ladder(0.02), SEARCH._replace(grids={"late": late, "uniform": steps_of})
    whole = problem(count=48)
    fine = fine_solution(own, whole, FINE, tables_of(own, search, BUDGET))
    seen = choose_plan(own, whole, fine, pilot(own, 48)[2], search, BUDGET).errors
    tried = {grid: {each.steps for each in seen if each.grid == grid and len(each.levels) == 2}
             for grid in search.grids}  # fmt: skip
    at_first = {each.grid: error for each, error in seen.items()
                if each.steps == 16 and each.memory == (2, 3) and each.power == 1 / 3}  # fmt: skip
    best = min(search.grids, key=lambda grid: at_first[grid])
    (other,) = {"late", "uniform"} - {best}
    found = min((each for each in seen if each.grid == best and len(each.levels) == 2
                 and not each.paired), key=seen.__getitem__)  # fmt: skip
    assert tried == {best: {16, 21}, other: {16, found.steps}}
    again = found._replace(grid=other)
    assert again in seen
    assert again.steps != 16 or again.memory != (2, 3) or again.power != 1 / 3  # Not the first.
    assert {each.grid for each in seen if len(each.levels) == 1} == {"late", "uniform"}


def test_what_is_in_the_cache_is_not_fitted_again(close):
    given, first, tried = close
    cache, seen = {f"{tuple(candidate)} for {BUDGET:g}, 3 folds": 7.0 + error
                   for candidate, error in tried.items()}, {}  # fmt: skip
    again = choose_plan(ladder(0.02), *given, SEARCH, BUDGET, cache=cache,
                        report=seen.__setitem__)  # fmt: skip
    assert seen == {candidate: 7.0 + error for candidate, error in tried.items()}
    np.testing.assert_array_equal(again.fit.plan.weights, first.fit.plan.weights)


def test_levels_may_be_lists_and_a_budget_less_than_a_step(close):
    given, first, _ = close
    listed = SEARCH._replace(levels=[[1, 2]], memories=[[1, 2]], powers=[first.candidate.power])
    assert choose_plan(ladder(0.02), *given, listed, BUDGET).candidate.levels == (1, 2)
    assert tables_of(ladder(0.02), SEARCH, 1e-3) == []


def test_the_chosen_plan_runs_on_new_samples_about_as_well_as_was_said(close):
    own, new, choice = ladder(0.02), problem(192), close[1]
    whole, path = fine_solution(own, new, FINE, tables_of(own, SEARCH, BUDGET)), choice.steps
    fine = states_on(whole, path, along(new, FINE, path))
    ends = solve(own, along(new, FINE, path), path, choice.fit.plan)
    error = ((np.asarray(ends) - np.asarray(fine[-1])) ** 2).mean()
    assert 0.8 < float(error / choice.cross_validated.mean()) < 1.25


def test_the_chosen_plan_is_fitted_on_all_samples(close):
    (whole, fine, _), choice, _ = close
    own = ladder(0.02)
    problem = along(whole, FINE, choice.steps)
    problem = problem._replace(noise=coarsen(problem.noise, store_path(whole.noise, whole.x)))
    states = states_on(fine, choice.steps, problem)
    kept, memory = pick_levels(own, choice.candidate.levels), choice.candidate.memory
    needed = choice.fit.plan.needed
    fit = fit_plan(kept, problem, choice.steps, needed, states, memory=memory[-len(kept) :],
                   kept=plans.beside_next(needed) if choice.candidate.paired else None)  # fmt: skip
    np.testing.assert_array_equal(choice.fit.plan.weights, fit.plan.weights)


@pytest.mark.parametrize(("change", "budget", "message"), [
    ({}, 3.0, "a budget that pays for a candidate"),
    ({}, -1.0, "a positive budget"),
    ({"levels": [(1,)]}, BUDGET, "two or more levels that end at the top"),
    ({"grids": {}}, BUDGET, "one or more grids"),
])  # fmt: skip
def test_a_search_that_finds_nothing_is_refused(change, budget, message):
    own = ladder(0.1)
    with pytest.raises(ValueError, match=message):
        choose_plan(own, *pilot(own), SEARCH._replace(**change), budget)
