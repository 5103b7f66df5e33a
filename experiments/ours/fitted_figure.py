"""Fitted plans in a table and a figure: what others pay for their errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich.table import Table

from experiments.common.curves import Rows, recorded, told_recorded
from mlem_jax.frontier import Points, frontier, middle, ratio

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullLocator

Mean = Callable[[np.ndarray], np.floating]
GROUPS: dict[str, tuple[Callable[[dict[str, Any]], bool], dict[str, Any]]] = {
    "Euler-Maruyama": (
        lambda row: alone(row) and row["order"] == 1 and row["weights"] == "",
        {"color": "0.6", "linestyle": "-"},
    ),
    "DPM-Solver++ 2M": (
        lambda row: alone(row) and row["order"] == 2 and row["weights"] == "",
        {"color": "k", "linestyle": "-"},
    ),
    "UniPC": (lambda row: row["method"].startswith("UniPC"), {"color": "k", "linestyle": ":"}),
    "top level, fitted": (
        lambda row: alone(row) and row["weights"] == "fitted" and not looks_ahead(row),
        {"color": "tab:blue", "linestyle": "--"},
    ),
    "top level, fitted, look-ahead": (
        lambda row: alone(row) and looks_ahead(row),
        {"color": "tab:blue", "linestyle": "-"},
    ),
    "the paper's ML-EM, best of 15": (
        lambda row: row["family"] == "paper",
        {"color": "tab:green", "linestyle": "-"},
    ),
    "ML-EM, midpoints": (
        lambda row: row["family"] == "multilevel" and row["weights"] == "impulse",
        {"color": "tab:orange", "linestyle": "--"},
    ),
    "ML-EM, trapezoid": (
        lambda row: row["family"] == "multilevel" and row["weights"] == "trapezoid",
        {"color": "tab:orange", "linestyle": ":"},
    ),
    "ML-EM, fitted, without look-ahead": (
        lambda row: (
            row["family"] == "multilevel"
            and row["weights"] == "fitted"
            and not row["chosen"]
            and len(row["levels"]) > 1
        ),
        {"color": "tab:red", "linestyle": "--"},
    ),
    "chosen plan": (
        lambda row: row["family"] == "multilevel" and row["chosen"],
        {"color": "tab:red", "linestyle": "-", "linewidth": 2.2},
    ),
}
"""Rows that are one curve, at their best grid, and how it is drawn."""
NEITHER = "best single network, where neither looks ahead"
"""What ladders gain without it."""


def alone(row: dict[str, Any]) -> bool:
    """Whether a row is of the top level at every step, of ours."""
    return row["family"] == "single" and row["method"].startswith("top level")


def looks_ahead(row: dict[str, Any]) -> bool:
    """Whether its steps do."""
    return row["order"] == "look-ahead"


def points_of(rows: Rows, mean: Mean, pictures: np.ndarray | slice = slice(None)) -> Points:
    """(cost, error) of each row, over some of the pictures."""
    return [(row["cost"], float(mean(np.array(row["picture_errors"])[pictures]))) for row in rows]


def summarise_fitted(rows: Rows, *, resamples: int = 400) -> Rows:
    """What each rival pays for the errors of our fitted plans, over what these pay.

    The median over all fitted plans, one for each budget, and `plans`, each of them by itself; by
    the mean and by the median picture. Intervals are 95 % over pictures drawn with repetition.
    """
    ours = [row for row in rows if row["family"] == "multilevel" and row["chosen"]]
    rivals = {name: [row for row in rows if chosen(row)] for name, (chosen, _) in GROUPS.items()
              if name != "chosen plan"}  # fmt: skip
    single = [row for row in rows if row["family"] == "single"]
    plain = [row for row in single if not looks_ahead(row)]
    rivals = {
        "best single network": single,
        "best single network, without look-ahead": plain,
        "best single network, not fitted": [row for row in single if row["weights"] != "fitted"],
        **rivals,
    }
    count = len(rows[0]["picture_errors"])
    drawn = np.random.default_rng(0).integers(0, count, (resamples, count))

    def line(name: str, ours: Rows, theirs: Rows) -> dict[str, Any]:
        each = [{"cost": row["cost"], **ratios([row], theirs, drawn)} for row in ours]
        return {"rival": name, **ratios(ours, theirs, drawn), "plans": each}

    found = [line(name, ours, theirs) for name, theirs in rivals.items()]
    unlooking = [row for row in rows if row["family"] == "multilevel"
                 and row["weights"] == "fitted" and not looks_ahead(row)]  # fmt: skip
    return [*found, line(NEITHER, unlooking, plain)]


def ratios(ours: Rows, theirs: Rows, drawn: np.ndarray) -> dict[str, Any]:
    """The cost of theirs at equal error over ours, by the mean and by the median picture."""
    found = {}
    for kind, mean in {"mean": np.mean, "median": np.median}.items():
        again = (ratio(points_of(ours, mean, each), points_of(theirs, mean, each))
                 for each in drawn)  # fmt: skip
        own = ratio(points_of(ours, mean), points_of(theirs, mean))
        found[kind] = recorded(own, middle(again) if theirs else None)
    return found


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
        for name, (chosen, style) in GROUPS.items():
            points = frontier(points_of([row for row in own if chosen(row)], np.mean))
            if points:
                axis.loglog(*np.array(points).T, marker=".", label=name, **style)
        axis.set_title(names[sampler])
        paid = sorted({round(row["cost"]) for row in own if row["family"] == "single"})
        axis.set_xticks(paid, [str(each) for each in paid])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("cost, evaluations of the top level")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("mean squared error to the fine solution")
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    known = [lines[name] for name in GROUPS if name in lines]
    figure.legend(handles=known, ncols=3, loc="outside lower center")
    figure.savefig(file, dpi=160)
    plt.close(figure)
