"""Curves of error against cost: one point per setting, ratios between them, a table, a figure.

Rows are dicts as `experiments.common.benchmark` makes them.
"""

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich.table import Table

from experiments.common.method import Method, fields, label, method_of, select
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

PAPER = (250, 500)
"""Steps of Euler-Maruyama as in the paper's figures, which have more still."""


Rows = list[dict[str, Any]]
Pictures = np.ndarray | slice
"""Which pictures an error is the mean over."""
ALL = slice(None)


def by_method(rows: Rows) -> dict[Method, Rows]:
    """The rows of each method, in the order in which the methods come."""
    found: dict[Method, Rows] = {}
    for row in rows:
        found.setdefault(method_of(row), []).append(row)
    return found


def curve(rows: Rows, which: str, pictures: Pictures = ALL) -> list[tuple[float, float]]:
    """(cost, mse) of each point of the methods of the rows.

    Args:
        rows: of one sampler, of any methods.
        which: `median` over the draws of a point, or the `best`, the draw that was chosen.
        pictures: that the error is the mean over.
    """

    def mse(row: dict[str, Any]) -> float:
        return float(np.array(row["picture_errors"])[pictures].mean())

    if which == "best":
        return [(row["cost"], mse(row)) for row in rows if row["best"]]
    points: dict[tuple[Method, str], Rows] = {}
    for row in rows:
        points.setdefault((method_of(row), json.dumps(row["parameters"])), []).append(row)
    return [
        (
            float(np.median([row["cost"] for row in own])),
            float(np.median([mse(row) for row in own])),
        )
        for own in points.values()
    ]


def summarise(rows: Rows, *, resamples: int = 400) -> Rows:
    """What each method with a budget costs at the errors it reaches; see `fixed_and_alone`.

    A ratio is the other's cost over the method's own, the median over all of the method's points:
    above 1 the method is cheaper. None of its points is left out in hindsight, while of the other
    only its frontier counts. Its interval is that of the pictures: 95 % of the ratios for as many
    pictures drawn with repetition, the same ones for all methods.

    Args:
        rows: of one sampler.
        resamples: of the pictures.
    """
    methods = by_method([row for row in rows if "budget" in row["parameters"]])
    count = len(rows[0]["picture_errors"])
    drawn = np.random.default_rng(0).integers(0, count, (resamples, count))
    summary = []
    for which in ("median", "best"):
        points = {method: curve(own, which) for method, own in methods.items()}
        points = {method: own for method, own in points.items() if own}
        plain = fixed_and_alone(rows, which, ALL)
        spread = [(each, fixed_and_alone(rows, which, each)) for each in (drawn if points else ())]
        for method, own in points.items():
            again = [(curve(methods[method], which, each), theirs) for each, theirs in spread]
            summary.append({
                **fields(method),
                "of draws": which,
                "points": own,
                "ratios": {
                    other: recorded(ratio(own, theirs), middle(
                        ratio(mine, resampled[other]) for mine, resampled in again
                    ))
                    for other, theirs in plain.items()
                },
            })  # fmt: skip
    return sorted(summary, key=lambda line: list(methods).index(method_of(line)))


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


def fixed_and_alone(rows: Rows, which: str, pictures: Pictures) -> dict[str, Points]:
    """Gates fixed by cost; the top level alone on its better grid, on the uniform one, from 250 on.

    The grid of the multilevel plans is the uniform one, as in the paper, whose counts begin at 250.
    """
    fixed = [row for gates in ("inverse cost", "theory")
             for row in select(rows, gates=gates, draw="independent")]  # fmt: skip
    alone = select(rows, family="top level", order=1)
    uniform = select(alone, grid="uniform")
    paper = [row for row in uniform if many(row)]
    return {
        "inverse cost or theory": curve(fixed, which, pictures),
        "Euler-Maruyama": curve(alone, "median", pictures),
        "Euler-Maruyama, same grid": curve(uniform, "median", pictures),
        "Euler-Maruyama, 250 steps or more": curve(paper, "median", pictures),
    }


def many(row: dict[str, Any]) -> bool:
    """Whether a row has as many steps as Euler-Maruyama in the paper's figures, or more."""
    return row["parameters"].get("steps", 0) >= PAPER[0]


def summary_table(name: str, summary: Rows) -> Table:
    """The ratios as one reads them."""
    others = list(summary[0]["ratios"])
    table = Table("method", "of draws", "cost: mse", *others, title=name.upper(),
                  caption="cost of the others at equal error over the method's own: the median "
                          "(95 % over the pictures), measured on how many points")  # fmt: skip
    for line in summary:
        points = "  ".join(f"{cost:.0f}: {error:.1e}" for cost, error in line["points"])
        told = [told_recorded(line["ratios"][other]) for other in others]
        table.add_row(label(method_of(line)), line["of draws"], points, *told)
    return table


def told_recorded(own: dict[str, Any] | None) -> str:
    """A ratio of a result file as one reads it."""
    return "-" if own is None else own["told"]


def draw_curves(file: Path, rows: Rows) -> None:
    """Error against cost, one panel per sampler: medians as lines, chosen draws as stars."""
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    figure, axes = plt.subplots(
        1, len(samplers), figsize=(6.2 * len(samplers), 4.6), sharey=True, squeeze=False
    )
    for axis, sampler in zip(axes[0], samplers, strict=True):
        for method, own in by_method(select(rows, sampler=sampler)).items():
            cost, error = np.array(frontier(curve(own, "median"))).T
            style: dict[str, Any] = {"linewidth": 1.6}
            if method.family == "level":
                style = {"color": "0.75", "linewidth": 1}
            elif method.family == "top level":
                style |= {"color": "k", "linestyle": "-" if method.grid == "uniform" else ":"}
            (line,) = axis.loglog(cost, error, marker=".", label=label(method), **style)
            if chosen := curve(own, "best"):
                axis.loglog(*np.array(chosen).T, "*", color=line.get_color(), markersize=8)
        axis.set_title(sampler.upper())
        axis.set_xlabel("cost, evaluations of the top level")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("mean squared error to the reference")
    axes[0][-1].legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)
