"""What do fitted plans gain on the best single network, at equal error?

Plans are fitted and chosen on a pilot batch and judged on pictures that no fit has seen, along the
same starts and Brownian paths as all others: the top level alone by Euler-Maruyama, DPM-Solver++ 2M
and, for the ODE, UniPC of diffusers, each on its best grid, and with fitted weights, in steps that
look ahead at the noise and in others; the recipe of the paper, the best of 15 independent draws;
what is chosen among plans that do not look ahead, and midpoint draws of a pilot's gates with its
levels and steps, if it has several. Killed at any moment, the same command goes on. Writes
results/fitted.json and .png, or with another --name those.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from experiments.common import benchmark, runs, tiny
from experiments.common.benchmark import Benchmark, NoiseAlong
from experiments.common.curves import Rows
from experiments.common.kept_plans import KeptPlan, write_plan
from experiments.common.machine import provenance
from experiments.common.method import Run, fitted, label
from experiments.common.pilots import Pilot, grid_of, make_pilot, search_of
from experiments.common.samplers import SAMPLERS, reference_grid
from experiments.fit import Errors, keep, told
from experiments.ladders.shipped import SHIPPED, Trained, load
from experiments.ours import fitted_rivals as rivals
from experiments.ours.fitted_figure import draw_fitted, table_of
from experiments.ours.fitted_rows import summarise_fitted
from experiments.peers import solvers
from experiments.peers.methods import rows_of
from experiments.peers.solvers import Peer
from mlem_jax.arrays import read_arrays, write_arrays
from mlem_jax.fitting import Choice, choose_plan
from mlem_jax.grids import Grid


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost of fitted plans and of their rivals."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    budgets: tuple[float, ...] = (5.0, 8.0, 15.0, 30.0, 60.0)
    """In evaluations of the top level."""
    factors: tuple[float, ...] = (2.0, 1.5, 2.5, 3.0)
    """Steps of the multilevel plans that are tried, in evaluations that the budget would pay."""
    images: int = 64
    """Pictures that judge."""
    first: int = 128
    """Number of the first of them; those before were looked at while the method was made."""
    pilot: int = 96
    """Pictures of the pilot batch; in the search two thirds are fitted and all judge."""
    reference_steps: int = 400
    """Steps even in time of the fine solutions, which cut those at both ends finer."""
    gates: Path | None = Path("results/learned_gates")
    """Learned gates of this ladder, for the paper's recipe beside those of its theory."""
    draws: int = 15
    """Independent draws, of which the best on 16 pictures of the pilot batch is judged."""
    seed: int = 0
    """Of starts, Brownian paths and draws."""
    name: str = "fitted"
    """Of the files in `out`."""
    tiny: bool = False
    """On a random ladder, to see in a minute that it runs."""
    plans: Path | None = None
    """Folder to write the chosen plans to, `ddpm_15.npz` and so on."""
    runs: Path = Path("runs/fitted")
    """Rows as they come, resumed if they are there."""
    out: Path = Path("results")
    """Where the .json and .png go."""


def main(settings: Settings) -> None:
    """Run all that is not in the log yet; then summarise, write and draw."""
    with tiny.settings_of(settings, shrink) as given:
        console = Console(width=140)
        trained = load(given.ladder)
        about = {"costs": trained.ladder.costs}
        # Of other budgets there are other rows in the same log, of other samplers other logs.
        determining = runs.recorded(given, ("plans", "name", "budgets", "samplers"))
        runs.check_settings(given.runs, determining | about)
        rows = [row for name in given.samplers for row in compare(name, trained, given, console)]
        summary = {name: summarise_fitted([row for row in rows if row["sampler"] == name])
                   for name in given.samplers}  # fmt: skip
        for name, found in summary.items():
            console.print(table_of(name, found))
        runs.finish(given.name, given, about | {"summary": summary, "rows": rows},
                    partial(draw_fitted, rows=rows), apart=("plans", "name"),
                    console=console)  # fmt: skip


def shrink(settings: Settings, folder: Path) -> Settings:
    """What `--tiny` runs."""
    return dataclasses.replace(
        settings, ladder=tiny.random_ladder(folder / "ladder"), gates=None, budgets=(6.0,),
        factors=(3.0,), images=4, pilot=8, reference_steps=64, draws=2,
        runs=folder / "runs",
    )  # fmt: skip


class Compared(NamedTuple):
    """What the rows of one sampler share; what is dear is made when it is first asked for.

    Attributes:
        name: of the sampler.
        trained: the ladder.
        settings: of the comparison.
        fine: the grid of the fine solutions.
        judged: the batch that judges, and its noise along any grid.
        pilot: what is fitted on.
        choose: `(budget, whether steps may look ahead)`, what is chosen.
    """

    name: str
    trained: Trained
    settings: Settings
    fine: Grid
    judged: Callable[[], tuple[Benchmark, NoiseAlong]]
    pilot: Callable[[], Pilot]
    choose: Callable[[float, bool], Choice]


def compare(name: str, trained: Trained, settings: Settings, console: Console) -> Rows:
    """The rows of one sampler: of each budget the single networks', the paper's and ours."""
    own, log = shared(name, trained, settings, console), settings.runs / f"{name}.jsonl"
    tasks: dict[str, Callable[[], Rows]] = {}
    for budget in settings.budgets:
        tasks[f"single {budget:g}"] = partial(singles, own, round(budget))
        tasks[f"paper {budget:g}"] = partial(papers, own, budget, None)
        if settings.gates is not None:
            tasks[f"paper, learned {budget:g}"] = partial(papers, own, budget, settings.gates)
        tasks[f"multilevel {budget:g}"] = partial(multilevel, own, budget)
        tasks[f"no look-ahead {budget:g}"] = partial(without_look_ahead, own, budget)
    return [row for task, make in tasks.items() for row in once(log, task, make, console)]


def shared(name: str, trained: Trained, settings: Settings, console: Console) -> Compared:
    """What is compared, and on what."""
    fine, levels = reference_grid(settings.reference_steps), len(trained.ladder)

    @cache
    def judged() -> tuple[Benchmark, NoiseAlong]:
        with console.status(f"{name}: the fine solution of the pictures that judge"):
            samples = settings.first + jnp.arange(settings.images)
            file = settings.runs / f"{name}_reference.npz"
            kept = read_arrays(file, "a reference")["x"] if file.exists() else None
            made = benchmark.make_benchmark(name, trained, fine, samples, settings.seed, kept)
            write_arrays(file, {"x": made.reference})
            return made, benchmark.kept_noise(made)

    @cache
    def pilot() -> Pilot:
        search = search_of(name, fine, levels, factors=settings.factors)
        with console.status(f"{name}: the fine solution of the pilot batch"):
            return make_pilot(
                name, trained, search, settings.budgets, fine,
                images=settings.pilot, seed=settings.seed,
                keep=settings.runs / f"{name}_pilot.npz",
            )  # fmt: skip

    @cache
    def choose(budget: float, ahead: bool) -> Choice:
        search = search_of(name, fine, levels, ahead=ahead, factors=settings.factors)
        errors = Errors(settings.runs / f"{name}_{budget:g}.json")
        choice = choose_plan(trained.ladder, *pilot(), search, budget, cache=errors)
        console.print(f"{name}, {budget:g}: {told(choice.candidate)}")
        return choice

    return Compared(name, trained, settings, fine, judged, pilot, choose)


def judge(own: Compared, family: str, made: Iterable[Run | Peer]) -> Rows:
    """A row of each plan and solver."""
    batch, noise_along = own.judged()
    return [judged_row(family, run, own.trained, batch, noise_along, own.settings) for run in made]


def singles(own: Compared, count: int) -> Rows:
    """One network at so many steps: of both orders, on every grid; UniPC; with fitted weights."""
    return judge(own, "single", (
        *rivals.alone(own.name, own.trained, count, own.fine),
        *rivals.unipc(own.name, own.trained, count, own.fine),
        *rivals.fitted_alone(own.name, own.trained, own.pilot(), count, own.fine,
                             keep_in(own.settings)),
    ))  # fmt: skip


def papers(own: Compared, budget: float, gates: Path | None) -> Rows:
    """The paper's recipe, with learned gates or those of its theory."""
    asked = rivals.Asked(gates, own.settings.draws, jax.random.key(own.settings.seed + 1))
    made = rivals.papers(own.name, own.trained, own.pilot(), budget, own.fine, asked)
    return judge(own, "paper", made)


def multilevel(own: Compared, budget: float) -> Rows:
    """The plan that is chosen, and kept if plans are."""
    choice = own.choose(budget, True)
    if own.settings.plans is not None:
        file = own.settings.plans / f"{own.name}_{budget:g}.npz"
        keep(file, choice, own.name, own.fine, own.settings)
    rows = judge(own, "multilevel", [run_of(choice, budget, own.fine)])
    return [row | {"chosen": True} for row in rows]


def without_look_ahead(own: Compared, budget: float) -> Rows:
    """What is chosen among plans that do not look ahead, and midpoint draws with its levels."""
    noisy = SAMPLERS[own.name].noisy
    choice = own.choose(budget, not noisy)  # The ODE has nothing to look ahead at.
    found = [run_of(choice, budget, own.fine)] if noisy else []
    drawn = rivals.midpoints(own.name, own.trained, own.pilot(), choice.candidate, budget, own.fine)
    return judge(own, "multilevel", [*found, *drawn])


def keep_in(settings: Settings) -> rivals.Keep | None:
    """What keeps plans in the folder that was asked for."""
    folder = settings.plans
    if folder is None:
        return None

    def write(name: str, kept: KeptPlan, about: dict[str, Any]) -> None:
        known = provenance("experiments.ours.fitted") | {"settings": runs.recorded(settings)}
        write_plan(folder / name, kept, known | about)

    return write


def run_of(choice: Choice, budget: float, fine: Grid) -> Run:
    """The plan that was chosen."""
    best = choice.candidate
    times, order = grid_of(best.grid, fine, best.steps)
    method = fitted(best.levels, best.grid.partition(",")[0], order)
    return Run(method, {"budget": budget, "choice": told(best)}, times, [choice.fit.plan])


def once(log: Path, task: str, make: Callable[[], Rows], console: Console) -> Rows:
    """The rows of a task, from the log if they are there."""
    for kept in runs.read_log(log):
        if kept["task"] == task:
            return kept["rows"]
    rows = make()
    for row in rows:
        console.print(f"{row['sampler']}  {row['method']:<60} cost {row['cost']:6.1f}  "
                      f"mse {row['mse']:.2e}  median {row['median']:.2e}")  # fmt: skip
    runs.append(log, task=task, rows=rows)
    return rows


def judged_row(
    family: str,
    run: Run | Peer,
    trained: Trained,
    judged: Benchmark,
    noise_along: NoiseAlong,
    settings: Settings,
) -> dict[str, Any]:
    """What the result says of one plan, or of another project's solver."""
    network = solvers.top_network(trained.ladder)
    (row,) = rows_of(run, trained, network, judged, noise_along)
    median = float(np.median(row["picture_errors"]))
    return row | {"family": family, "method": label(run.method), "ladder": settings.ladder.name,
                  "median": median, "chosen": False}  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Settings))
