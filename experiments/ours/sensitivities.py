"""Effects of the differences of a ladder, measured in a pilot run once and kept, on any grid."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.ours import pilot
from experiments.common.benchmark import suffix
from experiments.paper.gates import effects_at
from experiments.ladders.shipped import PROCESS, Ladder
from experiments.common.samplers import SAMPLERS
from mlem_jax import steps
from mlem_jax.pilot import measure_effects
from mlem_jax.steps import Grid


class Piloted(NamedTuple):
    """A pilot run.

    Attributes:
        runs: folder in which the effects are kept.
        images: pictures it is run on.
        steps: of the sampler, even in time.
    """

    runs: Path
    images: int
    steps: int


def effects_of(
    name: str, own: Ladder, chosen: tuple[int, ...], base: Grid, piloted: Piloted
) -> np.ndarray:
    """Effects of the differences of a ladder, measured once and kept."""
    file = piloted.runs / f"effects_{name}{suffix(chosen).replace(' ', '_')}.npz"
    if not file.exists():
        asked = pilot.Settings(images=piloted.images, base_steps=piloted.steps)
        stretches = min(asked.stretches, asked.base_steps)
        table, batch = pilot.problem(name, own, asked, part=0)
        effects = measure_effects(
            own.levels, own.params, batch.x, table, jax.random.key(asked.seed + 1), batch.noise,
            stretches=stretches,
        )  # fmt: skip
        pilot.save_effects(file, np.asarray(table.t), np.asarray(effects))
    return effects_at(file, np.asarray(SAMPLERS[name].table(base).t))


def effects_on(
    name: str, own: Ladder, chosen: tuple[int, ...], grid: Grid, piloted: Piloted
) -> np.ndarray:
    """Effects of a pilot run, which steps evenly, on a grid that need not: as the gains squared."""
    table = SAMPLERS[name].table(grid)
    even = SAMPLERS[name].table(steps.uniform_grid(PROCESS.end, 0.0, piloted.steps))
    gain = np.interp(table.t, np.asarray(even.t)[::-1], np.asarray(even.gain)[::-1])
    found = effects_of(name, own, chosen, grid, piloted)
    return found * (np.asarray(table.gain) / gain)[:, None] ** 2
