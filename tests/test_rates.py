"""Rates of draws: gates that are the cheapest for their error, and slopes that are found again."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.ours import rates
from experiments.ours.rates_figure import fit
from experiments.ours.rates_ladder import (
    METHODS,
    best_openings,
    costs_of,
    drift,
    predicted_exponent,
    scaled_gates,
)
from mlem_jax import gates
from tests.pictures import is_drawn

pytestmark = pytest.mark.usefixtures("others_promote")


@pytest.mark.parametrize("name", ["independent", "systematic"])
def test_the_openings_meet_the_error_and_no_others_do_so_for_less(name):
    gamma, levels, method = 1.7, 5, METHODS[name]
    costs = costs_of(gamma, levels)
    scale, often = best_openings(gamma, levels, method, 0.5)
    logits = scaled_gates(gamma, costs, method, scale, 10**6)
    openings = 1e6 * gates.to_probabilities(logits)[0]
    power = 2 if method.even else 1

    def error(n):
        return float(np.sqrt((4.0 ** -np.arange(1, levels + 1) / n**power).sum()))

    assert openings[0] == pytest.approx(often, rel=1e-6)
    assert error(openings) == pytest.approx(0.5 * 2.0**-levels, rel=1e-6)
    for other in np.random.default_rng(0).uniform(0.8, 1.25, (30, levels)):
        changed = openings * other
        changed = changed * (error(changed) / error(openings)) ** (2 / power)
        assert changed @ np.array(costs) >= openings @ np.array(costs) * (1 - 1e-9)


def test_the_ladder_approaches_its_exact_drift_by_halves():
    x, t = jnp.linspace(-2, 2, 50), jnp.asarray(0.3)
    off = [jnp.abs(drift(k)((), x, t) - drift(0)((), x, t)).max() for k in range(1, 9)]
    assert (np.array(off) <= 2.0 ** -np.arange(1, 9)).all()
    assert (np.array(off) > 0.5 * 2.0 ** -np.arange(1, 9)).all()


def test_a_slope_is_found_again():
    error = 2.0 ** -np.arange(2, 7)
    points = [
        {"gamma": 1.5, "equation": "SDE", "draw": name, "error": e, "cost": factor * e**-power,
         "standard_error": 0.01 * e, "levels": k}
        for name, factor, power in (("independent", 8.0, 2.0), ("systematic", 2.0, 1.5))
        for k, e in zip(range(2, 7), error, strict=True)
    ]  # fmt: skip
    independent, systematic = fit(points)
    assert independent["exponent"] == pytest.approx(2.0)
    assert systematic["exponent"] == pytest.approx(1.5)
    assert systematic["cost_times_error_to_gamma_spreads"] == pytest.approx(1.0)
    assert independent["cost_times_error_to_gamma_grows"] == pytest.approx(16**0.5)
    assert systematic["independent_costs_times"] == pytest.approx(4 * 64**0.5)


def test_the_predicted_exponents_tend_to_their_limits():
    deep = np.arange(60, 80)
    for name, gamma, limit in (("independent", 1.5, 2.0), ("independent", 4.0, 4.0),
                               ("systematic", 1.5, 1.5), ("systematic", 4.0, 4.0)):  # fmt: skip
        found = predicted_exponent(gamma, METHODS[name], deep)
        assert found == pytest.approx(limit, abs=1e-3)


@pytest.mark.slow
def test_the_experiment_runs_and_its_counts_do_not_depend_on_the_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "NOISE", {"SDE": 0.5})
    rates.run(rates.small(rates.Settings(out=tmp_path), tmp_path))
    result = json.loads((tmp_path / "rates.json").read_text())
    assert is_drawn(tmp_path / "rates.png")
    assert {(row["draw"], row["levels"]) for row in result["points"]} == {
        (name, levels) for name in METHODS for levels in (2, 3)
    }
    assert all(row["error"] > 0 and row["cost"] > 0 for row in result["points"])
    for row in result["counts"]:
        np.testing.assert_allclose(row["evaluations_16"], row["evaluations_1"], rtol=0.35)
