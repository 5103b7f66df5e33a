"""What fits are made on: a pilot batch, its fine solution, and where the levels count."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.samplers import SAMPLERS, Order, coarse_grids
from experiments.ladders.shipped import Trained
from mlem_jax import Problem, Steps, brownian_path, draw_starts
from mlem_jax.arrays import read_arrays, write_arrays
from mlem_jax.diagnosis import measure_sensitivities
from mlem_jax.fitting import (
    Density,
    Fine,
    Search,
    along,
    density_of,
    fine_solution,
    part_of,
    tables_of,
)
from mlem_jax.fitting.fine import points_on
from mlem_jax.grids import Grid

KINDS: dict[str, Order] = {
    "uniform": 1, "log-SNR": 1, "log-SNR, second order": 2, "stretched log-SNR": 1,
    "stretched log-SNR, second order": 2, "log-SNR, look-ahead": "look-ahead",
    "stretched log-SNR, look-ahead": "look-ahead",
}  # fmt: skip
"""Grids, and the order of the step table on each."""


class Pilot(NamedTuple):
    """A batch to fit on; no result is judged on it.

    Attributes:
        problem: starts and paths over the fine steps.
        fine: the top level's solution, at the points of what is tried.
        density: where the levels count.
    """

    problem: Problem
    fine: Fine
    density: Density


def kinds_of(sampler: str, *, ahead: bool = True) -> list[str]:
    """The `KINDS` that suit a sampler: without noise there is nothing to look ahead at."""
    ahead = ahead and SAMPLERS[sampler].noisy
    return [kind for kind, order in KINDS.items() if ahead or order != "look-ahead"]


def grid_of(name: str, fine: Grid, count: int) -> tuple[Grid, Order]:
    """The times of a grid of `KINDS`, and the order of the steps on it."""
    return coarse_grids(fine, count)[name.partition(",")[0]], KINDS[name]


def search_of(sampler: str, fine: Grid, levels: int, *, ahead: bool = True, **tried: Any) -> Search:
    """Every grid but the uniform one; one level, or the bottom and the next to the top, below that.

    Args:
        sampler: its name.
        fine: the finest grid.
        levels: of the ladder.
        ahead: whether steps may look ahead, where there is noise to look at.
        tried: what else `Search` is given.
    """
    below = [*((level,) for level in range(levels - 1, 0, -1)), *([(1, levels - 1)] * (levels > 2))]

    def steps_of(name: str, count: int) -> Steps:
        return SAMPLERS[sampler].table(*grid_of(name, fine, count))

    grids = {name: partial(steps_of, name) for name in kinds_of(sampler, ahead=ahead)
             if name != "uniform"}  # fmt: skip
    tuples = [(*own, levels) for own in below]
    return Search(grids, tuples, most=(len(fine) - 1) // 2, **tried)


def make_pilot(
    sampler: str,
    trained: Trained,
    search: Search,
    budgets: Iterable[float],
    grid: Grid,
    *,
    images: int,
    seed: int,
    keep: Path | None = None,
) -> Pilot:
    """A pilot batch, solved finely and measured.

    Args:
        sampler: its name.
        trained: the ladder.
        search: what will be tried.
        budgets: for which.
        grid: of the fine solution.
        images: pictures of the batch.
        seed: of the starts and the Brownian paths.
        keep: file in which the solution is kept for the next time; of these settings alone.
    """
    table = SAMPLERS[sampler].table(grid, 2)
    # Not the keys that starts to be judged are drawn with.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2), 3)
    samples = jnp.arange(images)
    x = draw_starts(keys[0], samples, trained.shape)
    noisy = SAMPLERS[sampler].noisy
    problem = Problem(x, brownian_path(keys[1], table, samples=samples) if noisy else None)
    every = [own for budget in budgets for own in tables_of(trained.ladder, search, budget)]
    wanted = np.unique(np.concatenate([points_on(table, own) for own in every]))
    if keep is not None and (found := read(keep, table, wanted)):
        return Pilot(problem, *found)
    fine = fine_solution(trained.ladder, problem, table, every)
    times = coarse_grids(grid, min(50, (len(grid) - 1) // 2))["uniform"]
    pilot = SAMPLERS[sampler].table(times)
    some, _ = part_of(along(problem, table, pilot), fine, min(16, images))
    bins = min(16, len(pilot.t))
    measured = measure_sensitivities(trained.ladder, some, pilot, keys[2], bins=bins)
    density = density_of(measured, pilot)
    if keep is not None:
        write(keep, fine, density)
    return Pilot(problem, fine, density)


def write(file: Path, fine: Fine, density: Density) -> None:
    """Keep a fine solution and density, for `read`."""
    write_arrays(file, {"done": fine.done, "states": fine.states, **density._asdict()})


def read(file: Path, table: Steps, wanted: np.ndarray) -> tuple[Fine, Density] | None:
    """A fine solution and density that were kept, if they are there and have all points wanted.

    Raises:
        ValueError: if the file is damaged, or of something else.
    """
    if not file.exists():
        return None
    kept = read_arrays(file, "a pilot's solution as make_pilot keeps it")
    if set(kept) != {"done", "states", *Density._fields}:
        raise ValueError(f"expected a pilot's solution in {file}, got arrays {sorted(kept)}; "
                         "delete it, and it will be made again")  # fmt: skip
    if not np.isin(wanted, kept["done"]).all():
        return None
    fine = Fine(table, kept["done"], jnp.asarray(kept["states"]))
    return fine, Density(kept["t"], kept["values"])
