"""Error against time and against FLOPs, from rows that other experiments have measured."""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from experiments.common.curves import level_of
from mlem_jax.frontier import frontier

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OURS = {
    "pilot, systematic": ("C4", "s"),
    "pilot, trapezoid, second-order base": ("C6", "^"),
    "pilot, trapezoid, second-order base, stacked": ("C9", "D"),
    "pilot, midpoint, second-order base, two levels, log-SNR": ("C3", "v"),
}
"""Our draws of experiments.ours.compare_draws, with colour and marker."""
GATES = {"inverse cost": "C0", "theory": "C1", "learned": "C2", "pilot": "C5"}
"""Colours."""
DRAWS = {"independent": ("-", "."), "midpoint": (":", "^"), "systematic": ("-.", "s")}
"""Line and marker; a star where a draw is the best of 15."""

Curves = dict[str, list[dict[str, Any]]]
"""Points of each method: cost, seconds and GFLOP an image, mse."""


def rows_of(name: str, results: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The runs of one sampler, and where each file of them was made: machine, commit, command.

    Args:
        name: of the sampler.
        results: folder of error_against_cost.json and, if it was run, compare_draws.json.
    """
    measured = [json.loads((results / "error_against_cost.json").read_text())]
    rows = [row for row in measured[0]["rows"] if row["sampler"] == name]
    if (beside := results / "compare_draws.json").exists():
        measured.append(json.loads(beside.read_text()))
        named = [{**row, "method": re.sub(r"levels \d+ \d+", "two levels", row["method"])}
                 for row in measured[1]["rows"] if row["sampler"] == name]  # fmt: skip
        alone = "second-order, level"
        rows += [row for row in named
                 if row["method"] in OURS or row["method"].startswith(alone)]  # fmt: skip
    kept = ("machine", "commit", "command")
    return rows, [{key: each[key] for key in kept if key in each} for each in measured]


def curves_of(rows: list[dict[str, Any]], ladder: Path) -> tuple[Curves, float]:
    """Each method's points, and the threshold.

    Below the threshold no level but the top comes, at however many steps: an error less than that
    is nearer to the largest network than the next one is, and so perhaps than it is to the truth.

    Args:
        rows: of one sampler.
        ladder: folder whose card.json tells the work of a level.
    """
    card = json.loads((ladder / "card.json").read_text())["levels"]
    work = np.array([row["megaflops_per_image"] for row in card])
    points: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        own = points.setdefault(row["method"], {})
        own.setdefault(json.dumps(row["parameters"]), []).append(row)

    def middle(own: list[dict[str, Any]], title: str) -> dict[str, Any]:
        flops = [float(np.dot(row["evaluations"], work)) / 1e3 for row in own]
        told = {key: float(np.median([row[key] for row in own]))
                for key in ("cost", "seconds", "mse")}  # fmt: skip
        told["seconds"] /= len(own[0]["picture_errors"])
        return {"method": title, **told, "GFLOP": float(np.median(flops))}

    curves = {}
    for method, groups in points.items():
        curves[method] = [middle(own, method) for own in groups.values()]
        if chosen := [row for own in groups.values() for row in own if row["best"]]:
            curves[f"{method}, best of 15"] = [middle([row], method) for row in chosen]
    below = f"Euler-Maruyama, level {len(card) - 1}, uniform"
    return curves, min(point["mse"] for point in curves[below])


def draw(file: str, name: str, curves: Curves, threshold: float) -> None:
    """Error against time and against FLOPs: a colour for gates, a line for how they are drawn."""
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 5.2), sharey=True)
    alone = [method for method in curves if method.startswith("Euler-Maruyama")]
    top = max(level_of(method) for method in alone)
    for axis, unit in zip(axes, ("seconds", "GFLOP"), strict=True):
        for method, points in curves.items():
            own = sorted((point[unit], point["mse"]) for point in points)
            # Of the lower levels all is shown: that more steps do not help is what there is to see.
            shown = own if method in alone and level_of(method) < top else frontier(own)
            axis.loglog(*np.array(shown).T, label=method, **style_of(method, top))
        axis.axhline(threshold, color="r", linewidth=0.8, linestyle="-.")
        axis.set_xlabel({"seconds": "seconds an image", "GFLOP": "GFLOP an image"}[unit])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean squared error to the reference (stacked: to its own)")
    axes[0].set_title(f"{name.upper()}; red: as near as the next level comes", fontsize=9)
    axes[1].legend(fontsize=6.5, bbox_to_anchor=(1.01, 1), loc="upper left")
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def style_of(method: str, top: int) -> dict[str, Any]:
    """One level alone is black, or grey if it is not the top; our own draws are thick."""
    if method in OURS:
        colour, marker = OURS[method]
        return {"color": colour, "marker": marker, "markersize": 4, "linewidth": 2.2}
    if method.startswith(("Euler-Maruyama", "second-order")):
        line = "-" if "uniform" in method else ":"
        return {
            "color": "k" if level_of(method) == top else "0.7",
            "linestyle": line if method.startswith("Euler") else "--" if line == "-" else "-.",
            "linewidth": 1, "marker": "." if method.startswith("Euler") else "x",
            "markersize": 5,
        }  # fmt: skip
    line, marker = next(style for draw, style in DRAWS.items() if draw in method)
    best = {"marker": "*", "markersize": 8, "alpha": 0.6} if "best of" in method else {}
    return {"color": GATES[method.split(",")[0]], "linestyle": line, "marker": marker,
            "markersize": 5, "linewidth": 1.2, **best}  # fmt: skip
