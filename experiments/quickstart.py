"""What does multilevel Euler-Maruyama gain on a real ladder? One start and one path for all.

The reference is the top level at every step of a fine grid. Against it stand, at about the same
cost, the top level alone at few steps (Euler-Maruyama, DPM-Solver++ 2M, and with fitted weights),
ML-EM as in the paper, and a fitted plan of several levels. The fitted ones come with the ladder:
they were fitted on other pictures (experiments/ours/fitted.py). Prints a table, writes
runs/quickstart/quickstart.json with all rows and quickstart.png with the pictures. What is in
results/ was made with `--out results`.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.common import runs, tiny
from experiments.common.benchmark import Benchmark, ends_of, payable, row_of
from experiments.common.kept_plans import read_plan
from experiments.common.method import Method, Run
from experiments.common.pictures import Strip, picture_rows
from experiments.common.samplers import (
    REFERENCE,
    SAMPLERS,
    Order,
    coarse_grids,
    fine_grid,
    reference_grid,
)
from experiments.ladders.shipped import SHIPPED, Trained, load, measured_gamma
from mlem_jax import draw_plan, draw_starts, draws, fit_budget, gates, plans
from mlem_jax.grids import Grid
from mlem_jax.types import Key

NAMES: dict[Order, str] = {1: "Euler-Maruyama", 2: "DPM-Solver++ 2M"}
"""Of the top level alone, by the order of its steps."""
PLANS = "plans"
"""Folder of fitted plans in a ladder's: `ddpm_8.npz`, and of the top alone `ddpm_8_top.npz`, and
`ddpm_8_top_ahead.npz` whose steps look ahead."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw pictures by multilevel Euler-Maruyama and by its rivals; compare error and cost."""

    ladder: Path = SHIPPED
    """Folder of trained levels, with fitted plans in its folder `plans`."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """What draws the pictures: the SDE or the ODE."""
    budgets: tuple[float, ...] = (8.0, 15.0, 30.0)
    """Cost of each method, in evaluations of the top level."""
    images: int = 8
    """Pictures drawn by every method."""
    reference_steps: int = 400
    """Steps even in time, as the plans are fitted for; the reference cuts those at both ends."""
    base_steps: int = 100
    """Steps of ML-EM as in the paper; fewer where the bottom at each of them costs too much."""
    seed: int = 0
    """Of the starts, the Brownian path and the gates."""
    tiny: bool = False
    """On two random networks, in seconds: does it run here? The numbers mean nothing."""
    out: Path = Path("runs/quickstart")
    """Where quickstart.json and quickstart.png go."""


class Drawn(NamedTuple):
    """A row of the result, and the pictures it speaks of."""

    row: dict[str, Any]
    pictures: np.ndarray


def main(settings: Settings) -> None:
    """Run every method, print the table, write the files."""
    with tiny.settings_of(settings, shrink) as own:
        run_all(own)


def shrink(settings: Settings, folder: Path) -> Settings:
    """As little as there can be of everything; the weights that stand for fitted ones are 1."""
    ladder = tiny.random_ladder(folder)
    tiny.random_plans(ladder / PLANS, coarse_grids(fine_grid(24), 8)["uniform"], 8.0)
    return dataclasses.replace(settings, ladder=ladder, images=2, reference_steps=24,
                               base_steps=16, budgets=(8.0,))  # fmt: skip


def run_all(settings: Settings) -> None:
    """The experiment itself."""
    start_key, path_key, gate_key = jax.random.split(jax.random.key(settings.seed), 3)
    console = Console(width=110)
    with console.status("loading the levels"):
        trained = load(settings.ladder)
    samples = jnp.arange(settings.images)
    x = draw_starts(start_key, samples, trained.shape)
    fine = reference_grid(settings.reference_steps)
    told = ", ".join(f"{cost:.3f}" for cost in trained.ladder.costs)
    console.print(f"one evaluation of each level costs {told}")
    benchmark = Benchmark(settings.sampler, x, samples, path_key, fine, x)
    with console.status(f"the reference: the top level at {len(fine) - 1} steps"):
        reference = the_top(trained, "reference", fine, 2, REFERENCE)
        (end,), (seconds,) = ends_of(reference, trained, benchmark)
    benchmark = benchmark._replace(reference=end)
    rows = [drawn(reference, end, seconds, trained, benchmark)]
    others = list(rivals(settings, trained, fine, gate_key))
    for run in track(others, "its rivals", console=console):
        (end,), (seconds,) = ends_of(run, trained, benchmark)
        rows.append(drawn(run, end, seconds, trained, benchmark))
    shown = best_by_name(rows)
    console.print(table(shown, len(trained.ladder)))
    strips = [Strip(row["name"], row["cost"], row["mse"], own) for row, own in shown]
    kept = [each.row | {"shown": any(each is one for one in shown)} for each in rows]
    result = {"costs": trained.ladder.costs, "rows": kept}
    runs.finish("quickstart", settings, result, lambda file: picture_rows(file, strips, 8),
                console=console)  # fmt: skip


def rivals(settings: Settings, trained: Trained, fine: Grid, key: Key) -> Iterator[Run]:
    """All methods of every budget, in the order of the table."""
    for number, budget in enumerate(settings.budgets):
        count = round(budget)
        for kind, times in coarse_grids(fine, count).items():
            for order, name in NAMES.items():
                yield the_top(trained, f"{count} steps, {name}", times, order, kind)
        folder, stem = settings.ladder / PLANS, f"{settings.sampler}_{budget:g}"
        yield kept_run(folder / f"{stem}_top.npz", f"top level, {count} steps, fitted", settings)
        if SAMPLERS[settings.sampler].noisy:
            yield kept_run(folder / f"{stem}_top_ahead.npz",
                           f"top level, {count} steps, fitted, look-ahead", settings)  # fmt: skip
        yield from papers(settings, trained, fine, budget, jax.random.fold_in(key, number))
        name = f"ML-EM, budget {budget:g}, fitted plan"
        chosen = kept_run(folder / f"{stem}.npz", name, settings)
        if len(chosen.method.levels) == 1:
            # The best that was found for this budget is one network.
            chosen.parameters["name"] = f"top level, budget {budget:g}, chosen plan"
        yield chosen


def the_top(trained: Trained, name: str, times: Grid, order: Order, kind: str = "uniform") -> Run:
    """The top level at every step."""
    method = Method("top level", (len(trained.ladder),), kind, order)
    parameters = {"name": f"top level, {name}", "steps": len(times) - 1}
    return Run(method, parameters, times, [plans.full(len(times) - 1, 1, 1)])


def papers(
    settings: Settings, trained: Trained, fine: Grid, budget: float, key: Key
) -> Iterator[Run]:
    """ML-EM with gates of theory, drawn independently."""
    costs = trained.ladder.costs
    # The bottom at every step: where nothing runs, the predicted data would be 0.
    theory = gates.keep_open(gates.theory(costs, gamma=measured_gamma(costs, trained.losses)))
    count = min(settings.base_steps, int(budget / 2 / costs[0]))
    if not payable(costs, count, budget):
        return
    times = coarse_grids(fine, count)["uniform"]
    t = SAMPLERS[settings.sampler].table(times).t
    logits = fit_budget(theory, t, costs, budget, draw=draws.independent)
    method = Method("ML-EM", tuple(range(1, len(costs) + 1)), "uniform", 1, "theory",
                    "independent", "impulse")  # fmt: skip
    name = f"ML-EM, budget {budget:g}, of the paper"
    yield Run(method, {"name": name, "budget": budget, "steps": count}, times,
              [draw_plan(draws.independent, logits, key)])  # fmt: skip


def kept_run(file: Path, name: str, settings: Settings) -> Run:
    """A fitted plan that comes with the ladder.

    Raises:
        FileNotFoundError: if it does not.
    """
    if not file.exists():
        raise FileNotFoundError(
            f"expected a fitted plan in {file}, found none; fit one for this ladder and budget "
            f"with python -m experiments.ours.fitted --ladder {settings.ladder} --plans "
            f"{file.parent} --reference-steps {settings.reference_steps}"
        )
    kept = read_plan(file)
    return kept.run({"name": name, "steps": len(kept.times) - 1})


def drawn(
    run: Run, end: jax.Array, seconds: float, trained: Trained, benchmark: Benchmark
) -> Drawn:
    """A row and its pictures."""
    row = row_of(run, 0, end, seconds, trained, benchmark)
    return Drawn(row | {"name": run.parameters["name"]}, np.asarray(end))


def best_by_name(drawn: list[Drawn]) -> list[Drawn]:
    """Of each name the grid with the least error, in the order of the names."""
    best: dict[str, Drawn] = {}
    for each in drawn:
        held = best.setdefault(each.row["name"], each)
        if each.row["mse"] < held.row["mse"]:
            best[each.row["name"]] = each
    return list(best.values())


def table(drawn: list[Drawn], levels: int) -> Table:
    """The rows as one reads them."""
    shown = Table("method", f"evaluations of levels 1-{levels}", "cost", "mse", "seconds",
                  caption="cost in evaluations of the top level; mse to the reference, which is "
                          "the first; seconds of the solver")  # fmt: skip
    for row, _ in drawn:
        evaluations = " ".join(str(count) for count in row["evaluations"])
        shown.add_row(row["name"], evaluations, f"{row['cost']:.1f}", f"{row['mse']:.1e}",
                      f"{row['seconds']:.2f}")  # fmt: skip
    return shown


if __name__ == "__main__":
    main(tyro.cli(Settings))
