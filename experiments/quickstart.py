"""What does multilevel Euler-Maruyama gain on a real ladder? One start and one path for all.

The reference is the top level at every step of a fine grid. Against it stand the top level at few
steps (Euler-Maruyama), each smaller level, a switch from small to large, and multilevel plans of
three budgets with independent and with midpoint draws. Prints a table, writes
results/quickstart.json with the same rows and results/quickstart.png with the pictures.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments import images
from experiments.ladder import PROCESS, SHIPPED, Ladder, load
from experiments.ship_ladder import machine
from mlem_jax import draws, gates, plan, steps
from mlem_jax.levels import measure_costs
from mlem_jax.noise import brownian_path, snr_clock
from mlem_jax.plan import Plan
from mlem_jax.solve import solve
from mlem_jax.steps import Grid
from mlem_jax.types import Logits

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FEW = (10, 20, 50, 100, 200)
"""Steps at which the top level runs alone."""


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
    base_steps: int = 200
    """Steps of the multilevel plans, the switch and the smaller levels."""
    budgets: tuple[float, ...] = (20.0, 35.0, 60.0)
    """Expected cost of the multilevel plans, in evaluations of the top level."""
    seed: int = 0
    """Of the starts, the Brownian path and the gates."""
    out: Path = Path("results")
    """Where quickstart.json and quickstart.png go."""


class Method(NamedTuple):
    """One row of the table before it is run.

    Attributes:
        name: of the method.
        grid: the times it steps through.
        plan: which levels run at each step.
        logits: the gates the plan was drawn from; None where it was not drawn.
    """

    name: str
    grid: Grid
    plan: Plan
    logits: Logits | None = None


def main(settings: Settings) -> None:
    """Run every method, print the table, write the files."""
    ladder = load(settings.ladder, settings.levels)
    start_key, path_key, gate_key = jax.random.split(jax.random.key(settings.seed), 3)
    x = jax.random.normal(start_key, (settings.images, *ladder.shape))
    seconds = measure_costs(ladder.levels.drifts, ladder.params, x, jnp.float32(0.5))
    # In top-level evaluations; a level timed slower than a better one counts as cheap as that.
    costs = tuple(float(c) for c in np.minimum.accumulate(seconds[::-1])[::-1] / seconds[-1])
    ladder = ladder._replace(levels=ladder.levels._replace(costs=costs))
    print("time of one evaluation of each level: " + ", ".join(f"{c:.3f}" for c in costs))
    fine = steps.uniform_grid(PROCESS.end, 0.0, settings.reference_steps)
    reference = Method("top level, reference", fine, plan.full_plan(len(fine) - 1, *tops(costs)))
    rows, pictures = [], []

    def run_all(methods: Iterable[Method], advance: Callable[[str], None]) -> None:
        for method in methods:
            advance(method.name)
            row, picture = run(method, ladder, x, path_key, fine)
            pictures.append(picture)
            rows.append({**row, "mse": float(np.mean((picture - pictures[0]) ** 2))})

    with progress(1 + 2 * len(FEW) + len(costs) + 2 * len(settings.budgets)) as advance:
        run_all([reference, *few_steps(costs, fine)], advance)
        # The methods below take the kind of grid that served the top level best.
        kind = rows[better_grids(rows)[-1]]["method"].rsplit(", ")[-1]
        base = coarse_grids(fine, settings.base_steps)[kind]
        run_all(rivals(settings, costs, base), advance)
        run_all(multilevel(settings, costs, base, gate_key), advance)
    kept = better_grids(rows)
    Console(width=110).print(table([rows[i] for i in kept], len(costs)))
    settings.out.mkdir(parents=True, exist_ok=True)
    result = {
        "machine": machine(),
        "settings": {name: str(value) for name, value in dataclasses.asdict(settings).items()},
        "milliseconds_per_image": [1e3 * second / settings.images for second in seconds],
        "costs": costs,
        "rows": rows,
    }
    (settings.out / "quickstart.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(settings.out / "quickstart.png", [(rows[i], pictures[i]) for i in kept])
    print(f"wrote {settings.out}/quickstart.json and {settings.out}/quickstart.png")


def tops(costs: tuple[float, ...]) -> tuple[int, int]:
    """(levels, number of the top level)."""
    return len(costs), len(costs)


def coarse_grids(fine: Grid, count: int) -> dict[str, Grid]:
    """Grids of `count` steps on points of the fine one, with its ends."""
    # The log-SNR is infinite at both ends, so it is spread between the fine grid's first and last
    # inner points, and the ends are one step more each.
    inner = steps.log_snr_grid(PROCESS, fine[1], fine[-2], count - 2)
    return {
        "uniform": steps.subgrid(fine, steps.uniform_grid(fine[0], fine[-1], count)),
        "log-SNR": steps.subgrid(fine, np.concatenate([fine[:1], inner, fine[-1:]])),
    }


def few_steps(costs: tuple[float, ...], fine: Grid) -> Iterator[Method]:
    """The top level alone, Euler-Maruyama, on both kinds of grid."""
    for count in FEW:
        for kind, grid in coarse_grids(fine, count).items():
            name = f"top level, {count} steps, {kind}"
            yield Method(name, grid, plan.full_plan(count, *tops(costs)))


def rivals(settings: Settings, costs: tuple[float, ...], base: Grid) -> Iterator[Method]:
    """Each smaller level, and the switch."""
    count, (levels, top) = settings.base_steps, tops(costs)
    for level in range(1, top):
        yield Method(f"level {level}, {count} steps", base, plan.full_plan(count, levels, level))
    # The best early level that the middle budget can pay, and the top for what is left of it.
    budget = sorted(settings.budgets)[len(settings.budgets) // 2]
    payable = [level for level in range(1, top) if costs[level - 1] * count < budget]
    if payable and budget < count:
        early = payable[-1]
        at = round((count - budget) / (1 - costs[early - 1]))
        switch = plan.switch_plan(count, levels, at, early=early, late=top)
        yield Method(f"switch, level {early} to top at step {at}", base, switch)


def multilevel(
    settings: Settings, costs: tuple[float, ...], base: Grid, key: jax.Array
) -> Iterator[Method]:
    """Plans of every budget, with independent and with midpoint draws of the same gates."""
    count = settings.base_steps
    for number, budget in enumerate(settings.budgets):
        logits = plan.fit_budget(
            lambda scale: gates.inverse_cost_gates(costs, count, scale=scale), costs, budget
        )
        for name, way in (("independent", draws.independent), ("midpoint", draws.midpoint)):
            drawn = plan.draw_plan(way, logits, jax.random.fold_in(key, number))
            yield Method(f"multilevel, budget {budget:g}, {name}", base, drawn, logits)


def run(
    method: Method, ladder: Ladder, x: jax.Array, key: jax.Array, fine: Grid
) -> tuple[dict[str, Any], np.ndarray]:
    """A row of the table, and the pictures."""
    table = steps.ddpm(PROCESS, method.grid)
    path = brownian_path(
        key,
        snr_clock(PROCESS, fine),
        snr_clock(PROCESS, method.grid),
        samples=jnp.arange(len(x)),
    )
    # The same program with nothing to evaluate: compiled, but hardly run.
    idle = method.plan._replace(needed=jnp.zeros_like(method.plan.needed))
    jax.block_until_ready(solve(ladder.levels, ladder.params, x, table, idle, path))
    begun = time.perf_counter()
    end = jax.block_until_ready(solve(ladder.levels, ladder.params, x, table, method.plan, path))
    seconds = time.perf_counter() - begun
    paid = plan.price(method.plan, ladder.levels.costs)
    realised = float(paid.costs.sum())
    expected = realised
    if method.logits is not None:
        expected = float(plan.expected_price(method.logits, ladder.levels.costs).costs.sum())
    row = {
        "method": method.name,
        "steps": len(method.grid) - 1,
        "evaluations": [int(count) for count in paid.evaluations],
        "expected_cost": expected,
        "cost": realised,
        "seconds": seconds,
    }
    return row, np.asarray(end)


def better_grids(rows: list[dict[str, Any]]) -> list[int]:
    """Numbers of the rows to show: of the two grids of a step count, the one with less error."""
    best: dict[str, int] = {}
    for i, row in enumerate(rows):
        name = row["method"].removesuffix(", uniform").removesuffix(", log-SNR")
        if name not in best or row["mse"] < rows[best[name]]["mse"]:
            best[name] = i
    return sorted(best.values())


def table(rows: list[dict[str, Any]], levels: int) -> Table:
    """The rows as one reads them."""
    shown = Table(
        "method",
        f"evaluations of levels 1-{levels}",
        "expected cost",
        "cost",
        "mse to reference",
        "seconds",
        caption="cost in evaluations of the top level; seconds without compilation",
    )
    for row in rows:
        shown.add_row(
            row["method"],
            " ".join(str(count) for count in row["evaluations"]),
            f"{row['expected_cost']:.1f}",
            f"{row['cost']:.1f}",
            f"{row['mse']:.2e}",
            f"{row['seconds']:.1f}",
        )
    return shown


def draw(file: Path, shown: list[tuple[dict[str, Any], np.ndarray]], columns: int = 12) -> None:
    """One row of pictures a method, its name, cost and error beside it."""
    figure, axes = plt.subplots(len(shown), 1, figsize=(13, 0.78 * len(shown)))
    for axis, (row, pictures) in zip(axes, shown, strict=True):
        strip = images.to_uint8(pictures[:columns])
        axis.imshow(np.concatenate(list(strip), axis=1), interpolation="nearest")
        label = f"{row['method']}\ncost {row['cost']:.1f}, mse {row['mse']:.1e}"
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    figure.tight_layout(pad=0.3)
    figure.savefig(file, dpi=110)
    plt.close(figure)


@contextmanager
def progress(count: int) -> Iterator[Callable[[str], None]]:
    """A bar over the methods; yields a function to call as each begins."""
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
               TextColumn("{task.description}"))  # fmt: skip
    with Progress(*columns) as bar:
        task = bar.add_task("", total=count)
        begun = [0]

        def advance(name: str) -> None:
            bar.update(task, completed=begun[0], description=name)
            begun[0] += 1

        yield advance
        bar.update(task, completed=count, description="done")


if __name__ == "__main__":
    main(tyro.cli(Settings))
