"""Integrators as tables: exact variances, known formulas, orders by regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import grids, plans
from mlem_jax import process as pr
from mlem_jax import steps as sp
from mlem_jax.ladder import Ladder
from mlem_jax.noise import brownian_path
from mlem_jax.problem import Problem
from mlem_jax.solver import solve
from tests.problems import SPREAD, gaussian_data, wavy_ladder

COSINE = pr.cosine()
WHOLE = grids.uniform_grid(1.0, 0.0, 400)
INNER = grids.uniform_grid(0.995, 0.002, 1500)


@pytest.mark.parametrize(
    ("steps", "grid"),
    [
        (sp.ddpm(COSINE, WHOLE), WHOLE),
        (sp.ddim(COSINE, WHOLE), WHOLE),
        (sp.ddim(COSINE, WHOLE, churn=0.5), WHOLE),
        (sp.exponential_euler(COSINE, WHOLE, churn=0.5), WHOLE),
        (sp.diffusion_euler_maruyama(COSINE, INNER), INNER),
        (sp.diffusion_euler_maruyama(COSINE, INNER, churn=0.5), INNER),
        (sp.diffusion_euler_maruyama(COSINE, INNER, churn=0.0), INNER),
    ],
    ids=["ddpm", "ddim", "ddim 0.5", "exponential 0.5", "em sde", "em 0.5", "em ode"],
)
def test_gaussian_data_come_out_with_their_variance(steps, grid):
    # The method is linear, so its variance is exact without samples: one state for the start and
    # one for the noise of each step, each moved by its own alone.
    assert end_variance(COSINE, steps, grid) == pytest.approx(marginal(COSINE, grid[-1]), rel=0.02)


@pytest.mark.parametrize("process", [pr.linear(), pr.rectified_flow()], ids=["linear", "flow"])
@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_gaussian_data_come_out_with_their_variance_under_every_process(process, churn):
    for make, grid in ((sp.ddim, WHOLE), (sp.diffusion_euler_maruyama, INNER)):
        found = end_variance(process, make(process, grid, churn=churn), grid)
        assert found == pytest.approx(marginal(process, grid[-1]), rel=0.05)


def end_variance(process, steps, grid):
    count = len(grid) - 1
    problem = one_for_each(count, marginal(process, grid[0]) ** 0.5)
    end = solve(gaussian_data(process), problem, steps, plans.full(count, 1, 1))
    return np.sum(np.asarray(end) ** 2)


def one_for_each(count, spread):
    """A state for the noise of each step, and the last for the start."""
    start = np.append(np.zeros(count), spread)
    return Problem(jnp.asarray(start, float), jnp.asarray(np.eye(count, count + 1), float))


@pytest.mark.parametrize("churn", [1.0, 0.0])
def test_gaussian_data_come_out_with_their_variance_under_any_drift(churn):
    # The exploding process by hand: dx = -(1 + c^2)/2 2t s dt + c sqrt(2t) dW, t from 40 to 0.01.
    def drift(params, x, t):
        return (1 + churn**2) * t * x / (SPREAD**2 + t**2)

    ratio = np.geomspace(40.0, 0.01, 1501)
    steps = sp.euler_maruyama(ratio, lambda t: churn * jnp.sqrt(2 * t))
    problem = one_for_each(1500, (SPREAD**2 + 40.0**2) ** 0.5)
    end = solve(Ladder((drift,), ((),)), problem, steps, plans.full(1500, 1, 1))
    assert np.sum(np.asarray(end) ** 2) == pytest.approx(SPREAD**2 + 0.01**2, rel=0.02)


def marginal(process, t):
    t = jnp.asarray(t)
    return float(process.alpha(t) ** 2 * SPREAD**2 + process.sigma(t) ** 2)


@pytest.mark.parametrize("process", [COSINE, pr.linear(), pr.rectified_flow()])
def test_exponential_euler_is_ddim_without_churn_and_ddpm_with_all(process):
    grid = grids.uniform_grid(1.0, 0.0, 30)
    for churn, other in ((0.0, sp.ddim(process, grid)), (1.0, sp.ddpm(process, grid))):
        for ours, theirs in zip(
            sp.exponential_euler(process, grid, churn=churn)[:4], other[:4], strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
def test_steps_carry_the_true_marginals_when_the_data_is_known(churn):
    # One data point: x_t = alpha x_0 + sigma eps must step to alpha' x_0 + sigma' eps' in law.
    grid = grids.uniform_grid(1.0, 0.0, 7)
    alpha, sigma = (np.asarray(f(jnp.asarray(grid))) for f in (COSINE.alpha, COSINE.sigma))
    for make in (sp.ddim, sp.exponential_euler):
        steps = make(COSINE, grid, churn=churn)
        mean = steps.scale * alpha[:-1] + steps.gain
        variance = steps.scale**2 * sigma[:-1] ** 2 + steps.noise**2
        np.testing.assert_allclose(mean, alpha[1:], atol=1e-12)
        np.testing.assert_allclose(variance, sigma[1:] ** 2, atol=1e-12)


def test_ddpm_has_the_posterior_mean_and_variance_of_ho():
    grid = grids.uniform_grid(0.9, 0.1, 8)
    steps = sp.ddpm(COSINE, grid)
    cumulative = np.asarray(COSINE.alpha(jnp.asarray(grid))) ** 2
    before, after = cumulative[:-1], cumulative[1:]  # alpha_bar_t and alpha_bar_{t-1}.
    beta = 1 - before / after
    np.testing.assert_allclose(steps.noise**2, (1 - after) / (1 - before) * beta, rtol=1e-10)
    np.testing.assert_allclose(steps.gain, np.sqrt(after) * beta / (1 - before), rtol=1e-10)


def test_euler_maruyama_runs_in_either_direction_of_time():
    there = sp.euler_maruyama([0.0, 0.3, 1.0], lambda t: 2 + t)
    np.testing.assert_allclose(there.gain, [0.3, 0.7])
    np.testing.assert_allclose(there.noise, [2 * 0.3**0.5, 2.3 * 0.7**0.5])
    back = sp.euler_maruyama([1.0, 0.3, 0.0])
    np.testing.assert_allclose(back.gain, [-0.7, -0.3])
    np.testing.assert_allclose(back.noise, 0)


def strong_errors(noise):
    """RMS error at the end against 2^12 steps along the same path, for 2^4 .. 2^8 steps."""
    ladder = wavy_ladder(sizes=(1.0,))
    fine = sp.euler_maruyama(np.linspace(0, 1, 4097), noise)
    x = jnp.linspace(-2, 2, 64)

    def end(count):
        steps = sp.euler_maruyama(grids.uniform_grid(0.0, 1.0, int(count)), noise)
        path = brownian_path(jax.random.key(3), fine, steps, samples=jnp.arange(64))
        return np.asarray(solve(ladder, Problem(x, path), steps, plans.full(count, 1, 1)))

    counts, exact = 2 ** np.arange(4, 9), end(4096)
    return counts, np.array([np.sqrt(np.mean((end(n) - exact) ** 2)) for n in counts])


@pytest.mark.parametrize("noise", [lambda t: 0.7 + 0 * t, lambda t: 0.5 + t], ids=["const", "t"])
def test_strong_order_with_additive_noise_is_one(noise):
    counts, errors = strong_errors(noise)
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.5], "at least 2 points"),
        ([[0.0, 1.0]], "at least 2 points, got shape"),
        ([0.0, 0.5, 0.5, 1.0], "got 0.5 then 0.5 at point 1"),
        ([0.0, 0.7, 0.5, 1.0], "got 0.7 then 0.5 at point 1"),
        ([0.0, float("nan"), 1.0], "strictly rises or strictly falls"),
    ],
)
def test_a_grid_that_is_none_is_refused(times, message):
    with pytest.raises(ValueError, match=message):
        sp.euler_maruyama(times)


def test_grids_and_steps_say_what_they_cannot_do():
    with pytest.raises(ValueError, match="finite log-SNR"):
        grids.log_snr_grid(COSINE, 1.0, 0.0, 10)
    with pytest.raises(ValueError, match="alpha > 0"):
        grids.karras_grid(COSINE, 1.0, 0.1, 10)
    with pytest.raises(ValueError, match="alpha > 0 and sigma > 0"):
        sp.diffusion_euler_maruyama(COSINE, WHOLE)
    with pytest.raises(ValueError, match=r"churn from 0 \(ODE\) to 1"):
        sp.ddim(COSINE, WHOLE, churn=1.5)
    for make in (sp.ddpm, sp.diffusion_euler_maruyama):
        with pytest.raises(ValueError, match="from the noise to the data"):
            make(COSINE, INNER[::-1])
    with pytest.raises(ValueError, match="churn from 0"):
        sp.diffusion_euler_maruyama(COSINE, INNER, churn=-0.1)
    with pytest.raises(ValueError, match="at most 401 points"):
        grids.subgrid(WHOLE, np.linspace(1, 0, 500))


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_two_steps_extrapolate_a_prediction_that_is_a_line_in_the_log_snr(churn):
    # Uniform in the log-SNR, h the half of its rise: x_0 taken at the middle of each step.
    grid = grids.log_snr_grid(COSINE, 0.9, 0.1, 6)
    one = sp.exponential_euler(COSINE, grid, churn=churn)
    two = sp.dpm_solver_2m(COSINE, grid, churn=churn)
    values = np.arange(6.0)  # The prediction at the steps' starts.
    before = np.concatenate([[0.0], values[:-1]])
    found = two.gain * values + two.push[:, 0] * before
    middle = np.concatenate([[0.0], values[1:] + 0.5])
    np.testing.assert_allclose(found, one.gain * middle, rtol=1e-6)
    for name in ("t", "scale", "noise"):
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name))


def test_two_steps_are_of_second_order_on_a_smooth_ode():
    ladder = gaussian_data(COSINE)
    x = jnp.asarray([[0.7], [-1.1]])
    fine = grids.log_snr_grid(COSINE, 0.95, 0.05, 20000)
    exact = solve(ladder, Problem(x), sp.ddim(COSINE, fine), plans.full(20000, 1, 1))
    errors = {}
    for make in (sp.ddim, sp.dpm_solver_2m):
        for count in (16, 32):
            steps = make(COSINE, grids.log_snr_grid(COSINE, 0.95, 0.05, count))
            end = solve(ladder, Problem(x), steps, plans.full(count, 1, 1))
            errors[make.__name__, count] = float(jnp.abs(end - exact).max())
    assert np.log2(errors["ddim", 16] / errors["ddim", 32]) == pytest.approx(1, abs=0.15)
    order = np.log2(errors["dpm_solver_2m", 16] / errors["dpm_solver_2m", 32])
    assert order > 1.6


def test_two_steps_from_noise_to_data_have_finite_tables():
    two = sp.dpm_solver_2m(COSINE, WHOLE)
    assert all(np.isfinite(column).all() for column in two)
    assert two.push[0, 0] == 0
    assert two.push[-1, 0] == 0  # The last is of first order.


@pytest.mark.parametrize("column", ["t", "scale", "gain", "noise"])
def test_columns_that_are_not_finite_or_not_as_long_are_refused(column):
    columns = {name: np.ones(3) for name in ("t", "scale", "gain", "noise")}
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match=f"got {wrong} in {column} at step 1"):
            sp.make_steps(**columns | {column: [1.0, wrong, 1.0]})
    longer = columns | {column: np.ones(4)}
    with pytest.raises(ValueError, match="rows in every column, one per step, got"):
        sp.make_steps(**longer)
    with pytest.raises(ValueError, match="diffusion coefficient that is finite"):
        sp.euler_maruyama([0.0, 1.0], lambda t: jnp.nan * t)


def test_times_past_the_end_of_a_process_are_refused():
    for make in (sp.ddpm, sp.ddim, sp.exponential_euler, sp.dpm_solver_2m):
        for grid in ([1.5, 0.5, 0.0], [1.0, 0.5, -0.5]):
            with pytest.raises(ValueError, match="expected times within the times of the process"):
                make(COSINE, grid)
