"""Figure and tables of experiments.peers.compare."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import NullLocator
from rich.table import Table

from experiments.common.curves import Rows, by_method
from experiments.common.method import label, select
from experiments.peers.crossings import points
from experiments.peers.distances import METRICS
from experiments.peers.distances_to_data import DATA
from experiments.peers.methods import GROUPS, OURS, by_run, in_groups

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {"first order": "0.55", "DPM-Solver++": "k", "UniPC": "C0", "diffrax Heun": "C4",
           "switch": "C2", "ML-EM of the paper": "C1", "top level, fitted": "C9",
           "ML-EM, fitted": "C3"}  # fmt: skip
TICKS = (5, 8, 15, 30, 60)
"""Of the cost."""
Distances = dict[str, dict[str, float]]
"""By metric: mean, and half the width of its interval."""


def draw(file: Path, rows: Rows, crossings: Rows, data: Distances | None) -> None:
    """Error against cost, and each distance to the data, one column of panels per process.

    Where fitted ML-EM is closer to the exact solution than every peer it is shaded, darker where
    that is beyond the noise of the pictures; dashed lines and bands are the data against itself.
    """
    processes = list(dict.fromkeys(row["process"] for row in rows))
    panels = 1 + (len(METRICS) if data else 0)
    figure, axes = plt.subplots(panels, len(processes), squeeze=False,
                                figsize=(4.6 * len(processes), 3.6 * panels))  # fmt: skip
    for line, process in zip(axes.T, processes, strict=True):
        own = select(rows, process=process)
        draw_errors(line[0], own)
        for found in select(crossings, process=process, own="ML-EM, fitted", against="every peer"):
            for span in [*found["closer"], *found["surely"]]:
                line[0].axvspan(*span, color="C3", alpha=0.12)
        line[0].set_title(f"{process}: mse to the exact solution")
        for axis, metric in zip(line[1:], METRICS, strict=False):
            draw_metric(axis, own, metric, data or {})
            axis.set_title(f"{process}: {metric.replace('_', ' ')} to the data")
        for axis in line:
            axis.set_xlabel("cost, evaluations of the top level")
            axis.set_xticks(TICKS, [str(cost) for cost in TICKS])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def draw_errors(axis: Any, rows: Rows) -> None:
    """The frontier of every group."""
    for group, colour in COLOURS.items():
        if own := in_groups(rows, group):
            style = "o-" if group in OURS else ".--"
            axis.loglog(*np.array(points(own)).T, style, color=colour, label=group, markersize=4)
    axis.legend(fontsize=7)


def draw_metric(axis: Any, rows: Rows, metric: str, data: Distances) -> None:
    """One distance against cost, with its intervals."""
    for group, colour in COLOURS.items():
        if own := judged(in_groups(rows, group)):
            told = [line["distances"][metric] for line in own]
            axis.errorbar([line["cost"] for line in own], [each["mean"] for each in told],
                          [each["half_width"] for each in told], fmt="o-", color=colour,
                          capsize=3, markersize=4, linewidth=1)  # fmt: skip
    floor = data[metric]
    axis.axhline(floor["mean"], color="C7", linestyle="--")
    axis.axhspan(floor["mean"] - floor["half_width"], floor["mean"] + floor["half_width"],
                 color="C7", alpha=0.2)  # fmt: skip
    axis.set_xscale("log")


def judged(rows: Rows) -> Rows:
    """The points whose distances to the data were taken, cheapest first."""
    found = [
        {"name": f"{label(method)} {parameters}", "distances": own[0]["distances"],
         "cost": float(np.median([row["cost"] for row in own])),
         "mse": float(np.median([row["mse"] for row in own]))}
        for (method, parameters), own in by_run(rows).items() if own[0]["distances"]
    ]  # fmt: skip
    return sorted(found, key=lambda line: line["cost"])


def shown_errors(process: str, rows: Rows) -> Table:
    """Every method with its points."""
    table = Table("method", "cost: mse to the exact solution", title=process)
    for method, own in by_method(rows).items():
        told = "  ".join(f"{cost:.0f}: {error:.1e}" for cost, error in points(own))
        table.add_row(label(method), told)
    return table


def shown_groups(process: str, rows: Rows, costs: tuple[float, ...] = (10, 20, 30, 50)) -> Table:
    """The least error of every group for at most a cost, the short form of it all."""
    table = Table("solvers", *(f"mse for {cost:g}" for cost in costs), title=process)
    for group in GROUPS:
        paid = points(in_groups(rows, group))
        within = [[error for own, error in paid if own <= 1.02 * cost] for cost in costs]
        if paid:
            table.add_row(group, *(f"{min(own):.1e}" if own else "-" for own in within))
    return table


def shown_crossings(process: str, crossings: Rows) -> Table:
    """Where each of our methods is closer than each group of peers, and its best ratio of errors.

    Line by line it says which plan makes the crossing.
    """
    others = list(dict.fromkeys(line["against"] for line in crossings))
    table = Table("closer at cost (least error over theirs)", *others, title=process)
    told: dict[str, dict[str, str]] = {}
    for line in crossings:
        span = ", ".join(f"{a:.0f}-{b:.0f}" for a, b in line["closer"]) or "-"
        told.setdefault(line["own"], {})[line["against"]] = (
            f"{span} ({line['nearest']['ratio']:.2f} at {line['nearest']['cost']:.0f})"
        )
    for name, own in told.items():
        table.add_row(name, *(own.get(other, "") for other in others))
    return table


def shown_distances(process: str, rows: Rows, data: Distances) -> Table:
    """Every method whose distances were taken, with them."""
    title = f"{process}: distances to the data, 95 % intervals over seeds"
    table = Table("solvers", "method", "cost", "mse", *METRICS, title=title)

    def told(distances: Distances) -> list[str]:
        return [f"{each['mean']:.4g} ± {each['half_width']:.2g}" for each in distances.values()]

    for group in GROUPS:
        for line in judged(in_groups(rows, group)):
            table.add_row(group, line["name"], f"{line['cost']:.1f}", f"{line['mse']:.1e}",
                          *told(line["distances"]))  # fmt: skip
    table.add_row("", DATA.method.family, "", "", *told(data))
    return table
