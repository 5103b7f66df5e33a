"""What do even draws, held differences, a second-order base and fewer levels gain?

Everything along the same starts and Brownian paths as in experiments.paper.error_against_cost,
whose rows of the paper's gates stand beside: Euler-Maruyama and the two-step solver with the top
level alone, the switch from small to large, and multilevel plans whose gates come from a pilot run,
drawn independently, systematically or at midpoints, as impulses or held with the trapezoid rule.
Killed at any moment, the same command goes on; `--rows` takes rows that were measured before, to
summarise and draw them anew. Writes results/compare_draws.json and .png.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from rich.console import Console

from experiments.common import benchmark, runs, tiny
from experiments.common.curves import Pictures, Rows, curve, many, summarise, summary_table
from experiments.common.method import Method, Run, select
from experiments.common.samplers import SAMPLERS, coarse_grids, fine_grid
from experiments.ladders.shipped import NOUNS, Trained, load, pick
from experiments.ours.panels import PAPERS, draw_panels
from experiments.ours.sensitivities import Piloted, measured_once
from experiments.paper.gates import families
from mlem_jax import Plan, draws, fit_budget, plans
from mlem_jax.frontier import Points
from mlem_jax.grids import Grid
from mlem_jax.types import Key

ALONE = (10, 15, 20, 30, 50, 75, 100, 150, 200)
"""Steps of the top level alone."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost of draws that cancel and of second-order corrections."""

    ladder: Path = NOUNS
    """Folder of trained levels."""
    papers: Path | None = Path("results/error_against_cost.json")
    """Rows of the paper's methods, of the same starts and paths; with None they are left out."""
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
    tiny: bool = False
    """On a random ladder, to see in a minute that it runs."""
    runs: Path = Path("runs/compare_draws")
    """Rows as they come, resumed if they are there, and what pilot runs measured."""
    rows: Path | None = None
    """A result of this script: its rows are taken as they are, and nothing is run."""
    out: Path = Path("results")
    """Where compare_draws.json and .png go."""


def main(settings: Settings) -> None:
    """Run all that is not in the log yet; then summarise, write and draw."""
    with tiny.settings_of(settings, small) as own:
        run(own)


def small(settings: Settings, folder: Path) -> Settings:
    """What `--tiny` runs."""
    return dataclasses.replace(
        settings, ladder=tiny.random_ladder(folder / "ladder"), papers=None, samplers=("ddpm",),
        few=(1, 2), images=2, reference_steps=24, base_steps=(4,), budgets=(3.0,), draws=2,
        runs=folder / "runs",
    )  # fmt: skip


def run(settings: Settings) -> None:
    """As `main`, of settings that are meant."""
    console = Console(width=140)
    if settings.rows:
        result = runs.measured_before(settings.rows, settings)
    else:
        result = measure(settings, console)
    rows = result.pop("rows")
    samplers = dict.fromkeys(row["sampler"] for row in rows)
    summary = {name: summarise(select(rows, sampler=name), alone_and_paper) for name in samplers}
    for name, own in summary.items():
        console.print(summary_table(name, own))
    runs.finish("compare_draws", settings, result | {"summary": summary, "rows": rows},
                partial(draw_panels, rows=rows), apart=("papers",), console=console)  # fmt: skip


def measure(settings: Settings, console: Console) -> dict[str, Any]:
    """The rows of all samplers, the paper's among them, and the costs."""
    trained = load(settings.ladder)
    papers = {name: papers_rows(name, settings) for name in settings.samplers}
    about = {"costs": trained.ladder.costs, "losses": trained.losses}
    runs.check_settings(settings.runs, runs.recorded(settings, ("papers",)) | about)
    return {
        "costs": trained.ladder.costs,
        "rows": [row for name in settings.samplers
                 for row in (*papers[name], *compare(name, trained, settings, console))],
    }  # fmt: skip


def papers_rows(name: str, settings: Settings) -> Rows:
    """The rows of the paper's gates and step counts, if they are of the same starts and paths.

    Raises:
        FileNotFoundError: if they were not measured.
        ValueError: if they are of others.
    """
    if settings.papers is None:
        return []
    if not settings.papers.exists():
        raise FileNotFoundError(f"expected the paper's rows in {settings.papers}; measure them "
                                "with python -m experiments.paper.error_against_cost")  # fmt: skip
    found = json.loads(settings.papers.read_text())
    for key in ("ladder", "images", "reference_steps", "seed"):
        own, theirs = runs.recorded(settings)[key], found["settings"][key]
        if own != theirs:
            raise ValueError(f"expected {settings.papers} to be of {key} {own}, got {theirs}; give "
                             "both experiments the same")  # fmt: skip
    rows = select(found["rows"], sampler=name)
    alone = select(rows, family="top level", grid="uniform")
    papers = [row for row in rows if row["gates"] in PAPERS and row["draw"] == "independent"]
    return [*(row for row in alone if many(row)), *papers]


def alone_and_paper(rows: Rows, which: str, pictures: Pictures) -> dict[str, Points]:
    """The top level alone, of first and of second order, on both grids; the paper's best draws."""
    del which  # A single draw is compared with the best of theirs.
    first, second = (select(rows, family="top level", order=order) for order in (1, 2))
    papers = [row for row in rows if row["gates"] in PAPERS]
    return {
        "Euler-Maruyama": curve([row for row in first if not many(row)], "median", pictures),
        "Euler-Maruyama, 250 steps or more":
            curve([row for row in first if many(row)], "median", pictures),
        "second-order, top alone": curve(second, "median", pictures),
        "best of 15 of the paper's": curve(papers, "best", pictures),
    }  # fmt: skip


def compare(name: str, trained: Trained, settings: Settings, console: Console) -> Rows:
    """The rows of one sampler."""
    fine = fine_grid(settings.reference_steps)
    counts = [count for count in ALONE if count < settings.reference_steps]
    wanted = [
        own
        for order in (1, 2)
        for own in benchmark.alone(trained, counts, partial(coarse_grids, fine), order=order)
    ]
    piloted = Piloted(settings.runs, settings.images, settings.base_steps[-1])
    keys = jax.random.split(jax.random.key(settings.seed + 1), settings.draws)
    whole = tuple(range(1, len(trained.ladder) + 1))
    for count in settings.base_steps:
        every = coarse_grids(fine, count)
        # The second is the grid on which the peers of diffusion sampling are at their best.
        for levels, grid in ((whole, "uniform"), (settings.few, "uniform"),
                             (settings.few, "log-SNR")):  # fmt: skip
            for budget in settings.budgets:
                costs = pick(trained, levels).ladder.costs
                if budget < 0.8 * count and benchmark.payable(costs, count, budget):
                    own = Method("", levels, grid)
                    if grid == "uniform":
                        wanted += switches(own, trained, budget, every[grid])
                    wanted += multilevel(own, name, trained, budget, every[grid], piloted, keys)

    def judge() -> Callable[[Run], Rows]:
        samples = benchmark.part_of(0, settings.images)
        judged = benchmark.make_benchmark(name, trained, fine, samples, settings.seed)
        return lambda own: benchmark.rows_of(own, trained, judged)

    return benchmark.measure_missing(settings.runs / f"{name}.jsonl", wanted, judge, console)


def switches(own: Method, trained: Trained, budget: float, times: Grid) -> Iterator[Run]:
    """From the best level that can be paid at every step to the top, for a budget."""
    costs, count = pick(trained, own.levels).ladder.costs, len(times) - 1
    if paid := [level for level, cost in enumerate(costs[:-1], 1) if cost * count < budget]:
        at = round((count - budget) / (1 - costs[paid[-1] - 1]))
        plan = plans.switch(count, len(costs), at, early=paid[-1], late=len(costs))
        parameters = {"budget": budget, "base": count}
        yield Run(own._replace(family="switch"), parameters, times, [plan])


def multilevel(
    own: Method,
    name: str,
    trained: Trained,
    budget: float,
    times: Grid,
    piloted: Piloted,
    keys: Key,
) -> Iterator[Run]:
    """Multilevel plans of every kind, for a budget."""
    chosen, steps = pick(trained, own.levels), SAMPLERS[name].table(times)
    found = measured_once(name, trained, own.levels, steps, piloted)
    logits = {
        kind: fit_budget(gates, steps.t, chosen.ladder.costs, budget, draw=draws.independent)
        for kind, gates in families(chosen, found).items()
    }
    of_pilot = logits["pilot"]
    openings = plans.open_first(draws.midpoint.openings(None, of_pilot))

    def even(kind: str) -> list[Plan]:
        return [plans.draw_plan(draws.midpoint, logits[kind], None)]

    def drawn(draw: draws.Draw) -> list[Plan]:
        return [plans.draw_plan(draw, of_pilot, key) for key in keys]

    every = [
        (1, "inverse cost", "midpoint", "impulse", even("inverse cost")),
        (1, "pilot", "independent", "impulse", drawn(draws.independent)),
        (1, "pilot", "systematic", "impulse", drawn(draws.systematic)),
        (1, "pilot", "midpoint", "impulse", even("pilot")),
        (2, "pilot", "midpoint", "impulse", even("pilot")),
        *((order, "pilot", "midpoint", "trapezoid",
           [plans.trapezoid(openings, SAMPLERS[name].table(times, order))]) for order in (1, 2)),
    ]  # fmt: skip
    for order, gates, draw, weights, each in every:
        method = own._replace(family="ML-EM", order=order, gates=gates, draw=draw, weights=weights)
        yield Run(method, {"budget": budget, "base": len(times) - 1}, times, each)


if __name__ == "__main__":
    main(tyro.cli(Settings))
