"""Claims about the diagnosis of a ladder, on ladders whose ills are planted."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, plans
from mlem_jax.diagnosis import (
    diagnose,
    fit_gamma,
    measure_sensitivities,
    predict_error,
    report,
    resample,
    run_pilot,
    subset_sensitivities,
)
from mlem_jax.diagnosis.report import verdict
from mlem_jax.diagnosis.validation import Check
from mlem_jax.evaluate import make_reference, square_errors
from mlem_jax.grids import uniform_grid
from mlem_jax.ladder import Ladder, pick_levels
from mlem_jax.noise import brownian_path, store_path
from mlem_jax.problem import Problem, take
from mlem_jax.solver import solve
from mlem_jax.steps import euler_maruyama
from tests.exact import every_draw
from tests.pictures import is_drawn
from tests.problems import normals, wavy_ladder

COUNT, BATCH = 8, 12
GRID = uniform_grid(0.0, 1.0, COUNT)
STEPS = euler_maruyama(GRID, lambda t: 0.3 + t)
X = normals(1, BATCH, 2)
PATH = brownian_path(jax.random.key(2), STEPS, samples=jnp.arange(BATCH))
PROBLEM = Problem(X, PATH)
LADDER = wavy_ladder()
KEY = jax.random.key(5)


def shifted(params, x, t):
    """A drift that does not know x, so that the end is linear in the gates."""
    return params * (1 + t) * jnp.ones_like(x)


@cache
def found(sizes=(0.6, 0.9, 1.0), costs=(1.0, 4.0, 16.0), **options):
    ladder = wavy_ladder(sizes=sizes, costs=costs)
    return diagnose(ladder, PROBLEM, STEPS, KEY, **({"draws": 4, "resamples": 50} | options))


def test_sensitivities_of_fewer_levels_are_those_of_their_own_ladder():
    weights = np.full((1, BATCH), 1 / BATCH)
    for certain in (0, 1):
        options = {"bins": COUNT, "certain": certain}
        pilot = run_pilot(LADDER, PROBLEM, STEPS, KEY, **options)
        for kept in ((1, 2, 3), (1, 3), (2, 3)):
            own = pick_levels(LADDER, kept)
            expected = measure_sensitivities(own, PROBLEM, STEPS, KEY, **options)
            (sensitivities,) = subset_sensitivities(pilot, kept, weights)
            np.testing.assert_allclose(sensitivities, expected, rtol=1e-10)


def test_a_costly_level_that_equals_the_one_below_is_named():
    diagnosis = found(sizes=(0.7, 0.7, 1.0), costs=(1.0, 6.0, 16.0))
    one, useless = diagnosis.worth
    assert useless.ratio.value < useless.ratio.high < 1 < one.ratio.low
    assert diagnosis.advice.kept == useless.kept_without == (1, 3)
    assert useless.cost_without < useless.cost_with
    assert useless.error_without < useless.error_with
    assert useless.cost_with > diagnosis.budget == pytest.approx(useless.cost_without, rel=1e-6)
    text = report(diagnosis)
    assert "Level 2 does not pay for itself" in text
    assert "Level 1 pays for itself" in text


def off_by(params, x, t):
    """A drift with errors in two directions."""
    return jnp.sin(x + t) + params[0] * jnp.cos(3 * x) + params[1] * jnp.sin(3 * x)


def test_of_two_levels_that_can_stand_for_each_other_one_is_kept():
    params = tuple(map(jnp.asarray, ((0.5, 0.5), (0.1, 0.0), (0.0, 0.1), (0.0, 0.0))))
    ladder = Ladder((off_by,) * 4, params, (0.1, 3.0, 3.1, 40.0))
    diagnosis = diagnose(ladder, PROBLEM, STEPS, KEY, draws=4, resamples=50)
    # Without either of them the whole ladder would be better; without both it would be worse.
    error = {offer.kept: offer.error for offer in diagnosis.offers}
    assert max(error[1, 2, 4], error[1, 3, 4]) < error[1, 2, 3, 4] < error[1, 4]
    pay = [own.level for own in diagnosis.worth if own.ratio.value > 1]
    assert pay in ([1, 2], [1, 3])
    assert diagnosis.advice.kept == (*pay, 4)


def test_a_level_pays_for_itself_where_its_ladder_has_the_lesser_error_too():
    for worth in found().worth:
        better = worth.error_with < worth.error_without
        assert better == (worth.ratio.value > 1)


@pytest.mark.parametrize("gamma", [1.5, 3.0])
def test_gamma_is_that_of_the_ladder(gamma):
    costs = (0.1, 3.0, 10.0, 50.0)
    sizes = *(1 - cost ** (-1 / gamma) / 20 for cost in costs[:-1]), 1.0
    assert found(sizes, costs).gamma == pytest.approx((gamma,) * 3, rel=1e-9)


def test_the_interval_of_gamma_covers_it_nineteen_times_in_twenty():
    # Distances whose squares vary from sample to sample, each level by itself.
    gamma, costs = 2.5, np.array([1.0, 4.0, 16.0, 64.0])
    rng, covered = np.random.default_rng(0), 0
    for trial in range(200):
        squares = costs ** (-2 / gamma) * rng.chisquare(4, (40, 4)) / 4
        weights = resample(jax.random.key(trial), 40, 100)
        low, high = fit_gamma(costs, np.sqrt(weights @ squares))[1:]
        covered += low <= gamma <= high
    assert 175 <= covered <= 200


@cache
def linear():
    """A ladder of two and its diagnosis, where the end is linear in the gates."""
    ladder = Ladder((shifted, shifted), (jnp.asarray(1.5), jnp.asarray(1.0)), (1.0, 4.0))
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 3))
    return ladder, steps, diagnose(ladder, Problem(X), steps, KEY, budget=7.0, draws=400)


def test_gamma_of_two_levels_cannot_be_had_and_all_else_can():
    *_, diagnosis = linear()
    assert np.isnan(diagnosis.gamma.value)
    assert diagnosis.advice.kept == (1, 2)
    (worth,) = diagnosis.worth
    assert worth.kept_without == (2,)
    assert worth.cost_without == pytest.approx(4.0 * 3)
    assert "not to be had from fewer than three levels" in report(diagnosis)


def test_the_advice_spends_the_budget_and_the_prediction_is_the_error_where_it_is_linear():
    ladder, steps, diagnosis = linear()
    advice, check = diagnosis.advice, diagnosis.check
    assert advice.cost == pytest.approx(7.0)
    paid = plans.expected_price(draws.independent, advice.logits, ladder.costs).costs.sum()
    assert paid == pytest.approx(7.0)
    batch = make_reference(ladder, Problem(X), steps)

    def error(openings):
        end = solve(ladder, batch.problem, steps, plans.weigh(openings, advice.logits))
        return square_errors(end, batch.reference)[0]

    exact = sum(
        chance * error(openings) for chance, openings in every_draw(advice.logits) if chance > 0
    )
    assert advice.error.value == pytest.approx(float(exact), rel=1e-6)
    assert abs(check.measured - advice.error.value) < 5 * check.standard_error
    assert check.standard_error < 0.1 * advice.error.value
    assert verdict(check) == "the linear law holds"


def test_no_other_gates_of_that_cost_are_predicted_to_do_better():
    diagnosis = found()
    logits, sensitivities = diagnosis.advice.logits, diagnosis.sensitivities
    assert predict_error(sensitivities, logits) == pytest.approx(diagnosis.advice.error.value)
    # The cost that is minimised counts a level once for each gate that needs it.
    rng, paid = np.random.default_rng(3), jnp.asarray([[4.0, 16.0 + 4.0]])
    for _ in range(20):
        other = logits + 0.3 * rng.normal(size=logits.shape)
        p, q = jax.nn.sigmoid(logits), jax.nn.sigmoid(other)
        scale = (p[:, 1:] * paid).sum() / (q[:, 1:] * paid).sum()
        moved = jnp.minimum(q[:, 1:] * scale, 1)
        assert ((1 / moved - 1) * sensitivities[:, 1:]).sum() > diagnosis.advice.error.value


def test_levels_that_do_not_differ_have_no_error_to_predict():
    diagnosis = found(sizes=(1.0, 1.0, 1.0))
    assert diagnosis.check.predicted == diagnosis.check.measured == 0
    assert diagnosis.advice.kept[0] == 1
    assert "-inf" in report(diagnosis)


def test_the_top_level_alone_is_judged_at_fewer_steps():
    steps = euler_maruyama(GRID[::2], lambda t: 0.3 + t)
    path = brownian_path(jax.random.key(2), STEPS, steps, samples=jnp.arange(BATCH))
    diagnosis = diagnose(LADDER, PROBLEM, STEPS, KEY, draws=4, resamples=50,
                         coarser=[(steps, path)])  # fmt: skip
    half, full = diagnosis.alone
    assert (half.steps, half.cost, full.steps, full.cost) == (4, 64.0, 8, 128.0)
    ends = [
        solve(LADDER, Problem(X, noise), own, plans.full(len(own.t), 3, 3))
        for own, noise in ((steps, path), (STEPS, PATH))
    ]
    assert half.error == pytest.approx(float(square_errors(*ends).mean()), rel=1e-10)
    assert full.error == 0
    assert "The top level alone reaches the measured mse" in report(diagnosis)


def test_a_sample_that_rules_the_sensitivities_is_told_of():
    def steep(params, x, t):  # Tangents grow where x is far out, and nowhere else.
        return params * jnp.where(jnp.abs(x) > 5, 4 * x, jnp.sin(x))

    x = jnp.clip(X, -1, 1).at[0].set(6.0)
    bent = Ladder((steep,) * 3, LADDER.params, LADDER.costs)
    diagnosis = diagnose(bent, Problem(x, PATH), STEPS, KEY, draws=4, resamples=50)
    assert diagnosis.heaviest > 0.95
    assert "a slope so steep" in report(diagnosis)
    assert "none rules them" in report(found())


def test_the_verdict_says_which_way_the_law_fails():
    def check(measured, error):
        return Check(1.0, measured, error, 0.0, 0.0, 0.0)

    assert verdict(check(1.1, 0.05)) == "the linear law holds"
    assert "upper guide" in verdict(check(0.5, 0.1))
    assert "lower guide" in verdict(check(1.7, 0.1))
    assert "so few draws" in verdict(check(1.7, 0.5))


def test_kept_levels_run_as_the_advice_says():
    diagnosis = found(sizes=(0.7, 0.7, 1.0), costs=(1.0, 6.0, 16.0))
    ladder = wavy_ladder(sizes=(0.7, 0.7, 1.0), costs=(1.0, 6.0, 16.0))
    kept = pick_levels(ladder, diagnosis.advice.kept)
    assert kept.costs == (1.0, 16.0)
    drawn = plans.draw_plan(draws.midpoint, diagnosis.advice.even, None)
    end = solve(kept, PROBLEM, STEPS, drawn)
    reference = make_reference(ladder, PROBLEM, STEPS).reference
    assert diagnosis.check.even == pytest.approx(float(square_errors(end, reference).mean()))
    assert diagnosis.check.even_cost == plans.price(drawn, kept.costs).costs.sum()


def test_the_report_speaks_of_squared_sensitivities_in_lines_that_fit():
    text = report(found())
    assert "squared sensitivity" in text.splitlines()[0]
    assert "squared sensitivity x 2^" in text
    assert "of the squared sensitivities of all" in " ".join(text.split())
    told = [line for line in text.splitlines() if line.startswith(("- ", "  "))]
    assert max(map(len, told)) <= 100
    for word in ("effect", "rung", "stretch"):
        assert word not in text


def test_trees_and_conditions_are_diagnosed_as_arrays_and_parameters():
    def conditioned(params, x, t, rate):
        return {"x": params * jnp.sin(x["x"] + t) - rate[:, None] * x["x"]}

    def plain(params, x, t):
        size, rate = params
        return size * jnp.sin(x + t) - rate[:, None] * x

    rate = jnp.linspace(0.0, 1.0, BATCH)
    stored = store_path(PATH, X)
    tree = Ladder((conditioned,) * 3, LADDER.params, LADDER.costs)
    array = Ladder((plain,) * 3, tuple((size, rate) for size in LADDER.params), LADDER.costs)
    one, other = (
        diagnose(ladder, problem, STEPS, KEY, draws=4, resamples=50)
        for ladder, problem in (
            (tree, Problem({"x": X}, {"x": stored}, rate)), (array, Problem(X, stored))
        )
    )  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), one, other)


def test_bad_diagnoses_are_refused():
    for budget in (8.0, 128.0, 500.0):
        with pytest.raises(ValueError, match="expected a budget above 8 and below 128"):
            found(budget=budget)
    with pytest.raises(ValueError, match="expected at least 2 samples"):
        diagnose(LADDER, take(PROBLEM, jnp.arange(1)), STEPS, KEY)
    with pytest.raises(ValueError, match="expected at least 2 draws"):
        found(draws=1)
    with pytest.raises(ValueError, match="expected certain to be 0 or 1, got 2"):
        found(certain=2)
    with pytest.raises(ValueError, match="expected a ladder of two levels or more, of"):
        found(costs=(4.0,) * 3)
    with pytest.raises(ValueError, match="expected one cost for each of 3 levels, got 0"):
        diagnose(Ladder(LADDER.drifts, LADDER.params), PROBLEM, STEPS, KEY)


@pytest.mark.slow
def test_the_script_diagnoses_a_ladder_in_a_folder(small_ladder, tmp_path, capsys):
    from experiments.ours import diagnose as script

    settings = script.Settings(
        ladder=small_ladder, samplers=("ddpm",), base_steps=8, fractions=(0.5,), images=4, bins=4,
        draws=2, out=tmp_path / "results",
    )  # fmt: skip
    with jax.enable_x64(False):
        script.main(settings)
    result = json.loads((tmp_path / "results" / "diagnose.json").read_text())
    assert result["costs"] == [0.1, 1.0]
    own = result["samplers"]["ddpm"]
    assert set(own) == {
        "t", "costs", "budget", "sizes", "distances", "ends", "gamma", "sensitivities",
        "totals", "heaviest", "offers", "worth", "advice", "check", "alone", "probabilities",
        "probabilities for even draws", "report", "seconds",
    }  # fmt: skip
    assert np.shape(own["sizes"]) == (8, 2)
    assert own["gamma"]["value"] is None
    assert [row["steps"] for row in own["alone"]] == [4, 8]
    assert is_drawn(tmp_path / "results" / "diagnose.png")
    assert "which of them to use" in capsys.readouterr().out
