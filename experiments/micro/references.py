"""How far from the exact solution are fine ones, to which errors are measured?

Where a method errs less than its reference, the distance between the two says little. Solves by the
top level on grids even in time and on `reference_grid`, by steps of first order, by DPM-Solver++ 2M
and by steps that look ahead, and compares with a solution in much smaller steps along the same
Brownian paths. Writes results/references.json.
"""

import dataclasses
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.common import runs, tiny
from experiments.common.samplers import (
    SAMPLERS,
    Order,
    cut_grid,
    fine_grid,
    path_of,
    reference_grid,
)
from experiments.ladders.shipped import SHIPPED, Trained, load
from mlem_jax import Plan, Problem, Steps, draw_starts, pick_levels, plans, solve
from mlem_jax.evaluate import square_errors
from mlem_jax.grids import Grid
from mlem_jax.steps import goes_ahead


@dataclasses.dataclass(frozen=True)
class Settings:
    """Errors of fine solutions."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    images: int = 16
    """Pictures."""
    even: tuple[int, ...] = (400, 1000)
    """Steps of the grids that are even in time."""
    cut: tuple[int, ...] = (400,)
    """The same of those that are cut where the log-SNR changes fast."""
    longest: float = 0.0125
    """Step in the log-SNR of the solution taken to be exact, which has all points of the others."""
    seed: int = 21
    """Of the starts and the paths."""
    tiny: bool = False
    """Two random networks and a few steps, to see that it runs."""
    out: Path = Path("results")
    """Where references.json goes."""


def main(settings: Settings) -> None:
    """Solve, compare, print and write."""
    console = Console(width=110)
    with tiny.settings_of(settings, made_tiny) as asked:
        trained = load(asked.ladder)
        rows = [row for name in SAMPLERS for row in rows_of(name, trained, asked, console)]
        console.print(table_of(rows))
        runs.finish("references", asked, {"rows": rows}, console=console)


def made_tiny(settings: Settings, folder: Path) -> Settings:
    """A few coarse steps."""
    return dataclasses.replace(settings, ladder=tiny.random_ladder(folder), images=2, even=(8,),
                               cut=(8,), longest=0.6)  # fmt: skip


def rows_of(
    name: str, trained: Trained, settings: Settings, console: Console
) -> list[dict[str, Any]]:
    """What each solution of one sampler is off by."""
    every, noisy = dict(grids_of(settings)), SAMPLERS[name].noisy
    finest = finest_grid(name, list(every.values()), settings.longest)
    # The points of several grids lie unevenly: with noise, 2M suffers from a step much longer than
    # the one before.
    exact = end_of(name, trained, settings, finest, finest, 1 if noisy else 2)
    orders: tuple[Order, ...] = (1, 2, "look-ahead") if noisy else (1, 2)
    rows = []
    for (kind, times), order in track(list(product(every.items(), orders)), name, console=console):
        end = end_of(name, trained, settings, finest, times, order)
        errors = np.asarray(square_errors(end, exact))
        rows.append({
            "sampler": name, "grid": kind, "order": order, "steps": len(times) - 1,
            "exact_steps": len(finest) - 1, "mse": float(errors.mean()),
            "standard_error": float(errors.std(ddof=1) / len(errors) ** 0.5),
            "median": float(np.median(errors)),
        })  # fmt: skip
    return rows


def finest_grid(name: str, every: list[Grid], longest: float) -> Grid:
    """Of a solution taken to be exact; with noise on all points of the others, for one path."""
    if not SAMPLERS[name].noisy:
        return reference_grid(round(20 / longest))
    return cut_grid(np.unique(np.concatenate(every))[::-1], longest)


def grids_of(settings: Settings) -> Iterator[tuple[str, Grid]]:
    """Grids by what they are called."""
    for count in settings.even:
        yield f"{count} even", fine_grid(count)
    for count in settings.cut:
        yield f"{count} even, cut", reference_grid(count)


def end_of(
    name: str, trained: Trained, settings: Settings, finest: Grid, times: Grid, order: Order
) -> jax.Array:
    """Where the top level brings the starts."""
    start_key, path_key = jax.random.split(jax.random.key(settings.seed))
    samples = jnp.arange(settings.images)
    x = draw_starts(start_key, samples, trained.shape)
    path = path_of(SAMPLERS[name], path_key, finest, times, samples, order)
    steps = SAMPLERS[name].table(times, order)
    top = pick_levels(trained.ladder, (len(trained.ladder),))
    return solve(top, Problem(x, path), steps, held(steps))


def held(steps: Steps) -> Plan:
    """The level at every step, and its last output where a step goes ahead."""
    runs = jnp.asarray(~goes_ahead(steps)[:, None])
    read = jnp.where(runs, 0.0, 1.0)
    return plans.make_plan(jnp.where(runs, 1.0, 0.0), runs,
                           plans.remember(runs, (1,))._replace(read=read), steps)  # fmt: skip


def table_of(rows: list[dict[str, Any]]) -> Table:
    """The rows as one reads them."""
    table = Table("sampler", "steps in time", "order", "steps", "mse", "median picture")
    for row in rows:
        table.add_row(row["sampler"], row["grid"], str(row["order"]), str(row["steps"]),
                      f"{row['mse']:.1e} ± {row['standard_error']:.0e}",
                      f"{row['median']:.1e}")  # fmt: skip
    return table


if __name__ == "__main__":
    main(tyro.cli(Settings))
