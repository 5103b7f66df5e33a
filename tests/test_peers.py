"""Drivers of other projects' solvers, distances to data, and the comparison as a user runs it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import courses, peer_solvers
from experiments.ladder import PROCESS
from experiments.quickstart import coarse_grids
from mlem_jax import plan, steps
from mlem_jax.levels import Levels
from mlem_jax.noise import brownian_path, snr_clock, store_path
from mlem_jax.solve import solve

# diffusers hands PyTorch's tensors to numpy in a way that numpy is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FINE = courses.fine_grid(1000)
GRIDS = {"uniform": peer_solvers.even_grid(FINE, 20), "log-SNR": coarse_grids(FINE, 20)["log-SNR"]}


def level(params, x, t):
    """Nonlinear, and neither odd nor even in x."""
    return jnp.tanh(params * x + 0.3 * jnp.cos(3 * t))


NETWORK = peer_solvers.Network(level, jnp.float32(1.3))


@pytest.fixture
def start():
    return jax.random.normal(jax.random.key(0), (3, 4, 4, 3), jnp.float32)


def ours(table, x, noise=None):
    one = Levels((level,), (1.0,))
    return solve(one, (NETWORK.args[0],), x, table, plan.full_plan(len(table.t), 1, 1), noise)


def noise_on(grid, x):
    clocks = snr_clock(PROCESS, FINE), snr_clock(PROCESS, grid)
    return store_path(brownian_path(jax.random.key(1), *clocks, samples=jnp.arange(len(x))), x)


def assert_same(found, expected):
    assert float(jnp.abs(found - expected).max()) < 1e-5


def test_their_ddim_is_ours(start):
    pytest.importorskip("diffusers")
    found = peer_solvers.ddim(FINE, 20)(NETWORK, start, None)
    assert_same(found, ours(steps.ddim(PROCESS, GRIDS["uniform"]), start))


@pytest.mark.parametrize("kind", GRIDS)
def test_their_ddpm_along_our_path_is_ours(start, kind):
    pytest.importorskip("diffusers")
    grid, noise = GRIDS[kind], noise_on(GRIDS[kind], start)
    found = peer_solvers.ddpm(FINE, grid)(NETWORK, start, noise)
    assert_same(found, ours(steps.ddpm(PROCESS, grid), start, noise))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_their_dpm_solver_is_ours_in_both_forms(start, kind, churn):
    pytest.importorskip("diffusers")
    # With their end of the process: ours has an infinite log-SNR at t = 1.
    capped = PROCESS._replace(
        alpha=lambda t: jnp.sqrt(jnp.maximum(PROCESS.alpha(t) ** 2, peer_solvers.FLOOR))
    )
    grid, noise = GRIDS[kind], noise_on(GRIDS[kind], start) if churn else None
    found = peer_solvers.dpm_solver(FINE, grid, noisy=churn > 0)(NETWORK, start, noise)
    assert_same(found, ours(steps.dpm_solver_2m(capped, grid, churn=churn), start, noise))


@pytest.mark.parametrize("kind", GRIDS)
def test_unipc_of_first_order_without_its_corrector_is_ddim(start, kind):
    pytest.importorskip("diffusers")
    grid = GRIDS[kind]
    solver = peer_solvers.unipc(FINE, grid, solver_order=1, disable_corrector=list(range(20)))
    assert_same(solver(NETWORK, start, None), ours(steps.ddim(PROCESS, grid), start))


def test_unipc_is_closer_to_the_fine_solution_than_first_order(start):
    pytest.importorskip("diffusers")
    exact = ours(steps.dpm_solver_2m(PROCESS, FINE), start)
    grid = coarse_grids(FINE, 40)["log-SNR"]
    found = peer_solvers.unipc(FINE, grid)(NETWORK, start, None)
    first = ours(steps.ddim(PROCESS, grid), start)
    assert float(jnp.abs(found - exact).mean()) < 0.3 * float(jnp.abs(first - exact).mean())


def test_diffrax_euler_is_our_euler_maruyama_of_the_ode(start):
    pytest.importorskip("diffrax")
    grid = steps.uniform_grid(0.99, 0.01, 20)
    found = peer_solvers.diffrax_euler(grid)(NETWORK, start, None)
    assert_same(found, ours(steps.diffusion_euler_maruyama(PROCESS, grid, churn=0.0), start))


@pytest.mark.parametrize(("solver", "count"), [("diffrax_euler", 8), ("diffrax_heun", 15)])
def test_diffrax_pays_what_is_said(start, solver, count):
    pytest.importorskip("diffrax")
    ran = []

    def counted(params, x, t):
        jax.debug.callback(lambda: ran.append(1))
        return level(params, x, t)

    network = peer_solvers.Network(counted, jnp.float32(1.3))
    end = getattr(peer_solvers, solver)(peer_solvers.even_grid(FINE, 8))(network, start, None)
    jax.block_until_ready(end)
    jax.effects_barrier()
    assert len(ran) == count
