"""Curves of error against cost: one point a budget, ratios between curves, a table, a figure.

Rows are dicts as `experiments.error_against_cost` writes them.
"""

import json
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from rich.table import Table

from mlem_jax.evaluate import cost_at_error

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PAPER = (250, 500, 750, 900)
"""Steps of Euler-Maruyama in the paper's figures."""


Pictures = np.ndarray | slice
"""Which pictures an error is the mean over."""
ALL = slice(None)
Points = list[tuple[float, float]]
"""(cost, mse) of a method."""
Others = Callable[[list[dict[str, Any]], str, Pictures], dict[str, Points]]
"""From rows, which of the draws, and pictures to the points that methods are compared with."""


def curve(
    rows: list[dict[str, Any]], method: str, which: str, pictures: Pictures = ALL
) -> list[tuple[float, float]]:
    """(cost, mse) of each point of a method: the median over draws, or the draw chosen."""

    def mse(row: dict[str, Any]) -> float:
        return float(np.array(row["picture_errors"])[pictures].mean())

    points: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["method"] == method:
            points.setdefault(json.dumps(row["parameters"]), []).append(row)
    if which == "best":
        return [(row["cost"], mse(row)) for own in points.values() for row in own if row["best"]]
    return [
        (
            float(np.median([row["cost"] for row in own])),
            float(np.median([mse(row) for row in own])),
        )
        for own in points.values()
    ]


def summarise(
    rows: list[dict[str, Any]], others: Others | None = None, *, resamples: int = 400
) -> list[dict[str, Any]]:
    """What each gated method costs, at the errors it reaches, beside what others do for the same.

    A ratio is the other's cost over the method's own, the median over the method's points that the
    other reaches too: above 1 the method is cheaper. Its interval is that of the pictures: 95 % of
    the ratios for as many pictures drawn with repetition, the same ones for all methods.

    Args:
        rows: of one sampler.
        others: whom a method is compared with; default `fixed_and_alone`.
        resamples: of the pictures.
    """
    others = others or fixed_and_alone
    names = dict.fromkeys(row["method"] for row in rows if "budget" in row["parameters"])
    drawn = np.random.default_rng(0).integers(
        0, count := len(rows[0]["picture_errors"]), (resamples, count)
    )
    summary = []
    for name in names:
        for which in ("median", "best"):
            own = curve(rows, name, which)
            if not own:
                continue
            ratios = ratios_of(rows, name, which, ALL, others)
            spread = [ratios_of(rows, name, which, pictures, others) for pictures in drawn]
            summary.append({
                "method": name,
                "of draws": which,
                "points": own,
                "ratios": ratios,
                "shared points": {other: shared(own, points) for other, points
                                  in others(rows, which, ALL).items()},
                "intervals": {other: interval([each[other] for each in spread])
                              for other in ratios},
            })  # fmt: skip
    return summary


def fixed_and_alone(
    rows: list[dict[str, Any]], which: str, pictures: Pictures
) -> dict[str, list[tuple[float, float]]]:
    """Gates fixed by cost, and the top level alone: on its better grid, and as in the paper."""
    top = f"Euler-Maruyama, level {max(levels_alone(rows))}"
    uniform = [row for row in rows if row["method"] == f"{top}, uniform"]
    paper = [row for row in uniform if row["parameters"]["steps"] in PAPER]
    return {
        "inverse cost or theory": [
            *curve(rows, "inverse cost, independent", which, pictures),
            *curve(rows, "theory, independent", which, pictures),
        ],
        "Euler-Maruyama": [
            *curve(rows, f"{top}, uniform", "median", pictures),
            *curve(rows, f"{top}, log-SNR", "median", pictures),
        ],
        "Euler-Maruyama, 250 steps or more": curve(paper, f"{top}, uniform", "median", pictures),
    }


def levels_alone(rows: list[dict[str, Any]]) -> set[int]:
    """Which levels Euler-Maruyama was run with."""
    alone = (row["method"] for row in rows if row["method"].startswith("Euler-Maruyama"))
    return {level_of(method) for method in alone}


def level_of(method: str) -> int:
    """4, of `Euler-Maruyama, level 4, uniform`."""
    return int(method.split()[2].strip(","))


def ratios_of(
    rows: list[dict[str, Any]], method: str, which: str, pictures: Pictures, others: Others
) -> dict[str, float | None]:
    """The cost of every other over that of a method, at equal error."""
    own = curve(rows, method, which, pictures)
    compared = others(rows, which, pictures)
    return {other: ratio(own, points) for other, points in compared.items()}


def interval(ratios: list[float | None]) -> list[float] | None:
    """The middle 95 %; None where too few of them exist to say."""
    known = [value for value in ratios if value is not None]
    if len(known) < 0.9 * len(ratios):
        return None
    return [float(value) for value in np.quantile(known, (0.025, 0.975))]


def shared(own: list[tuple[float, float]], other: list[tuple[float, float]]) -> int:
    """How many of one's points lie within the other's errors."""
    if not other:
        return 0
    paid, reached = np.array(other).T
    return int(np.isfinite(cost_at_error(paid, reached, np.array(frontier(own))[:, 1])).sum())


def ratio(own: Points, other: Points) -> float | None:
    """The other's cost over one's own at equal error; None where their errors do not overlap.

    Of both only the points count that no cheaper one beats: nobody would pay for the rest.
    """
    if not other:
        return None
    costs, errors = np.array(frontier(own)).T
    paid, reached = np.array(other).T
    theirs = cost_at_error(paid, reached, errors)
    ratios = (theirs / costs)[np.isfinite(theirs)]
    return float(np.median(ratios)) if len(ratios) else None


def frontier(points: Points) -> Points:
    """The points than which no cheaper one is as good."""
    ordered = sorted(points)
    least = np.minimum.accumulate([error for _, error in ordered])
    return [point for n, point in enumerate(ordered) if n == 0 or point[1] < least[n - 1]]


def summary_table(name: str, summary: list[dict[str, Any]]) -> Table:
    """The ratios as one reads them."""
    others = list(summary[0]["ratios"])
    table = Table("method", "of draws", "cost: mse", *others, title=name.upper(),
                  caption="cost of the others at equal error, over the method's own")  # fmt: skip
    for line in summary:
        points = "  ".join(f"{cost:.0f}: {error:.1e}" for cost, error in line["points"])
        told = [told_ratio(line["ratios"][other], line["intervals"][other]) for other in others]
        table.add_row(line["method"], line["of draws"], points, *told)
    return table


def told_ratio(value: float | None, interval: list[float] | None) -> str:
    """A ratio with its interval."""
    if value is None:
        return "-"
    return f"{value:.2f}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else "")


def draw_curves(file: str, rows: list[dict[str, Any]]) -> None:
    """Error against cost, one panel a sampler: medians as lines, chosen draws as stars."""
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    figure, axes = plt.subplots(
        1, len(samplers), figsize=(6.2 * len(samplers), 4.6), sharey=True, squeeze=False
    )
    for axis, sampler in zip(axes[0], samplers, strict=True):
        own = [row for row in rows if row["sampler"] == sampler]
        for method in dict.fromkeys(row["method"] for row in own):
            cost, error = np.array(frontier(curve(own, method, "median"))).T
            plain = method.startswith("Euler-Maruyama")
            lower = plain and level_of(method) < max(levels_alone(own))
            style = {"color": "0.75", "linewidth": 1} if lower else {"linewidth": 1.6}
            if plain and not lower:
                style |= {"color": "k", "linestyle": "-" if "uniform" in method else ":"}
            (line,) = axis.loglog(cost, error, marker=".", label=method, **style)
            if chosen := curve(own, method, "best"):
                axis.loglog(*np.array(chosen).T, "*", color=line.get_color(), markersize=8)
        axis.set_title(sampler.upper())
        axis.set_xlabel("cost, evaluations of the top level")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("mean squared error to the reference")
    axes[0][-1].legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)
