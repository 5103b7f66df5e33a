"""Rods on a ring: levels as exact as they claim, and all solvers along the same path."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.curves import by_method
from experiments.common.method import Method
from experiments.particles import cases, report, rods, run
from mlem_jax import Ladder, measure_costs, pick_levels, plans, solve
from tests.pictures import is_drawn

pytestmark = pytest.mark.usefixtures("others_promote")

CASE = cases.TINY["stiff core, 33 rods"]


@pytest.fixture
def task():
    return rods.make_task(rods.Settings(rods=70, end=0.5), CASE)


def displaced(task):
    return 0.1 * jax.random.normal(jax.random.key(3), task.x.shape)


def pair_sum(own, u, reach):
    """Every pair by itself, in two plain loops."""
    count, size = len(u), float(own.size)
    charges, places = np.asarray(own.charges), np.arange(count) + np.asarray(u)
    total = np.zeros(count)
    for i in range(count):
        for j in range(count):
            apart = (j - i + count // 2) % count - count // 2  # The shorter way round.
            if apart and abs(apart) <= reach:
                wraps = i + apart - j
                gap = places[j] + wraps - places[i]
                force = charges[i] * charges[j] / gap + size**12 / gap**13
                total[i] -= force
    return total


def test_every_level_is_the_sum_over_its_neighbours_and_the_top_over_all_pairs(task):
    u = displaced(task)
    assert 2 * task.reaches[-1] + 1 == u.shape[-1]
    for reach, own in zip(task.reaches, task.ladder.params, strict=True):
        found = rods.forces(own, u, jnp.zeros(()))
        expected = np.stack([pair_sum(own, ring, reach) for ring in np.asarray(u)])
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_no_level_moves_the_centre_of_mass(task):
    for own in task.ladder.params:
        found = np.asarray(rods.forces(own, displaced(task), jnp.zeros(())))
        np.testing.assert_allclose(found.sum(axis=-1), 0, atol=1e-13 * np.abs(found).sum())


def test_compiled_levels_cost_different_amounts():
    """Far pairs are left out, not multiplied by zero: 2 of 512 neighbours cost a hundredth."""
    ladder = pick_levels(rods.make_task(rods.Settings(), cases.STIFF).ladder, (1, 5))
    u = jnp.zeros((4, len(ladder.params[-1].charges)))
    bottom, top = measure_costs(Ladder(ladder.drifts, ladder.params), u, jnp.zeros(())).costs
    assert top > 10 * bottom


def test_diffrax_along_our_increments_is_our_euler_maruyama(task):
    from experiments.peers import diffrax_driver as driver

    count = task.fine // 2
    steps, ladder = run.steps_of(task, count), pick_levels(task.ladder, (len(task.ladder),))
    ours = solve(ladder, run.problem_of(task, count), steps, plans.full(count, 1, 1))
    fine = run.problem_of(task, task.fine).noise
    path = driver.pad(driver.coarse_increments(fine, count), task.fine)
    given = (rods.forces, ladder.params[0], task.x, path, jnp.asarray(count))
    solver, _ = driver.SOLVERS["Euler"]
    theirs = driver.solve_along(solver, *given, steps.gain[0], steps.noise[0])
    assert float(jnp.abs(ours).max()) > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_levy_areas_have_their_variance_and_are_independent_of_the_increments():
    from experiments.peers import diffrax_driver as driver

    path = driver.coarse_increments(jax.random.normal(jax.random.key(0), (64 * 50, 500)), 50)
    moves, areas = np.asarray(path.moves).ravel(), np.asarray(path.areas).ravel()
    assert np.var(areas) == pytest.approx(1 / 12, rel=0.03)
    assert np.var(moves) == pytest.approx(1, rel=0.03)
    assert abs(np.mean(moves * areas)) < 0.01


def test_above_its_errors_the_cheapest_stable_run_is_the_price():
    rows = [{"cost": cost, "mse": mse} for cost, mse in ((1.0, None), (2.0, 1e-2), (20.0, 1e-4))]
    found = report.price_at(rows, "cost", np.array([1.0, 1e-2, 1e-3, 1e-6]))
    np.testing.assert_allclose(found, [2, 2, 40**0.5, np.nan])
    assert np.isnan(report.price_at(rows[:1], "cost", np.ones(2))).all()


def test_prices_do_not_hang_on_the_order_of_rows():
    rows = [{"cost": cost, "mse": mse} for cost, mse in ((2.0, 1e-1), (2.0, 1e-2), (20.0, 1e-4))]
    wanted = np.array([1.0, 1e-2, 1e-3])
    for own in (rows, rows[::-1]):
        np.testing.assert_allclose(report.price_at(own, "cost", wanted), [2, 2, 40**0.5])


def test_gains_are_what_the_best_of_the_others_pay_over_the_best_of_ours():
    def row(family, cost, mse):
        return {**Method(family, (1,))._asdict(), "mse": mse,
                **dict.fromkeys(report.UNITS, cost)}  # fmt: skip

    rows = [row("ML-EM", 3.0, 1e-3), row("ML-EM", 2.0, 1e-2), row("top level", 8.0, 1e-3),
            row("diffrax SEA", 5.0, 1e-3), row("level", 1.0, 1e-3)]  # fmt: skip
    found = report.sum_up(rows, (1e-2, 1e-3, 1e-4))
    assert found["gains"]["cost"] == {
        "ML-EM": [2.0, 3.0, None],
        "Euler-Maruyama": [4.0, pytest.approx(8 / 3), None],
        "diffrax": [2.5, pytest.approx(5 / 3), None],
    }
    assert found["cheapest"]["cost"]["share"] == 1


def test_a_power_law_is_found_again():
    costs = np.array([1.0, 2.0, 8.0])
    gamma, deviation = run.fit_power(costs, 3 * costs ** (-1 / 2.5))
    assert gamma == pytest.approx(2.5)
    assert deviation < 1e-7


@pytest.mark.slow
def test_the_whole_tutorial_runs_on_a_small_ring(tmp_path):
    with jax.enable_x64(False):
        rods.main(rods.Settings(tiny=True, out=tmp_path))
    result = json.loads((tmp_path / "particles.json").read_text())
    assert is_drawn(tmp_path / "particles.png")
    assert set(result) == {"machine", "commit", "command", "settings", "seconds", "cases"}
    for name, case in result["cases"].items():
        reaches = cases.TINY[name].reaches
        assert case["reaches"] == list(reaches)
        assert case["gamma"]["gamma"] > 0
        assert sorted(case["costs"]) == case["costs"]
        assert case["costs"][-1] == 1
        for row in case["rows"]:
            assert row["mse"] is None or 0 < row["mse"] < 1
            assert row["cost"] == pytest.approx(np.dot(row["evaluations"], case["costs"]))
            pairs = np.dot(row["evaluations"], reaches) / reaches[-1]
            assert row["pairs"] == pytest.approx(pairs)
            assert row["seconds"] > 0
        methods = [method for method in by_method(case["rows"]) if method.family == "ML-EM"]
        assert {method.draw for method in methods} == {"independent", "systematic", "midpoint"}
        assert {method.weights for method in methods} == {"impulse", "trapezoid"}
        assert {method.gates for method in methods} == {"inverse cost", "pilot", "constant"}
