"""Draw pictures from one level of a trained ladder, or by a plan, as one grid.

A level draws by ancestral sampling; a plan is what `python -m experiments.fit` wrote.

Writes runs/samples.png; results/samples.png was made with `--out results/samples.png`.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.common import tiny
from experiments.common.kept_plans import read_plan
from experiments.common.samplers import SAMPLERS, fine_grid
from experiments.ladders import images
from experiments.ladders.shipped import SHIPPED, load
from mlem_jax import Problem, brownian_path, draw_starts, plans, solve_chunks


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw pictures from one level of a trained ladder, or by a plan."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    level: int = 4
    """Which level, 1 the cheapest."""
    plan: Path | None = None
    """A plan, .npz with its .json beside it, in place of one level and its steps."""
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
    tiny: bool = False
    """From a random network, in seconds: does it run here?"""
    out: Path = Path("runs/samples.png")
    """The grid."""


def main(settings: Settings) -> None:
    """Draw, write the grid."""
    with tiny.settings_of(settings, shrink) as own:
        draw(own)


def shrink(settings: Settings, folder: Path) -> Settings:
    """As little as there can be of everything."""
    return dataclasses.replace(settings, ladder=tiny.random_ladder(folder), level=2, images=6,
                               steps=4, columns=3, chunk=2)  # fmt: skip


def draw(settings: Settings) -> None:
    """Chunk by chunk, as the memory allows."""
    if settings.plan is None:
        levels, sampler = (settings.level,), SAMPLERS["ddpm"]
        steps = sampler.table(fine_grid(settings.steps))
        plan = plans.full(settings.steps, 1, 1)
    else:
        kept = read_plan(settings.plan)
        plan, levels, steps = kept.plan, kept.levels, kept.steps
        sampler = SAMPLERS[kept.sampler]
    trained = load(settings.ladder, levels)
    start_key, path_key = jax.random.split(jax.random.key(settings.seed))
    samples = jnp.arange(settings.images)
    x = draw_starts(start_key, samples, trained.shape)
    noise = brownian_path(path_key, steps, samples=samples) if sampler.noisy else None
    problem = Problem(x, noise)
    drawn = np.asarray(solve_chunks(trained.ladder, problem, steps, plan, chunk=settings.chunk))
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    images.grid(images.to_uint8(drawn), settings.columns).save(settings.out)
    print(f"wrote {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
