"""Shares of a stacked ladder, fitted by least squares: no network is trained.

The share of rung k that brings F^k = F^{k-1} + w_k (f^k - F^{k-1}) nearest to the target x_0 is

    w_k = <x_0 - F^{k-1}, f^k - F^{k-1}> / |f^k - F^{k-1}|^2 .

Each rung is then a projection: x_0 - F^k is orthogonal to F^k - F^{k-1}, so the size of a
difference, on which the variance of the multilevel sum hangs, is the drop in loss that it buys and
not more, and no rung is worse than the one before. That holds on the data of the fit, hence on
others as far as there were enough, provided the networks were not trained on them.

Levels and target enter through their inner products alone, a small matrix for each of the data at
each time; from their means follow the shares, and the losses of the ladder with any shares.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from numpy.typing import ArrayLike

from mlem_jax.levels import Levels, check_levels, check_params, split_conditions
from mlem_jax.process import Process, perturb
from mlem_jax.stack import Stack
from mlem_jax.steps import schedules
from mlem_jax.types import Drift, Grid, Key, Params, PerLevel, Scalar, State

Products = Float[Array, "*sets parts parts"]
"""Inner products, per value, of f^1, f^2 - f^1, ..., f^K - f^{K-1}, target - f^K."""


class StackErrors(NamedTuple):
    """What a ladder is worth, rung by rung; mean squares, so per value.

    Attributes:
        losses: |target - F^k|^2.
        moves: |F^k - F^{k-1}|^2: what the variance of the multilevel sum hangs on.
        drops: |target - F^{k-1}|^2 - |target - F^k|^2; the moves, where the shares are fitted.
    """

    losses: Float[Array, "*sets levels"]
    moves: Float[Array, "*sets levels"]
    drops: Float[Array, "*sets levels"]


def fit_stack(
    levels: Levels,
    params: tuple[Params, ...],
    process: Process,
    held_out: Shaped[Array, "count *state"],
    key: Key,
    *,
    times: ArrayLike | None = None,
    chunk: int = 50,
) -> Stack:
    """w_k(t) = <x_0 - F^{k-1}, f^k - F^{k-1}> / |f^k - F^{k-1}|^2, sums over all the data.

    Args:
        levels: predictions of the data, as `levels.data_drift` makes them.
        params: one pytree a level; conditions, if any, are those of the data, one each.
        process: the process whose states they denoise.
        held_out: data not used in training, scaled as in training; a few hundred will do.
        key: of the noise, which depends on it, the time and the place in `held_out` alone.
        times: where to fit, rising; by default a dozen, see `spread_times`.
        chunk: data at a time, to bound the memory.

    Raises:
        ValueError: if the times do not rise, the data are no floats, or numbers do not match.
    """
    times = spread_times(process) if times is None else times
    products = data_products(levels, params, process, held_out, key, times, chunk=chunk)
    return Stack(jnp.asarray(times, products.dtype), product_shares(products.mean(axis=1)))


def fit_states(
    levels: Levels,
    params: tuple[Params, ...],
    times: ArrayLike,
    x: Shaped[Array, "points *state"],
    target: Shaped[Array, "points *state"],
) -> Stack:
    """`fit_shares` at each of the times: for a drift without data, such as a simulation's.

    Args:
        levels: the ladder.
        params: one pytree a level.
        times: rising.
        x: states met at each of them, for instance from `solve_path`.
        target: what the ladder approaches there, for instance the drift of a finer model.

    Raises:
        ValueError: as `fit_stack`.
    """
    times = _check_times(times, len(x))
    at = jnp.asarray(times, x.dtype)
    shares = jax.lax.map(lambda row: fit_shares(levels, params, *row), (x, target, at))
    return Stack(at, shares)


def fit_shares(
    levels: Levels, params: tuple[Params, ...], x: State, target: State, t: Scalar
) -> PerLevel:
    """w_k = <target - F^{k-1}, f^k - F^{k-1}> / |f^k - F^{k-1}|^2 at one time, sums over all of x.

    Raises:
        ValueError: if the target has not the state's shape.
    """
    return product_shares(_products(levels.drifts, params, x, target, t))


def spread_times(process: Process, count: int = 12) -> np.ndarray:
    """Times in the middle of `count` equal parts of arctan(sigma/alpha): even in noise.

    Uniform in t for the cosine process, or nearly so. Next to the data, where all levels are right
    and their differences all but 0, shares turn fast and mean little: no time lies there.
    """
    # Where exactly is no matter, so a table is inverse enough; finer where a process begins.
    times = process.end * np.linspace(0.0, 1.0, 2001) ** 2
    alpha, sigma = schedules(process, times)
    angles = np.arctan2(sigma, alpha)
    return np.interp(angles[-1] * (np.arange(count) + 0.5) / count, angles, times)


def data_products(
    levels: Levels,
    params: tuple[Params, ...],
    process: Process,
    data: Shaped[Array, "count *state"],
    key: Key,
    times: ArrayLike,
    *,
    chunk: int = 50,
) -> Float[Array, "points count parts parts"]:
    """The `Products` of each of the data at each time, target x_0; noise as in `fit_stack`.

    Means of these over the data are enough to fit a stack, and to judge any (`stack_errors`).

    Raises:
        ValueError: as `fit_stack`.
    """
    check_levels(levels)
    check_params(levels, params)
    times = _check_times(times)
    if times[0] < 0 or times[-1] > process.end:
        raise ValueError(f"expected times from 0 to the end of the process, {process.end}, got "
                         f"from {times[0]} to {times[-1]}")  # fmt: skip
    data = jnp.asarray(data)
    if data.ndim < 2 or not len(data) or not jnp.issubdtype(data.dtype, jnp.floating):
        raise ValueError(
            "expected data [count, ...] as floats, scaled as in training (pictures to [-1, 1]), "
            f"got {data.dtype}{list(data.shape)}"
        )
    if chunk < 1:
        raise ValueError(f"expected a positive chunk, got {chunk}")
    at = jnp.asarray(times, data.dtype)
    return _data_products(levels.drifts, process, chunk, params, data, key, at)


def product_shares(products: Products) -> Float[Array, "*sets levels"]:
    """The shares w that these inner products ask for."""
    return _climb(products, None)[0]


def stack_errors(products: Products, shares: Float[Array, "*#sets levels"]) -> StackErrors:
    """Losses, moves and drops of the ladder with any shares; with ones, of the plain ladder."""
    return _climb(products, shares)[1]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _data_products(
    drifts: tuple[Drift, ...],
    process: Process,
    chunk: int,
    params: tuple[Params, ...],
    data: Shaped[Array, "count *state"],
    key: Key,
    times: Grid,
) -> Float[Array, "points count parts parts"]:
    conditions, put = split_conditions(params)

    def one(point: Int[Array, ""], own: tuple[State, Any, Int[Array, ""]]) -> Products:
        clean, condition = jax.tree.map(lambda leaf: leaf[None], own[:2])
        noise_key = jax.random.fold_in(jax.random.fold_in(key, point), own[2])
        noise, t = jax.random.normal(noise_key, clean.shape, clean.dtype), times[point]
        x = perturb(process, clean, noise, t)
        return _products(drifts, put(condition), x, clean, t)

    def at(point: Int[Array, ""]) -> Products:
        given = (data, conditions, jnp.arange(len(data)))
        return jax.lax.map(partial(one, point), given, batch_size=chunk)

    return jax.lax.map(at, jnp.arange(len(times)))


def _products(
    drifts: tuple[Drift, ...], params: tuple[Params, ...], x: State, target: State, t: Scalar
) -> Products:
    if target.shape != x.shape:
        raise ValueError(f"expected a target like the state, {list(x.shape)}, got "
                         f"{list(target.shape)}")  # fmt: skip
    rungs = [drift(own, x, t) for drift, own in zip(drifts, params, strict=True)]
    # Differences first: products of the levels themselves would lose them to rounding.
    parts = jnp.diff(jnp.stack([jnp.zeros_like(x), *rungs, target]), axis=0)
    flat = parts.reshape(len(parts), -1)
    return jnp.matmul(flat, flat.T, precision="highest") / x.size


@jax.jit
def _climb(
    products: Products, shares: Float[Array, "*#sets levels"] | None
) -> tuple[Float[Array, "*sets levels"], StackErrors]:
    """Up the ladder with given shares, or with the fitted ones.

    The rest, target - F^k, is held by its coefficients in the parts of the products; the target is
    the sum of them all, and target - f^k that of those past k.
    """
    count = products.shape[-1] - 1
    if shares is not None and shares.shape[-1] != count:
        raise ValueError(f"expected one share for each of {count} levels, got {shares.shape[-1]}")

    def inner(a: Float[Array, "*sets parts"], b: Float[Array, "*sets parts"]) -> Array:
        return jnp.einsum("...i,...ij,...j->...", a, products, b, precision="highest")

    rest = jnp.ones_like(products[..., 0])
    found, losses, moves = [], [inner(rest, rest)], []
    for k in range(count):
        gap = rest - (jnp.arange(count + 1) > k)  # f^k - F^{k-1}
        square = inner(gap, gap)
        fitted = _divide_or_one(inner(rest, gap), square)
        share = jnp.broadcast_to(fitted if shares is None else shares[..., k], square.shape)
        rest = rest - share[..., None] * gap
        found.append(share)
        losses.append(inner(rest, rest))
        moves.append(share**2 * square)
    table = jnp.stack(losses, axis=-1)
    errors = StackErrors(table[..., 1:], jnp.stack(moves, axis=-1), -jnp.diff(table, axis=-1))
    return jnp.stack(found, axis=-1), errors


def _divide_or_one(numerator: Array, denominator: Array) -> Array:
    # A difference that is nothing may have any share; 1 spares the levels below it.
    nothing = denominator == 0
    return jnp.where(nothing, 1, numerator / jnp.where(nothing, 1, denominator))


def _check_times(times: ArrayLike, count: int | None = None) -> np.ndarray:
    table = np.asarray(times, np.float64)
    if table.ndim != 1 or len(table) == 0 or not (np.diff(table) > 0).all():
        raise ValueError(f"expected times that rise, at least one, got {table.tolist()}")
    if count is not None and len(table) != count:
        raise ValueError(f"expected one time for each of {count} sets of states, got {len(table)}")
    return table
