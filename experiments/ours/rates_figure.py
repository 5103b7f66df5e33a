"""Rates in tables and a figure: exponents that are fitted to the points, beside those of theory."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich.table import Table

from experiments.ours.rates_ladder import METHODS, predicted_exponent

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def fit(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponents of cost against error, and cost as a multiple of the independent draws'."""
    rows = []
    groups = {(point["gamma"], point["equation"], point["draw"]): None for point in points}
    for gamma, kind, name in groups:
        error, cost, deviation, levels = columns(points, gamma, kind, name)
        x = np.log(cost) - np.log(cost).mean()
        slope = float(x @ np.log(error) / (x @ x))
        noise = float(np.sqrt((x * deviation / error) @ (x * deviation / error)) / (x @ x))
        flat = cost * error**gamma
        # At the least error that both reach.
        other, price, *_ = columns(points, gamma, kind, "independent")
        least = np.log(max(error.min(), other.min()))
        ours, theirs = (
            np.interp(least, np.log(e[::-1]), np.log(c[::-1]))
            for e, c in ((error, cost), (other, price))
        )
        rows.append({
            "gamma": gamma, "equation": kind, "draw": name,
            "exponent": -1 / slope, "standard_error": noise / slope**2,
            "theory_here": predicted_exponent(gamma, METHODS[name], levels),
            "theory": gamma if METHODS[name].even else max(gamma, 2.0),
            "cost_times_error_to_gamma_grows": float(flat[-1] / flat[0]),
            "cost_times_error_to_gamma_spreads": float(flat.max() / flat.min()),
            "independent_costs_times": float(np.exp(theirs - ours)),
        })  # fmt: skip
    return rows


def columns(
    points: list[dict[str, Any]], gamma: float, kind: str, name: str
) -> tuple[np.ndarray, ...]:
    """Error, cost, standard error and levels along one curve."""
    wanted = (gamma, kind, name)
    own = [p for p in points if (p["gamma"], p["equation"], p["draw"]) == wanted]
    fields = ("error", "cost", "standard_error", "levels")
    return tuple(np.array([point[field] for point in own]) for field in fields)


def shown_fits(fits: list[dict[str, Any]]) -> Table:
    """The fits as one reads them."""
    table = Table("gamma", "equation", "draw", "cost ~ error^-", "theory, these levels", "limit",
                  "cost x error^gamma, last / first", "independent costs, times")  # fmt: skip
    for row in fits:
        table.add_row(
            f"{row['gamma']:g}", row["equation"], row["draw"],
            f"{row['exponent']:.2f} ± {row['standard_error']:.2f}",
            f"{row['theory_here']:.2f}", f"{row['theory']:g}",
            f"{row['cost_times_error_to_gamma_grows']:.2f}",
            f"{row['independent_costs_times']:.1f}",
        )  # fmt: skip
    return table


def shown_counts(counts: list[dict[str, Any]]) -> Table:
    """Evaluations of each level, as one reads them."""
    table = Table("draw", "steps", "evaluations", "in 16 times the steps")
    for row in counts:
        cells = [
            " ".join(f"{value:.1f}" for value in row[f"evaluations_{way}"]) for way in ("1", "16")
        ]
        table.add_row(row["draw"], str(row["steps"]), *cells)
    return table


def draw_rates(file: Path, points: list[dict[str, Any]], fits: list[dict[str, Any]]) -> None:
    """Cost against error, one panel per equation and gamma."""
    gammas, kinds = ({point[field]: None for point in points} for field in ("gamma", "equation"))
    figure, axes = plt.subplots(
        len(kinds), len(gammas), figsize=(4.2 * len(gammas), 3.6 * len(kinds)), squeeze=False
    )
    for row, kind in zip(axes, kinds, strict=True):
        for axis, gamma in zip(row, gammas, strict=True):
            own = [f for f in fits if (f["gamma"], f["equation"]) == (gamma, kind)]
            for place, fitted in enumerate(own):
                error, cost, *_ = columns(points, gamma, kind, fitted["draw"])
                label = f"{fitted['draw']}: {fitted['exponent']:.2f} ({fitted['theory_here']:.2f})"
                axis.loglog(error, cost, f"C{place}o-", markersize=3, label=label)
            axis.set_title(f"{kind}, gamma {gamma:g}; exponent (theory)", fontsize=9)
            axis.legend(fontsize=7)
            axis.grid(alpha=0.3)
        row[0].set_ylabel("cost of a path")
    for axis in axes[-1]:
        axis.set_xlabel("root mean square error")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
