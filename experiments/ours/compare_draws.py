"""What do even draws, held differences, a second-order base and a stacked ladder gain?

Everything along the same starts and Brownian paths as in experiments.paper.error_against_cost, whose rows
of the paper's gates stand beside: Euler-Maruyama and the two-step solver with the top level alone,
the switch from small to large, and multilevel plans whose gates come from a pilot run, drawn
independently, systematically, at midpoints, nested, with cell weights, or held with the trapezoid
rule, on the plain and on the stacked ladder (each judged against its own fine solution). Killed at
any moment, the same command goes on; `--rows` takes rows that were measured before, to summarise
and draw them anew. Writes results/compare_draws.json and .png.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from rich.console import Console

from experiments.common import benchmark as courses
from experiments.common import runs
from experiments.common.benchmark import Course
from experiments.common.curves import PAPER, Pictures, curve, summarise, summary_table
from experiments.ours.draw_methods import (
    plain,
    second_order_alone,
    stacked,
    stacked_alone,
    switches,
)
from experiments.ours.sensitivities import Piloted, effects_of, effects_on
from experiments.ladders.shipped import SHIPPED, Ladder, load
from experiments.common.machine import provenance
from experiments.ours.panels import PAPERS, draw_panels
from experiments.quickstart import coarse_grids
from experiments.common.samplers import SAMPLERS
from mlem_jax.frontier import Points
from mlem_jax.plan import Plan
from mlem_jax.stack import load_stack, stack_shares, stack_top
from mlem_jax.steps import Steps

ALONE = (10, 15, 20, 30, 50, 75, 100, 150, 200)
"""Steps of the top level alone."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost of draws that cancel and of second-order corrections."""

    ladder: Path = SHIPPED
    """Folder of trained levels, with stack.npz of experiments.stack beside them."""
    papers: Path = Path("results/error_against_cost.json")
    """Rows of the paper's methods, of the same starts and paths."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    few: tuple[int, ...] = (2, 4)
    """Levels of a shorter ladder, compared beside the whole one."""
    images: int = 16
    """Pictures that judge."""
    reference_steps: int = 1000
    """Steps of the fine grid."""
    base_steps: tuple[int, ...] = (50, 100)
    """Steps of the multilevel plans."""
    budgets: tuple[float, ...] = (15.0, 25.0, 40.0, 60.0)
    """Expected cost of the multilevel plans, in evaluations of the top level."""
    draws: int = 5
    """Draws of each random plan."""
    seed: int = 0
    """Of the starts, the Brownian paths and the gates."""
    runs: Path = Path("runs/compare_draws")
    """Rows as they come, resumed if they are there, and the effects of pilot runs."""
    rows: Path | None = None
    """A result of this script: its rows are taken as they are, and nothing is run."""
    out: Path = Path("results")
    """Where compare_draws.json and .png go."""


def main(settings: Settings) -> None:
    """Run all that is not in the log yet; then summarise, write and draw."""
    console = Console(width=140)
    if settings.rows:
        result = runs.measured_before(settings.rows, "experiments.ours.compare_draws")
    else:
        result = measure(settings, console)
    rows = result.pop("rows")
    summary = {
        name: summarise([row for row in rows if row["sampler"] == name], alone_and_paper)
        for name in dict.fromkeys(row["sampler"] for row in rows)
    }
    for name, own in summary.items():
        console.print(summary_table(name, own))
    settings.out.mkdir(parents=True, exist_ok=True)
    result |= {"summary": summary, "rows": rows}
    (settings.out / "compare_draws.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_panels(str(settings.out / "compare_draws.png"), rows)
    console.print(f"wrote {settings.out}/compare_draws.json and .png")


def measure(settings: Settings, console: Console) -> dict[str, Any]:
    """The rows of all samplers, the paper's among them, and what they hang on."""
    ladder = load(settings.ladder)
    papers = {name: papers_rows(name, settings) for name in settings.samplers}
    determining = {name: value for name, value in runs.recorded(settings).items()
                   if name not in ("runs", "rows", "out", "samplers", "papers")}  # fmt: skip
    about = {"costs": ladder.levels.costs, "losses": ladder.losses}
    runs.check_settings(settings.runs, determining | about)
    return {
        **provenance("experiments.ours.compare_draws"),
        "settings": determining,
        "costs": ladder.levels.costs,
        "rows": [row for name in settings.samplers
                 for row in (*papers[name], *compare(name, ladder, settings, console))],
    }  # fmt: skip


def papers_rows(name: str, settings: Settings) -> list[dict[str, Any]]:
    """The rows of the paper's gates and step counts, if they are of the same starts and paths.

    Raises:
        FileNotFoundError: if they were not measured.
        ValueError: if they are of others.
    """
    if not settings.papers.exists():
        raise FileNotFoundError(f"expected the paper's rows in {settings.papers}; measure them "
                                "with python -m experiments.paper.error_against_cost")  # fmt: skip
    found = json.loads(settings.papers.read_text())
    for key in ("ladder", "images", "reference_steps", "seed"):
        own, theirs = runs.recorded(settings)[key], found["settings"][key]
        if own != theirs:
            raise ValueError(f"expected {settings.papers} to be of {key} {own}, got {theirs}; give "
                             "both experiments the same")  # fmt: skip
    top = f"Euler-Maruyama, level {len(found['costs'])}, uniform"
    return [row for row in found["rows"] if row["sampler"] == name
            and (row["method"] in PAPERS or (row["method"] == top and many(row)))]  # fmt: skip


def many(row: dict[str, Any]) -> bool:
    """Whether a row has as many steps as Euler-Maruyama in the paper's figures."""
    return row["parameters"].get("steps") in PAPER


def alone_and_paper(
    rows: list[dict[str, Any]], which: str, pictures: Pictures
) -> dict[str, Points]:
    """The top level alone, of first and of second order, on both grids; the paper's best draws."""
    del which  # A single draw is compared with the best of theirs.
    names = dict.fromkeys(row["method"] for row in rows)
    few, dear = ([row for row in rows if many(row) == wanted] for wanted in (False, True))

    def points(start: str, own: list[dict[str, Any]] = few) -> Points:
        return [
            each
            for name in names
            if name.startswith(start)
            for each in curve(own, name, "median", pictures)
        ]

    papers = [each for name in PAPERS for each in curve(rows, name, "best", pictures)]
    return {
        "Euler-Maruyama": points("Euler-Maruyama"),
        "Euler-Maruyama, 250 steps or more": points("Euler-Maruyama", dear),
        "second-order, top alone": points("second-order, level"),
        "best of 15 of the paper's": papers,
    }


def compare(
    name: str, ladder: Ladder, settings: Settings, console: Console
) -> list[dict[str, Any]]:
    """The rows of one sampler."""
    fine = courses.fine_grid(settings.reference_steps)
    stack = load_stack(settings.ladder / "stack.npz")
    counts = [count for count in ALONE if count < settings.reference_steps]
    methods = [
        *courses.euler_maruyama(ladder, counts, partial(coarse_grids, fine), lower=False),
        *second_order_alone(name, ladder, counts, fine),
        *stacked_alone(name, ladder, stack, [count for count in counts if count <= 100], fine),
    ]
    keys = jax.random.split(jax.random.key(settings.seed + 1), settings.draws)
    piloted = Piloted(settings.runs, settings.images, settings.base_steps[-1])
    for count in settings.base_steps:
        grids = coarse_grids(fine, count)
        base = grids["uniform"]
        shares = stack_shares(stack, SAMPLERS[name].table(base).t)
        for chosen in ((), settings.few):
            own = courses.rungs_of(ladder, chosen)
            effects = effects_of(name, own, chosen, base, piloted)
            for budget in settings.budgets:
                if budget < 0.8 * count and courses.payable(own, count, budget):
                    methods += switches(own, chosen, budget, base)
                    methods += plain(name, own, chosen, effects, budget, base, keys)
                    if not chosen:
                        methods += stacked(name, own, effects, shares, budget, base, keys)
                        continue
                    # The grid on which the peers of diffusion sampling are at their best.
                    other = grids["log-SNR"]
                    moved = effects_on(name, own, chosen, other, piloted)
                    methods += [
                        method._replace(name=f"{method.name}, log-SNR")
                        for method in plain(name, own, chosen, moved, budget, other, keys)
                    ]

    def judged() -> tuple[Course, None]:
        def targets(table: Steps) -> dict[str, Plan]:
            top = courses.top_target(table, ladder)
            return {"top": top, "stacked top": stack_top(stack_shares(stack, table.t))}

        samples = courses.part_of(0, settings.images)
        return courses.course_of(name, ladder, fine, samples, settings.seed, targets), None

    return courses.run_missing(settings.runs / f"{name}.jsonl", ladder, methods, judged, console)


if __name__ == "__main__":
    main(tyro.cli(Settings))
