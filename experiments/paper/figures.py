"""The figures of the paper (arXiv:2603.24594), from our own runs on any ladder.

1. Pictures of every method at matched cost.  2. gamma.  3. and 4. Error against time and against
FLOPs for DDPM and DDIM, from the rows that experiments.paper.error_against_cost has measured, and those
of experiments.ours.compare_draws if they are there. Each has a .json beside it that says of what, on
what and by which command it was made. What needs to be run is kept, so a killed run goes on.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from experiments.common import benchmark as courses
from experiments.paper import figure_error
from experiments.paper import figure_gamma
from experiments.common import runs
from experiments.common.pictures import Result, picture_rows, timed_solve
from experiments.common.benchmark import Course, Method
from experiments.ours.sensitivities import Piloted, effects_on
from experiments.paper.gates import effects_at, families, learned_logits, shifted
from experiments.ladders.shipped import SHIPPED, Ladder, load
from experiments.common.machine import provenance
from experiments.quickstart import coarse_grids
from experiments.common.samplers import SAMPLERS, two_step
from mlem_jax import draws, plan, steps
from mlem_jax.hold import open_first, trapezoid_plan
from mlem_jax.steps import Grid
from mlem_jax.types import Logits


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw the figures of the paper for a ladder."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    results: Path = Path("results")
    """Where error_against_cost.json, learned_gates/ and pilot/ of this ladder lie."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    images: int = 10
    """Pictures in a row."""
    cost: float = 50.0
    """Expected cost of the multilevel rows, in evaluations of the top level."""
    base_steps: int = 100
    """Steps of the multilevel rows, and of the path on which levels are compared."""
    few: tuple[int, ...] = (2, 4)
    """Levels of the row with fewer."""
    reference_steps: int = 1000
    """Steps of the fine grid."""
    counts: tuple[int, ...] = (10, 20, 50, 250)
    """Steps of Euler-Maruyama with the top level alone."""
    compared: int = 32
    """Pictures on whose paths levels are compared."""
    tiny: bool = False
    """Two pictures and few steps, to see in seconds that it runs."""
    seed: int = 3
    """Of the starts, the paths and the gates."""
    runs: Path = Path("runs/figures")
    """Where the effects of a pilot run with fewer levels are kept; one folder a ladder."""
    out: Path = Path("results/figures")
    """Where the figures go."""


def main(settings: Settings) -> None:
    """Draw what is not there yet of these settings, and what costs nothing anew."""
    if settings.tiny:
        settings = dataclasses.replace(settings, images=2, base_steps=20, reference_steps=60,
                                       counts=(5,), few=(1, 2), cost=14.0, compared=2)  # fmt: skip
    console = Console(width=110)
    ladder = load(settings.ladder)
    check_measured(settings)
    determining = {name: value for name, value in runs.recorded(settings).items()
                   if name not in ("out", "runs")}  # fmt: skip
    for folder in (settings.out, settings.runs):
        runs.check_settings(folder, determining | {"costs": ladder.levels.costs})
    about = {**provenance("experiments.paper.figures"), "settings": determining}
    for name in settings.samplers:
        file = settings.out / f"pictures_{name}"
        if not file.with_suffix(".json").exists():
            rows = pictures(name, ladder, settings, console)
            picture_rows(f"{file}.png", rows, columns=settings.images)
            write(file, about | {"sampler": name, "rows": [row for row, _ in rows]})
    file = settings.out / "gamma"
    if not file.with_suffix(".json").exists():
        with console.status("levels along the path of the top"):
            found = {
                name: figure_gamma.measured(
                    ladder, settings.ladder, name, settings.compared, settings.base_steps,
                    settings.seed,
                )
                for name in settings.samplers
            }  # fmt: skip
        figure_gamma.draw(f"{file}.png", found)
        write(file, about | {"samplers": found})
    for name in settings.samplers:
        file = settings.out / f"error_{name}"
        rows, measured = figure_error.rows_of(name, settings.results)
        curves, threshold = figure_error.curves_of(rows, settings.ladder)
        figure_error.draw(f"{file}.png", name, curves, threshold)
        for row in rows:
            del row["picture_errors"]  # They stand where they were measured.
        found = {"threshold": threshold, "curves": curves, "measured": measured, "runs": rows}
        write(file, about | {"sampler": name, **found})
    console.print(f"wrote pictures, gamma and errors, .png and .json, to {settings.out}")


def check_measured(settings: Settings) -> None:
    """Whether what the figures are drawn from is there.

    Raises:
        FileNotFoundError: which is missing, and the commands that make it.
    """
    own = [settings.results / "error_against_cost.json"]
    own += [settings.results / "pilot" / f"{name}.npz" for name in settings.samplers]
    own += [settings.results / "learned_gates" / name for name in settings.samplers]
    if absent := [str(file) for file in own if not file.exists()]:
        raise FileNotFoundError(
            f"expected {', '.join(absent)}; make them with experiments.ours.pilot, experiments."
            "learn_gates and experiments.paper.error_against_cost, each with the same --ladder and "
            f"--out {settings.results}"
        )


def write(file: Path, result: dict[str, Any]) -> None:
    """All or nothing, last of a figure: what is there is whole."""
    runs.write_whole(file.with_suffix(".json"), json.dumps(result, indent=1) + "\n")


def pictures(name: str, ladder: Ladder, settings: Settings, console: Console) -> list[Result]:
    """A row of pictures a method, along the same starts and paths."""
    fine = courses.fine_grid(settings.reference_steps)
    samples = courses.part_of(0, settings.images)
    with console.status(f"{name}: the reference"):
        course = courses.course_of(
            name, ladder, fine, samples, settings.seed,
            lambda table: {"top": courses.top_target(table, ladder)},
        )  # fmt: skip
    reference = np.asarray(course.references["top"])
    count = settings.reference_steps
    first = {"method": f"Euler-Maruyama, {count} steps", "cost": float(count), "mse": 0.0,
             "evaluations": [0] * (len(ladder.losses) - 1) + [count]}  # fmt: skip
    rows = [Result(first, reference)]
    for method in track(shown_methods(name, ladder, settings), name, console=console):
        rows.append(drawn(method, ladder, course, reference))
    return rows


def drawn(method: Method, ladder: Ladder, course: Course, reference: np.ndarray) -> Result:
    """The pictures of one method."""
    own = courses.rungs_of(ladder, method.levels)
    table, noise = courses.laid_out(course, method.grid, method.table)
    end, seconds = timed_solve(own, course.x, table, method.plans[0], noise)
    row = {
        "method": method.name,
        **courses.paid_for(method.plans[0], method, ladder),
        "mse": float(np.mean((np.asarray(end) - reference) ** 2)),
        "seconds": seconds,
    }
    return Result(row, np.asarray(end))


def shown_methods(name: str, ladder: Ladder, settings: Settings) -> list[Method]:
    """Few steps of the top level; the paper's gates; ours, at one cost."""
    fine = courses.fine_grid(settings.reference_steps)
    base = steps.subgrid(fine, courses.fine_grid(settings.base_steps))
    top = len(ladder.losses)
    methods = [
        Method(f"Euler-Maruyama, {count} steps", {}, coarse_grids(fine, count)["uniform"],
               [plan.full_plan(count, top, top)])
        for count in settings.counts
    ]  # fmt: skip
    table, costs = SAMPLERS[name].table(base), ladder.levels.costs
    effects = effects_at(settings.results / "pilot" / f"{name}.npz", np.asarray(table.t))
    every = families(ladder, settings.base_steps, effects)
    every["learned"] = shifted(learned_logits(settings.results / "learned_gates" / name, table.t))
    logits = {kind: plan.fit_budget(family, costs, settings.cost)
              for kind, family in every.items()}  # fmt: skip
    keys = jax.random.split(jax.random.key(settings.seed), 15)

    def nearest(draw: draws.Draw, own: Logits) -> list[plan.Plan]:
        """Of fifteen draws the one whose cost is nearest to what is expected."""
        plans = [plan.draw_plan(draw, own, key) for key in keys]
        paid = [float(plan.price(each, costs).costs.sum()) for each in plans]
        return [plans[int(np.argmin(np.abs(np.array(paid) - settings.cost)))]]

    paper = [Method(f"ML-EM, {kind}, independent", {}, base, nearest(draws.independent, own))
             for kind, own in logits.items() if kind != "pilot"]  # fmt: skip
    fires, two = open_first(draws.midpoint(None, logits["pilot"])), two_step(name)
    even = nearest(draws.systematic, logits["pilot"])
    return [
        *methods,
        *paper,
        Method("ours: pilot, systematic", {}, base, even),
        Method(
            "ours: trapezoid, second order", {}, base, [trapezoid_plan(fires, two(base))], (), two
        ),
        with_fewer_levels(name, ladder, fine, settings),
    ]


def with_fewer_levels(name: str, ladder: Ladder, fine: Grid, settings: Settings) -> Method:
    """Two levels at midpoints on the grid and the steps of a second-order solver."""
    own = courses.rungs_of(ladder, settings.few)
    grid = coarse_grids(fine, settings.base_steps)["log-SNR"]
    piloted = Piloted(settings.runs, settings.compared // 2, settings.base_steps)
    effects = effects_on(name, own, settings.few, grid, piloted)
    family = families(own, settings.base_steps, effects)["pilot"]
    logits = plan.fit_budget(family, own.levels.costs, settings.cost)
    middle = plan.draw_plan(draws.midpoint, logits, None)
    title = f"ours: second order{courses.suffix(settings.few)}"
    return Method(title, {}, grid, [middle], settings.few, two_step(name))


if __name__ == "__main__":
    main(tyro.cli(Settings))
