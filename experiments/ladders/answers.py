"""What a trained top level says along pieces of paths, asked once and kept."""

from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from experiments.ladders import shown
from experiments.ladders.shipped import PROCESS
from mlem_jax.arrays import read_arrays, write_arrays
from mlem_jax.grids import time_of_log_snr
from mlem_jax.nets import Answers
from mlem_jax.nets.denoise import Network
from mlem_jax.nets.following import ask
from mlem_jax.types import Params

CHUNK = 16
"""Pairs of pictures the top is asked of at once."""
RANGE = (-8.7, 8.7)
"""Log-SNRs between which pieces of paths lie."""
LENGTHS = (0.1, 2.4)
"""Of pieces of paths, in the log-SNR: those of 174 to 7 steps over the range."""


def asked(
    file: Path, top: Network, params: Params, pictures: np.ndarray, count: int, seed: int
) -> Answers:
    """The top's answers, in half precision, at ends spread evenly; read if they are there."""
    if file.exists():
        kept: dict[str, Any] = read_arrays(file, "answers of a top level")
        if set(kept) != set(Answers._fields) or kept["t"].ndim != 2:
            shapes = {name: values.shape for name, values in kept.items()}
            raise ValueError(f"expected answers of a top level in {file}, for pairs of pictures, "
                             f"got {shapes}; delete it, and it will be asked again")  # fmt: skip
        return Answers(**kept)
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    count -= count % CHUNK
    chosen = rng.permutation(len(pictures))[np.arange(count) % len(pictures)]
    t = ends(rng, count)
    parts = []
    for first in track(range(0, count, CHUNK), f"asking the top, {file.stem}"):
        own = slice(first, first + CHUNK)
        shape = (CHUNK, 2, *pictures.shape[1:])
        noise = jax.random.normal(jax.random.fold_in(key, first), shape)
        parts.append(jax.device_get(_ask(top, params, pictures[chosen[own]], t[own], noise)))
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    answers = Answers(*columns)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(file, answers._asdict())
    return answers


def ends(rng: np.random.Generator, count: int) -> np.ndarray:
    """Times [count, 2] of pieces of paths: middles and lengths even in the log-SNR."""
    middle = (rng.permutation(count) + rng.random(count)) / count
    half = rng.uniform(*LENGTHS, count) / 2
    at = RANGE[0] + (RANGE[1] - RANGE[0]) * middle
    log_snr = np.clip(np.stack([at + half, at - half], axis=1), *RANGE)
    return time_of_log_snr(PROCESS, log_snr.ravel()).reshape(count, 2).astype(np.float32)


@partial(jax.jit, static_argnums=0)
def _ask(
    top: Network, params: Params, pictures: jax.Array, t: jax.Array, noise: jax.Array
) -> Answers:
    said = ask(PROCESS, top, params, shown.to_unit(pictures), t, noise)
    return said._replace(x=said.x.astype(jnp.float16), target=said.target.astype(jnp.float16))


def batches_of(answers: Answers, batch: int, seed: int) -> grain.MapDataset:
    """The answers of every step, each pair in one of the eight symmetries of a square."""

    def example(number: int) -> Answers:
        return Answers(*(values[number] for values in answers))

    return shown.batches(len(answers.t), example, turned, batch, seed)


def turned(answer: Answers, rng: np.random.Generator) -> Answers:
    """Both ends of a piece of a path, and what was said of them, in the same symmetry."""
    together = shown.any_way(np.concatenate([*answer.x, *answer.target], axis=-1), rng)
    parts = np.stack(np.split(together.astype(np.float32), 4, axis=-1))
    return answer._replace(x=parts[:2], target=parts[2:])
