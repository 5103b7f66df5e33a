"""Squared sensitivities to the differences of a ladder: from a pilot run, kept, for any grid."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.common.samplers import SAMPLERS, fine_grid, path_of
from experiments.ladders.shipped import Trained
from mlem_jax import Problem, Steps, draw_starts
from mlem_jax.arrays import read_arrays, write_arrays
from mlem_jax.diagnosis import Sensitivities, measure_sensitivities
from mlem_jax.fitting import Density, density_of, sensitivities_on
from mlem_jax.noise import store_path


class Piloted(NamedTuple):
    """A pilot run.

    Attributes:
        runs: folder in which the sensitivities are kept.
        images: pictures it is run on.
        steps: of the sampler, even in time.
        bins: of time, with one sensitivity each.
        seed: of the starts, the paths, and the disturbed steps.
    """

    runs: Path
    images: int = 16
    steps: int = 100
    bins: int = 20
    seed: int = 7


def problem_of(
    sampler: str, trained: Trained, piloted: Piloted, part: int = 0
) -> tuple[Steps, Problem]:
    """The steps of a pilot run, and one of several batches."""
    times = fine_grid(piloted.steps)
    start_key, path_key = jax.random.split(jax.random.key(piloted.seed))
    samples = part * piloted.images + jnp.arange(piloted.images)
    x = draw_starts(start_key, samples, trained.shape)
    path = path_of(SAMPLERS[sampler], path_key, times, times, samples)
    noise = None if path is None else jax.jit(store_path)(path, x)
    return SAMPLERS[sampler].table(times), Problem(x, noise)


def measure(sampler: str, trained: Trained, piloted: Piloted) -> Density:
    """What a pilot run of the whole ladder measures, as a function of time."""
    steps, problem = problem_of(sampler, trained, piloted)
    key, bins = jax.random.key(piloted.seed + 1), min(piloted.bins, piloted.steps)
    return density_of(measure_sensitivities(trained.ladder, problem, steps, key, bins=bins), steps)


def write(file: Path, density: Density) -> None:
    """Keep what was measured, for `read`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(file, density._asdict())


def read(file: Path, steps: Steps) -> Sensitivities:
    """What a pilot run measured, on any steps.

    Raises:
        FileNotFoundError: if there was no pilot run.
        ValueError: if the file is damaged, or of something else.
    """
    if not file.exists():
        raise FileNotFoundError(f"expected what a pilot run measured in {file}; measure it with "
                                "python -m experiments.ours.pilot")  # fmt: skip
    kept = read_arrays(file, "what a pilot run measured")
    if set(kept) != set(Density._fields):
        raise ValueError(f"expected what a pilot run measured in {file}, got arrays {sorted(kept)}")
    return sensitivities_on(Density(**kept), steps)
