"""The Brownian path: one path a sample, the same for every method that walks along it.

The path is a function of (key, sample, fine increment) and nothing else, so a sample does not
depend on the batch it is in, and two methods that take different steps along the same fine grid
are driven by the same path: a coarse step sums the fine increments it covers,

    xi[n] = sum_{l in step n} sqrt(duration[l]) xi_fine[l] / sqrt(sum_{l in step n} duration[l]) .

The increments are drawn again where they are needed and never stored. Durations are read off a
clock: time itself, or one in which the process's noise is a plain Brownian motion (`snr_clock`).
"""

from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from numpy.typing import ArrayLike

from mlem_jax.process import Process
from mlem_jax.steps import check_grid, nearest_points, schedules
from mlem_jax.types import Key, State


class BrownianPath(NamedTuple):
    """Which fine increments drive which step of which sample; the increments follow from the key.

    Attributes:
        key: of the noise; never the one the gates are drawn with.
        samples: index of each sample; its shape is the leading shape of the state.
        first: the first fine increment of each step.
        last: one past its last.
        shares: weight of each fine increment in its step; their squares sum to 1 over a step.
    """

    key: Key
    samples: Int[Array, "*samples"]
    first: Int[Array, " steps"]
    last: Int[Array, " steps"]
    shares: Float[Array, " fine"]


def brownian_path(
    key: Key, fine: ArrayLike, times: ArrayLike | None = None, *, samples: ArrayLike
) -> BrownianPath:
    """The path of `key` over the steps of `times`, made of the increments of `fine`.

    Args:
        key: of the noise.
        fine: readings of a clock at the fine grid's points [fine + 1].
        times: readings of the same clock at the steps' points, each one of the fine ones; by
            default the fine grid itself.
        samples: index of each sample, `jnp.arange(batch)` for a batch; for a single state without
            a batch axis, one number.

    Raises:
        ValueError: if a point of `times` is no point of `fine`.
    """
    fine = check_grid(fine)
    times = fine if times is None else check_grid(times)
    where = nearest_points(fine, times)
    gap = np.abs(fine[where] - times)
    durations = np.abs(np.diff(fine))
    spacing = np.minimum(np.append(durations, np.inf), np.insert(durations, 0, np.inf))
    misses = gap > 1e-6 * spacing[where]
    if misses.any() or (np.diff(where) <= 0).any():
        worst = int(misses.argmax())
        raise ValueError(
            f"expected steps on points of the fine grid and in its direction, got "
            f"{times[worst]}, nearest is {fine[where[worst]]}; make them with steps.subgrid"
        )
    shares = np.zeros_like(durations)
    for start, stop in pairwise(where):
        shares[start:stop] = np.sqrt(durations[start:stop] / durations[start:stop].sum())
    return BrownianPath(
        key,
        jnp.asarray(samples, jnp.int32),
        jnp.asarray(where[:-1], jnp.int32),
        jnp.asarray(where[1:], jnp.int32),
        jnp.asarray(shares, jnp.result_type(float)),
    )


def snr_clock(process: Process, times: ArrayLike) -> np.ndarray:
    """alpha^2 / sigma^2: the clock in which the noise of `ddpm` is a plain Brownian motion.

    With x_0 held fixed, y = alpha x / sigma^2 obeys dy = x_0 dSNR + dW(SNR); so in this clock a
    coarse ancestral step is driven by exactly what the fine ones it covers are driven by. It is
    cut off at 1e12, at the data, where the noise has no effect any more.
    """
    alpha, sigma = schedules(process, times)
    return np.minimum((alpha / np.maximum(sigma, 1e-150)) ** 2, 1e12)


def draw_increment(path: BrownianPath, step: Int[Array, ""], like: State) -> State:
    """xi[n]: standard normal, shape and dtype of `like`, by step `step` of the path.

    Raises:
        ValueError: if the state's leading shape is not that of `path.samples`.
    """
    batch = path.samples.shape
    if like.shape[: len(batch)] != batch:
        raise ValueError(
            f"expected a state with leading shape {batch}, one path for each sample, got shape "
            f"{like.shape}; give brownian_path samples=jnp.arange(batch size)"
        )
    shape = like.shape[len(batch) :]

    def one_sample(sample: Int[Array, ""]) -> State:
        key = jax.random.fold_in(path.key, sample)

        def add(fine: Int[Array, ""], total: State) -> State:
            normal = jax.random.normal(jax.random.fold_in(key, fine), shape, like.dtype)
            return total + path.shares[fine].astype(like.dtype) * normal

        return jax.lax.fori_loop(
            path.first[step], path.last[step], add, jnp.zeros(shape, like.dtype)
        )

    for _ in batch:
        one_sample = jax.vmap(one_sample)
    return one_sample(path.samples)


def store_path(path: BrownianPath, like: State) -> Shaped[Array, "steps *state"]:
    """Every xi[n] of the path, for a state like `like`: what `solve` takes in its stead."""
    numbers = jnp.arange(len(path.first))
    return jax.lax.map(lambda step: draw_increment(path, step, like), numbers)


def draw_starts(key: Key, samples: Int[Array, " batch"], shape: tuple[int, ...]) -> State:
    """Standard normal starts [batch, *shape]; sample i depends on the key and on i alone."""
    return jax.vmap(lambda sample: jax.random.normal(jax.random.fold_in(key, sample), shape))(
        samples
    )
