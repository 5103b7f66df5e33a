"""Which gates bring one nearest to the top level for the same cost?

Gates fixed by inverse cost, by the exponent of theory, from a pilot run (experiments.ours.pilot),
and learned (experiments.paper.learn_gates), each at several budgets and in many draws; against them
Euler-Maruyama of every level at several step counts. All start at the same points and follow the
same Brownian paths; the reference is the top level on the finest grid. As in the paper, of the
independent draws of learned gates one is chosen on one batch and judged on another. Killed at any
moment, the same command goes on; `--rows` takes rows that were measured before, to summarise and
draw them anew. Writes results/error_against_cost.json and .png.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from rich.console import Console

from experiments.common import benchmark, runs, tiny
from experiments.common.curves import PAPER, Rows, draw_curves, summarise, summary_table
from experiments.common.method import Method, Run, select
from experiments.common.samplers import SAMPLERS, coarse_grids, fine_grid
from experiments.ladders.shipped import SHIPPED, Trained, load
from experiments.ours import pilot, sensitivities
from experiments.paper import learn_gates
from experiments.paper.gates import families, learned_gates
from mlem_jax import draws, fit_budget, grids, plans
from mlem_jax.grids import Grid

FEW = (10, 20, 50, 100, 200)
"""Steps of Euler-Maruyama that one would try first; the paper's begin at 250."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost of fixed and learned gates and of Euler-Maruyama."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    gates: Path = Path("results/learned_gates")
    """Folder of learned gates, one per sampler."""
    pilot: Path = Path("results/pilot")
    """Folder of what pilot runs measured, one file per sampler."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    images: int = 16
    """Pictures in the batch that judges, and in the one that chooses."""
    reference_steps: int = 1000
    """Steps of the fine grid; the reference takes them all with the top level."""
    base_steps: int = 250
    """Steps of the multilevel plans."""
    budgets: tuple[float, ...] = (15.0, 30.0, 60.0)
    """Expected cost of the multilevel plans, in evaluations of the top level."""
    draws: int = 15
    """Independent draws of the learned gates, of which the best is chosen too."""
    others: int = 5
    """Draws of every other random plan."""
    seed: int = 0
    """Of the starts, the Brownian paths and the gates."""
    tiny: bool = False
    """On a random ladder, to see in a minute that it runs."""
    runs: Path = Path("runs/error_against_cost")
    """Rows as they come, resumed if they are there."""
    rows: Path | None = None
    """A result of this script: its rows are taken as they are, and nothing is run."""
    out: Path = Path("results")
    """Where error_against_cost.json and .png go."""


def main(settings: Settings) -> None:
    """Run all that is not in the log yet; then summarise, write and draw."""
    with tiny.settings_of(settings, small) as own:
        run(own)


def small(settings: Settings, folder: Path) -> Settings:
    """What `--tiny` runs, after a pilot run and some learning."""
    out = folder / "results"
    piloted = pilot.small(pilot.Settings(out=out), folder)
    pilot.run(piloted)
    learn_gates.run(learn_gates.small(learn_gates.Settings(out=out), folder))
    return dataclasses.replace(
        settings, ladder=piloted.ladder, gates=out / "learned_gates", pilot=out / "pilot",
        samplers=("ddpm",), images=2, reference_steps=24, base_steps=4, budgets=(2.5, 3.5),
        draws=2, others=2, runs=folder / "compared",
    )  # fmt: skip


def run(settings: Settings) -> None:
    """As `main`, of settings that are meant."""
    console = Console(width=110)
    if settings.rows:
        result = runs.measured_before(settings.rows, settings)
    else:
        result = measure(settings, console)
    rows = result.pop("rows")
    samplers = dict.fromkeys(row["sampler"] for row in rows)
    summary = {name: summarise(select(rows, sampler=name)) for name in samplers}
    for name, own in summary.items():
        console.print(summary_table(name, own))
    runs.finish("error_against_cost", settings, result | {"summary": summary, "rows": rows},
                partial(draw_curves, rows=rows), apart=APART, console=console)  # fmt: skip


APART = ("gates", "pilot")


def measure(settings: Settings, console: Console) -> dict[str, Any]:
    """The rows of all samplers, and the costs."""
    trained = load(settings.ladder)
    about = {"costs": trained.ladder.costs, "losses": trained.losses}
    runs.check_settings(settings.runs, runs.recorded(settings, APART) | about)
    rows = [row for name in settings.samplers for row in compare(name, trained, settings, console)]
    return {"costs": trained.ladder.costs, "rows": rows}


def compare(name: str, trained: Trained, settings: Settings, console: Console) -> Rows:
    """The rows of one sampler."""
    fine = fine_grid(settings.reference_steps)
    counts = [count for count in (*FEW, *PAPER) if count < settings.reference_steps]

    def grids_of(count: int) -> dict[str, Grid]:
        return {kind: coarse_grids(fine, count)[kind] for kind in ("uniform", "log-SNR")}

    # What no number of steps mends; the top at every step, the last of these, is the reference.
    every = benchmark.alone(trained, [len(fine) - 1], lambda _: {"uniform": fine}, lower=True)
    wanted = (
        *benchmark.alone(trained, counts, grids_of, lower=True),
        *list(every)[:-1],
        *multilevel(name, trained, settings),
    )

    def judge() -> Callable[[Run], Rows]:
        batches = [benchmark.part_of(part, settings.images) for part in range(2)]
        judged, chosen_on = (
            benchmark.make_benchmark(name, trained, fine, samples, settings.seed, order=1)
            for samples in batches
        )

        def rows(own: Run) -> Rows:
            others = chosen_on if is_recipe(own.method) else None
            return benchmark.rows_of(own, trained, judged, others)

        return rows

    return benchmark.measure_missing(settings.runs / f"{name}.jsonl", wanted, judge, console)


def multilevel(name: str, trained: Trained, settings: Settings) -> Iterator[Run]:
    """Every kind of gates at every budget, independent; the learned ones with even draws too."""
    fine, costs = fine_grid(settings.reference_steps), trained.ladder.costs
    times = grids.subgrid(fine, fine_grid(settings.base_steps))
    steps, levels = SAMPLERS[name].table(times), tuple(range(1, len(costs) + 1))
    found = sensitivities.read(settings.pilot / f"{name}.npz", steps)
    learned = learned_gates(settings.gates / name)
    as_learned = learned.logits(learned.init(), steps.t)
    count = max(settings.draws, settings.others)
    keys = jax.random.split(jax.random.key(settings.seed + 1), count)
    for budget in settings.budgets:
        for kind, gates in (families(trained, found) | {"learned": learned}).items():
            logits = fit_budget(gates, steps.t, costs, budget, draw=draws.independent)
            parameters = {"budget": budget}
            every = {"independent": draws.independent, "midpoint": draws.midpoint}
            if kind == "learned":
                parameters["shift"] = float(logits[0, -1] - as_learned[0, -1])
                every["systematic"] = draws.systematic
            for title, draw in every.items():
                method = Method("ML-EM", levels, "uniform", 1, kind, title, "impulse")
                number = settings.draws if is_recipe(method) else settings.others
                number = 1 if title == "midpoint" else number
                drawn = [plans.draw_plan(draw, logits, key) for key in keys[:number]]
                yield Run(method, parameters, times, drawn)


def is_recipe(method: Method) -> bool:
    """Whether it is the paper's: of independent draws of learned gates the best is chosen."""
    return (method.gates, method.draw) == ("learned", "independent")


if __name__ == "__main__":
    main(tyro.cli(Settings))
