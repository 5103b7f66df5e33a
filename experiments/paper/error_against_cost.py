"""Which gates bring one nearest to the top level for the same cost?

Gates fixed by inverse cost, by the exponent of theory, from a pilot run (experiments.ours.pilot), and
learned (experiments.paper.learn_gates), each at several budgets and in many draws; against them
Euler-Maruyama of every level at several step counts. All start at the same points and follow the
same Brownian paths; the reference is the top level on the finest grid. Best of the draws is chosen
on one batch and judged on another. Killed at any moment, the same command goes on; `--rows` takes
rows that were measured before, to summarise and draw them anew. Writes
results/error_against_cost.json and .png.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments.common import benchmark as courses
from experiments.common import runs
from experiments.common.benchmark import Course, Method
from experiments.common.curves import PAPER, draw_curves, summarise, summary_table
from experiments.paper.gates import effects_at, families, learned_logits, shifted
from experiments.ladders.shipped import SHIPPED, Ladder, load
from experiments.common.machine import provenance
from experiments.quickstart import coarse_grids
from experiments.common.samplers import SAMPLERS
from mlem_jax import draws, plan, steps
from mlem_jax.plan import Plan
from mlem_jax.steps import Grid, Steps

FEW = (10, 20, 50, 100, 200)
"""Steps of Euler-Maruyama that one would try first; the paper's begin at 250."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost of fixed and learned gates and of Euler-Maruyama."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    gates: Path = Path("results/learned_gates")
    """Folder of learned gates, one a sampler."""
    pilot: Path = Path("results/pilot")
    """Folder of measured effects, one file a sampler."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    images: int = 16
    """Pictures in the batch that judges, and in the one that chooses."""
    reference_steps: int = 1000
    """Steps of the fine grid; the reference takes them all with the top level."""
    base_steps: int = 250
    """Steps of the multilevel plans."""
    budgets: tuple[float, ...] = (50.0, 100.0, 180.0)
    """Expected cost of the multilevel plans, in evaluations of the top level."""
    draws: int = 15
    """Draws of each random plan."""
    seed: int = 0
    """Of the starts, the Brownian paths and the gates."""
    runs: Path = Path("runs/error_against_cost")
    """Rows as they come, resumed if they are there."""
    rows: Path | None = None
    """A result of this script: its rows are taken as they are, and nothing is run."""
    out: Path = Path("results")
    """Where error_against_cost.json and .png go."""


def main(settings: Settings) -> None:
    """Run all that is not in the log yet; then summarise, write and draw."""
    console = Console(width=110)
    if settings.rows:
        result = runs.measured_before(settings.rows, "experiments.paper.error_against_cost")
    else:
        result = measure(settings, console)
    rows = result.pop("rows")
    summary = {
        name: summarise([row for row in rows if row["sampler"] == name])
        for name in dict.fromkeys(row["sampler"] for row in rows)
    }
    for name, own in summary.items():
        console.print(summary_table(name, own))
    settings.out.mkdir(parents=True, exist_ok=True)
    result |= {"summary": summary, "rows": rows}
    (settings.out / "error_against_cost.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_curves(str(settings.out / "error_against_cost.png"), rows)
    console.print(f"wrote {settings.out}/error_against_cost.json and .png")


def measure(settings: Settings, console: Console) -> dict[str, Any]:
    """The rows of all samplers, and what they hang on."""
    ladder = load(settings.ladder)
    about = {"costs": ladder.levels.costs, "losses": ladder.losses}
    runs.check_settings(settings.runs, determining(settings) | about)
    return {
        **provenance("experiments.paper.error_against_cost"),
        "settings": determining(settings),
        "costs": ladder.levels.costs,
        "rows": [row for name in settings.samplers
                 for row in compare(name, ladder, settings, console)],
    }  # fmt: skip


def compare(
    name: str, ladder: Ladder, settings: Settings, console: Console
) -> list[dict[str, Any]]:
    """The rows of one sampler."""
    fine = courses.fine_grid(settings.reference_steps)
    base = steps.subgrid(fine, courses.fine_grid(settings.base_steps))
    counts = [count for count in (*FEW, *PAPER) if count < settings.reference_steps]
    # What no number of steps mends; the top at every step, the last of these, is the reference.
    *lower, _ = courses.euler_maruyama(ladder, [len(fine) - 1], lambda _: {"uniform": fine})
    methods = (
        *courses.euler_maruyama(ladder, counts, lambda count: coarse_grids(fine, count)),
        *lower,
        *multilevel(name, ladder, settings, base),
    )

    def both() -> tuple[Course, Course]:
        def targets(table: Steps) -> dict[str, Plan]:
            return {"top": courses.top_target(table, ladder)}

        judged, chosen_on = (
            courses.course_of(
                name, ladder, fine, courses.part_of(part, settings.images), settings.seed, targets
            )
            for part in range(2)
        )
        return judged, chosen_on

    return courses.run_missing(settings.runs / f"{name}.jsonl", ladder, methods, both, console)


def multilevel(name: str, ladder: Ladder, settings: Settings, base: Grid) -> Iterator[Method]:
    """Every family of gates at every budget, independent; the learned ones with even draws too."""
    costs, count = ladder.levels.costs, settings.base_steps
    t = SAMPLERS[name].table(base).t
    learned = learned_logits(settings.gates / name, t)
    effects = effects_at(settings.pilot / f"{name}.npz", np.asarray(t))
    every = families(ladder, count, effects) | {"learned": shifted(learned)}
    keys = jax.random.split(jax.random.key(settings.seed + 1), settings.draws)
    for budget in settings.budgets:
        for family, of_scale in every.items():
            logits = plan.fit_budget(of_scale, costs, budget)
            parameters = {"budget": budget}
            if family == "learned":
                parameters["shift"] = float(logits[0, -1] - learned[0, -1])
            kinds = {"independent": draws.independent, "midpoint": draws.midpoint}
            if family == "learned":
                kinds["systematic"] = draws.systematic
            for kind, draw in kinds.items():
                own = keys[:1] if kind == "midpoint" else keys
                plans = [plan.draw_plan(draw, logits, key) for key in own]
                yield Method(f"{family}, {kind}", parameters, base, plans)


def determining(settings: Settings) -> dict[str, Any]:
    """All that the rows depend on."""
    given = runs.recorded(settings)
    apart = ("runs", "rows", "out", "samplers", "gates", "pilot")
    return {name: given[name] for name in given if name not in apart}


if __name__ == "__main__":
    main(tyro.cli(Settings))
