"""Which gates bring one nearest to the top level for the same cost?

Gates fixed by inverse cost, by the exponent of theory, and learned (experiments.learn_gates), each
at several budgets and in many draws; against them Euler-Maruyama of every level at several step
counts. All start at the same points and follow the same Brownian paths; the reference is the top
level on the finest grid. Best of the draws is chosen on one batch and judged on another. Killed at
any moment, the same command goes on. Writes results/error_against_cost.json and .png.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from experiments import runs
from experiments.comparison import timed_solve
from experiments.curves import PAPER, draw_curves, summarise, summary_table
from experiments.ladder import PROCESS, SHIPPED, Ladder, load
from experiments.learn_gates import learned_logits, scaled_families
from experiments.machine import machine
from experiments.quickstart import coarse_grids
from experiments.samplers import SAMPLERS, path_of
from mlem_jax import draws, plan, steps
from mlem_jax.evaluate import square_errors
from mlem_jax.noise import draw_starts, store_path
from mlem_jax.plan import Plan
from mlem_jax.steps import Grid, Steps
from mlem_jax.types import Key, Logits

FEW = (10, 20, 50, 100, 200)
"""Steps of Euler-Maruyama that one would try first; the paper's begin at 250."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost of fixed and learned gates and of Euler-Maruyama."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    gates: Path = Path("results/learned_gates")
    """Folder of learned gates, one a sampler."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    images: int = 12
    """Pictures in the batch that judges, and in the one that chooses."""
    reference_steps: int = 1000
    """Steps of the fine grid; the reference takes them all with the top level."""
    base_steps: int = 100
    """Steps of the multilevel plans."""
    budgets: tuple[float, ...] = (20.0, 35.0, 55.0, 80.0)
    """Expected cost of the multilevel plans, in evaluations of the top level."""
    draws: int = 15
    """Draws of each random plan."""
    seed: int = 0
    """Of the starts, the Brownian paths and the gates."""
    runs: Path = Path("runs/error_against_cost")
    """Rows as they come, resumed if they are there."""
    out: Path = Path("results")
    """Where error_against_cost.json and .png go."""


class Method(NamedTuple):
    """One way to draw pictures, in as many draws as it has.

    Attributes:
        name: shared by the points of one curve.
        parameters: what distinguishes the points.
        grid: the times it steps through.
        plans: its draws.
    """

    name: str
    parameters: dict[str, Any]
    grid: Grid
    plans: list[Plan]


class Course(NamedTuple):
    """What all methods have in common.

    Attributes:
        sampler: its name.
        x: the starts.
        samples: their numbers.
        key: of the paths.
        fine: the finest grid.
        reference: where the top level ends on it.
    """

    sampler: str
    x: jax.Array
    samples: jax.Array
    key: Key
    fine: Grid
    reference: jax.Array


def main(settings: Settings) -> None:
    """Run all that is not in the log yet; then summarise, write and draw."""
    console = Console(width=110)
    ladder = load(settings.ladder)
    about = {"costs": ladder.levels.costs, "losses": ladder.losses}
    runs.check_settings(settings.runs, determining(settings) | about)
    rows = [row for name in settings.samplers for row in compare(name, ladder, settings, console)]
    summary = {name: summarise([row for row in rows if row["sampler"] == name])
               for name in settings.samplers}  # fmt: skip
    for name in settings.samplers:
        console.print(summary_table(name, summary[name]))
    settings.out.mkdir(parents=True, exist_ok=True)
    result = {
        "machine": machine(),
        "settings": determining(settings),
        "costs": ladder.levels.costs,
        "summary": summary,
        "rows": rows,
    }
    (settings.out / "error_against_cost.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_curves(str(settings.out / "error_against_cost.png"), rows)
    console.print(f"wrote {settings.out}/error_against_cost.json and .png")


def compare(
    name: str, ladder: Ladder, settings: Settings, console: Console
) -> list[dict[str, Any]]:
    """The rows of one sampler, from the log where they are in it."""
    log = settings.runs / f"{name}.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    rows = [json.loads(line) for line in lines]
    fine = steps.uniform_grid(PROCESS.end, 0.0, settings.reference_steps)
    base = steps.subgrid(fine, steps.uniform_grid(PROCESS.end, 0.0, settings.base_steps))
    learned = learned_logits(settings.gates / name, SAMPLERS[name].table(base).t)
    methods = {
        (method.name, json.dumps(method.parameters)): method
        for method in (*euler_maruyama(ladder, fine), *multilevel(ladder, settings, base, learned))
    }

    def of_row(row: dict[str, Any]) -> tuple[str, str]:
        return row["method"], json.dumps(row["parameters"])

    rows = [row for row in rows if of_row(row) in methods]  # None of other learned gates.
    done = set(map(of_row, rows))
    missing = [method for each, method in methods.items() if each not in done]
    if not missing:
        return rows
    with console.status(f"{name}: two references of {settings.reference_steps} steps"):
        judged, chosen_on = (course_of(name, ladder, settings, fine, part) for part in range(2))
    for method in track(missing, name, console=console):
        rows += rows_of(method, ladder, judged, chosen_on)
        runs.write_whole(log, "".join(json.dumps(row) + "\n" for row in rows))
    order = list(methods)
    return sorted(rows, key=lambda row: (order.index(of_row(row)), row["draw"]))


def course_of(name: str, ladder: Ladder, settings: Settings, fine: Grid, part: int) -> Course:
    """Starts and paths of one of two batches, and where the top level brings them."""
    # Not the keys of learning: what was learned on is not judged on.
    start_key, path_key = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 1))
    samples = part * settings.images + jnp.arange(settings.images)
    x = draw_starts(start_key, samples, ladder.shape)
    course = Course(name, x, samples, path_key, fine, x)
    count = len(ladder.levels.drifts)
    top = plan.full_plan(settings.reference_steps, count, count)
    table, noise = laid_out(course, fine)
    return course._replace(reference=timed_solve(ladder, x, table, top, noise)[0])


def laid_out(course: Course, grid: Grid) -> tuple[Steps, jax.Array | None]:
    """The table for a grid, and the course's noise along it, drawn once for many plans."""
    sampler = SAMPLERS[course.sampler]
    path = path_of(sampler, course.key, course.fine, grid, course.samples)
    noise = None if path is None else jax.jit(store_path)(path, course.x)
    return sampler.table(grid), noise


def rows_of(
    method: Method, ladder: Ladder, judged: Course, chosen_on: Course
) -> list[dict[str, Any]]:
    """A row a draw; where one is chosen, by its error on the other batch, it is marked."""

    def errors_on(course: Course) -> tuple[list[float], list[float]]:
        table, noise = laid_out(course, method.grid)
        errors, seconds = [], []
        for each in method.plans:
            end, taken = timed_solve(ladder, course.x, table, each, noise)
            errors.append(float(square_errors(end, course.reference).mean()))
            seconds.append(taken)
        return errors, seconds

    errors, seconds = errors_on(judged)
    several = len(method.plans) > 1
    best = int(np.argmin(errors_on(chosen_on)[0])) if several else None
    rows = []
    for draw, each in enumerate(method.plans):
        paid = plan.price(each, ladder.levels.costs)
        rows.append({
            "sampler": judged.sampler,
            "method": method.name,
            "draw": draw,
            "parameters": method.parameters,
            "evaluations": [int(count) for count in paid.evaluations],
            "cost": float(paid.costs.sum()),
            "mse": errors[draw],
            "seconds": seconds[draw],
            "best": draw == best,
        })  # fmt: skip
    return rows


def euler_maruyama(ladder: Ladder, fine: Grid) -> Iterator[Method]:
    """Every level at several step counts; the top level on both kinds of grid."""
    top = len(ladder.levels.drifts)
    for count in (*FEW, *PAPER):
        if count >= len(fine) - 1:
            continue
        for kind, grid in coarse_grids(fine, count).items():
            for level in range(1, top + 1):
                if level == top or kind == "uniform":
                    name = f"Euler-Maruyama, level {level}, {kind}"
                    yield Method(name, {"steps": count}, grid, [plan.full_plan(count, top, level)])


def multilevel(ladder: Ladder, settings: Settings, base: Grid, learned: Logits) -> Iterator[Method]:
    """Three families of gates at every budget, and two more even draws of the learned ones."""
    costs, count = ladder.levels.costs, settings.base_steps
    for budget in settings.budgets:
        for family, of_scale in scaled_families(ladder, count, learned).items():
            logits = plan.fit_budget(of_scale, costs, budget)
            kinds = {"independent": draws.independent, "midpoint": draws.midpoint}
            if family == "learned":
                kinds["systematic"] = draws.systematic
            for kind, draw in kinds.items():
                parameters = {"budget": budget}
                if family == "learned":
                    parameters["shift"] = float(logits[0, -1] - learned[0, -1])
                keys = jax.random.split(jax.random.key(settings.seed + 1), settings.draws)
                if kind == "midpoint":
                    keys = keys[:1]
                plans = [plan.draw_plan(draw, logits, key) for key in keys]
                yield Method(f"{family}, {kind}", parameters, base, plans)


def determining(settings: Settings) -> dict[str, Any]:
    """All that the rows depend on."""
    given = runs.recorded(settings)
    apart = ("runs", "out", "samplers", "gates")
    return {name: given[name] for name in given if name not in apart}


if __name__ == "__main__":
    main(tyro.cli(Settings))
