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
from typing import Any, Literal

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
from mlem_jax.fitting import Choice, Search, choose_plan
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
    beyond: tuple[int, ...] = (90,)
    """Steps of further single networks, so that the last budgets have rivals that cost more."""
    factors: tuple[float, ...] = (2.0, 1.5, 2.5, 3.0)
    """Steps of the multilevel plans that are tried, in evaluations that the budget would pay."""
    images: int = 64
    """Pictures that judge."""
    first: int = 128
    """Number of the first of them; those before were looked at while the method was made."""
    pilot: int = 96
    """Pictures of the pilot batch; in the search two thirds are fitted and all judge."""
    reference_steps: int = 400
    """Steps of the fine solutions, by the top level, before those at both ends are cut."""
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
        determining = runs.recorded(given, ("plans", "name", "budgets", "beyond", "samplers"))
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
        beyond=(8,), factors=(3.0,), images=4, pilot=8, reference_steps=64, draws=2,
        runs=folder / "runs",
    )  # fmt: skip


def compare(name: str, trained: Trained, settings: Settings, console: Console) -> Rows:
    """The rows of one sampler: of each budget the single networks', the paper's and ours."""
    fine = reference_grid(settings.reference_steps)
    search = search_of(name, fine, len(trained.ladder), factors=settings.factors)

    @cache
    def judged() -> Benchmark:
        with console.status(f"{name}: the fine solution of the pictures that judge"):
            samples = settings.first + jnp.arange(settings.images)
            file = settings.runs / f"{name}_reference.npz"
            kept = read_arrays(file, "a reference")["x"] if file.exists() else None
            made = benchmark.make_benchmark(name, trained, fine, samples, settings.seed, kept)
            write_arrays(file, {"x": made.reference})
            return made

    @cache
    def drawn() -> NoiseAlong:
        return benchmark.kept_noise(judged())

    @cache
    def pilot() -> Pilot:
        with console.status(f"{name}: the fine solution of the pilot batch"):
            return make_pilot(
                name, trained, search, (*settings.budgets, *settings.beyond), fine,
                images=settings.pilot, seed=settings.seed,
                keep=settings.runs / f"{name}_pilot.npz",
            )  # fmt: skip

    def judge(family: str, made: Iterable[Run | Peer]) -> Rows:
        own, noise = judged(), drawn()
        return [judged_row(family, run, trained, own, noise, settings) for run in made]

    def singles(count: int) -> Rows:
        keep = keep_in(settings) if count in settings.budgets else None
        fitted = rivals.fitted_alone(name, trained, pilot(), count, fine, keep)
        return judge("single", (*rivals.alone(name, trained, count, fine),
                                *rivals.unipc(name, trained, count, fine), *fitted))  # fmt: skip

    def papers(budget: float, gates: Path | None = None) -> Rows:
        asked = rivals.Asked(gates, settings.draws, jax.random.key(settings.seed + 1))
        return judge("paper", rivals.papers(name, trained, pilot(), budget, fine, asked))

    def choose(budget: float, search: Search) -> Choice:
        errors = Errors(settings.runs / f"{name}_{budget:g}.json")
        choice = choose_plan(trained.ladder, *pilot(), search, budget, cache=errors)
        console.print(f"{name}, {budget:g}: {told(choice.candidate)}")
        return choice

    def multilevel(budget: float) -> Rows:
        choice = choose(budget, search)
        if settings.plans is not None:
            keep(settings.plans / f"{name}_{budget:g}.npz", choice, name, fine, settings)
        rows = judge("multilevel", [run_of(choice, budget, fine)])
        return [row | {"chosen": True} for row in rows]

    def unaware(budget: float) -> Rows:
        choice = choose(budget, search_of(name, fine, len(trained.ladder), ahead=False,
                                          factors=settings.factors))  # fmt: skip
        found = [run_of(choice, budget, fine)] if SAMPLERS[name].noisy else []
        drawn = rivals.midpoints(name, trained, pilot(), choice.candidate, budget, fine)
        return judge("multilevel", [*found, *drawn])

    log, found = settings.runs / f"{name}.jsonl", []
    for budget in settings.budgets:
        found += once(log, f"single {budget:g}", partial(singles, round(budget)), console)
        found += once(log, f"paper {budget:g}", partial(papers, budget), console)
        if settings.gates is not None:
            learned = partial(papers, budget, settings.gates)
            found += once(log, f"paper, learned {budget:g}", learned, console)
        found += once(log, f"multilevel {budget:g}", partial(multilevel, budget), console)
        found += once(log, f"no look-ahead {budget:g}", partial(unaware, budget), console)
    for count in settings.beyond:
        found += once(log, f"single {count}", partial(singles, count), console)
    return found


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
