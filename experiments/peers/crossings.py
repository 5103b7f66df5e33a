"""At which cost does one method come closer than another? From rows of `common.benchmark`."""

from typing import Any

import numpy as np

from experiments.common.curves import Rows
from experiments.peers.methods import by_run
from mlem_jax.frontier import Points, frontier

RESAMPLES = 200


def crossing(own: Rows, theirs: Rows) -> dict[str, Any] | None:
    """Where between the costs that both span the first has the smaller error.

    Both are taken at their best: points that a cheaper one beats do not count. In doubt it is for
    theirs: between their points their line is straight in log-log, while of ours a point counts
    from its cost on and nothing is assumed before it.
    A curve of more points has more chances to be good on these very pictures, which the interval
    does not know.

    Args:
        own: rows of the methods that are one curve together.
        theirs: rows of those they are compared with, of the same sampler.

    Returns:
        The costs compared, the ranges of them in which `own` is closer, those in which 97.5 % of
        other pictures, drawn with repetition from these, would say so too, and where it stands
        best: its error over theirs there, with the middle 95 % of theirs. None where no cost is
        spanned by both.
    """
    gathered = [gather(rows) for rows in (own, theirs)]
    ours, others = (best_of(each) for each in gathered)
    if not ours or not others:
        return None
    low = max(min(ours)[0], min(others)[0])
    high = min(max(ours)[0], max(others)[0])
    if low > high:
        return None
    inside = [cost for cost, _ in ours if low <= cost <= high]
    costs = np.union1d(np.geomspace(low, high, 200), inside)
    ratio = error_for(ours, costs) / error_at(others, costs)
    best = int(ratio.argmin())
    spread = [
        error_for(frontier(mine), costs) / error_at(frontier(other), costs)
        for mine, other in zip(*(resampled(each) for each in gathered), strict=True)
    ]
    least, most = np.quantile(spread, (0.025, 0.975), axis=0)
    return {
        "compared": [float(low), float(high)],
        "closer": ranges(costs, ratio < 1 - 1e-9),
        "surely": ranges(costs, most < 1 - 1e-9),
        "nearest": {"cost": float(costs[best]), "ratio": float(ratio[best]),
                    "interval": [float(least[best]), float(most[best])]},
    }  # fmt: skip


Gathered = list[tuple[float, np.ndarray]]
"""The cost of each point, the median over its draws, and its errors [draws, pictures]."""


def gather(rows: Rows) -> Gathered:
    """The points of several methods."""
    return [
        (float(np.median([row["cost"] for row in own])),
         np.array([row["picture_errors"] for row in own]))
        for own in by_run(rows).values()
    ]  # fmt: skip


def best_of(gathered: Gathered) -> Points:
    """The points that no cheaper one beats: medians over draws."""
    return frontier([(cost, float(np.median(errors.mean(axis=1)))) for cost, errors in gathered])


def resampled(gathered: Gathered) -> list[Points]:
    """The points as other pictures would give them, the same ones for every method."""
    size = gathered[0][1].shape[1]
    weights = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), RESAMPLES) / size
    costs = [cost for cost, _ in gathered]
    means = np.stack([np.median(errors @ weights.T, axis=0) for _, errors in gathered], axis=1)
    return [list(zip(costs, own.tolist(), strict=True)) for own in means]


def points(rows: Rows) -> Points:
    """The points of several methods as one curve."""
    return best_of(gather(rows))


def error_at(points: Points, costs: np.ndarray) -> np.ndarray:
    """The error for a cost, by straight lines in log-log; beyond the ends, the last one."""
    paid, reached = np.log(np.array(points)).T
    return np.exp(np.interp(np.log(costs), paid, reached))


def error_for(points: Points, costs: np.ndarray) -> np.ndarray:
    """The error of the costliest point that a cost pays for; below all of them, of the cheapest."""
    paid, reached = np.array(points).T
    # A cost and itself must not differ by the rounding of a geometric grid.
    return reached[np.maximum(np.searchsorted(paid, costs * (1 + 1e-9), side="right") - 1, 0)]


def ranges(costs: np.ndarray, holds: np.ndarray) -> list[list[float]]:
    """[first, last] cost of every run of neighbours for which something holds."""
    edges = np.diff(np.concatenate([[0], holds.astype(int), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    return [[float(costs[a]), float(costs[b])] for a, b in zip(starts, ends, strict=True)]


def sentence(found: dict[str, Any]) -> str:
    """What `crossing` found, in words."""
    low, high = found["compared"]
    nearest = found["nearest"]

    def spans(ranges: list[list[float]]) -> str:
        return ", ".join(f"{a:.1f} to {b:.1f}" for a, b in ranges) or "none"

    where = (f"at costs {spans(found['closer'])}, beyond the noise of the pictures at "
             f"{spans(found['surely'])}") if found["closer"] else "nowhere"  # fmt: skip
    ends = " to ".join(f"{x:.2f}" for x in nearest["interval"])
    return (f"{where} (of {low:.0f} to {high:.0f}); it stands best at {nearest['cost']:.0f} with "
            f"{nearest['ratio']:.2f} ({ends}) of their error")  # fmt: skip
