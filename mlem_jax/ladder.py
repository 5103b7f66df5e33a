"""The ladder: models of one drift, cheapest first, with their parameters and their costs.

A level is any callable `(params, x, t) -> like x`. The callables are static, part of the compiled
program; parameters and costs are leaves of a pytree, so that a ladder goes through `jax.jit`,
`jax.tree.map` and, if its costs are floats too, `jax.grad` as one argument, and new costs or
parameters compile nothing anew.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from mlem_jax.checks import as_table, is_count
from mlem_jax.types import Drift, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ladder:
    """Models f^1, ..., f^K of one drift, cheapest first.

    Functions compare by identity, so a ladder remade from new lambdas is compiled anew: make the
    callables once and keep them.

    Attributes:
        drifts: one callable `(params, x, t)` per level; static.
        params: one pytree per level.
        costs: of one evaluation of each level, in any one unit; never falling. Left out, they are
            unknown: `solve` does not ask for them, and `measure_costs` finds them.
    """

    drifts: tuple[Drift, ...] = dataclasses.field(metadata={"static": True})
    params: tuple[Params, ...]
    costs: tuple[Any, ...] = ()

    def __len__(self) -> int:
        """How many levels."""
        return len(self.drifts)


def pick_levels(ladder: Ladder, levels: Sequence[int]) -> Ladder:
    """The ladder f^i, f^j, ... of some of the levels, counted from 1, the cheapest.

    Raises:
        ValueError: if they do not rise, or one is not there.
    """
    check_ladder(ladder)
    chosen = list(levels) if isinstance(levels, Iterable) else []
    whole = bool(chosen) and all(map(is_count, chosen))
    if not whole or chosen[0] < 1 or chosen[-1] > len(ladder) or (np.diff(chosen) <= 0).any():
        raise ValueError(
            f"expected levels that rise, from 1 to {len(ladder)} at most, got {levels!r}"
        )
    drifts, params, costs = (
        tuple(field[level - 1] for level in chosen if field)
        for field in (ladder.drifts, ladder.params, ladder.costs)
    )
    return Ladder(drifts, params, costs)


def check_ladder(ladder: Ladder) -> None:
    """As many params as drifts, each drift a callable that can be hashed.

    Raises:
        TypeError: if it is no ladder, or a drift cannot be called or hashed.
        ValueError: if lengths differ or there is no level.
    """
    if not isinstance(ladder, Ladder):
        raise TypeError(f"expected a Ladder, got {type(ladder).__name__}; make one of "
                        "tuples, one entry per level: Ladder(drifts, params, costs)")  # fmt: skip
    for name in ("drifts", "params", "costs"):
        if not isinstance(getattr(ladder, name), tuple):
            raise TypeError(f"expected ladder.{name} to be a tuple with one entry per level, got "
                            f"{type(getattr(ladder, name)).__name__}")  # fmt: skip
    if not ladder.drifts or len(ladder.drifts) != len(ladder.params):
        raise ValueError(f"expected one pytree of params for each level, got {len(ladder.drifts)} "
                         f"drifts and {len(ladder.params)} params")  # fmt: skip
    for k, drift in enumerate(ladder.drifts):
        _check_drift(k, drift)


def known_costs(ladder: Ladder) -> tuple[Any, ...]:
    """The costs of a ladder that has them, checked.

    Raises:
        ValueError: if there is not one for each level, or as `check_costs`.
    """
    check_ladder(ladder)
    if len(ladder.costs) != len(ladder.drifts):
        raise ValueError(
            f"expected one cost for each of {len(ladder.drifts)} levels, got {len(ladder.costs)}; "
            "give them to Ladder, or measure them with measure_costs(ladder, x, t)"
        )
    check_costs(ladder.costs)
    return ladder.costs


def _check_drift(k: int, drift: Any) -> None:
    if not callable(drift):
        raise TypeError(f"expected level {k + 1} to be a callable (params, x, t), got "
                        f"{type(drift).__name__}")  # fmt: skip
    try:
        hash(drift)
    except TypeError as error:
        raise TypeError(
            f"expected level {k + 1} to be hashable, as it is part of the compiled program, got an "
            f"unhashable {type(drift).__name__}; pass a function and put its arrays into params"
        ) from error


def check_costs(costs: Sequence[Any]) -> None:
    """Costs as a ladder has them; traced ones pass.

    Raises:
        ValueError: if one is not positive and finite, or less than the one before it.
    """
    if not isinstance(costs, Iterable):
        raise TypeError(f"expected one positive cost per level, in a tuple, got {costs!r}")
    if any(isinstance(cost, Tracer) for cost in costs):
        return
    table = as_table(tuple(costs), "costs")
    good = table.ndim == 1 and len(table) and np.isfinite(table).all() and (table > 0).all()
    if not good or (np.diff(table) < 0).any():
        raise ValueError(
            f"expected positive costs, cheapest level first, got {tuple(costs)}; sort the levels, "
            "and leave out one that costs more than a better one"
        )
