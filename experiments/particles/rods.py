"""Bring your own levels: a thousand charged rods on a ring, forces cut off at growing distances.

A tutorial, to be read from top to bottom. Nothing here is a diffusion model, nothing is trained.

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
done so, as multiple time stepping (r-RESPA: Tuckerman, Berne & Martyna 1992); "two levels,
midpoint" below is such a splitting into a fast and a slow force, with impulses of the slow one.
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
from collections.abc import Iterator
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
from experiments.common.method import Method, Run
from experiments.particles.report import draw_figure, shown_prices, shown_summary, sum_up
from experiments.particles.run import (
    Task,
    measure_gamma,
    problem_of,
    run_method,
    run_peers,
    solve_finely,
    steps_of,
)
from mlem_jax import Plan, diagnosis, draws, gates, plans
from mlem_jax.types import Logits, Scalar, State


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


class Case(NamedTuple):
    """What is solved, how finely, and by what.

    Attributes:
        reaches: neighbours on either side that each level sums over; the last are all of them, so
            there are 2 reach + 1 rods on a ring.
        size: of the core, in lattice spacings; 0 for none.
        fine: steps of the reference; all others divide it.
        alone: steps of Euler-Maruyama with all pairs.
        bases: steps of ML-EM, multiples of `BINS`.
        spent: on all that is above the bottom level, in evaluations of the top.
        peers: solvers of diffrax, with all pairs.
        peer_steps: and their steps.
        errors: mean squares at which prices are told.
    """

    reaches: tuple[int, ...]
    size: float
    fine: int
    alone: tuple[int, ...]
    bases: tuple[int, ...]
    spent: tuple[float, ...]
    peers: tuple[str, ...]
    peer_steps: tuple[int, ...]
    errors: tuple[float, ...]


BINS = 4
"""Of time, with the same gates throughout each."""
STIFF = Case(
    (2, 8, 32, 128, 512), 0.9, 7680, (384, 480, 512, 640, 1920), (512, 960, 1920),
    (5.0, 15.0, 40.0), ("Euler", "SEA", "ShARK"), (384, 480, 640),
    (1e-3, 1e-4, 1e-5, 1e-6),
)  # fmt: skip
SOFT = Case(
    STIFF.reaches, 0.0, 3200, (16, 20, 32, 40, 80, 400), (40, 160, 800),
    (2.5, 7.0, 20.0), ("SEA", "ShARK"), (10, 20, 32, 40, 80),
    (1e-2, 1e-3, 1e-4, 1e-5),
)  # fmt: skip
CASES = {
    "stiff core, 1025 rods": STIFF,
    "no core, 1025 rods": SOFT,
    "no core, 129 rods": SOFT._replace(reaches=(2, 8, 64), bases=(40, 160)),
    "no core, 17 rods": SOFT._replace(reaches=(2, 8), bases=(40, 160)),
}
TINY = {
    "stiff core, 33 rods": STIFF._replace(
        reaches=(2, 4, 16),
        fine=960,
        alone=(480,),
        bases=(480,),
        spent=(10.0,),
        peer_steps=(480,),
        peers=("Euler",),
    ),
}
# Of the same shapes, so that nothing is compiled anew.
TINY["no core, 33 rods"] = TINY["stiff core, 33 rods"]._replace(size=0.0)


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


# 3. Plans: whatever is compared is a table of which level runs when, and with what weight.


def methods(task: Task, settings: Settings, case: Case) -> Iterator[Run]:
    """All pairs at every step; the lower levels alone; ML-EM on the whole ladder, and on two."""
    top, most = len(task.ladder), case.bases[-1]
    for count in case.alone:
        yield run_of(task, Method("top level", (top,)), [plans.full(count, 1, 1)])
    for level in range(1, top):
        yield run_of(task, Method("level", (level,)), [plans.full(most, 1, 1)])
    sensitivities = pilot_run(task, case)
    for count in case.bases:
        for spent in case.spent:
            yield from multilevel(task, sensitivities, count, spent, settings)
            # The bottom and the top alone: impulses are r-RESPA's way.
            two = gates.constant((1.0, min(1.0, spent / count)))
            logits = two.logits((), steps_of(task, count).t)
            yield from midpoints(task, "constant", (1, top), logits, spent)


def multilevel(
    task: Task, sensitivities: np.ndarray, count: int, spent: float, settings: Settings
) -> Iterator[Run]:
    """Gates of two families, drawn in three ways and held in one, all for about the same price.

    The bottom level is certain in all: it has the stiff core.
    """
    costs, key = task.ladder.costs, jax.random.key(settings.seed + 1)
    everything, t = tuple(range(1, len(costs) + 1)), steps_of(task, count).t
    v = np.repeat(sensitivities, count // BINS, axis=0)
    by_cost = gates.keep_open(gates.inverse_cost(costs))
    plain, even = (gates.from_sensitivities(v, costs, power=power) for power in (1 / 2, 1 / 3))
    # All draws have the same mean price, so one fit serves several.
    fitted = cache(lambda own: mlem.fit_budget(own, t, costs, count * costs[0] + spent,
                                               draw=draws.independent))  # fmt: skip
    for name, unevenly, evenly in (("inverse cost", by_cost, by_cost), ("pilot", plain, even)):
        for kind, draw, own in (
            ("independent", draws.independent, unevenly),
            ("systematic", draws.systematic, evenly),
        ):
            drawn = [mlem.draw_plan(draw, fitted(own), jax.random.fold_in(key, n))
                     for n in range(settings.draws)]  # fmt: skip
            method = Method("ML-EM", everything, gates=name, draw=kind, weights="impulse")
            yield run_of(task, method, drawn, spent=spent)
        yield from midpoints(task, name, everything, fitted(evenly), spent)


def midpoints(
    task: Task, name: str, levels: tuple[int, ...], logits: Logits, spent: float
) -> Iterator[Run]:
    """Openings without chance: with impulses, and with differences held along straight lines."""
    openings = plans.open_first(draws.midpoint.openings(None, logits))
    held = _trapezoid(openings, steps_of(task, len(logits)))
    impulses = mlem.draw_plan(draws.midpoint, logits, None)
    for weights, plan in (("impulse", impulses), ("trapezoid", held)):
        method = Method("ML-EM", levels, gates=name, draw="midpoint", weights=weights)
        yield run_of(task, method, [plan], spent=spent)


_trapezoid = jax.jit(plans.trapezoid)


def run_of(task: Task, method: Method, own: list[Plan], **parameters: Any) -> Run:
    """A point of a curve, with its number of steps among its parameters."""
    count = len(own[0].weights)
    times = mlem.grids.uniform_grid(0.0, task.end, count)
    return Run(method, {"steps": count, **parameters}, times, own)


def pilot_run(task: Task, case: Case) -> np.ndarray:
    """v[bin, k] on a coarse grid: one ring, on a path of its own, in forward mode.

    It is in proportion to the step size, the same for all bins, so it serves any grid.
    """
    steps = steps_of(task, case.bases[0])
    path_key, key = jax.random.split(jax.random.fold_in(task.key, 1))
    path = mlem.brownian_path(path_key, steps, samples=jnp.arange(1))
    problem = mlem.Problem(task.x[:1], path)
    found = diagnosis.measure_sensitivities(task.ladder, problem, steps, key, bins=BINS)
    return np.asarray(found)[:: len(found) // BINS]


# 4. All of it along one path, beside solvers of another library that are given its increments.


def run_case(name: str, settings: Settings, case: Case, console: Console) -> dict[str, Any]:
    """Everything that is measured in one case."""
    task = with_costs(make_task(settings, case))
    with console.status(f"{name}: all pairs in {case.fine} steps, and a pilot run"):
        begun = time.perf_counter()
        states = jax.block_until_ready(solve_finely(task).states)
        seconds = time.perf_counter() - begun
        everything = list(methods(task, settings, case))
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
