"""Curves of error against cost: what is worth its price, and how many times one costs the other's.

A curve is a set of runs, each a cost and an error, in any order. What another pays for an error is
read off its frontier, the runs that no cheaper one beats. Where its cheapest run is already better,
or its best one worse, there is no such number: then there is a bound, and it stays one.
"""

import math
from collections.abc import Iterable, Sequence, Sized
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mlem_jax.checks import as_table

Points = Sequence[tuple[float, float]]
"""(cost, error) of each run."""


class Ratio(NamedTuple):
    """The median of other cost / own cost at equal error, over all runs of one's own.

    Attributes:
        low: the least that it can be: 0 where there is only an upper bound.
        high: the most that it can be: infinite where there is only a lower bound.
        measured: runs whose error the other's frontier spans; the rest are bounds.
        points: runs.
    """

    low: float
    high: float
    measured: int
    points: int


def frontier(points: Points) -> list[tuple[float, float]]:
    """{(c, e) : no other (c', e') with c' <= c and e' <= e}, from cheap to dear.

    Runs that did not end at a number are not on it; of equal runs one is.
    """
    kept: list[tuple[float, float]] = []
    for cost, error in sorted(point for point in points if all(map(math.isfinite, point))):
        if not kept or error < kept[-1][1]:
            kept.append((cost, error))
    return kept


def cost_range(
    points: Points, wanted: ArrayLike
) -> tuple[Float[np.ndarray, "*wanted"], Float[np.ndarray, "*wanted"]]:
    """log c(e) by straight lines in log e between neighbours on the frontier; beyond them a range.

    Args:
        points: of one curve, of which at least one ended at a number; all of them positive.
        wanted: errors.

    Returns:
        The least and the most that each error can cost. They are equal between the ends of the
        frontier; (0, the cheapest) for an error above them, (the costliest, infinity) below.

    Raises:
        ValueError: if no run ended at a number, or the frontier has a number that is not positive.
    """
    runs, asked = as_table(points, "runs"), as_table(wanted, "errors")
    if runs.ndim != 2 or runs.shape[1] != 2:
        raise ValueError(f"expected runs (cost, error), got {points!r:.80}")
    known = frontier(points)
    if not known or np.min(known) <= 0:
        raise ValueError(f"expected runs of positive cost and error, got the frontier {known}")
    costs, errors = np.array(known, np.float64).T
    inside = np.clip(asked, errors[-1], errors[0])
    between = np.exp(np.interp(np.log(inside), np.log(errors[::-1]), np.log(costs[::-1])))
    # An error that is no number is worse than any.
    easy, hard = ~(asked <= errors[0]), asked < errors[-1]
    between = np.clip(between, costs[0], costs[-1])  # Its ends are runs, to the bit.
    least = np.where(easy, 0.0, np.where(hard, costs[-1], between))
    most = np.where(easy, costs[0], np.where(hard, math.inf, between))
    return least, most


def ratio(own: Points, other: Points) -> Ratio | None:
    """median_i other(e_i) / c_i over all runs (c_i, e_i) of one's own, bounds being bounds.

    Of the other only its frontier counts, of one's own every run: which of them are best is known
    in hindsight only. So in doubt it is for the other. The median of the lower ends and that of the
    upper ends enclose the median, and are the same number where it does not hang on a bound.

    Args:
        own: the runs that are paid for.
        other: those of whom one is compared with.

    Returns:
        The range of the median; None where there are no runs on one of the sides.
    """
    if any(isinstance(runs, Sized) and not len(runs) for runs in (own, other)):
        return None
    table = as_table(own, "runs")
    if table.ndim != 2 or table.shape[1] != 2 or not (table[:, 0] > 0).all():
        raise ValueError(f"expected runs (cost, error) of positive cost, got {own!r:.80}")
    costs, errors = table.T
    least, most = cost_range(other, errors)
    measured = int((least == most).sum())
    return Ratio(float(np.median(least / costs)), float(np.median(most / costs)), measured,
                 len(own))  # fmt: skip


def middle(resampled: Iterable[Ratio | None]) -> tuple[float, float] | None:
    """[2.5 % quantile of the low ends, 97.5 % quantile of the high ends] of a bootstrap.

    None where there is nothing to compare.
    """
    known = [each for each in resampled if each is not None]
    if not known:
        return None
    return by_rank([each.low for each in known], [each.high for each in known])


def by_rank(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """[2.5 % quantile of the lows, 97.5 % quantile of the highs], of a bootstrap.

    By rank, as infinities are no numbers to go between.
    """
    low, high = np.quantile(lows, 0.025, method="lower"), np.quantile(highs, 0.975, method="higher")
    return float(low), float(high)


def told_range(low: float, high: float, form: str = ".2f", between: str = " to ") -> str:
    """`2.50`; of a bound `<= 2.50` or `>= 2.50`; of a range `1.00 to 2.50`; `?` of anything."""
    if low == 0 and math.isinf(high):
        return "?"
    if low == 0 and high > 0:
        return f"<= {high:{form}}"
    if math.isinf(high):
        return f">= {low:{form}}"
    ends = f"{low:{form}}", f"{high:{form}}"
    return ends[0] if ends[0] == ends[1] else between.join(ends)


def told_ratio(own: Ratio | None, interval: tuple[float, float] | None = None) -> str:
    """`2.50 (2.10-2.90), 5 of 6`: the ratio, its interval, on how many runs it was measured."""
    if own is None:
        return "-"
    around = f" ({told_range(*interval, between='-')})" if interval else ""
    return f"{told_range(own.low, own.high)}{around}, {own.measured} of {own.points}"


def bound(own: Ratio) -> str:
    """What a ratio is: `measured`, `at most`, `at least`, `between`, or `nothing` if it is open."""
    if own.low == own.high:
        return "measured"
    if math.isinf(own.high):
        return "at least" if own.low > 0 else "nothing"
    return "between" if own.low > 0 else "at most"
