"""Executors: how the rows of a table are run. All give the same samples, up to rounding.

`scan` is one loop with a cond per level, compiled once for a number of steps and a batch, and it
runs inside `jax.jit`. `segments` needs a plan that is known when it is called: runs of steps that
need the same levels are dispatched from Python, without a predicate, so that a GPU never waits to
learn which branch to take; between them one can look at the state.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from mlem_jax.checks import is_count
from mlem_jax.ladder import Ladder
from mlem_jax.problem import Problem, increment_at
from mlem_jax.solver.step import Carry, Table, mlem_step
from mlem_jax.types import State

_LENGTHS = (8, 1)
"""Steps in one dispatched program: few programs to compile, few dispatches for a long run."""

Report = Callable[[int, int, State], Any]
"""`(steps done, steps in all, state)`; what it returns is ignored."""


@runtime_checkable
class Executor(Protocol):
    """Runs the rows of a table, from a carry to a carry."""

    def __call__(self, ladder: Ladder, carry: Carry, table: Table, problem: Problem, /) -> Carry:
        """The carry after the last row."""
        ...


def scan(ladder: Ladder, carry: Carry, table: Table, problem: Problem, /) -> Carry:
    """One `lax.scan` over all steps, one `lax.cond` per level."""
    return scan_rows(ladder, carry, table, problem, jnp.arange(len(table.t)))


def segments(ladder: Ladder, carry: Carry, table: Table, problem: Problem, /) -> Carry:
    """Runs of steps that need the same levels, one after the other, without predicates.

    Raises:
        ValueError: if the plan is traced: under `jax.jit` use `scan`.
    """
    return _run_segments(ladder, carry, table, problem, every=len(table.t), report=None)


def reporting(report: Report, *, every: int = 1) -> Executor:
    """`segments` that calls `report(done, steps, x)` every so many steps and after the last.

    For progress bars, pictures on the way, or to stop by an exception. Reading `x` waits for it.

    Args:
        report: called from Python, never traced.
        every: steps between two calls.

    Raises:
        TypeError: if the report cannot be called.
        ValueError: if `every` is no whole number from 1 on.
    """
    if not callable(report):
        raise TypeError(f"expected a report that is called with (done, steps, x), got {report!r}")
    if not is_count(every):
        raise ValueError(f"expected a report every 1 step or more, got {every!r}")
    return partial(_run_segments, every=every, report=report)


def scan_rows(
    ladder: Ladder, carry: Carry, table: Table, problem: Problem, numbers: Int[Array, " some"]
) -> Carry:
    """The loop over the steps with these numbers."""

    def body(carry: Carry, n: Int[Array, ""]) -> tuple[Carry, None]:
        row = jax.tree.map(lambda column: column[n], table)
        increment = increment_at(problem, n, carry.x)
        return mlem_step(ladder, carry, row, increment, problem.condition), None

    return jax.lax.scan(body, carry, numbers)[0]


def _run_segments(
    ladder: Ladder,
    carry: Carry,
    table: Table,
    problem: Problem,
    /,
    *,
    every: int,
    report: Report | None,
) -> Carry:
    if isinstance(table.needed, Tracer):
        raise ValueError("expected a plan that is known, got a traced one; call solve outside "
                         "jax.jit for segments, or use the executor scan")  # fmt: skip
    needed = np.asarray(table.needed)
    count = len(needed)
    for start, stop in _runs(needed, every):
        pattern = tuple(needed[start].tolist())
        while start < stop:
            length = next(each for each in _LENGTHS if each <= stop - start)
            carry = _segment(pattern, length, ladder, carry, table, problem, start)
            start += length
        if report is not None and (stop % every == 0 or stop == count):
            report(stop, count, carry.x)
    return carry


def _runs(needed: np.ndarray, every: int) -> list[tuple[int, int]]:
    """Ranges of steps that need the same levels, cut at multiples of `every`."""
    inner = np.arange(1, len(needed))
    cuts = inner[(needed[1:] != needed[:-1]).any(axis=1) | (inner % every == 0)]
    points = [0, *cuts.tolist(), len(needed)]
    return list(pairwise(points))


@partial(jax.jit, static_argnums=(0, 1))
def _segment(
    pattern: tuple[bool, ...],
    length: int,
    ladder: Ladder,
    carry: Carry,
    table: Table,
    problem: Problem,
    start: Int[Array, ""] | int,
) -> Carry:
    def body(carry: Carry, n: Int[Array, ""]) -> tuple[Carry, None]:
        row = jax.tree.map(lambda column: column[n], table)
        row = row._replace(needed=np.array(pattern))  # Known, so it needs no predicate.
        increment = increment_at(problem, n, carry.x)
        return mlem_step(ladder, carry, row, increment, problem.condition), None

    return jax.lax.scan(body, carry, start + jnp.arange(length))[0]
