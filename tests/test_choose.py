"""Where evaluations go, and which fitted plan is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import Ladder, Problem, brownian_path, draw_starts, grids, solve
from mlem_jax import steps as sp
from mlem_jax.fitting import Candidate, choose_plan, density_of, place_levels, sensitivities_on
from mlem_jax.fitting.choose import along, fine_solution, states_on
from mlem_jax.process import cosine

PROCESS = cosine()
FINE = sp.ddpm(PROCESS, grids.uniform_grid(1.0, 0.0, 48))
KEY = jax.random.key(5)


def steps_of(count):
    return sp.ddpm(PROCESS, grids.uniform_grid(1.0, 0.0, count))


def curved(params, x, t):
    return jnp.tanh(x @ params) * (1 - 0.5 * t)


def ladder(gap, costs=(1.0, 20.0)):
    rng = np.random.default_rng(0)
    top = rng.normal(size=(4, 4)) / 2
    below = top + gap * rng.normal(size=(4, 4))
    return Ladder((curved, curved), (jnp.asarray(below), jnp.asarray(top)), costs)


def problem(batch):
    x = draw_starts(jax.random.key(1), jnp.arange(batch), (4,))
    return Problem(x, brownian_path(KEY, FINE, samples=jnp.arange(batch)))


def candidates():
    yield from (Candidate((2,), steps_of(count), 0.0, (2,), f"top, {count}") for count in (6, 8))
    for power in (0.0, 1 / 3):
        yield Candidate((1, 2), steps_of(24), power, (1, 2), f"both, power {power:.1f}")


@pytest.mark.parametrize("power", [0.0, 1 / 3, 1.0])
@pytest.mark.parametrize("budget", [60.0, 150.0, 400.0])
def test_placed_levels_cost_the_budget_to_within_an_evaluation_of_each(power, budget):
    own = ladder(0.1, costs=(1.0, 20.0))
    values = jnp.asarray(np.random.default_rng(2).gamma(1.0, size=(24, 2))).at[:, 0].set(jnp.inf)
    ran = place_levels(own, values, budget, power=power)
    assert ran[0].all()
    assert ran[:, 0].all()
    assert abs(ran.sum(axis=0) @ np.array(own.costs) - budget) <= 20.0


def test_levels_run_more_often_where_leaving_them_out_does_more():
    values = jnp.stack([jnp.full(60, jnp.inf), jnp.where(jnp.arange(60) < 30, 1.0, 1000.0)], axis=1)
    ran = place_levels(ladder(0.1), values, 60 + 20 * 24.0, power=1 / 3)[:, 1]
    early, late = ran[:30].sum(), ran[30:].sum()
    assert 5 <= late / early <= 12  # 1000^(1/3) = 10, but for the run at the first step.


@pytest.mark.parametrize("budget", [5.0, 5000.0])
def test_a_budget_that_suits_no_places_is_refused(budget):
    values = jnp.ones((24, 2)).at[:, 0].set(jnp.inf)
    with pytest.raises(ValueError, match="expected a budget above 44"):
        place_levels(ladder(0.1), values, budget, power=0.5)


def test_a_density_read_off_where_it_was_measured_is_what_was_measured():
    steps = steps_of(16)
    values = jnp.asarray(np.random.default_rng(3).gamma(1.0, size=(16, 2))).at[:, 0].set(jnp.inf)
    found = sensitivities_on(density_of(values, steps), steps)
    np.testing.assert_allclose(found, values, rtol=1e-9)


def test_the_fine_solution_is_kept_where_candidates_step():
    whole = problem(3)
    fine = fine_solution(ladder(0.1), whole, FINE, [steps_of(6), steps_of(24)])
    assert len(fine.done) == 25
    path = states_on(fine, steps_of(6))
    np.testing.assert_array_equal(path[0], whole.x)
    assert path.shape == (7, 3, 4)


def test_a_lower_level_is_used_where_it_lies_close_and_left_where_it_is_far_and_costly():
    seen = []
    for gap, cost, expected in ((0.02, 1.0, 2), (2.0, 5.5, 1)):
        choice = choose_plan(
            ladder(gap, (cost, 20.0)), problem(48), FINE, list(candidates()), 161.0, KEY,
            pilot=steps_of(12), samples=(16, 48),
            report=lambda stage, candidate, error: seen.append((stage, candidate.name, error)),
        )  # fmt: skip
        assert len(choice.candidate.levels) == expected
        assert choice.cost <= 181.0
        finished = choice.errors[:, -1]
        assert np.nanmin(finished) == float(choice.fit.held_out_error)
    assert all(np.isfinite(error) for _, _, error in seen)


def test_what_is_in_the_cache_is_not_fitted_again():
    cache, seen = {}, []
    given = ladder(0.02), problem(16), FINE, list(candidates())[:2], 161.0, KEY
    first = choose_plan(*given, pilot=steps_of(12), samples=(8, 16), cache=cache)
    cache |= dict.fromkeys(cache, 7.0)
    again = choose_plan(*given, pilot=steps_of(12), samples=(8, 16), cache=cache,
                        report=lambda stage, candidate, error: seen.append(error))  # fmt: skip
    assert seen
    assert set(seen) == {7.0}
    np.testing.assert_array_equal(again.fit.plan.weights, first.fit.plan.weights)


def test_the_chosen_plan_runs_on_new_samples_about_as_well_as_was_said():
    own, many = ladder(0.02), problem(96)
    choice = choose_plan(own, take_first(many, 48), FINE, list(candidates()), 161.0,
                         jax.random.key(7), pilot=steps_of(12), samples=(16, 48))  # fmt: skip
    steps = choice.candidate.steps
    fine = states_on(fine_solution(own, many, FINE, [steps]), steps)
    ends = solve(own, along(many, FINE, steps), steps, choice.fit.plan)
    error = ((ends - fine[-1]) ** 2)[48:].mean()
    assert 0.3 < float(error / choice.fit.held_out_error) < 3


def take_first(many, count):
    path = many.noise._replace(samples=many.noise.samples[:count])
    return Problem(many.x[:count], path)


def test_a_budget_that_suits_no_candidate_is_refused():
    with pytest.raises(ValueError, match="a candidate that a budget of 3 suits"):
        choose_plan(ladder(0.1), problem(16), FINE, list(candidates()), 3.0, KEY,
                    pilot=steps_of(12))  # fmt: skip
