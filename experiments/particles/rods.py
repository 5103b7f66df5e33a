"""Bring your own levels: a thousand charged rods on a ring, forces cut off at growing distances.

A tutorial, to be read from top to bottom, with `methods` for the plans that are compared. Nothing
here is a diffusion model, nothing is trained.

**The system.** N parallel charged rods stand on a ring, a lattice spacing apart, and move along it
in a viscous liquid. Two rods repel each other by q q' / r, as line charges do, and have a hard core
that neighbours run into, size^12 / r^13. Charges are of two kinds, placed at random. At time 0 all
rods stand on the lattice and are let go:

    dx_i = sum_j F_ij(x_i - x_j) dt + sqrt(2 T) dW_i .

Rods do not pass each other, so the l-th neighbour of a rod stays its l-th neighbour.

**The levels.** Level k sums over the m_k nearest neighbours on either side, the top over all pairs,
each on the side where it is nearer. The levels are exact, nobody had to train them, and they cost
what they should: m_k turns of a loop. That is what to look for in levels of your own. A mask that
multiplies far pairs by zero would give the same numbers, and every level would cost as much as the
top. Mean-field drifts over 16, 64, 256 particles, multipole expansions of rising order, and grids
of rising resolution make ladders in the same way.

**Why it should pay.** The core is stiff: it forbids large steps to every explicit method. It is
also short: the bottom level has all of it. Far pairs are many, and their sum changes slowly along a
path. So the bottom level runs at every step, the others now and then. Molecular dynamics has long
done so, as multiple time stepping (r-RESPA: Tuckerman, Berne & Martyna 1992); "levels 1 5,
constant, midpoint" is such a splitting into a fast and a slow force, with impulses of the slow one.
ML-EM adds more levels, gates that weigh their prices, and draws that are unbiased. The random batch
method (Jin, Li & Liu 2020) draws partners instead of levels, anew at each step. A fast multipole
method would make the top itself cheaper; its orders of expansion would be a ladder again.

**What is measured.** gamma: with charges at random the squared force of all pairs beyond m is about
the sum of 1/l^2, so the error falls as m^(-1/2) and gamma is near 2, where the paper's best rates
begin. And what a strong error costs: the mean squared distance at the end to the fine solution of
the top level, along the same Brownian path. ML-EM stands against all pairs by Euler-Maruyama, in as
few steps as stay stable, and against solvers of diffrax. Then once more without the core, where few
large steps are enough, and with fewer and fewer rods, to see where the gain ends. Writes
results/particles.json and .png.
"""

import dataclasses
import importlib.util
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, Int
from rich.console import Console
from rich.progress import track

import mlem_jax as mlem
from experiments.common import runs, tiny
from experiments.particles.cases import CASES, TINY, Case
from experiments.particles.methods import methods_of
from experiments.particles.report import draw_figure, shown_prices, shown_summary, sum_up
from experiments.particles.run import (
    Task,
    measure_gamma,
    problem_of,
    run_method,
    run_peers,
    solve_finely,
)
from mlem_jax.types import Scalar, State


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost of a ladder of cut-offs, for rods on a ring."""

    rods: int = 4000
    """That move at once, on as many rings as it takes."""
    spread: float = 0.5
    """Charges are 1 - spread or 1 + spread; 0 for Dyson's Brownian motion, with a core."""
    temperature: float = 0.05
    """T."""
    end: float = 2.0
    """Time at which the errors are taken."""
    draws: int = 3
    """Plans of every random draw; rows tell their median."""
    tiny: bool = False
    """A small system on few steps, to see that all of it runs."""
    seed: int = 0
    """Of charges, paths and gates."""
    rows: Path | None = None
    """A result of this script: its rows are taken as they are, and summed up and drawn anew."""
    out: Path = Path("results")
    """Where particles.json and .png go."""


# 1. A drift with a dial on its cost.


class Rods(NamedTuple):
    """Parameters of a level. All levels share one function, and differ in `reach` alone.

    Attributes:
        reach: neighbours on either side; an array, so the loop's length is no constant of the
            program and its derivative stores nothing.
        charges: of the rods.
        size: of the core.
    """

    reach: Int[Array, ""]
    charges: Float[Array, " rods"]
    size: Float[Array, ""]


def forces(rods: Rods, u: State, _: Scalar) -> State:
    """F_i = sum over l = 1, ..., reach of f(x_i - x_{i-l}) - f(x_{i+l} - x_i).

    The state is the displacement from the lattice, u_i = x_i - i, so that there is no seam where
    the ring closes and single precision goes to the gaps.
    """
    count = u.shape[-1]
    # Twice round the ring: the l-th neighbours of all are then one slice.
    twice, charges = jnp.concatenate([u, u], -1), jnp.concatenate([rods.charges] * 2)

    def ahead(round_twice: Array, places: Int[Array, ""]) -> Array:
        return jax.lax.dynamic_slice_in_dim(round_twice, places, count, -1)

    def add(places: Int[Array, ""], total: State) -> State:
        gap = places.astype(u.dtype) + ahead(twice, places) - u
        core = (rods.size / gap) ** 12
        push = (rods.charges * ahead(charges, places) + core) / gap
        # Newton's third law: what pushes a rod back pushes the one ahead forward.
        return total - push + ahead(jnp.concatenate([push, push], -1), count - places)

    return jax.lax.fori_loop(1, rods.reach + 1, add, jnp.zeros_like(u))


def make_task(settings: Settings, case: Case) -> Task:
    """The same rods, seen further and further, let go from the lattice along a Brownian path."""
    count = 2 * case.reaches[-1] + 1
    signs = np.random.default_rng(settings.seed).choice([-1.0, 1.0], count)
    charges = jnp.asarray(1 + settings.spread * signs, jnp.result_type(float))
    size = jnp.asarray(case.size, charges.dtype)
    params = tuple(Rods(jnp.asarray(reach), charges, size) for reach in case.reaches)
    start = jnp.zeros((max(settings.rods // count, 1), count))
    deviation = (2 * settings.temperature) ** 0.5
    ladder = mlem.Ladder((forces,) * len(params), params)
    return Task(ladder, case.reaches, start, deviation, settings.end, case.fine,
                jax.random.key(settings.seed))  # fmt: skip


# 2. The ladder: functions and their parameters, with what they cost on this machine.


def with_costs(task: Task) -> Task:
    """The same with measured costs, in evaluations of the top."""
    ladder = mlem.measure_costs(task.ladder, task.x, jnp.zeros(()), repeats=31)
    costs = tuple(cost / ladder.costs[-1] for cost in ladder.costs)
    return task._replace(ladder=dataclasses.replace(ladder, costs=costs))


# 3. Plans along one path, beside solvers of another library that are given its increments.


def run_case(name: str, settings: Settings, case: Case, console: Console) -> dict[str, Any]:
    """Everything that is measured in one case."""
    task = with_costs(make_task(settings, case))
    with console.status(f"{name}: all pairs in {case.fine} steps, and a pilot run"):
        begun = time.perf_counter()
        states = jax.block_until_ready(solve_finely(task).states)
        seconds = time.perf_counter() - begun
        key = jax.random.key(settings.seed + 1)
        keys = [jax.random.fold_in(key, draw) for draw in range(settings.draws)]
        everything = list(methods_of(task, case, keys))
    problem = cache(lambda count: problem_of(task, count))
    rows = [
        run_method(run, task, problem(len(run.times) - 1), states[-1])
        for run in track(everything, name, console=console)
    ]
    if importlib.util.find_spec("diffrax"):
        rows += run_peers(task, case.peers, case.peer_steps, states[-1])
    else:
        console.print("diffrax is compared too if it is there: pip install diffrax", markup=False)
    return {
        **case._asdict(),
        "costs": task.ladder.costs,
        "gamma": measure_gamma(task, states),
        "reference_seconds": seconds,
        "rows": rows,
    }


def measure(settings: Settings, console: Console) -> dict[str, Any]:
    """All cases."""
    begun = time.perf_counter()
    cases = {name: run_case(name, settings, case, console)
             for name, case in (TINY if settings.tiny else CASES).items()}  # fmt: skip
    return {"seconds": time.perf_counter() - begun, "cases": cases}


def main(settings: Settings) -> None:
    """All cases, or those of a result; then sum up, write and draw."""
    console = Console(width=150)
    with tiny.settings_of(settings, made_tiny) as asked:
        if asked.rows is None:
            result = measure(asked, console)
        else:
            result = runs.measured_before(asked.rows, asked)
            asked = dataclasses.replace(asked, **result["settings"])
        cases = result["cases"]
        for name, case in cases.items():
            case |= sum_up(case["rows"], case["errors"])
            console.print(shown_prices(name, case))
        console.print(shown_summary(cases))
        first = next(iter(cases.values()))
        task = make_task(asked, Case(**{name: first[name] for name in Case._fields}))
        states = solve_finely(task._replace(x=task.x[:1])).states  # One ring is drawn.
        runs.finish("particles", asked, result,
                    lambda file: draw_figure(file, task, states, cases),
                    console=console)  # fmt: skip


def made_tiny(settings: Settings, _: Path) -> Settings:
    """Few rods, for a short time."""
    return dataclasses.replace(settings, rods=60, end=1.0, draws=2)


if __name__ == "__main__":
    main(tyro.cli(Settings))
