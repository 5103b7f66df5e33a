"""What do fitted plans gain on the best single network, at equal error?

Plans are fitted and chosen on a pilot batch and judged on pictures that no fit has seen, along the
same starts and Brownian paths as all others: the top level alone by Euler-Maruyama, DPM-Solver++ 2M
and, for the ODE, UniPC of diffusers, each on its better grid, and with fitted weights; the recipe
of the paper, the best of 15 independent draws; midpoint draws of a pilot's gates with the levels
and steps of the fitted plan. Killed at any moment, the same command goes on. Writes
results/fitted.json and .png, or with another --name those.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from experiments.common import benchmark, runs, tiny
from experiments.common.benchmark import Benchmark
from experiments.common.curves import Rows
from experiments.common.kept_plans import KeptPlan, write_plan
from experiments.common.machine import provenance
from experiments.common.method import Method, Run, label
from experiments.common.pilots import KINDS, Pilot, grid_of, make_pilot, search_of
from experiments.common.samplers import SAMPLERS, coarse_grids, fine_grid
from experiments.fit import Errors, content, keep, told
from experiments.ladders.shipped import SHIPPED, Trained, load, pick
from experiments.ours.fitted_figure import draw_fitted, summarise_fitted, table_of
from experiments.paper.gates import families, learned_gates
from experiments.peers import solvers
from mlem_jax import Steps, draws, fit_budget, gates, pick_levels, plans
from mlem_jax.evaluate import Batch, best_of
from mlem_jax.fitting import (
    Candidate,
    along,
    choose_plan,
    fit_plan,
    part_of,
    sensitivities_on,
    states_on,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost of fitted plans and of their rivals."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    budgets: tuple[float, ...] = (5.0, 8.0, 15.0, 30.0, 60.0)
    """In evaluations of the top level."""
    images: int = 64
    """Pictures that judge."""
    pilot: int = 32
    """Pictures of the pilot batch, of which a third chooses and is not fitted."""
    reference_steps: int = 400
    """Steps of the fine solutions, by the top level."""
    gates: Path | None = None
    """Learned gates of this ladder, for the paper's recipe; without them those of its theory."""
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
        # Of other budgets there are other rows in the same log.
        determining = runs.recorded(given, ("plans", "name", "budgets"))
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
        settings, ladder=tiny.random_ladder(folder / "ladder"), gates=None, budgets=(6.0, 8.0),
        images=4, pilot=8, reference_steps=64, draws=2, runs=folder / "runs",
    )  # fmt: skip


def compare(name: str, trained: Trained, settings: Settings, console: Console) -> Rows:
    """The rows of one sampler: of each budget the single networks', the paper's and ours."""
    fine = fine_grid(settings.reference_steps)
    search = search_of(name, fine, len(trained.ladder))

    @cache
    def judged() -> Benchmark:
        with console.status(f"{name}: the fine solution of the pictures that judge"):
            samples = jnp.arange(settings.images)
            return benchmark.make_benchmark(name, trained, fine, samples, settings.seed)

    @cache
    def pilot() -> Pilot:
        with console.status(f"{name}: the fine solution of the pilot batch"):
            return make_pilot(
                name, trained, search, settings.budgets, images=settings.pilot,
                reference_steps=settings.reference_steps, seed=settings.seed,
            )  # fmt: skip

    def judge(family: str, made: Iterator[Run]) -> Rows:
        return [judged_row(family, run, trained, judged(), settings) for run in made]

    def chosen(budget: float) -> Rows:
        errors = Errors(settings.runs / f"{name}_{budget:g}_{content(trained, settings)}.json")
        choice = choose_plan(trained.ladder, *pilot(), search, budget, cache=errors)
        if settings.plans is not None:
            file = settings.plans / f"{name}_{budget:g}.npz"
            keep(file, choice, name, fine, settings)
        console.print(f"{name}, {budget:g}: {told(choice.candidate)}")
        best = choice.candidate
        times, order = grid_of(best.grid, fine, best.steps)
        family = "ML-EM" if len(best.levels) > 1 else "top level"
        method = Method(family, best.levels, best.grid.partition(",")[0], order, weights="fitted")
        run = Run(method, {"budget": budget, "choice": told(best)}, times, [choice.fit.plan])
        row = judged_row("multilevel", run, trained, judged(), settings) | {"chosen": True}
        unfitted = midpoints(name, trained, pilot(), best, budget, fine)
        return [row, *judge("multilevel", unfitted)]

    found: Rows = []
    for budget in settings.budgets:
        count = round(budget)
        tasks: dict[str, Callable[[], Rows]] = {
            "single": lambda count=count: judge("single", alone(name, trained, count, fine)),
            "fitted single": lambda count=count: judge(
                "single", fitted_alone(name, trained, pilot(), count, fine, settings)),
            "peers": lambda count=count: peers(name, trained, count, fine, judged(), settings),
            "paper": lambda budget=budget: judge(
                "paper", papers(name, trained, pilot(), budget, settings)),
            "multilevel": lambda budget=budget: chosen(budget),
        }  # fmt: skip
        for task, make in tasks.items():
            found += once(settings.runs / f"{name}.jsonl", f"{task} {budget:g}", make, console)
    return found


def once(log: Path, task: str, make: Callable[[], Rows], console: Console) -> Rows:
    """The rows of a task, from the log if they are there."""
    lines = log.read_text().splitlines() if log.exists() else []
    for kept in map(json.loads, lines):
        if kept["task"] == task:
            return kept["rows"]
    rows = make()
    for row in rows:
        console.print(f"{row['sampler']}  {row['method']:<60} cost {row['cost']:6.1f}  "
                      f"mse {row['mse']:.2e}  median {row['median']:.2e}")  # fmt: skip
    runs.append(log, task=task, rows=rows)
    return rows


def judged_row(
    family: str, run: Run, trained: Trained, judged: Benchmark, settings: Settings
) -> dict[str, Any]:
    """What the result says of one plan."""
    (end,), (seconds,) = benchmark.ends_of(run, trained, judged)
    row = benchmark.row_of(run, 0, end, seconds, trained, judged)
    return finished(row, family, run.method, settings)


def finished(
    row: dict[str, Any], family: str, method: Method, settings: Settings
) -> dict[str, Any]:
    """A row, by family: single, paper, multilevel."""
    median = float(np.median(row["picture_errors"]))
    return row | {"family": family, "method": label(method), "ladder": settings.ladder.name,
                  "median": median, "chosen": False}  # fmt: skip


def alone(name: str, trained: Trained, count: int, fine: np.ndarray) -> Iterator[Run]:
    """The top level at every step, of first and of second order, on both grids."""
    del name
    for kind in KINDS:
        times, order = grid_of(kind, fine, count)
        method = Method("top level", (len(trained.ladder),), kind.partition(",")[0], order)
        yield Run(method, {"steps": count}, times, [plans.full(count, 1, 1)])


def fitted_alone(
    name: str, trained: Trained, pilot: Pilot, count: int, fine: np.ndarray, settings: Settings
) -> Iterator[Run]:
    """The same with fitted weights, two outputs remembered; the best on the pilot is kept."""
    levels = (len(trained.ladder),)
    own, least = pick_levels(trained.ladder, levels), np.inf
    for kind in KINDS:
        times, order = grid_of(kind, fine, count)
        steps = SAMPLERS[name].table(times, order)
        problem = along(pilot.problem, pilot.fine.steps, steps)
        fit = fit_plan(own, problem, steps, np.ones((count, 1), bool),
                       states_on(pilot.fine, steps), memory=(2,))  # fmt: skip
        grid, error = kind.partition(",")[0], float(fit.error)
        if settings.plans is not None and error < least:
            file, least = settings.plans / f"{name}_{count}_top.npz", error
            kept = KeptPlan(fit.plan, levels, name, times, grid, order, float(count))
            about = provenance("experiments.ours.fitted") | {"settings": runs.recorded(settings)}
            write_plan(file, kept, about | {"name": f"top level, {kind}", "mse": error})
        method = Method("top level", levels, grid, order, weights="fitted")
        yield Run(method, {"steps": count}, times, [fit.plan])


def peers(
    name: str, trained: Trained, count: int, fine: np.ndarray, judged: Benchmark, settings: Settings
) -> Rows:
    """UniPC of diffusers, for the ODE, where it is installed."""
    if SAMPLERS[name].noisy or solvers.missing() is not None:
        return []
    found = []
    for kind, times in coarse_grids(fine, count).items():
        method = Method("UniPC", (len(trained.ladder),), kind, 2)
        peer = solvers.Peer(method, {"steps": count}, times, count, solvers.unipc(fine, times))
        end, seconds = solvers.timed(peer, solvers.top_network(trained.ladder), judged.x, None)
        evaluations = [0] * (len(trained.ladder) - 1) + [count]
        row = {"sampler": name, **method._asdict(), "parameters": {"steps": count}, "number": 0,
               "evaluations": evaluations, "cost": float(count), "seconds": seconds,
               **benchmark.errors_of(end, judged)}  # fmt: skip
        found.append(finished(row, "single", method, settings))
    return found


def papers(
    name: str, trained: Trained, pilot: Pilot, budget: float, settings: Settings
) -> Iterator[Run]:
    """All levels, 250 steps, learned gates or those of theory, the best of 15 independent draws."""
    fine, costs = fine_grid(settings.reference_steps), trained.ladder.costs
    count = min(250, settings.reference_steps // 2)
    times = coarse_grids(fine, count)["uniform"]
    steps = SAMPLERS[name].table(times)
    if settings.gates is not None:
        kind, family = "learned", learned_gates(settings.gates / name)
    else:
        kind, family = "theory", families(trained, sensitivities_on(pilot.density, steps))["theory"]
    if not benchmark.payable(costs, count, budget):
        return
    logits = fit_budget(family, steps.t, costs, budget, draw=draws.independent)
    some, _ = part_of(pilot.problem, pilot.fine, min(16, settings.pilot))
    ends = jax.tree.map(lambda leaf: leaf[-1, : len(some.x)], pilot.fine.states)
    batch = Batch(along(some, pilot.fine.steps, steps), ends)
    key = jax.random.key(settings.seed + 1)
    best = best_of(trained.ladder, batch, steps, draws.independent, logits, key,
                   count=settings.draws)  # fmt: skip
    levels = tuple(range(1, len(costs) + 1))
    method = Method("ML-EM", levels, "uniform", 1, kind, "independent", "impulse")
    yield Run(method, {"budget": budget, "base": count, "best of": settings.draws}, times,
              [best.plan])  # fmt: skip


def midpoints(
    name: str, trained: Trained, pilot: Pilot, best: Candidate, budget: float, fine: np.ndarray
) -> Iterator[Run]:
    """Midpoint draws of the pilot's gates, with levels and steps of a candidate, unfitted."""
    if len(best.levels) == 1:
        return
    times, order = grid_of(best.grid, fine, best.steps)
    steps: Steps = SAMPLERS[name].table(times, order)
    own = pick(trained, best.levels)
    values = pilot.density.values[:, np.array(best.levels) - 1].copy()
    values[:, 0] = np.inf
    found = sensitivities_on(pilot.density._replace(values=values), steps)
    family = gates.from_sensitivities(found, own.ladder.costs, power=1 / 3)
    if not benchmark.payable(own.ladder.costs, best.steps, budget):
        return
    logits = fit_budget(family, steps.t, own.ladder.costs, budget, draw=draws.midpoint)
    method = Method("ML-EM", best.levels, best.grid.partition(",")[0], order, "pilot", "midpoint",
                    "impulse")  # fmt: skip
    parameters = {"budget": budget, "base": best.steps}
    yield Run(method, parameters, times, [plans.draw_plan(draws.midpoint, logits, None)])
    held = plans.trapezoid(plans.open_first(draws.midpoint.openings(None, logits)), steps)
    yield Run(method._replace(weights="trapezoid"), parameters, times, [held])


if __name__ == "__main__":
    main(tyro.cli(Settings))
