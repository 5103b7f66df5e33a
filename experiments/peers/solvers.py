"""Solvers of other projects, driven by a level of ours along our times and our Brownian paths.

A scheduler of diffusers is a step from one prediction to the next state; the loop round it is here:
only (x, t, prediction) cross between JAX and PyTorch. Its training steps are the points of our fine
grid, so any coarse grid of ours is a list of its timesteps, and `alphas_cumprod` is our process's
alpha^2. The pure noise at t = 1 has no finite log-SNR and gets `FLOOR`, far below what a picture
shows. Noise is handed over, in the clock of `steps.snr_clock`: a coarse step is driven by what the
fine ones it covers are driven by. diffrax integrates the probability-flow ODE in our time.
"""

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.method import Method
from experiments.ladders.shipped import PROCESS
from mlem_jax import Ladder
from mlem_jax.grids import Grid, schedules
from mlem_jax.process import convert, predict_data, predict_velocity
from mlem_jax.types import Scalar, State

FLOOR = 1e-12
"""alpha^2 where ours is 0."""
NEEDED = ("torch", "diffusers", "diffrax")
INSTALL = ("pip install torch --index-url https://download.pytorch.org/whl/cpu && "
           "pip install -e '.[peers]'")  # fmt: skip

Network = jax.tree_util.Partial
"""(x, t) -> predicted data: a level with its parameters."""
Scheduler = Any
Solver = Callable[[Network, jax.Array, jax.Array | None], jax.Array]
"""From a network, starts and standard normals [steps, ...], or None for an ODE, to the ends."""


class Peer(NamedTuple):
    """A solver of another project, with the times it steps through.

    Attributes:
        method: whose point it is; its family says which solver.
        parameters: what distinguishes the points of a curve.
        times: the grid.
        evaluations: of the network.
        solver: what does it.
        compiled: whether it is one program, of which only a second run is without compilation.
    """

    method: Method
    parameters: dict[str, Any]
    times: Grid
    evaluations: int
    solver: Solver
    compiled: bool = False


def missing() -> str | None:
    """What this machine lacks and the command that installs it, in one line; None if nothing."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not found; install with: {INSTALL}" if absent else None


def versions() -> dict[str, str]:
    """Of the other projects."""
    return {name: importlib.metadata.version(name) for name in NEEDED}


def top_network(ladder: Ladder) -> Network:
    """The top level of a ladder."""
    return Network(jax.jit(ladder.drifts[-1]), ladder.params[-1])


def timed(
    peer: Peer, network: Network, x: jax.Array, noise: jax.Array | None
) -> tuple[jax.Array, float]:
    """The ends, and the seconds without compilation.

    The overhead of a loop in Python is in them, as it is for whoever uses such a scheduler.
    """
    if peer.compiled:
        peer.solver(network, x, noise)
    else:
        jax.block_until_ready(network(x, jnp.float32(PROCESS.end)))
    begun = time.perf_counter()
    return jax.block_until_ready(peer.solver(network, x, noise)), time.perf_counter() - begun


def ddim(fine: Grid, count: int) -> Solver:
    """Diffusers' DDIM, which steps evenly and by its own timesteps: `trailing` are ours."""
    return _driven(lambda: _of_count("DDIMScheduler", fine, count), _plain, even_grid(fine, count))


def even_grid(fine: Grid, count: int) -> Grid:
    """`count` steps of equally many fine ones each.

    Raises:
        ValueError: if `count` does not divide the fine steps.
    """
    if (len(fine) - 1) % count:
        raise ValueError(f"expected a count that divides {len(fine) - 1} fine steps, got {count}")
    return fine[:: (len(fine) - 1) // count]


def ddpm(fine: Grid, grid: Grid) -> Solver:
    """Diffusers' DDPM, with the smaller variance."""
    return _driven(lambda: _of_times("DDPMScheduler", fine, grid), _exchanged, grid)


def dpm_solver(fine: Grid, grid: Grid, *, noisy: bool) -> Solver:
    """Diffusers' DPM-Solver++(2M), or its SDE form."""
    kind = "sde-dpmsolver++" if noisy else "dpmsolver++"

    def make() -> Scheduler:
        return _of_times("DPMSolverMultistepScheduler", fine, grid, algorithm_type=kind)

    return _driven(make, _handed_over if noisy else _plain, grid)


def unipc(fine: Grid, grid: Grid, **options: Any) -> Solver:
    """Diffusers' UniPC of second order; it takes no timesteps, so they are put in their place."""

    def make() -> Scheduler:
        scheduler = _of_count("UniPCMultistepScheduler", fine, len(grid) - 1, **options)
        stamps, torch = _stamps(fine, grid), _module("torch")
        ratios = np.sqrt(1 / _signal(fine)[stamps] - 1)
        scheduler.timesteps = torch.from_numpy(stamps)
        scheduler.sigmas = torch.from_numpy(np.append(ratios, 0).astype(np.float32))
        return scheduler

    return _driven(make, _plain, grid)


def diffrax_euler(grid: Grid) -> Solver:
    """Diffrax's Euler on dx/dt = alpha' x_0 + sigma' eps."""
    return lambda network, x, _: _integrated("Euler", network, x, grid)


def diffrax_heun(grid: Grid) -> Solver:
    """The same by Heun's method, its last step by Euler's: at t = 0 the drift has no limit."""

    def solver(network: Network, x: jax.Array, _: jax.Array | None) -> jax.Array:
        return _integrated("Euler", network, _integrated("Heun", network, x, grid[:-1]), grid[-2:])

    return solver


def _module(name: str) -> Any:
    """A module that the experiments do without; untyped, since type checkers may lack it too."""
    return importlib.import_module(name)


def _signal(fine: Grid) -> np.ndarray:
    """alpha^2 at the training steps, the points of the fine grid from the cleanest on."""
    return np.maximum(schedules(PROCESS, fine[:-1][::-1])[0] ** 2, FLOOR)


def _stamps(fine: Grid, grid: Grid) -> np.ndarray:
    """Training steps of the times at which a grid's steps start."""
    return np.searchsorted(fine[:-1][::-1], grid[:-1])


def _scheduler(kind: str, fine: Grid, **options: Any) -> Scheduler:
    count = len(fine) - 1
    scheduler = getattr(_module("diffusers"), kind)(
        num_train_timesteps=count, prediction_type="sample", timestep_spacing="trailing", **options
    )
    scheduler.alphas_cumprod = _module("torch").from_numpy(_signal(fine))
    return scheduler


def _of_count(kind: str, fine: Grid, count: int, **options: Any) -> Scheduler:
    own = {"clip_sample": False} if kind == "DDIMScheduler" else {}
    scheduler = _scheduler(kind, fine, **own, **options)
    scheduler.set_timesteps(count)
    return scheduler


def _of_times(kind: str, fine: Grid, grid: Grid, **options: Any) -> Scheduler:
    own = {"clip_sample": False} if kind == "DDPMScheduler" else {}
    scheduler = _scheduler(kind, fine, **own, **options)
    scheduler.set_timesteps(timesteps=_stamps(fine, grid).tolist())
    return scheduler


def _driven(make: Callable[[], Scheduler], step: Callable[..., Any], grid: Grid) -> Solver:
    """The loop: predict in JAX, step in PyTorch."""

    def solver(network: Network, x: jax.Array, noise: jax.Array | None) -> jax.Array:
        torch, scheduler = _module("torch"), make()
        state = torch.from_numpy(np.array(x, np.float32))
        normals = None if noise is None else np.asarray(noise, np.float32)
        for n, (stamp, t) in enumerate(zip(scheduler.timesteps.tolist(), grid[:-1], strict=True)):
            predicted = network(jnp.asarray(state.numpy()), jnp.float32(t))
            own = None if normals is None else torch.from_numpy(normals[n].copy())
            state = step(scheduler, torch.from_numpy(np.array(predicted)), stamp, state, own)
        return jnp.asarray(state.numpy())

    return solver


def _plain(scheduler: Scheduler, predicted: Any, stamp: int, state: Any, _: Any) -> Any:
    return scheduler.step(predicted, stamp, state, return_dict=False)[0]


def _handed_over(scheduler: Scheduler, predicted: Any, stamp: int, state: Any, own: Any) -> Any:
    return scheduler.step(predicted, stamp, state, variance_noise=own, return_dict=False)[0]


def _exchanged(scheduler: Scheduler, predicted: Any, stamp: int, state: Any, own: Any) -> Any:
    """DDPM draws its noise itself: it is drawn again from the same seed and ours put in its place.

    A step from 0 with the prediction 0 is the noise alone, and says how it is scaled.
    """
    torch = _module("torch")

    def moved(predicted: Any, state: Any) -> tuple[Any, Any]:
        theirs = torch.randn(state.shape, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(0)
        return theirs, scheduler.step(predicted, stamp, state, generator, return_dict=False)[0]

    pixel = torch.zeros(1, 1, 1, 1)
    normal, noise = moved(pixel, pixel)
    theirs, state = moved(predicted, state)
    return state + noise.item() / normal.item() * (own - theirs)


def _integrated(solver: str, network: Network, x: jax.Array, grid: Grid) -> jax.Array:
    return _integrate(solver)(network, x, jnp.asarray(grid, x.dtype))


@cache
def _integrate(solver: str) -> Callable[[Network, jax.Array, jax.Array], jax.Array]:
    """One program for all grids of one length."""
    diffrax = _module("diffrax")

    def flow(t: Scalar, x: State, network: Network) -> State:
        return convert(PROCESS, predict_data, predict_velocity, x, network(x, t), t)

    def integrate(network: Network, x: jax.Array, times: jax.Array) -> jax.Array:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(flow), getattr(diffrax, solver)(), times[0], times[-1], None, x,
            network, stepsize_controller=diffrax.StepTo(times),
        ).ys[-1]  # fmt: skip

    return jax.jit(integrate)
