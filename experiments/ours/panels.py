"""Error against cost of many methods: a row per sampler, a column per theme, the rivals in each.

Rows are dicts as `experiments.common.benchmark` makes them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from experiments.common.curves import Rows, by_method, curve
from experiments.common.method import Method, label, method_of, select
from mlem_jax.frontier import frontier

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PAPERS = ("inverse cost", "theory", "learned")
"""The paper's gates; of their draws those chosen best of 15 are stars in every panel."""
RIVALS: tuple[dict[str, Any], ...] = (
    {"order": 1, "grid": "uniform", "color": "k"},
    {"order": 1, "grid": "log-SNR", "color": "k", "linestyle": ":"},
    {"order": 2, "grid": "log-SNR", "color": "0.55"},
)
"""The top level alone, in every panel."""


class Theme(NamedTuple):
    """What is shown together: methods of some levels on a grid."""

    title: str
    rows: Rows


def themes(rows: Rows) -> list[Theme]:
    """The panels that the rows have something for: draws, second order, fewer levels."""
    ours = [row for row in rows if row["family"] == "switch" or row["gates"] == "pilot"]
    every = max((tuple(row["levels"]) for row in ours), key=len, default=())
    whole, plain = select(ours, levels=every), ("", "impulse")
    first = [row for row in select(whole, family="ML-EM", order=1) if row["weights"] in plain]
    second = [row for row in select(whole, family="ML-EM") if row not in first]
    found = [Theme("draws, all levels", first), Theme("second order, all levels", second)]
    fewer = {tuple(row["levels"]): None for row in ours if tuple(row["levels"]) != every}
    for levels in fewer:
        for grid in ("uniform", "log-SNR"):
            title = f"levels {' '.join(map(str, levels))}, {grid}"
            shown = [row for row in select(ours, levels=levels, grid=grid)
                     if row["draw"] != "independent"]  # fmt: skip
            found.append(Theme(title, shown))
    return [theme for theme in found if theme.rows]


def draw_panels(file: Path, rows: Rows) -> None:
    """Medians over draws; of each method only the points that none of its own beats for less."""
    samplers, shown = list(dict.fromkeys(row["sampler"] for row in rows)), themes(rows)
    figure, axes = plt.subplots(
        len(samplers), len(shown), figsize=(3.5 * len(shown), 3.2 * len(samplers) + 1.4),
        sharex=True, sharey="row", squeeze=False,
    )  # fmt: skip
    for line, sampler in enumerate(samplers):
        for axis, theme in zip(axes[line], shown, strict=True):
            draw_rivals(axis, select(rows, sampler=sampler))
            for method, own in by_method(select(theme.rows, sampler=sampler)).items():
                draw_curve(axis, own, short(method), linewidth=1.5)
            axis.set_title(f"{sampler.upper()}: {theme.title}", fontsize=9)
            axis.grid(alpha=0.3, which="both")
        axes[line][0].set_ylabel("mean squared error")
    for axis in axes[-1]:
        axis.set_xlabel("cost, evaluations of the top level")
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def short(method: Method) -> str:
    """A method by what its panel does not say already."""
    if method.family == "switch":
        return "switch"
    weights = [method.weights] if method.weights != "impulse" else []
    return ", ".join([method.draw, *weights, *["second order"] * (method.order == 2)])


def draw_rivals(axis: Axes, own: Rows) -> None:
    """The top level alone, and what the paper's best draws reach."""
    for rival in RIVALS:
        style = dict(rival)
        rows = select(own, family="top level", order=style.pop("order"), grid=style.pop("grid"))
        draw_curve(axis, rows, label(method_of(rows[0])) if rows else "", linewidth=1.2, **style)
    stars = curve([row for row in own if row["gates"] in PAPERS], "best")
    if stars:
        axis.loglog(*np.array(frontier(stars)).T, "k*", markersize=7,
                    label="the paper's gates, best of 15")  # fmt: skip


def draw_curve(axis: Axes, own: Rows, name: str, **style: Any) -> None:
    """One method, if it is there."""
    if points := curve(own, "median"):
        axis.loglog(*np.array(frontier(points)).T, marker=".", label=name, **style)
