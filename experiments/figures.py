"""The figures of the paper (arXiv:2603.24594), from our own runs on any ladder.

1. Pictures of every method at matched cost.  2. gamma.  3. and 4. Error against time and against
FLOPs for DDPM and DDIM, from the rows that experiments.error_against_cost has measured, and those
of experiments.compare_draws if they are there. Each has a .json beside it that says of what, on
what and by which command it was made. What needs to be run is kept, so a killed run goes on.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from experiments import courses, figure_error, figure_gamma, runs
from experiments.comparison import Result, picture_rows, timed_solve
from experiments.courses import Course, Method
from experiments.gates import effects_at, families, learned_logits, shifted
from experiments.ladder import SHIPPED, Ladder, load
from experiments.machine import provenance
from experiments.quickstart import coarse_grids
from experiments.samplers import SAMPLERS, two_step
from mlem_jax import draws, plan, steps
from mlem_jax.hold import open_first, trapezoid_plan
from mlem_jax.types import Key


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
    reference_steps: int = 1000
    """Steps of the fine grid."""
    few: tuple[int, ...] = (10, 20, 50, 250)
    """Steps of Euler-Maruyama with the top level alone."""
    compared: int = 32
    """Pictures on whose paths levels are compared."""
    tiny: bool = False
    """Two pictures and few steps, to see in seconds that it runs."""
    seed: int = 3
    """Of the starts, the paths and the gates."""
    out: Path = Path("results/figures")
    """Where the figures go."""


def main(settings: Settings) -> None:
    """Draw what is not there yet of these settings, and what costs nothing anew."""
    if settings.tiny:
        settings = dataclasses.replace(settings, images=2, base_steps=20, reference_steps=60,
                                       few=(5,), cost=14.0, compared=2)  # fmt: skip
    console = Console(width=110)
    ladder = load(settings.ladder)
    check_measured(settings)
    determining = {name: value for name, value in runs.recorded(settings).items()
                   if name not in ("out", "samplers")}  # fmt: skip
    runs.check_settings(settings.out, determining | {"costs": ladder.levels.costs})
    about = {**provenance("experiments.figures"), "settings": determining}
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
        curves, threshold = figure_error.gathered(name, settings.results, settings.ladder)
        figure_error.draw(f"{file}.png", name, curves, threshold)
        write(file, about | {"sampler": name, "threshold": threshold, "curves": curves})
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
            f"expected {', '.join(absent)}; make them with experiments.pilot, experiments."
            "learn_gates and experiments.error_against_cost, each with the same --ladder and "
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
    table, noise = courses.laid_out(course, method.grid, method.table)
    end, seconds = timed_solve(ladder, course.x, table, method.plans[0], noise)
    paid = plan.price(method.plans[0], ladder.levels.costs)
    row = {
        "method": method.name,
        "evaluations": [int(number) for number in paid.evaluations],
        "cost": float(paid.costs.sum()),
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
        for count in settings.few
    ]  # fmt: skip
    table, costs = SAMPLERS[name].table(base), ladder.levels.costs
    effects = effects_at(settings.results / "pilot" / f"{name}.npz", np.asarray(table.t))
    every = families(ladder, settings.base_steps, effects)
    every["learned"] = shifted(learned_logits(settings.results / "learned_gates" / name, table.t))
    logits = {kind: plan.fit_budget(family, costs, settings.cost)
              for kind, family in every.items()}  # fmt: skip
    key: Key = jax.random.key(settings.seed)

    def row(title: str, own: plan.Plan, two: Callable | None = None) -> Method:
        return Method(title, {}, base, [own], (), two)

    fires = open_first(draws.midpoint(None, logits["pilot"]))
    two = two_step(name)
    return [
        *methods,
        *(
            row(f"ML-EM, {kind}, independent", plan.draw_plan(draws.independent, own, key))
            for kind, own in logits.items()
            if kind != "pilot"
        ),
        row("ours: pilot, systematic", plan.draw_plan(draws.systematic, logits["pilot"], key)),
        row("ours: trapezoid, second order", trapezoid_plan(fires, two(base)), two),
    ]


if __name__ == "__main__":
    main(tyro.cli(Settings))
