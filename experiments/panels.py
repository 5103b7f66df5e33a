"""Error against cost of many methods: a row a sampler, a column a theme, the rivals in each panel.

Rows are dicts as `experiments.courses` writes them.
"""

from typing import Any

import matplotlib
import numpy as np

from experiments.curves import curve, frontier

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

RIVALS = {
    "Euler-Maruyama, level 4, uniform": ("0.0", "-"),
    "Euler-Maruyama, level 4, log-SNR": ("0.0", ":"),
    "second-order, level 4, log-SNR": ("0.55", "-"),
}
"""Drawn in every panel: colour and line."""
PAPERS = ("inverse cost, independent", "theory, independent", "learned, independent")
"""Of them the draws chosen best of 15, as stars in every panel."""
THEMES = {
    "draws, levels 1-4": (
        "pilot, independent", "pilot, nested independent", "pilot, systematic",
        "pilot, nested systematic", "pilot, midpoint", "pilot, midpoint, cell weights",
    ),
    "second order, levels 1-4": (
        "pilot, trapezoid", "pilot, midpoint, second-order base",
        "pilot, trapezoid, second-order base",
    ),
    "levels 2 and 4": (
        "switch, levels 2 4", "pilot, systematic, levels 2 4", "pilot, midpoint, levels 2 4",
        "pilot, trapezoid, levels 2 4", "pilot, trapezoid, second-order base, levels 2 4",
    ),
    "stacked ladder, levels 1-4": (
        "pilot, independent, stacked", "pilot, midpoint, stacked", "pilot, trapezoid, stacked",
        "pilot, trapezoid, second-order base, stacked",
    ),
}  # fmt: skip
"""What is shown together."""


def draw_panels(file: str, rows: list[dict[str, Any]]) -> None:
    """Medians over draws; of each method only the points that none of its own beats for less."""
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    figure, axes = plt.subplots(
        len(samplers), len(THEMES), figsize=(3.9 * len(THEMES), 3.2 * len(samplers) + 1.4),
        sharex=True, sharey="row", squeeze=False,
    )  # fmt: skip
    for line, sampler in enumerate(samplers):
        own = [row for row in rows if row["sampler"] == sampler]
        for column, (theme, methods) in enumerate(THEMES.items()):
            axis = axes[line][column]
            draw_rivals(axis, own)
            for method in methods:
                draw_curve(axis, own, method, shown(method, theme), linewidth=1.5)
            axis.set_title(f"{sampler.upper()}: {theme}", fontsize=10)
            axis.grid(alpha=0.3, which="both")
        axes[line][0].set_ylabel("mean squared error")
    for axis in axes[-1]:
        axis.set_xlabel("cost, evaluations of the top level")
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def draw_rivals(axis: Axes, own: list[dict[str, Any]]) -> None:
    """The top level alone, and what the paper's best draws reach."""
    for method, (color, line) in RIVALS.items():
        draw_curve(axis, own, method, method, color=color, linestyle=line, linewidth=1.2)
    stars = [point for method in PAPERS for point in curve(own, method, "best")]
    if stars:
        axis.loglog(*np.array(frontier(stars)).T, "k*", markersize=7,
                    label="the paper's gates, best of 15")  # fmt: skip


def draw_curve(
    axis: Axes, own: list[dict[str, Any]], method: str, label: str, **style: Any
) -> None:
    """One method, if it is there."""
    if points := curve(own, method, "median"):
        axis.loglog(*np.array(frontier(points)).T, marker=".", label=label, **style)


def shown(method: str, theme: str) -> str:
    """A method's name without what the title of its panel says already."""
    for said in (", levels 2 4", ", stacked") if "1-4" not in theme or "stacked" in theme else ():
        method = method.replace(said, "")
    return method
