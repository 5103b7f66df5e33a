"""Figure and tables of experiments.peers.compare."""

from typing import Any

import matplotlib
import numpy as np
from rich.table import Table

from experiments.peers.crossings import points
from experiments.peers.distances import METRICS
from experiments.peers.distances_to_data import DATA
from experiments.peers.methods import FAMILIES, PROCESSES, head

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {"first order": "0.55", "dpm-solver": "k", "unipc": "C0", "diffrax heun": "C4",
           "switch": "C2", "ml-em of the paper": "C1", "ml-em": "C3",
           "ml-em stacked": "C6"}  # fmt: skip


def draw(
    file: str, result: dict[str, dict[str, Any]], data: dict[str, dict[str, float]] | None
) -> None:
    """Error against cost, and each distance to the data, one row of panels a process.

    Where ML-EM is closer to the exact solution than every peer it is shaded, darker where that is
    beyond the noise of the pictures; dashed lines and bands are the data against itself.
    """
    columns = 1 + (len(METRICS) if data else 0)
    figure, axes = plt.subplots(
        len(result), columns, figsize=(5 * columns, 4 * len(result)), squeeze=False
    )
    for line, (sampler, own) in zip(axes, result.items(), strict=True):
        rows = own["rows"]
        for family, colour in COLOURS.items():
            names = names_of(rows, family)
            if names:
                style = "o-" if family.startswith("ml-em") else ".--"
                line[0].loglog(*np.array(points(rows, names)).T, style, color=colour,
                               label=family, markersize=4)  # fmt: skip
        for found in own["crossings"]:
            if (found["ml-em"], found["against"]) == ("ml-em", "every peer"):
                for stretch in [*found["closer"], *found["surely"]]:
                    line[0].axvspan(*stretch, color="C3", alpha=0.12)
        line[0].set_title(f"{PROCESSES[sampler]}: mse to the exact solution")
        line[0].legend(fontsize=7)
        for axis, metric in zip(line[1:], METRICS, strict=False):
            draw_metric(axis, own["distances"], metric, data or {})
            axis.set_title(f"{PROCESSES[sampler]}: {metric.replace('_', ' ')} to the data")
        for axis in line:
            axis.set_xlabel("cost, evaluations of the top level")
            axis.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_metric(
    axis: Any, lines: list[dict[str, Any]], metric: str, data: dict[str, dict[str, float]]
) -> None:
    """One distance against cost, with its intervals."""
    for family, colour in COLOURS.items():
        own = [line for line in lines if line["family"] == family]
        if own:
            told = [line["distances"][metric] for line in own]
            axis.errorbar([line["cost"] for line in own], [each["mean"] for each in told],
                          [each["half_width"] for each in told], fmt="o-", color=colour,
                          capsize=3, markersize=4, linewidth=1)  # fmt: skip
    floor = data[metric]
    axis.axhline(floor["mean"], color="C7", linestyle="--")
    axis.axhspan(floor["mean"] - floor["half_width"], floor["mean"] + floor["half_width"],
                 color="C7", alpha=0.2)  # fmt: skip
    axis.set_xscale("log")


def names_of(rows: list[dict[str, Any]], family: str) -> list[str]:
    """The methods of a family; of `every peer`, all that are not ML-EM."""
    peers = [name for name in FAMILIES if not name.startswith("ml-em")]
    wanted = peers if family == "every peer" else [family]
    heads = [each for name in wanted for each in FAMILIES[name]]
    return [name for name in dict.fromkeys(row["method"] for row in rows) if head(name) in heads]


def shown_errors(sampler: str, rows: list[dict[str, Any]]) -> Table:
    """Every method with its points."""
    table = Table("method", "cost: mse to the exact solution", title=PROCESSES[sampler])
    for name in dict.fromkeys(row["method"] for row in rows):
        own = "  ".join(f"{cost:.0f}: {error:.1e}" for cost, error in points(rows, [name]))
        table.add_row(name, own)
    return table


def shown_families(
    process: str, rows: list[dict[str, Any]], costs: tuple[float, ...] = (10, 20, 30, 50)
) -> Table:
    """The least error of every family for at most a cost, the short form of it all."""
    table = Table("solvers", *(f"mse for {cost:g}" for cost in costs), title=process)
    for family in FAMILIES:
        paid = points(rows, names_of(rows, family))
        within = [[error for own, error in paid if own <= 1.02 * cost] for cost in costs]
        if paid:
            table.add_row(family, *(f"{min(own):.1e}" if own else "-" for own in within))
    return table


def shown_crossings(sampler: str, crossings: list[dict[str, Any]]) -> Table:
    """Where each form of ML-EM is closer than each family of peers, and its best ratio of errors.

    Line by line it says whether the peers' grid and step table move the crossing.
    """
    others = list(dict.fromkeys(line["against"] for line in crossings))
    table = Table("closer at cost (least error over theirs)", *others, title=PROCESSES[sampler])
    told: dict[str, dict[str, str]] = {}
    for line in crossings:
        span = ", ".join(f"{a:.0f}-{b:.0f}" for a, b in line["closer"]) or "-"
        told.setdefault(line["ml-em"], {})[line["against"]] = (
            f"{span} ({line['nearest']['ratio']:.2f} at {line['nearest']['cost']:.0f})"
        )
    for name, own in told.items():
        table.add_row(name, *(own.get(other, "") for other in others))
    return table


def shown_distances(
    sampler: str, lines: list[dict[str, Any]], data: dict[str, dict[str, float]]
) -> Table:
    """Every judged method with its distances."""
    title = f"{PROCESSES[sampler]}: distances to the data, 95 % intervals over seeds"
    table = Table("family", "method", "cost", "mse", *METRICS, title=title)

    def told(distances: dict[str, dict[str, float]]) -> list[str]:
        return [f"{each['mean']:.4g} ± {each['half_width']:.2g}" for each in distances.values()]

    for line in lines:
        method, cost, mse = f"{line['method']} {line['parameters']}", line["cost"], line["mse"]
        table.add_row(line["family"], method, f"{cost:.1f}", f"{mse:.1e}", *told(line["distances"]))
    table.add_row("", DATA, "", "", *told(data))
    return table
