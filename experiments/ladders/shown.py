"""How pictures are shown to a network: which of them, in which order, in which symmetries."""

from collections.abc import Callable
from typing import Any, Literal

import grain
import jax
import jax.numpy as jnp
import numpy as np

Symmetries = Literal["none", "mirror", "eight"]
Turn = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""A picture as it is shown this time; the rng is that of its place in the order."""


def split(
    pictures: np.ndarray, held_out: int, marked: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(training, held-out), the same for the same pictures whatever else changes.

    Those marked are never trained on; without marks at most a tenth is held out, drawn at random.
    """
    order = np.random.default_rng(0).permutation(len(pictures))
    if marked is not None:
        return pictures[~marked], pictures[order[marked[order]][:held_out]]
    count = min(held_out, len(pictures) // 10)
    return pictures[order[count:]], pictures[order[:count]]


def to_unit(pictures: Any) -> jax.Array:
    """0..255 to [-1, 1]."""
    return jnp.asarray(pictures, jnp.float32) / 127.5 - 1


def as_it_is(picture: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """No symmetry."""
    return picture


def either_way(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture or its mirror image, with even chances."""
    return picture[:, ::-1] if rng.random() < 0.5 else picture


def any_way(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square picture in one of its eight symmetries, with even chances."""
    quarters, mirrored = divmod(int(rng.integers(8)), 2)
    turned = np.rot90(picture, quarters)
    return turned[:, ::-1] if mirrored else turned


TURNS: dict[str, Turn] = {"none": as_it_is, "mirror": either_way, "eight": any_way}


def turned(pictures: np.ndarray, symmetries: Symmetries, *, seed: int) -> np.ndarray:
    """Each picture in one of the symmetries, drawn by the seed."""
    rng = np.random.default_rng(seed)
    return np.stack([TURNS[symmetries](picture, rng) for picture in pictures])


def batches(
    count: int,
    example: Callable[[int], Any],
    turn: Callable[[Any, np.random.Generator], Any],
    batch: int,
    seed: int,
) -> grain.MapDataset:
    """Batches without end of examples by their number, each decided by the seed and its own."""
    order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
    return order.map(example).random_map(turn).batch(batch)
