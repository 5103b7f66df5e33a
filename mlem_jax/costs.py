"""What an evaluation of each level costs, measured on this machine or counted by the compiler."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mlem_jax.checks import check_count, is_number
from mlem_jax.ladder import Ladder, check_ladder
from mlem_jax.solver.output import evaluate_level
from mlem_jax.types import Condition, Params, Scalar, State


def measure_costs(
    ladder: Ladder,
    x: State,
    t: Scalar,
    condition: Condition = None,
    *,
    evaluations: int = 20,
    repeats: int = 5,
) -> Ladder:
    """The ladder with the seconds of one evaluation as costs: the median over repeats.

    Each level is timed as the solver runs it, `evaluations` times inside one compiled scan, after
    a warm-up; the levels take turns, so that a drift of the machine's speed meets all of them. A
    level that was slower than the next one counts as fast as that, so that costs never fall.

    Args:
        ladder: whose costs need not be known, `Ladder(drifts, params)`.
        x: a state of the shape to be sampled: the cost depends on the batch.
        t: a time.
        condition: as the problem's, where it has one.
        evaluations: evaluations in one timed scan.
        repeats: timed scans per level.
    """
    _check_measured(ladder, x, t, condition)
    check_count(evaluations, "at least 1 of evaluations")
    check_count(repeats, "at least 1 of repeats")
    given = () if condition is None else (condition,)
    runs = [_scanned(drift, evaluations) for drift in ladder.drifts]
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for run, own, taken in zip(runs, ladder.params, seconds, strict=True):
            begun = time.perf_counter()
            jax.block_until_ready(run(own, x, t, *given))
            if repeat > 0:  # The first compiles.
                taken.append((time.perf_counter() - begun) / evaluations)
    return dataclasses.replace(ladder, costs=never_falling([np.median(own) for own in seconds]))


def never_falling(costs: Sequence[float]) -> tuple[float, ...]:
    """Each cost, or that of a better level where that is less: nobody would pay more for less."""
    table = np.asarray(costs, np.float64)
    return tuple(np.minimum.accumulate(table[::-1])[::-1].tolist())


def count_flops(
    ladder: Ladder, x: State, t: Scalar, condition: Condition = None
) -> tuple[float, ...]:
    """Floating-point operations of one evaluation of each level, as the compiler counts them.

    Never falling, as costs are: a level that takes more than a better one counts as much as that.

    Args:
        ladder: whose costs need not be known.
        x: a state of the shape to be sampled.
        t: a time.
        condition: as the problem's, where it has one.
    """
    _check_measured(ladder, x, t, condition)
    given = () if condition is None else (condition,)

    def flops(drift: Callable, params: Params) -> float:
        analysis = jax.jit(drift).lower(params, x, t, *given).compile().cost_analysis()
        return float((analysis or {}).get("flops", float("nan")))

    return never_falling(
        [flops(drift, own) for drift, own in zip(ladder.drifts, ladder.params, strict=True)]
    )


def _check_measured(ladder: Ladder, x: State, t: Scalar, condition: Condition) -> None:
    """A state that every level takes, and one time.

    Raises:
        TypeError: if the state is not made of floating arrays.
        ValueError: if there is not one time, or a level fails or returns something else.
    """
    check_ladder(ladder)
    leaves = jax.tree.leaves(x)
    if not leaves or not all(jnp.issubdtype(getattr(leaf, "dtype", int), jnp.floating)
                             for leaf in leaves):  # fmt: skip
        raise TypeError(f"expected a state of floating arrays, got {x!r:.80}; the arguments are "
                        "the ladder, the state and the time")  # fmt: skip
    if not is_number(t):
        raise ValueError(f"expected one time, got {t!r:.80}")
    for k, (drift, params) in enumerate(zip(ladder.drifts, ladder.params, strict=True)):
        jax.eval_shape(partial(evaluate_level, k, drift), params, x, t, condition)


def _scanned(drift: Callable, evaluations: int) -> Callable[..., State]:
    def run(params: Params, x: State, t: Scalar, *condition: Condition) -> State:
        def body(x: State, _: None) -> tuple[State, None]:
            value = drift(params, x, t, *condition)
            return jax.tree.map(lambda x, f: 0.5 * x + 0.5 * f, x, value), None

        return jax.lax.scan(body, x, None, length=evaluations)[0]

    return jax.jit(run)
