"""Draw pictures from one level of a trained ladder, or by a plan: as one grid, or into a folder.

A level draws by ancestral sampling; a plan is what `python -m experiments.fit` wrote.

Writes runs/samples.png; results/samples.png was made with `--out results/samples.png`. With a
folder as `--out` it can be killed at any moment, and the same command goes on; several processes,
on one machine or many, share the work (docs/machines.md). Picture i is the same for any number of
processes and devices: what is drawn depends on the seed and on i, and rounding on `--chunk`.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from rich.progress import track

from experiments.common import runs, shards, tiny
from experiments.common.kept_plans import read_plan
from experiments.common.processes import Share, join, on_each, over_devices
from experiments.common.samplers import SAMPLERS, fine_grid
from experiments.ladders import images
from experiments.ladders.shipped import SHIPPED, Trained, load
from mlem_jax import Plan, Problem, Steps, brownian_path, draw_starts, plans, shard_problem, solve
from mlem_jax.checks import check_count


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
    """Pictures that a device draws at a time: bounds the memory."""
    shard: int = 1024
    """Pictures in each file of a folder."""
    distributed: bool = False
    """One of several processes started with the same command, which jax.distributed brings
    together: under SLURM and Open MPI, in Kubernetes and on TPUs nothing more is to be said."""
    coordinator: str | None = None
    """Elsewhere, host:port of process 0."""
    process: int | None = None
    """Number of this process, from 0; without --distributed the processes need not reach one
    another, nor run at the same time."""
    processes: int | None = None
    """How many there are."""
    tiny: bool = False
    """From a random network, in seconds: does it run here?"""
    out: Path = Path("runs/samples.png")
    """One picture, .png, with all of them in a grid; any other name is that of a folder."""


class Source(NamedTuple):
    """All that pictures are drawn with.

    Attributes:
        trained: the levels.
        plan: which of them run when.
        steps: the integrator.
        noisy: whether a Brownian path drives it.
        about: what it is, for a folder's settings.
    """

    trained: Trained
    plan: Plan
    steps: Steps
    noisy: bool
    about: dict[str, Any]


def main(settings: Settings) -> None:
    """Draw, write the grid or the folder."""
    share = join(settings.distributed, settings.coordinator, settings.process, settings.processes)
    for name in ("images", "chunk", "shard", "columns"):
        check_count(getattr(settings, name), f"{name} of at least 1")
    with tiny.settings_of(settings, shrink) as own:
        if own.out.suffix.lower() != ".png":
            draw_folder(own, source_of(own), share)
        elif share.processes == 1:
            draw_grid(own, source_of(own))
        else:
            raise ValueError(f"expected a folder as --out, which {share.processes} processes can "
                             f"share, got a picture, {own.out}")  # fmt: skip


def shrink(settings: Settings, folder: Path) -> Settings:
    """As little as there can be of everything."""
    return dataclasses.replace(settings, ladder=tiny.random_ladder(folder), level=2, images=6,
                               steps=4, columns=3, chunk=2)  # fmt: skip


def source_of(settings: Settings) -> Source:
    """One level at its steps, or what a plan was kept with."""
    if settings.plan is None:
        levels, sampler = (settings.level,), SAMPLERS["ddpm"]
        steps, plan = sampler.table(fine_grid(settings.steps)), plans.full(settings.steps, 1, 1)
        about = {"level": settings.level, "steps": settings.steps}
    else:
        kept = read_plan(settings.plan)
        plan, levels, steps = kept.plan, kept.levels, kept.steps
        sampler = SAMPLERS[kept.sampler]
        told = settings.plan, settings.plan.with_suffix(".json")
        about = {"plan": [shards.checksum(file.read_bytes()) for file in told]}
    trained = load(settings.ladder, levels)
    parameters = shards.checksum_of_arrays(trained.ladder.params)
    return Source(trained, plan, steps, sampler.noisy, {**about, "parameters": parameters})


def drawer(settings: Settings, source: Source) -> Callable[[range], np.ndarray]:
    """From numbers of pictures to the pictures, uint8: `chunk` at a time on each device."""
    start_key, path_key = jax.random.split(jax.random.key(settings.seed))
    path = brownian_path(path_key, source.steps, samples=np.arange(1))
    devices = over_devices()
    ladder = jax.device_put(source.trained.ladder, on_each(devices))
    at_once = settings.chunk * devices.mesh.size

    def draw_some(first: int) -> np.ndarray:
        samples = np.arange(first, first + at_once, dtype=np.int32)
        x = draw_starts(start_key, samples, source.trained.shape)
        noise = path._replace(samples=samples) if source.noisy else None
        problem = shard_problem(Problem(x, noise), devices)
        return images.to_uint8(solve(ladder, problem, source.steps, source.plan))

    def draw(samples: range) -> np.ndarray:
        # As many each time, so that all are rounded alike; what is too many is left out.
        parts = [draw_some(first) for first in range(samples.start, samples.stop, at_once)]
        return np.concatenate(parts)[: len(samples)]

    return draw


def draw_grid(settings: Settings, source: Source) -> None:
    """All pictures in one."""
    drawn = drawer(settings, source)(range(settings.images))
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    images.grid(drawn, settings.columns).save(settings.out)
    print(f"wrote {settings.out}")


def draw_folder(settings: Settings, source: Source, share: Share) -> None:
    """This process's share of the files, as far as they are not there yet."""
    depends_on = {name: getattr(settings, name) for name in ("images", "seed", "chunk", "shard")}
    runs.check_settings(settings.out, depends_on | source.about, share.process)
    every = shards.shards_of(settings.out, settings.images, settings.shard)
    sums = shards.known_sums(settings.out)
    missing = [shard for shard in every[share.process :: share.processes]
               if not shards.is_whole(shard, sums)]  # fmt: skip
    draw = drawer(settings, source)
    for shard in track(missing, f"files of process {share.process}"):
        shards.write_shard(shard, draw(shard.numbers))
    if shards.write_manifest(settings.out, every, share.process):
        print(f"wrote {settings.out / shards.MANIFEST}: {settings.images} pictures")


if __name__ == "__main__":
    main(tyro.cli(Settings))
