"""Draw pictures from one level of a trained ladder, by ancestral sampling, as one grid.

Writes runs/samples.png; results/samples.png was made with `--out results/samples.png`.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.progress import track

from experiments.ladders import images
from experiments.ladders.shipped import PROCESS, SHIPPED, load
from mlem_jax.noise import brownian_path, draw_starts, snr_clock
from mlem_jax.plan import full_plan
from mlem_jax.solve import solve
from mlem_jax.steps import ddpm, uniform_grid


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw pictures from one level of a trained ladder."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    level: int = 4
    """Which level, 1 the cheapest."""
    images: int = 64
    """How many pictures."""
    steps: int = 250
    """Evaluations of the level."""
    seed: int = 0
    """Of starts and noise; picture i depends on it and on i alone."""
    columns: int = 16
    """Pictures in a row."""
    chunk: int = 16
    """Pictures drawn at a time: bounds the memory."""
    out: Path = Path("runs/samples.png")
    """The grid."""


def main(settings: Settings) -> None:
    """Draw chunk by chunk, write the grid."""
    ladder = load(settings.ladder, (settings.level,))
    start_key, path_key = jax.random.split(jax.random.key(settings.seed))
    grid = uniform_grid(PROCESS.end, 0.0, settings.steps)
    steps, plan = ddpm(PROCESS, grid), full_plan(settings.steps, 1, 1)
    drawn = []
    for first in track(range(0, settings.images, settings.chunk), "drawing"):
        samples = jnp.arange(first, min(first + settings.chunk, settings.images))
        x = draw_starts(start_key, samples, ladder.shape)
        path = brownian_path(path_key, snr_clock(PROCESS, grid), samples=samples)
        drawn.append(np.asarray(solve(ladder.levels, ladder.params, x, steps, plan, path)))
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    images.grid(images.to_uint8(np.concatenate(drawn)), settings.columns).save(settings.out)
    print(f"wrote {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
