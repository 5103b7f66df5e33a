"""Error against time and against FLOPs, from the rows of experiments.paper.error_against_cost."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from experiments.common.curves import Rows, by_method
from experiments.common.method import Method, fields, label, select
from mlem_jax.frontier import frontier

matplotlib.use("Agg")
from matplotlib import pyplot as plt

GATES = {"inverse cost": "C0", "theory": "C1", "learned": "C2", "pilot": "C5"}
"""Colours."""
DRAWS = {"independent": ("-", "."), "midpoint": (":", "^"), "systematic": ("-.", "s")}
"""Line and marker; a star where a draw is the best of several."""


class Curve(NamedTuple):
    """Points of a method: cost, seconds and GFLOP per image, mse.

    Attributes:
        method: whose they are.
        best: whether they are of the draws that were chosen, not the median over all.
        points: in the order of the rows.
    """

    method: Method
    best: bool
    points: Rows


def rows_of(sampler: str, results: Path) -> tuple[Rows, dict[str, str]]:
    """The runs of one sampler, and how they were made: machine, commit, command."""
    measured = json.loads((results / "error_against_cost.json").read_text())
    rows = select(measured["rows"], sampler=sampler)
    return rows, {key: measured[key] for key in ("machine", "commit", "command")}


def curves_of(rows: Rows, ladder: Path) -> tuple[list[Curve], float]:
    """Each method's points, and the threshold.

    Below the threshold no level but the top comes, at however many steps: an error less than that
    is nearer to the largest network than the next one is, and so perhaps than it is to the truth.

    Args:
        rows: of one sampler.
        ladder: folder whose card.json tells the work of a level.
    """
    card = json.loads((ladder / "card.json").read_text())["levels"]
    work = np.array([row["megaflops_per_image"] for row in card])

    def middle(own: Rows) -> dict[str, Any]:
        flops = [float(np.dot(row["evaluations"], work)) / 1e3 for row in own]
        told = {key: float(np.median([row[key] for row in own]))
                for key in ("cost", "seconds", "mse")}  # fmt: skip
        told["seconds"] /= len(own[0]["picture_errors"])
        return {**told, "GFLOP": float(np.median(flops))}

    curves = []
    for method, own in by_method(rows).items():
        points: dict[str, Rows] = {}
        for row in own:
            points.setdefault(json.dumps(row["parameters"]), []).append(row)
        curves.append(Curve(method, False, [middle(each) for each in points.values()]))
        if chosen := [row for row in own if row["best"]]:
            curves.append(Curve(method, True, [middle([row]) for row in chosen]))
    next_level = Method("level", (len(card) - 1,))
    (below,) = (own.points for own in curves if own.method == next_level)
    return curves, min(point["mse"] for point in below)


def recorded(curve: Curve) -> dict[str, Any]:
    """A curve as result files keep it."""
    return {**fields(curve.method), "best": curve.best, "points": curve.points}


def draw(file: Path, sampler: str, curves: list[Curve], threshold: float) -> None:
    """Error against time and against FLOPs: a colour for gates, a line for how they are drawn."""
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 5.2), sharey=True)
    for axis, unit in zip(axes, ("seconds", "GFLOP"), strict=True):
        for own in curves:
            points = sorted((point[unit], point["mse"]) for point in own.points)
            # Of the lower levels all is shown: that more steps do not help is what there is to see.
            shown = points if own.method.family == "level" else frontier(points)
            name = label(own.method) + ", best draw" * own.best
            axis.loglog(*np.array(shown).T, label=name, **style_of(own.method, own.best))
        axis.axhline(threshold, color="r", linewidth=0.8, linestyle="-.")
        axis.set_xlabel({"seconds": "seconds per image", "GFLOP": "GFLOP per image"}[unit])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean squared error to the reference")
    axes[0].set_title(f"{sampler.upper()}; red: as near as the next level comes", fontsize=9)
    axes[1].legend(fontsize=6.5, bbox_to_anchor=(1.01, 1), loc="upper left")
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def style_of(method: Method, best: bool) -> dict[str, Any]:
    """One level alone is black, or grey if it is not the top."""
    if method.family in ("top level", "level"):
        return {
            "color": "k" if method.family == "top level" else "0.7", "linewidth": 1,
            "linestyle": "-" if method.grid == "uniform" else ":", "marker": ".", "markersize": 5,
        }  # fmt: skip
    line, marker = DRAWS[method.draw]
    chosen = {"marker": "*", "markersize": 8, "alpha": 0.6} if best else {}
    return {"color": GATES[method.gates], "linestyle": line, "marker": marker, "markersize": 5,
            "linewidth": 1.2, **chosen}  # fmt: skip
