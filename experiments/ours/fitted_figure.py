"""Fitted plans in a table and a figure: what others pay for their errors."""

from pathlib import Path

import matplotlib
import numpy as np
from rich.table import Table

from experiments.common.curves import Rows, told_recorded
from experiments.ours.fitted_rows import CURVES, points_of
from mlem_jax.frontier import frontier

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullLocator

STYLES = {
    "Euler-Maruyama": {"color": "0.6", "linestyle": "-"},
    "DPM-Solver++ 2M": {"color": "k", "linestyle": "-"},
    "UniPC": {"color": "k", "linestyle": ":"},
    "top level, fitted": {"color": "tab:blue", "linestyle": "--"},
    "top level, fitted, look-ahead": {"color": "tab:blue", "linestyle": "-"},
    "the paper's ML-EM, best of 15": {"color": "tab:green", "linestyle": "-"},
    "ML-EM, midpoints": {"color": "tab:orange", "linestyle": "--"},
    "ML-EM, trapezoid": {"color": "tab:orange", "linestyle": ":"},
    "ML-EM, fitted, without look-ahead": {"color": "tab:red", "linestyle": "--"},
    "chosen plan": {"color": "tab:red", "linestyle": "-", "linewidth": 2.2},
}
"""How each of the `CURVES` is drawn."""


def table_of(name: str, summary: Rows) -> Table:
    """The ratios as one reads them."""
    table = Table("rival", "by the mean picture", "by the median picture", title=name.upper(),
                  caption="cost of the rival at equal error over that of the chosen plans: "
                          "the median over budgets (95 % over pictures)")  # fmt: skip
    for line in summary:
        table.add_row(line["rival"], told_recorded(line["mean"]), told_recorded(line["median"]))
    return table


def draw_fitted(file: Path, rows: Rows) -> None:
    """Error against cost: a panel per sampler; of each curve what no cheaper run of it beats."""
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    figure, axes = plt.subplots(1, len(samplers), figsize=(4.6 * len(samplers), 4.6),
                                squeeze=False, layout="constrained")  # fmt: skip
    names = {"ddpm": "SDE (DDPM)", "ddim": "ODE (DDIM)"}
    for axis, sampler in zip(axes[0], samplers, strict=True):
        own = [row for row in rows if row["sampler"] == sampler]
        for name, on_curve in CURVES.items():
            points = frontier(points_of([row for row in own if on_curve(row)], np.mean))
            if points:
                axis.loglog(*np.array(points).T, marker=".", label=name, **STYLES[name])
        axis.set_title(names[sampler])
        paid = sorted({round(row["cost"]) for row in own if row["family"] == "single"})
        axis.set_xticks(paid, [str(each) for each in paid])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("cost, evaluations of the top level")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("mean squared error to the fine solution")
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    known = [lines[name] for name in CURVES if name in lines]
    figure.legend(handles=known, ncols=3, loc="outside lower center")
    figure.savefig(file, dpi=160)
    plt.close(figure)
