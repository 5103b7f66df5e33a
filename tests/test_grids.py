import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlem_jax import Ladder, Problem, grids, levels, plans, solve
from mlem_jax import process as pr
from mlem_jax import steps as sp

COSINE = pr.cosine()
EXPLODING = pr.variance_exploding()


@given(start=st.floats(0.2, 0.99), end=st.floats(0.001, 0.19), count=st.sampled_from([1, 2, 9, 60]))
@settings(deadline=None, max_examples=30)
def test_grids_have_their_ends_and_fall(start, end, count):
    three = (
        grids.uniform_grid(start, end, count),
        grids.log_snr_grid(COSINE, start, end, count),
        grids.karras_grid(COSINE, start, end, count),
    )
    for grid in three:
        assert len(grid) == count + 1
        assert grid[0] == start
        assert grid[-1] == end
        assert (np.diff(grid) < 0).all()


def test_log_snr_grid_is_uniform_in_log_snr():
    grid = grids.log_snr_grid(COSINE, 0.98, 0.01, 20)
    rises = np.diff(pr.log_snr(COSINE, jnp.asarray(grid)))
    np.testing.assert_allclose(rises, rises.mean(), rtol=1e-6)


@pytest.mark.parametrize("growth", [0.5, 1.0, 2.0, 7.0])
def test_steps_of_a_stretched_grid_grow_by_one_factor(growth):
    grid = grids.log_snr_grid(COSINE, 0.98, 0.01, 20, growth=growth)
    rises = np.diff(pr.log_snr(COSINE, jnp.asarray(grid)))
    assert rises[-1] / rises[0] == pytest.approx(growth, rel=1e-6)
    np.testing.assert_allclose(rises[1:] / rises[:-1], growth ** (1 / 19), rtol=1e-6)
    one = grids.log_snr_grid(COSINE, 0.98, 0.01, 1, growth=growth)
    np.testing.assert_array_equal(one, [0.98, 0.01])


@pytest.mark.parametrize("growth", [0.0, -1.0, float("nan"), float("inf"), "two", None])
def test_a_growth_that_is_not_positive_is_refused(growth):
    with pytest.raises(ValueError, match="expected a growth"):
        grids.log_snr_grid(COSINE, 0.98, 0.01, 20, growth=growth)


def test_karras_grid_is_the_one_of_edm():
    process = pr.variance_exploding()
    ramp = np.linspace(0, 1, 19)
    expected = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(grids.karras_grid(process, 80.0, 0.002, 18), expected, rtol=1e-9)


@given(data=st.data(), fine_count=st.integers(2, 80))
@settings(deadline=None, max_examples=50)
def test_a_subgrid_is_made_of_points_of_the_fine_grid(data, fine_count):
    count = data.draw(st.integers(1, fine_count))
    power = data.draw(st.floats(0.2, 5))
    fine = grids.uniform_grid(1.0, 0.0, fine_count)
    wanted = np.linspace(1, 0, count + 1) ** power
    if len(np.unique(wanted)) < len(wanted):
        return
    coarse = grids.subgrid(fine, wanted)
    assert len(coarse) == count + 1
    assert np.isin(coarse, fine).all()
    assert (np.diff(coarse) < 0).all()
    assert coarse[0] == 1
    assert coarse[-1] == 0


@pytest.mark.parametrize("make", [sp.ddim, sp.diffusion_euler_maruyama])
@pytest.mark.parametrize(
    ("process", "start", "end", "message"),
    [
        (COSINE, 1.5, 0.0, r"within the times of the process, 0.0 to 1.0, got 1.5"),
        (COSINE, 0.9, -0.1, r"0.0 to 1.0, got -0.1"),
        (pr.linear(), 1000.0, 0.5, r"0.0 to 1.0, got 1000.0"),
        (EXPLODING, 81.0, 0.1, r"0.0 to 80.0, got 81.0"),
        (pr.rectified_flow(), 1.001, 0.1, r"0.0 to 1.0, got 1.001"),
    ],
)
def test_times_outside_the_process_are_refused(make, process, start, end, message):
    with pytest.raises(ValueError, match=message):
        make(process, np.linspace(start, end, 9))
    for grid in (grids.log_snr_grid, grids.karras_grid):
        with pytest.raises(ValueError, match=message):
            grid(process, start, end, 8)


def test_times_that_rounding_put_outside_are_put_back():
    process = pr.variance_exploding(maximum=80.3)
    rounded = float(np.float32(80.3))
    assert rounded > 80.3
    times = grids.check_times(process, [rounded, 1.0, -1e-9])
    np.testing.assert_array_equal(times, [80.3, 1.0, 0.0])


@pytest.mark.parametrize("steps", [0, -3, 2.5, True])
def test_a_count_of_steps_that_is_none_is_refused(steps):
    message = f"a whole number of steps, at least 1, got {steps}"
    with pytest.raises(ValueError, match=message):
        grids.uniform_grid(1.0, 0.0, steps)
    for grid in (grids.log_snr_grid, grids.karras_grid):
        with pytest.raises(ValueError, match=message):
            grid(COSINE, 0.9, 0.1, steps)


@pytest.mark.parametrize("rho", [0.0, -7.0, float("inf"), float("nan")])
def test_a_rho_that_is_not_positive_is_refused(rho):
    with pytest.raises(ValueError, match="expected rho > 0"):
        grids.karras_grid(COSINE, 0.9, 0.1, 8, rho=rho)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.linspace(5, 4, 4), r"the fine grid's range, 0.2 to 0.8, got 5.0"),
        (np.linspace(0.15, 0.05, 4), r"0.2 to 0.8, got 0.15"),
        (np.linspace(1, 0.2, 4), r"0.2 to 0.8, got 1.0"),
        (np.linspace(0.2, 0.8, 4), r"direction of the fine grid, 0.8 to 0.2, got 0.2 to 0.8"),
    ],
)
def test_a_subgrid_of_times_elsewhere_is_refused(times, message):
    with pytest.raises(ValueError, match=message):
        grids.subgrid(np.linspace(0.8, 0.2, 30), times)


def test_an_infinite_grid_and_a_process_without_end_are_refused():
    with pytest.raises(ValueError, match=r"a grid of finite times, got inf to 0\.0"):
        grids.check_grid([np.inf, 1.0, 0.0])
    with pytest.raises(ValueError, match=r"a positive, finite end, got 0\.0"):
        grids.schedules(COSINE._replace(end=0.0), [0.0])


@pytest.mark.parametrize("precise", [True, False])
def test_a_schedule_by_a_table_works_before_and_after_a_solve(precise):
    times, alphas = np.linspace(0, 1, 1001), np.cos(np.linspace(0, 1.5, 1001))

    def alpha(t):
        return jnp.interp(t, times, alphas)

    table = pr.Process(alpha, lambda t: jnp.sqrt(1 - alpha(t) ** 2), 1.0)
    grid = grids.uniform_grid(1.0, 0.0, 10)
    with jax.enable_x64(precise):
        drift = levels.data(lambda params, x, t: params * x, table, pr.predict_noise)
        ladder, plan = Ladder((drift,), (jnp.asarray(0.5),)), plans.full(10, 1, 1)
        for _ in range(2):
            steps = sp.ddim(table, grid)
            solve(ladder, Problem(jnp.ones(2)), steps, plan)
        found = grids.log_snr_grid(table, 0.9, 0.1, 5)
    assert (np.diff(found) < 0).all()
    # Once rounded for a solve in single precision, JAX keeps a closed-over table so.
    expected = np.interp(grid, times, alphas)
    np.testing.assert_allclose(grids.schedules(table, grid)[0], expected, atol=1e-7)


def test_training_steps_become_times_that_end_at_the_data():
    np.testing.assert_array_equal(grids.index_grid([980, 20, 0]), [981, 21, 1, 0])
    for wrong in ([0, 20, 980], [3.5, 1], [5, -1], [], [[1, 0]], [3, 3], 7):
        with pytest.raises(ValueError, match="whole numbers from 0 that strictly fall, got"):
            grids.index_grid(wrong)
