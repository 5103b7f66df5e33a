"""What does multilevel Euler-Maruyama gain on a real ladder? One start and one path for all.

The reference is the top level at every step of a fine grid. Against it stand the top level at few
steps (Euler-Maruyama), each smaller level, a switch from small to large, and multilevel plans of
three budgets with the independent draws of the paper and with systematic ones. Prints a table,
writes runs/quickstart/quickstart.json with all rows and quickstart.png with the pictures. What is
in results/ was made with `--out results`.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.common import runs, tiny
from experiments.common.benchmark import Benchmark, alone, ends_of, row_of
from experiments.common.method import Method, Run
from experiments.common.pictures import Strip, picture_rows
from experiments.common.samplers import SAMPLERS, coarse_grids, fine_grid
from experiments.ladders.shipped import SHIPPED, Trained, load, measured_gamma, relative_costs
from mlem_jax import draw_plan, draw_starts, draws, fit_budget, gates, measure_costs, plans
from mlem_jax.grids import Grid
from mlem_jax.types import Key

FEW = (10, 20, 50, 100, 200)
"""Steps at which the top level runs alone."""
KINDS = {"independent": draws.independent, "systematic": draws.systematic}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw pictures by multilevel Euler-Maruyama and by its rivals; compare error and cost."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    levels: tuple[int, ...] = ()
    """Which of them to use, 1 the cheapest; default: all."""
    images: int = 16
    """Pictures drawn by every method."""
    reference_steps: int = 1000
    """Steps of the fine grid; the reference takes them all with the top level."""
    base_steps: int = 100
    """Steps of the multilevel plans, the switch and the smaller levels; at most the fine grid's."""
    budgets: tuple[float, ...] = (25.0, 40.0, 60.0)
    """Expected cost of the multilevel plans, in evaluations of the top level."""
    gamma: float | None = None
    """Exponent of cost against error, for the gates p_k = min(1, C T_k^-(1/gamma + 1/2)); default:
    fitted to the costs and held-out losses of the ladder."""
    measure: bool = False
    """Plan with costs measured here instead of those stored with the ladder: better plans for this
    machine, but not the same from run to run."""
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
    """As little as there can be of everything."""
    return dataclasses.replace(settings, ladder=tiny.random_ladder(folder), images=2,
                               reference_steps=24, base_steps=16, budgets=(5.0, 9.0))  # fmt: skip


def run_all(settings: Settings) -> None:
    """The experiment itself."""
    start_key, path_key, gate_key = jax.random.split(jax.random.key(settings.seed), 3)
    console = Console(width=110)
    with console.status("loading the levels"):
        trained = load(settings.ladder, settings.levels)
        samples = jnp.arange(settings.images)
        x = draw_starts(start_key, samples, trained.shape)
        if settings.measure:
            measured = measure_costs(trained.ladder, x, jnp.float32(0.5))
            costs = relative_costs(measured.costs)
            trained = trained._replace(ladder=dataclasses.replace(measured, costs=costs))
    costs = trained.ladder.costs
    gamma = settings.gamma or measured_gamma(costs, trained.losses)
    console.print(f"one evaluation costs {', '.join(f'{c:.3f}' for c in costs)}; gamma {gamma:.2f}")

    fine = fine_grid(settings.reference_steps)
    benchmark = Benchmark("ddpm", x, samples, path_key, fine, x)
    drawn: list[Drawn] = []

    def draw(own: Iterable[Run], title: str) -> None:
        nonlocal benchmark
        for run in track(list(own), title, console=console):
            (end,), (seconds,) = ends_of(run, trained, benchmark)
            if not drawn:  # The reference comes first.
                benchmark = benchmark._replace(reference=end)
            drawn.append(Drawn(row_of(run, 0, end, seconds, trained, benchmark), np.asarray(end)))

    draw(alone(trained, [len(fine) - 1], lambda _: {"uniform": fine}), "the reference          ")
    few = [count for count in FEW if count < len(fine)]
    draw(alone(trained, few, lambda n: coarse_grids(fine, n)), "the top level alone    ")
    # All others step through the kind of grid that served the top level best at its most steps.
    kind = best_of_groups(drawn)[-1].row["grid"]
    base = coarse_grids(fine, settings.base_steps)[kind]
    draw(rivals(settings.budgets, costs, base, kind), "smaller levels, switch ")
    draw(multilevel(settings.budgets, trained, gamma, base, kind, gate_key),
         "multilevel             ")  # fmt: skip

    shown = best_of_groups(drawn)
    console.print(table(shown, len(costs)))
    strips = [Strip(name_of(row), row["cost"], row["mse"], own) for row, own in shown]
    rows = [each.row | {"shown": any(each is one for one in shown)} for each in drawn]
    result = {"costs": costs, "gamma": gamma, "rows": rows}
    runs.finish("quickstart", settings, result, lambda file: picture_rows(file, strips),
                console=console)  # fmt: skip


def rivals(
    budgets: tuple[float, ...], costs: tuple[float, ...], base: Grid, kind: str
) -> Iterator[Run]:
    """Each smaller level; and for each budget the switch, from every level that can be paid."""
    count, top = len(base) - 1, len(costs)
    for level in range(1, top):
        method = Method("level", (level,), kind)
        yield Run(method, {"steps": count}, base, [plans.full(count, 1, 1)])
    for budget in budgets:
        for early, cost in enumerate(costs[:-1], start=1):
            at = round((count - budget) / (1 - cost))
            if 0 < at < count:
                method = Method("switch", (early, top), kind)
                plan = plans.switch(count, 2, at, early=1, late=2)
                yield Run(method, {"budget": budget, "steps": count, "at": at}, base, [plan])


def multilevel(
    budgets: tuple[float, ...], trained: Trained, gamma: float, base: Grid, kind: str, key: Key
) -> Iterator[Run]:
    """Plans of every budget, with independent and with systematic draws of the same gates."""
    costs = trained.ladder.costs
    # The bottom at every step: where nothing runs, the predicted data would be 0.
    theory = gates.keep_open(gates.theory(costs, gamma=gamma))
    t = SAMPLERS["ddpm"].table(base).t
    for number, budget in enumerate(budgets):
        for name, draw in KINDS.items():
            logits = fit_budget(theory, t, costs, budget, draw=draw)
            method = Method("ML-EM", tuple(range(1, len(costs) + 1)), kind, 1, "theory", name,
                            "impulse")  # fmt: skip
            plan = draw_plan(draw, logits, jax.random.fold_in(key, number))
            yield Run(method, {"budget": budget, "steps": len(base) - 1}, base, [plan])


def group_of(row: dict[str, Any]) -> str:
    """What it is a variant of; of the variants the one with the least error is shown."""
    given = row["parameters"]
    paid = f"budget {given['budget']:g}" if "budget" in given else f"{given['steps']} steps"
    family = f"level {row['levels'][0]}" if row["family"] == "level" else row["family"]
    return ", ".join(word for word in (family, paid, row["draw"]) if word)


def name_of(row: dict[str, Any]) -> str:
    """The group, and which variant it is."""
    at = row["parameters"].get("at")
    variants = {"top level": row["grid"], "switch": f"level {row['levels'][0]} for {at} steps"}
    variant = variants.get(row["family"], "")
    return f"{group_of(row)}, {variant}" if variant else group_of(row)


def best_of_groups(drawn: list[Drawn]) -> list[Drawn]:
    """Of each group the one with the least error, in the order of the groups."""
    best: dict[str, Drawn] = {}
    for each in drawn:
        held = best.setdefault(group_of(each.row), each)
        if each.row["mse"] < held.row["mse"]:
            best[group_of(each.row)] = each
    return list(best.values())


def table(drawn: list[Drawn], levels: int) -> Table:
    """The rows as one reads them."""
    shown = Table("method", f"evaluations of levels 1-{levels}", "cost", "mse", "seconds",
                  caption="cost in evaluations of the top level; mse to the reference, which is "
                          "the first; seconds of the solver")  # fmt: skip
    for row, _ in drawn:
        evaluations = " ".join(str(count) for count in row["evaluations"])
        shown.add_row(name_of(row), evaluations, f"{row['cost']:.1f}", f"{row['mse']:.1e}",
                      f"{row['seconds']:.2f}")  # fmt: skip
    return shown


if __name__ == "__main__":
    main(tyro.cli(Settings))
