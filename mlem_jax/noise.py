"""The Brownian path: one path per sample, the same for every method that walks along it.

The path is a function of (key, sample, fine increment) and nothing else, so that of a sample is the
same to the bit in any batch, and two methods that take different steps along the same fine grid
are driven by the same path: a coarse step sums the fine increments it covers,

    xi[n] = sum_{l in step n} sqrt(duration[l]) xi_fine[l] / sqrt(sum_{l in step n} duration[l]) .

The increments are drawn again where they are needed, and stored only by `store_path`. Durations are
read off the clock that each table of steps keeps. Steps that look ahead take a weighted sum of the
same ones: in the mean over a fine increment their weight omega(u), so that the two rows of a step
share the noise of the whole step, to the last bit of rounding.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from mlem_jax.checks import as_float, check_kind, is_count
from mlem_jax.grids import check_grid, nearest_points
from mlem_jax.steps.ramps import ramp_means
from mlem_jax.steps.table import Steps, goes_ahead
from mlem_jax.types import Key, State


class BrownianPath(NamedTuple):
    """Which fine increments drive which step of which sample; the increments follow from the key.

    Attributes:
        key: of the noise; never the one the gates are drawn with.
        samples: index of each sample; its shape is the leading shape of the state.
        first: the first fine increment of each step.
        last: one past its last.
        shares: weights of the fine increments of each step, from its first on; squares sum to 1.
    """

    key: Key
    samples: Int[Array, "*samples"]
    first: Int[Array, " steps"]
    last: Int[Array, " steps"]
    shares: Float[Array, "steps widest"]


def brownian_path(
    key: Key, fine: Steps, steps: Steps | None = None, *, samples: ArrayLike
) -> BrownianPath:
    """The path of `key` over `steps`, made of the increments of the finer steps `fine`.

    Args:
        key: of the noise, of any of JAX's generators.
        fine: the steps whose increments are drawn; methods to be compared share them.
        steps: the steps to be taken, each made of some of the fine ones; by default these, each
            driven by an increment of its own, and the two rows of a step that looks ahead by two
            increments in the proportions of their law.
        samples: index of each sample, `jnp.arange(batch)` for a batch; for a single state without
            a batch axis an array of no dimensions, `jnp.asarray(3)`.

    Raises:
        TypeError: if the samples are no integer array.
        ValueError: if an index is negative or past 2^31, or if a step does not begin and end where
            fine ones do.
    """
    windows = _own_draws(fine) if steps is None else _covering(fine, steps)
    shares = np.zeros((len(windows), max(len(own) for _, own in windows)))
    for row, (_, own) in zip(shares, windows, strict=True):
        row[: len(own)] = own
    first = np.array([start for start, _ in windows], np.int32)
    last = np.array([start + len(own) for start, own in windows], np.int32)
    return BrownianPath(portable_key(key), sample_numbers(samples), jnp.asarray(first),
                        jnp.asarray(last), as_float(shares))  # fmt: skip


def as_key(key: Key) -> Key:
    """The key itself, or the one that an old-style array of its data stands for.

    Raises:
        TypeError: if it is no single key.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and not key.ndim:
        return key
    if dtype == jnp.uint32 and key.shape in ((2,), (4,)):
        return jax.random.wrap_key_data(key)
    raise TypeError(f"expected a key, as jax.random.key(seed) makes it, got {key!r:.80}")


def portable_key(key: Key) -> Key:
    """The key itself if it is of threefry; of another generator, a threefry key drawn with it.

    Of the generators `rbg` and `unsafe_rbg`, what `vmap` draws for a sample depends on the batch.

    Raises:
        TypeError: if it is no key.
    """
    key = as_key(key)
    if str(jax.random.key_impl(key)) == "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl="threefry2x32")


def sample_numbers(samples: ArrayLike) -> Int[Array, "*samples"]:
    """Indices of samples as int32.

    Raises:
        TypeError: if they are no integer array.
        ValueError: if one is negative or past 2^31.
    """
    try:
        numbers = samples if isinstance(samples, Tracer) else np.asarray(samples)
    except (TypeError, ValueError):
        numbers = np.asarray(None)  # No numbers.
    single = isinstance(samples, int | float | np.generic)
    if single or not jnp.issubdtype(numbers.dtype, jnp.integer):
        raise TypeError(
            f"expected an integer array with the index of each sample, got {samples!r}; for a "
            "batch of 6 it is jnp.arange(6)"
        )
    if not isinstance(numbers, Tracer) and ((numbers < 0) | (numbers >= 2**31)).any():
        raise ValueError(
            f"expected sample indices from 0 to 2^31 - 1, got {numbers.min()} to {numbers.max()}; "
            "for more samples take another key"
        )
    return jnp.asarray(numbers, jnp.int32)


def draw_increment(path: BrownianPath, step: Int[Array, ""], like: State) -> State:
    """xi[n]: standard normal, in structure, shape and dtype like the state.

    Raises:
        ValueError: if the state's leading shape is not that of `path.samples`.
    """
    leaves, structure = jax.tree.flatten(like)
    if len(leaves) == 1:
        return structure.unflatten([_one_array(path, path.key, step, leaves[0])])
    keys = [jax.random.fold_in(path.key, number) for number in range(len(leaves))]
    return structure.unflatten(
        [_one_array(path, key, step, leaf) for key, leaf in zip(keys, leaves, strict=True)]
    )


def store_path(path: BrownianPath, like: State) -> State:
    """Every xi[n] of the path, stacked [steps, ...]: what a problem takes in its stead.

    Raises:
        TypeError: if it is no path, or the state is not made of arrays.
        ValueError: if the state is of other samples.
    """
    check_kind(path, BrownianPath, "brownian_path makes one")
    leaves = jax.tree.leaves(like)
    real = (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
    if not leaves or not all(real):
        raise TypeError(f"expected a state of floating arrays, got {like!r:.80}")
    numbers = jnp.arange(len(path.first))
    return jax.lax.map(lambda step: draw_increment(path, step, like), numbers)


def coarsen(path: BrownianPath, drawn: State) -> State:
    """xi[n] = sum_i shares[n, i] drawn[first[n] + i]: `store_path`, of increments drawn already.

    Drawing is most of the work where many coarse paths are made of the same fine one.

    Args:
        path: over coarse steps.
        drawn: every increment of the fine steps it is made of [fine, batch, ...].
    """
    first, last, shares = (np.asarray(each) for each in (path.first, path.last, path.shares))
    windows = list(zip(first, last, shares, strict=True))

    def of_leaf(leaf: Array) -> Array:
        own = np.asarray(leaf)
        rows = np.empty((len(windows), *own.shape[1:]), own.dtype)
        for row, (begin, end, share) in zip(rows, windows, strict=True):
            row[...] = np.tensordot(share[: end - begin].astype(own.dtype), own[begin:end], 1)
        return jnp.asarray(rows)

    return jax.tree.map(of_leaf, drawn)


def draw_starts(key: Key, samples: ArrayLike, shape: tuple[int, ...]) -> Float[Array, "batch ..."]:
    """Standard normal starts [batch, *shape]; sample i depends on the key and on i alone."""
    key, numbers = portable_key(key), sample_numbers(samples)
    if numbers.ndim != 1:
        raise ValueError(f"expected the indices of a batch, [batch], got shape {numbers.shape}")
    if not isinstance(shape, tuple) or not all(is_count(side, 0) for side in shape):
        raise TypeError(f"expected a shape, a tuple such as (32, 32, 3), got {shape!r}")
    return jax.vmap(lambda sample: jax.random.normal(jax.random.fold_in(key, sample), shape))(
        numbers
    )


def _one_array(path: BrownianPath, key: Key, step: Int[Array, ""], like: Array) -> Array:
    batch = path.samples.shape
    if like.shape[: len(batch)] != batch:
        raise ValueError(
            f"expected a state with leading shape {batch}, one path for each sample, got shape "
            f"{like.shape}; give brownian_path samples=jnp.arange(batch size)"
        )
    shape = like.shape[len(batch) :]

    # Drawn as one row, which are the same numbers: a CPU takes three times as long over an array
    # whose last axis is as short as three channels.
    size, shares = math.prod(shape), path.shares[step]

    def one_sample(sample: Int[Array, ""]) -> Array:
        own = jax.random.fold_in(key, sample)

        def add(fine: Int[Array, ""], total: Array) -> Array:
            normal = jax.random.normal(jax.random.fold_in(own, fine), (size,), like.dtype)
            return total + shares[fine - path.first[step]].astype(like.dtype) * normal

        row = jnp.zeros(size, like.dtype)
        return jax.lax.fori_loop(path.first[step], path.last[step], add, row).reshape(shape)

    for _ in batch:
        one_sample = jax.vmap(one_sample)
    return one_sample(path.samples)


_Windows = list[tuple[int, np.ndarray]]
"""Of each step the first increment that it takes, and the shares of it and of those after it."""


def _own_draws(steps: Steps) -> _Windows:
    """An increment for each step; two for the two rows of a step that looks ahead."""
    ends, step_of = _points(steps)
    rows = np.bincount(step_of)
    begins, found = np.cumsum(rows) - rows, []
    for n, step in enumerate(step_of):
        if rows[step] == 1:
            found.append((begins[step], np.ones(1)))
        elif n == 0 or step_of[n - 1] != step:
            found.append((begins[step], np.array([1.0, 0.0])))
        else:
            # Of the whole, int (omega + (1 - omega)) dW, the row that goes ahead took its part.
            ((mean, square),) = ramp_means(steps.clock[n], steps.ramp[n], ends[step : step + 2])
            both = (mean - square) / np.sqrt(square * (1 - 2 * mean + square))
            found.append((begins[step], np.array([both, np.sqrt(1 - both**2)])))
    return found


def _covering(fine: Steps, steps: Steps) -> _Windows:
    """The fine increments that each step covers."""
    fine_clock, fine_step = _points(fine)
    if len(fine_clock) != len(fine_step) + 1:
        raise ValueError("expected fine steps that do not look ahead, whose increments are drawn, "
                         "got some that do; give them as steps, and ddpm on a finer grid as fine"
                         )  # fmt: skip
    clock, step_of = _points(steps)
    where = nearest_points(fine_clock, clock)
    durations = np.abs(np.diff(fine_clock))
    _check_covered(fine_clock, clock, where, durations)
    found = []
    for window, ramp, step in zip(steps.clock, steps.ramp, step_of, strict=True):
        start, stop = where[step], where[step + 1]
        edges = np.concatenate([window[:1], fine_clock[start + 1 : stop], window[1:]])
        lengths, means = durations[start:stop], ramp_means(window, ramp, edges)[:, 0]
        whole = ramp_means(window, ramp, window)[0, 1] * lengths.sum()
        found.append((start, means * np.sqrt(lengths / whole)))
    return found


def _points(steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """The clock's readings between the steps, and which step each row is of.

    The two rows of a step that looks ahead are of one step.
    """
    check_kind(steps, Steps, "make them with the functions of mlem_jax.steps")
    if isinstance(steps.clock, Tracer):
        raise ValueError("expected steps made outside jax.jit, got traced ones; make the path "
                         "there too and pass it as an argument")  # fmt: skip
    ahead = goes_ahead(steps)
    back = np.append(False, ahead[:-1])
    same = (steps.clock[1:] == steps.clock[:-1]).all(axis=1)
    follows = steps.clock[1:, 0] == steps.clock[:-1, 1]
    # What a row that goes ahead leaves of the noise, the next one takes.
    taken = steps.ramp + np.where(back[:, None], np.roll(steps.ramp, 1, axis=0), 0)
    complete = (taken[~ahead] == 1).all() and not (ahead[-1] or (ahead & back).any())
    if not (complete and np.where(back[1:], same, follows).all()):
        raise ValueError("expected steps one after the other, got a gap between them; take the "
                         "rows of a table without leaving any out")  # fmt: skip
    begins = ~back
    return (check_grid(np.append(steps.clock[begins, 0], steps.clock[-1, 1])),
            np.cumsum(begins) - 1)  # fmt: skip


def _check_covered(
    fine: np.ndarray, clock: np.ndarray, where: np.ndarray, durations: np.ndarray
) -> None:
    gap = np.abs(fine[where] - clock)
    spacing = np.minimum(np.append(durations, np.inf), np.insert(durations, 0, np.inf))
    misses = gap > 1e-6 * spacing[where]
    if misses.any() or (np.diff(where) <= 0).any():
        worst = int(misses.argmax())
        raise ValueError(
            f"expected steps that begin and end where fine ones do, in their direction, got clock "
            f"{clock[worst]}, nearest is {fine[where[worst]]}; make both tables with the same "
            "process and the same function, the coarse grid with grids.subgrid"
        )
