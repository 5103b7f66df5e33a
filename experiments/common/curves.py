"""Curves of error against cost: one point a budget, ratios between them, a table, a figure.

Rows are dicts as `experiments.paper.error_against_cost` writes them.
"""

import json
import math
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from rich.table import Table

from mlem_jax.frontier import (
    Points,
    Ratio,
    bound,
    frontier,
    middle,
    ratio,
    told_ratio,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PAPER = (250, 500, 750, 900)
"""Steps of Euler-Maruyama in the paper's figures."""


Pictures = np.ndarray | slice
"""Which pictures an error is the mean over."""
ALL = slice(None)
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

    A ratio is the other's cost over the method's own, the median over all of the method's points:
    above 1 the method is cheaper. None of its points is left out in hindsight, while of the other
    only its frontier counts. Its interval is that of the pictures: 95 % of the ratios for as many
    pictures drawn with repetition, the same ones for all methods.

    Args:
        rows: of one sampler.
        others: whom a method is compared with; default `fixed_and_alone`.
        resamples: of the pictures.
    """
    compared = others or fixed_and_alone
    names = dict.fromkeys(row["method"] for row in rows if "budget" in row["parameters"])
    drawn = np.random.default_rng(0).integers(
        0, count := len(rows[0]["picture_errors"]), (resamples, count)
    )
    summary = []
    for which in ("median", "best"):
        own = {name: points for name in names if (points := curve(rows, name, which))}
        plain = compared(rows, which, ALL)
        spread = [
            (pictures, compared(rows, which, pictures)) for pictures in (drawn if own else ())
        ]
        for name, points in own.items():
            again = [(curve(rows, name, which, pictures), theirs) for pictures, theirs in spread]
            summary.append({
                "method": name,
                "of draws": which,
                "points": points,
                "ratios": {
                    other: recorded(ratio(points, theirs), middle(
                        ratio(mine, resampled[other]) for mine, resampled in again
                    ))
                    for other, theirs in plain.items()
                },
            })  # fmt: skip
    return sorted(summary, key=lambda line: list(names).index(line["method"]))


def recorded(
    own: Ratio | None, interval: tuple[float, float] | None = None
) -> dict[str, Any] | None:
    """A ratio as result files keep it: with what it is, as one reads it, None for infinity."""

    def finite(value: float) -> float | None:
        return None if math.isinf(value) else value

    if own is None:
        return None
    ends = None if interval is None else [finite(end) for end in interval]
    return {
        "bound": bound(own),
        "low": own.low,
        "high": finite(own.high),
        "interval": ends,
        "measured": own.measured,
        "points": own.points,
        "told": told_ratio(own, interval),
    }


def fixed_and_alone(
    rows: list[dict[str, Any]], which: str, pictures: Pictures
) -> dict[str, Points]:
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


def summary_table(name: str, summary: list[dict[str, Any]]) -> Table:
    """The ratios as one reads them."""
    others = list(summary[0]["ratios"])
    table = Table("method", "of draws", "cost: mse", *others, title=name.upper(),
                  caption="cost of the others at equal error over the method's own: the median "
                          "(95 % over the pictures), measured on how many points")  # fmt: skip
    for line in summary:
        points = "  ".join(f"{cost:.0f}: {error:.1e}" for cost, error in line["points"])
        told = [told_recorded(line["ratios"][other]) for other in others]
        table.add_row(line["method"], line["of draws"], points, *told)
    return table


def told_recorded(own: dict[str, Any] | None) -> str:
    """A ratio of a result file as one reads it."""
    return "-" if own is None else own["told"]


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
