"""Error against cost of many methods: a row a sampler, a column a theme, the rivals in each panel.

Rows are dicts as `experiments.common.benchmark` writes them.
"""

import re
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from experiments.common.curves import curve, levels_alone
from mlem_jax.frontier import frontier

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PAPERS = ("inverse cost, independent", "theory, independent", "learned, independent")
"""The paper's; of their draws those chosen best of 15 are stars in every panel."""
RIVALS = {
    "Euler-Maruyama, {top}, uniform": {"color": "k"},
    "Euler-Maruyama, {top}, log-SNR": {"color": "k", "linestyle": ":"},
    "second-order, {top}, log-SNR": {"color": "0.55"},
}
"""Drawn in every panel."""
DRAWS = (
    "pilot, independent", "pilot, nested independent", "pilot, systematic",
    "pilot, nested systematic", "pilot, midpoint", "pilot, midpoint, cell weights",
)  # fmt: skip
HELD = ("pilot, trapezoid", "pilot, midpoint, second-order base",
        "pilot, trapezoid, second-order base")  # fmt: skip
BEST = ("pilot, systematic", "pilot, midpoint", "pilot, midpoint, second-order base",
        "pilot, trapezoid", "pilot, trapezoid, second-order base")  # fmt: skip
STACKED = (
    "pilot, independent", "pilot, systematic", "pilot, nested systematic", "pilot, midpoint",
    "pilot, trapezoid", "pilot, trapezoid, second-order base",
)  # fmt: skip


class Theme(NamedTuple):
    """What is shown together: some methods, whose names all end alike in the rows."""

    title: str
    methods: tuple[str, ...]
    ending: str = ""


def themes(rows: list[dict[str, Any]]) -> list[Theme]:
    """The panels that the rows have something for."""
    few = {ending for row in rows for ending in re.findall(r", levels [\d ]+", row["method"])}
    shorter = [
        theme
        for ending in sorted(few)
        for theme in (
            Theme(ending[2:], ("switch", *BEST), ending),
            Theme(f"{ending[2:]}, log-SNR base", BEST, f"{ending}, log-SNR"),
        )
    ]
    every = [Theme("draws, all levels", DRAWS), Theme("second order, all levels", HELD), *shorter,
             Theme("stacked ladder, all levels", STACKED, ", stacked")]  # fmt: skip
    names = {row["method"] for row in rows}
    return [own for own in every if names & {name + own.ending for name in own.methods}]


def draw_panels(file: str, rows: list[dict[str, Any]]) -> None:
    """Medians over draws; of each method only the points that none of its own beats for less."""
    samplers, shown = list(dict.fromkeys(row["sampler"] for row in rows)), themes(rows)
    figure, axes = plt.subplots(
        len(samplers), len(shown), figsize=(3.5 * len(shown), 3.2 * len(samplers) + 1.4),
        sharex=True, sharey="row", squeeze=False,
    )  # fmt: skip
    for line, sampler in enumerate(samplers):
        own = [row for row in rows if row["sampler"] == sampler]
        for axis, theme in zip(axes[line], shown, strict=True):
            draw_rivals(axis, own)
            for name in theme.methods:
                draw_curve(axis, own, name + theme.ending, name, linewidth=1.5)
            axis.set_title(f"{sampler.upper()}: {theme.title}", fontsize=9)
            axis.grid(alpha=0.3, which="both")
        axes[line][0].set_ylabel("mean squared error")
    for axis in axes[-1]:
        axis.set_xlabel("cost, evaluations of the top level")
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_rivals(axis: Axes, own: list[dict[str, Any]]) -> None:
    """The top level alone, and what the paper's best draws reach."""
    top = f"level {max(levels_alone(own))}"
    for method, style in RIVALS.items():
        name = method.format(top=top)
        draw_curve(axis, own, name, name, linewidth=1.2, **style)
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
