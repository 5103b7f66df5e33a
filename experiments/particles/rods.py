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
import json
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

from experiments.common import runs
from experiments.paper.gates import Family, open_bottom
from experiments.common.machine import provenance
from experiments.particles.report import (
    UNITS,
    cheapest_where,
    compare,
    draw_figure,
    gains,
    shown_prices,
    shown_summary,
)
from experiments.particles.run import (
    Method,
    Problem,
    coarse_noise,
    fine_noise,
    measure_gamma,
    row_of,
    run_method,
    solve_finely,
    table_of,
    timed,
    without_spikes,
)
from mlem_jax import draws, gates, plan, steps
from mlem_jax.draws import Draw
from mlem_jax.groups import draw_plans
from mlem_jax.hold import open_first, trapezoid_plan
from mlem_jax.levels import Levels, measure_costs
from mlem_jax.noise import brownian_path
from mlem_jax.pilot import effect_gates, measure_effects
from mlem_jax.plan import Plan
from mlem_jax.steps import Steps
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
        bases: steps of ML-EM, multiples of `STRETCHES`.
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


STRETCHES = 4
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


def make_ladder(settings: Settings, case: Case) -> tuple[Rods, ...]:
    """The levels' parameters: the same rods, seen further and further."""
    signs = np.random.default_rng(settings.seed).choice([-1.0, 1.0], 2 * case.reaches[-1] + 1)
    charges = jnp.asarray(1 + settings.spread * signs, jnp.result_type(float))
    size = jnp.asarray(case.size, charges.dtype)
    return tuple(Rods(jnp.asarray(reach), charges, size) for reach in case.reaches)


# 2. The ladder: functions with their measured costs, and what all methods share.


def make_problem(settings: Settings, case: Case) -> Problem:
    """Levels with their costs on this machine, the lattice to start from, and a Brownian path."""
    params = make_ladder(settings, case)
    drifts, count = (forces,) * len(params), len(params[0].charges)
    start = jnp.zeros((max(settings.rods // count, 1), count))
    measured = measure_costs(drifts, params, start, jnp.zeros(()), repeats=31)
    # In evaluations of the top.
    costs = without_spikes(measured) / measured[-1]
    levels = Levels(drifts, tuple(float(cost) for cost in costs))
    deviation = (2 * settings.temperature) ** 0.5
    key = jax.random.key(settings.seed)
    return Problem(levels, params, case.reaches, start, deviation, settings.end, case.fine, key)


# 3. Plans: whatever is compared is a table of which level runs when, and with what weight.


def methods(problem: Problem, settings: Settings, case: Case) -> Iterator[Method]:
    """All pairs at every step; the lower levels alone; ML-EM on the whole ladder, and on two."""
    ladder = len(problem.reaches)
    for count in case.alone:
        alone = [plan.full_plan(count, 1, 1)]
        yield Method("Euler-Maruyama, all pairs", {"steps": count}, count, alone, (ladder,))
    most = case.bases[-1]
    for level, reach in enumerate(problem.reaches[:-1], 1):
        alone = [plan.full_plan(most, 1, 1)]
        name = f"Euler-Maruyama, {reach} neighbours"
        yield Method(name, {"steps": most}, most, alone, (level,))
    effects = pilot_run(problem, case)
    for count in case.bases:
        for spent in case.spent:
            yield from multilevel(problem, effects, count, spent, settings)
            yield from two_levels(problem, count, spent)


def multilevel(
    problem: Problem, effects: np.ndarray, count: int, spent: float, settings: Settings
) -> Iterator[Method]:
    """Gates of two families, drawn in three ways and held in one, all for about the same price.

    The bottom level is certain in all: it has the stiff core.
    """
    costs, key = problem.levels.costs, jax.random.key(settings.seed + 1)

    def by_cost(scale: float) -> Logits:
        return open_bottom(gates.inverse_cost_gates(costs, STRETCHES, scale=scale))

    def by_pilot(scale: float) -> Logits:
        return effect_gates(effects, costs, scale=scale, power=1 / 2)

    def by_pilot_even(scale: float) -> Logits:
        return effect_gates(effects, costs, scale=scale, power=1 / 3)

    def fitted(family: Family) -> Logits:
        # For one step in each stretch, and its share of the price.
        own = plan.fit_budget(family, costs, STRETCHES * (costs[0] + spent / count))
        return jnp.repeat(own, count // STRETCHES, axis=0)

    def drawn(name: str, draw: Draw, logits: Logits, count_draws: int) -> Method:
        stacked = drawn_plans(draw, logits, key, count_draws)
        plans = [jax.tree.map(lambda leaf, n=n: leaf[n], stacked) for n in range(count_draws)]
        return Method(name, parameters, count, plans, everything)

    everything, parameters = tuple(range(1, len(costs) + 1)), {"steps": count, "spent": spent}
    for name, family, even in (
        ("inverse cost", by_cost, by_cost),
        ("pilot", by_pilot, by_pilot_even),
    ):
        logits = fitted(family)
        yield drawn(f"ML-EM, {name}, independent", draws.independent, logits, settings.draws)
        logits = logits if even is family else fitted(even)
        yield drawn(f"ML-EM, {name}, systematic", draws.systematic, logits, settings.draws)
        yield drawn(f"ML-EM, {name}, midpoint", draws.midpoint, logits, 1)
        held = held_plan(logits, table_of(problem, count))
        yield Method(f"ML-EM, {name}, trapezoid", parameters, count, [held], everything)


def two_levels(problem: Problem, count: int, spent: float) -> Iterator[Method]:
    """The bottom and the top alone: impulses, which is r-RESPA's way, and straight lines."""
    logits = gates.constant_gates((1.0, min(1.0, spent / count)), count)
    ends, parameters = (1, len(problem.reaches)), {"steps": count, "spent": spent}
    impulses = jax.tree.map(
        lambda leaf: leaf[0], drawn_plans(draws.midpoint, logits, problem.key, 1)
    )
    yield Method("ML-EM, two levels, midpoint", parameters, count, [impulses], ends)
    held = held_plan(logits, table_of(problem, count))
    yield Method("ML-EM, two levels, trapezoid", parameters, count, [held], ends)


drawn_plans = jax.jit(draw_plans, static_argnums=(0, 3))
"""Several plans at once; `midpoint` takes no notice of the key."""


@jax.jit
def held_plan(logits: Logits, table: Steps) -> Plan:
    """Differences held between openings, along straight lines, and known from the first step."""
    return trapezoid_plan(open_first(draws.midpoint(None, logits)), table)


def pilot_run(problem: Problem, case: Case) -> np.ndarray:
    """v[stretch, k] on a coarse grid: one ring, on a path of its own, in forward mode.

    It is in proportion to the step size, the same for all stretches, so it serves any grid.
    """
    count = case.bases[0]
    grid = steps.uniform_grid(0.0, problem.end, count)
    path_key, key = jax.random.split(jax.random.fold_in(problem.key, 1))
    path = brownian_path(path_key, grid, samples=jnp.arange(1))
    effects = measure_effects(problem.levels, problem.params, problem.x[:1],
                              table_of(problem, count), key, path,
                              stretches=STRETCHES)  # fmt: skip
    return np.asarray(effects)[:: count // STRETCHES]


# 4. The peers: solvers of another library, given the same increments.


def peers(
    problem: Problem, case: Case, fine: jax.Array, reference: State, console: Console
) -> list[dict[str, Any]]:
    """Rows of diffrax with all pairs, or a word on how to have them."""
    if importlib.util.find_spec("diffrax") is None:
        console.print("diffrax is compared too if it is there: pip install diffrax", markup=False)
        return []
    from experiments import diffrax_driver as driver

    longest = max(case.peer_steps)
    rows = []
    for count in case.peer_steps:
        path = driver.pad(driver.coarse_increments(fine, count), longest)
        for name in case.peers:
            solver, evaluations = driver.SOLVERS[name]
            step = problem.end / count
            tables = (jnp.asarray(step), jnp.asarray(problem.deviation * step**0.5))
            given = (forces, problem.params[-1], problem.x, path)
            # One program for all counts; a single step compiles it.
            jax.block_until_ready(driver.solve_along(solver, *given, jnp.asarray(1), *tables))
            end, taken = timed(driver.solve_along, solver, *given, jnp.asarray(count), *tables)
            error = float(jnp.mean((end - reference) ** 2))
            counted = [0.0] * (len(problem.reaches) - 1) + [float(evaluations * count)]
            rows.append(row_of(f"diffrax {name}, all pairs", {"steps": count}, problem, counted,
                               [error], [taken]))  # fmt: skip
    return rows


def run_case(name: str, settings: Settings, case: Case, console: Console) -> dict[str, Any]:
    """Everything of one case, as it is told; with the problem and the states on the way."""
    problem = make_problem(settings, case)
    with console.status(f"{name}: all pairs in {case.fine} steps, and a pilot run"):
        fine = fine_noise(problem)
        path, seconds = solve_finely(problem, fine)
        everything = list(methods(problem, settings, case))
    reference = path.states[-1]
    coarse = cache(lambda count: coarse_noise(fine, count))
    rows = [
        run_method(method, problem, coarse(method.steps), reference)
        for method in track(everything, name, console=console)
    ]
    rows += peers(problem, case, fine, reference, console)
    return {
        "problem": problem,
        "states": path.states,
        "errors": case.errors,
        "costs": problem.levels.costs,
        "gamma": measure_gamma(problem, path.states),
        "reference_seconds": seconds,
        **summed_up(name, rows, case.errors, console),
        "rows": rows,
    }


def summed_up(
    name: str, rows: list[dict[str, Any]], errors: tuple[float, ...], console: Console
) -> dict[str, Any]:
    """What the rows of a case say: prices, gains, and where ML-EM is the cheapest."""
    told = compare(rows, errors)
    console.print(shown_prices(name, told, errors))
    return {
        "prices": told,
        "gains": gains(rows, errors),
        "cheapest": {unit: cheapest_where(rows, unit) for unit in UNITS},
    }


def sum_up_again(settings: Settings, file: Path, console: Console) -> None:
    """The rows of a result, summed up and drawn anew; only the rods of its picture move again."""
    result = runs.measured_before(file, "experiments.particles.rods")
    for name, own in result["cases"].items():
        own |= summed_up(name, own["rows"], tuple(own["errors"]), console)
    known = {field.name for field in dataclasses.fields(Settings)} - {"out", "rows"}
    asked = {name: value for name, value in result["settings"].items() if name in known}
    measured = dataclasses.replace(settings, **asked)
    problem = make_problem(measured, next(iter((TINY if measured.tiny else CASES).values())))
    path, _ = solve_finely(problem, fine_noise(problem))
    write(settings.out, problem, path.states, result, console)


def write(
    out: Path, problem: Problem, states: State, result: dict[str, Any], console: Console
) -> None:
    """The figure, the summary and the numbers."""
    out.mkdir(parents=True, exist_ok=True)
    draw_figure(str(out / "particles.png"), problem, states, result["cases"])
    console.print(shown_summary(result["cases"]))
    (out / "particles.json").write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"wrote {out}/particles.json and .png")


def main(settings: Settings) -> None:
    """All cases; then write and draw."""
    begun = time.perf_counter()
    console = Console(width=150)
    if settings.rows:
        sum_up_again(settings, settings.rows, console)
        return
    chosen = CASES
    if settings.tiny:
        chosen = TINY
        settings = dataclasses.replace(settings, rods=60, end=1.0, draws=2)
    cases = {name: run_case(name, settings, case, console) for name, case in chosen.items()}
    problems = {name: (own.pop("problem"), own.pop("states")) for name, own in cases.items()}
    result = {
        **provenance("experiments.particles.rods"),
        "settings": {name: value for name, value in runs.recorded(settings).items()
                     if name != "rows"},
        "seconds": time.perf_counter() - begun,
        "cases": {name: case._asdict() | cases[name] for name, case in chosen.items()},
    }  # fmt: skip
    write(settings.out, *next(iter(problems.values())), result, console)


if __name__ == "__main__":
    main(tyro.cli(Settings))
