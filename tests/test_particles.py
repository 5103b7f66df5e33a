"""Rods on a ring: levels as exact as they claim, and all solvers along the same path."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.particles.rods import rods as particles
from experiments.particles.rods import report as particles_report
from experiments.particles.rods import run as particles_run
from mlem_jax import plan, steps
from mlem_jax.levels import measure_costs
from mlem_jax.noise import brownian_path, store_path
from mlem_jax.solve import solve

CASE = particles.TINY["stiff core, 33 rods"]


@pytest.fixture
def problem():
    return particles.make_problem(particles.Settings(rods=70, end=0.5), CASE)


def displaced(problem):
    return 0.1 * jax.random.normal(jax.random.key(3), problem.x.shape)


def pair_sum(rods, u, reach):
    """Every pair by itself, in two plain loops."""
    count, size = len(u), float(rods.size)
    charges, places = np.asarray(rods.charges), np.arange(count) + np.asarray(u)
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


def test_every_level_is_the_sum_over_its_neighbours_and_the_top_over_all_pairs(problem):
    u = displaced(problem)
    assert 2 * problem.reaches[-1] + 1 == u.shape[-1]
    for reach, rods in zip(problem.reaches, problem.params, strict=True):
        found = particles.forces(rods, u, jnp.zeros(()))
        expected = np.stack([pair_sum(rods, ring, reach) for ring in np.asarray(u)])
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_no_level_moves_the_centre_of_mass(problem):
    for rods in problem.params:
        found = np.asarray(particles.forces(rods, displaced(problem), jnp.zeros(())))
        np.testing.assert_allclose(found.sum(axis=-1), 0, atol=1e-13 * np.abs(found).sum())


def test_compiled_levels_cost_different_amounts():
    """Far pairs are left out, not multiplied by zero: 2 of 512 neighbours cost a hundredth."""
    bottom, *_, top = particles.make_ladder(particles.Settings(), particles.STIFF)
    u = jnp.zeros((4, len(top.charges)))
    costs = measure_costs([particles.forces] * 2, [bottom, top], u, jnp.zeros(()))
    assert costs[1] > 10 * costs[0]


def test_coarse_noise_is_the_librarys_coarse_path(problem):
    fine = particles_run.fine_noise(problem)
    grid = steps.uniform_grid(0.0, problem.end, problem.fine)
    path = brownian_path(problem.key, grid, grid[::8], samples=jnp.arange(len(problem.x)))
    own = particles_run.coarse_noise(fine, problem.fine // 8)
    np.testing.assert_allclose(own, store_path(path, problem.x), atol=1e-12)


def test_diffrax_along_our_increments_is_our_euler_maruyama(problem):
    from experiments import diffrax_driver as driver

    fine, count = particles_run.fine_noise(problem), problem.fine // 2
    table = particles_run.table_of(problem, count)
    levels, params = particles_run.rungs_of(problem, (len(problem.reaches),))
    noise = particles_run.coarse_noise(fine, count)
    ours = solve(levels, params, problem.x, table, plan.full_plan(count, 1, 1), noise)
    path = driver.pad(driver.coarse_increments(fine, count), problem.fine)
    given = (particles.forces, params[0], problem.x, path, jnp.asarray(count))
    solver, _ = driver.SOLVERS["Euler"]
    theirs = driver.solve_along(solver, *given, table.gain[0], table.noise[0])
    assert float(jnp.abs(ours).max()) > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_levy_areas_have_their_variance_and_are_independent_of_the_increments():
    from experiments import diffrax_driver as driver

    path = driver.coarse_increments(jax.random.normal(jax.random.key(0), (64 * 50, 500)), 50)
    moves, areas = np.asarray(path.moves).ravel(), np.asarray(path.areas).ravel()
    assert np.var(areas) == pytest.approx(1 / 12, rel=0.03)
    assert np.var(moves) == pytest.approx(1, rel=0.03)
    assert abs(np.mean(moves * areas)) < 0.01


def test_above_its_errors_the_cheapest_stable_run_is_the_price():
    rows = [{"method": "a", "cost": cost, "mse": mse} for cost, mse in
            ((1.0, None), (2.0, 1e-2), (20.0, 1e-4))]  # fmt: skip
    found = particles_run.price_at(rows, "a", "cost", np.array([1.0, 1e-2, 1e-3, 1e-6]))
    np.testing.assert_allclose(found, [2, 2, 40**0.5, np.nan])


def test_prices_do_not_hang_on_the_order_of_rows():
    rows = [{"method": "a", "cost": cost, "mse": mse} for cost, mse in
            ((2.0, 1e-1), (2.0, 1e-2), (20.0, 1e-4))]  # fmt: skip
    wanted = np.array([1.0, 1e-2, 1e-3])
    for own in (rows, rows[::-1]):
        np.testing.assert_allclose(
            particles_run.price_at(own, "a", "cost", wanted), [2, 2, 40**0.5]
        )


def test_a_power_law_is_found_again():
    costs = np.array([1.0, 2.0, 8.0])
    gamma, deviation = particles_run.fit_power(costs, 3 * costs ** (-1 / 2.5))
    assert gamma == pytest.approx(2.5)
    assert deviation < 1e-12


def test_a_spike_is_cut_to_the_cost_of_a_dearer_level():
    found = particles_run.without_spikes([9.0, 1.0, 2.0, 7.0, 4.0])
    np.testing.assert_array_equal(found, [1, 1, 2, 4, 4])


def test_the_whole_tutorial_runs_on_a_small_ring(tmp_path):
    with jax.enable_x64(False):
        particles.main(particles.Settings(tiny=True, out=tmp_path))
    result = json.loads((tmp_path / "particles.json").read_text())
    assert (tmp_path / "particles.png").stat().st_size > 5000
    assert set(result) == {"machine", "commit", "command", "settings", "seconds", "cases"}
    for name, case in result["cases"].items():
        reaches = particles.TINY[name].reaches
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
        names = particles_report.names_of(case["rows"], "ML-EM")
        for kind in ("independent", "systematic", "midpoint", "trapezoid", "pilot", "two levels"):
            assert any(kind in each for each in names)
