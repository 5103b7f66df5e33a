"""One step of a fit: the least squares, and the state after it. It knows no level.

A level's output and its last one are nearly parallel, so the normal equations are summed in double
precision, where the square of what single precision can tell apart is told apart still. They are
summed by numpy, in chunks: a tall matrix of a handful of columns is nothing to compile.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mlem_jax.solver.step import Carry, Sums, Table, dot, end_step, store_output
from mlem_jax.types import State

_ROWS = 1 << 18
"""Entries that are summed at a time."""


def fit_step(
    outputs: State,
    increment: State | None,
    carry: Carry,
    row: Table,
    goal: State,
    known: Bool[np.ndarray, " known"],
    base: Float[np.ndarray, " known"],
    ridge: float,
    seen: int,
) -> tuple[Carry, Float[np.ndarray, " known"], Float[np.ndarray, " 2"]]:
    """The carry after a step with the best coefficients, these, and the gaps they leave.

    Args:
        outputs: of the levels at this step [levels, batch, ...], 0 of those that do not run.
        increment: xi of this step; None for an ODE.
        carry: before the step.
        row: of the table, with no weights.
        goal: where the fine solution is after it.
        known: which of levels and slots have a coefficient.
        base: coefficients to be held at.
        ridge: how strongly.
        seen: so many of the first samples are fitted.
    """
    values, target = _collect(outputs, increment, carry, row, goal)
    coefficients, gaps = base.astype(float), np.zeros(2)
    if row.gain != 0:
        coefficients, gaps = least_squares(values, target, known, base, ridge, seen)
    used = coefficients.astype(row.scale.dtype)
    return _advance(values, outputs, increment, carry, row, jnp.asarray(used)), used, gaps


def least_squares(
    values: State,
    target: State,
    known: Bool[np.ndarray, " known"],
    base: Float[np.ndarray, " known"],
    ridge: float,
    seen: int,
) -> tuple[Float[np.ndarray, " known"], Float[np.ndarray, " 2"]]:
    """c = base + argmin_d |target - base . v - d . v|^2 + ridge max_j |v_j|^2 |d|^2.

    Values that are not known have no coefficient; where none is, the estimate is 0. Also the mean
    squares left with base and with c. Of values that are not finite c = base and what is left is
    NaN: a level that explodes is seen in the error at the end, and stops no search.
    """
    chosen = np.flatnonzero(known)
    gram, entries = np.zeros((len(chosen) + 1,) * 2), 0
    for columns, goal in _blocks(values, target, chosen, seen):
        block = np.concatenate([columns, (goal - columns @ base[chosen])[:, None]], axis=1)
        gram += block.T @ block
        entries += len(block)
    if not np.isfinite(gram).all():
        return np.where(known, base, 0.0), np.full(2, np.nan)
    inner, outer, rest = gram[:-1, :-1], gram[:-1, -1], gram[-1, -1]
    # What holds each coefficient at its base.
    anchor = ridge * np.diag(inner).max(initial=0.0) * np.eye(len(chosen))
    change = np.linalg.lstsq(inner + anchor, outer, rcond=1e-14)[0]
    coefficients = np.where(known, base, 0.0)
    coefficients[chosen] += change
    after = rest - 2 * change @ outer + change @ inner @ change
    return coefficients, np.array([rest, max(after, 0.0)]) / entries


def _blocks(
    values: State, target: State, chosen: np.ndarray, seen: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of the least squares, [entries, known] and [entries], some samples at a time."""
    pairs = zip(jax.tree.leaves(values), jax.tree.leaves(target), strict=True)
    for each, goal in ((np.asarray(each), np.asarray(goal)) for each, goal in pairs):
        size = max(1, _ROWS // max(1, goal[0].size))
        for start in range(0, seen, size):
            part = slice(start, min(start + size, seen))
            columns = each[chosen, part].astype(np.float64).reshape(len(chosen), goal[part].size).T
            yield columns, goal[part].astype(np.float64).ravel()


@jax.jit
def _collect(
    outputs: State, increment: State | None, carry: Carry, row: Table, goal: State
) -> tuple[State, State]:
    """Levels and slots [values, batch, ...], and what the estimate should be."""
    values = jax.tree.map(lambda now, then: jnp.concatenate([now, then]), outputs, carry.memory)
    free = jax.tree.map(lambda x, then: row.scale * x + dot(row.push, then),
                        carry.x, carry.estimates)  # fmt: skip
    if increment is not None:
        free = jax.tree.map(lambda own, xi: own + row.noise * xi, free, increment)
    gain = jnp.where(row.gain == 0, 1, row.gain)
    target = jax.tree.map(lambda end, own: (end - own) / gain, goal, free)
    return values, target


@jax.jit
def _advance(
    values: State,
    outputs: State,
    increment: State | None,
    carry: Carry,
    row: Table,
    coefficients: Float[Array, " known"],
) -> Carry:
    """The carry after the step, as the solver makes it of this estimate."""
    memory = carry.memory
    for k in range(len(row.store)):
        own = jax.tree.map(lambda leaf, k=k: leaf[k], outputs)
        memory = store_output(memory, row.store[k], own)
    return end_step(carry, Sums(dot(coefficients, values), memory), row, increment)
