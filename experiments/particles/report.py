"""Tables and figure of `experiments.particles.rods`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Array, Shaped
from rich.table import Table

from experiments.common.curves import Rows, by_method
from experiments.common.method import fields, label, method_of
from experiments.particles.run import Task
from mlem_jax.frontier import cost_range, frontier

matplotlib.use("Agg")
from matplotlib import pyplot as plt

UNITS = {"cost": "evaluations of all pairs", "pairs": "the same, counted", "seconds": "seconds"}
KINDS: dict[str, Callable[[str], bool]] = {
    "ML-EM": lambda family: family == "ML-EM",
    "Euler-Maruyama": lambda family: family == "top level",
    "diffrax": lambda family: family not in ("ML-EM", "top level", "level"),
    "all pairs": lambda family: family not in ("ML-EM", "level"),
}
"""Families that are compared as one: the last evaluates all pairs at every step, by any solver."""


def of_kind(rows: Rows, kind: str) -> Rows:
    """The rows of several families."""
    return [row for row in rows if KINDS[kind](row["family"])]


def price_at(rows: Rows, unit: str, wanted: np.ndarray) -> np.ndarray:
    """Cost at which the best of the rows reach an error, in one of the units they are told in.

    Above their largest error the cheapest stable run stands: it is better than was asked for. NaN
    below their least error.
    """
    points = [(row[unit], row["mse"]) for row in rows if row["mse"] is not None]
    if not points:
        return np.full(len(wanted), np.nan)
    _, most = cost_range(points, wanted)
    return np.where(np.isinf(most), np.nan, most)


def sum_up(rows: Rows, errors: tuple[float, ...]) -> dict[str, Any]:
    """What the rows of a case say: prices at some errors, gains, and where ML-EM is the cheapest.

    A price stands beside what all pairs by Euler-Maruyama, at as few steps as it is stable at, pay
    over it; a gain is that of the best of ML-EM, beside what the best of the others pay over it.
    """
    wanted = np.array(errors)
    prices, gains = [], {}
    for unit in UNITS:
        best = {kind: price_at(of_kind(rows, kind), unit, wanted) for kind in KINDS}
        gains[unit] = {"ML-EM": known(best["ML-EM"])} | {
            kind: known(best[kind] / best["ML-EM"]) for kind in ("Euler-Maruyama", "diffrax")
        }
        for method, own in by_method(rows).items():
            price = price_at(own, unit, wanted)
            prices.append({
                **fields(method),
                "unit": unit,
                "price": known(price),
                "speed_up": known(best["Euler-Maruyama"] / price),
            })  # fmt: skip
    cheapest = {unit: cheapest_where(rows, unit) for unit in UNITS}
    return {"prices": prices, "gains": gains, "cheapest": cheapest}


def known(values: np.ndarray) -> list[float | None]:
    """Numbers as JSON has them."""
    return [None if np.isnan(value) else float(value) for value in values]


def cheapest_where(rows: Rows, unit: str) -> dict[str, float | None] | None:
    """Over which part of the errors that methods with all pairs reach ML-EM is the cheapest."""
    errors = errors_reached(rows)
    if errors is None:
        return None
    ours, theirs = (price_at(of_kind(rows, kind), unit, errors) for kind in ("ML-EM", "all pairs"))
    cheaper = ours < theirs  # Never where ML-EM does not get there.
    least = float(errors[cheaper][-1]) if cheaper.any() else None
    return {"from": float(errors[0]), "to": float(errors[-1]), "share": float(cheaper.mean()),
            "least": least}  # fmt: skip


def errors_reached(rows: Rows) -> np.ndarray | None:
    """Errors from the largest to the least that methods with all pairs reach."""
    reached = [row["mse"] for row in of_kind(rows, "all pairs") if row["mse"]]
    return np.geomspace(max(reached), min(reached), 400) if reached else None


def shown_prices(name: str, case: dict[str, Any]) -> Table:
    """Prices at equal error, and in brackets how many times that Euler-Maruyama pays."""
    table = Table("method", *(f"mse {error:.0e}" for error in case["errors"]),
                  title=f"{name}: cost at equal error (Euler-Maruyama's over it)")  # fmt: skip
    for line in case["prices"]:
        if line["unit"] != "cost" or all(price is None for price in line["price"]):
            continue
        cells = [
            "-" if price is None else f"{price:.1f} ({told(ratio)})"
            for price, ratio in zip(line["price"], line["speed_up"], strict=True)
        ]
        table.add_row(label(method_of(line)), *cells)
    return table


def shown_summary(cases: dict[str, Any]) -> Table:
    """A line per case and error: gamma, and the best of ML-EM against the best of the others."""
    table = Table("case", "gamma by pairs", "by seconds", "mse", "ML-EM's cost",
                  "Euler-Maruyama's over it", "diffrax's over it", "the same in seconds",
                  "ML-EM is cheapest for mse")  # fmt: skip
    for name, case in cases.items():
        gamma, where = case["gamma"], case["cheapest"]["cost"]
        first = [name, f"{gamma['gamma']:.2f} ± {gamma['standard_error']:.2f}",
                 f"{gamma['gamma_by_seconds']:.2f}"]  # fmt: skip
        span = f"{where['share']:.0%} of {where['from']:.0e} to {where['to']:.0e}" if where else ""
        for place, error in enumerate(case["errors"]):
            own = {unit: [told(values[place]) for values in case["gains"][unit].values()]
                   for unit in ("cost", "seconds")}  # fmt: skip
            table.add_row(*first, f"{error:.0e}", *own["cost"], " ".join(own["seconds"][1:]), span)
            first, span = [""] * 3, ""
    return table


def told(value: float | None) -> str:
    """A price or a ratio, if there is one."""
    return "-" if value is None else f"{value:.1f}"


def draw_figure(
    file: Path, task: Task, states: Shaped[Array, "kept samples rods"], cases: dict[str, Any]
) -> None:
    """Rods on their way, error against reach, error against cost, and gain against rods."""
    figure, axes = plt.subplots(2, 3, figsize=(15.5, 8.6))
    draw_rods(axes[0][0], task, np.asarray(states))
    draw_gamma(axes[1][0], cases)
    for axis, (name, case) in zip(axes[:, 1], cases.items(), strict=False):
        draw_errors(axis, name, case["rows"])
    draw_gains(axes[1][2], cases)
    axes[0][2].axis("off")
    axes[0][2].legend(*axes[0][1].get_legend_handles_labels(), fontsize=8, loc="center left",
                      title="methods of the panels to the left and below")  # fmt: skip
    for axis in (axes[1][0], axes[1][2]):
        axis.legend(fontsize=8)
    for axis in (*axes[:, 1], axes[1][0], axes[1][2]):
        axis.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_rods(axis: Any, task: Task, states: np.ndarray) -> None:
    """Some of the rods of one ring over time, the strongly charged ones in red."""
    some = states[:, 0, :24]
    times = np.linspace(0, task.end, len(some))
    strong = np.asarray(task.ladder.params[-1].charges)[:24] > 1
    for place, path in enumerate(some.T):
        colour = "C3" if strong[place] else "C0"
        axis.plot(times, place + path, color=colour, linewidth=1.8 if strong[place] else 1)
    axis.set_title("some of the rods, let go from the lattice; red: strong charges", fontsize=9)
    axis.set_xlabel("time")
    axis.set_ylabel("place on the ring")


def draw_gamma(axis: Any, cases: dict[str, Any]) -> None:
    """Error of the force against the neighbours that are summed."""
    for colour, (name, case) in enumerate(cases.items()):
        found = case["gamma"]
        reaches, errors = np.array(found["reaches"]), np.array(found["errors"])
        text = f"{name}: gamma {found['gamma']:.2f} ± {found['standard_error']:.2f}"
        axis.loglog(reaches, errors, "o", color=f"C{colour}", label=text)
        x, y = np.log(reaches[: found["fitted"]]), np.log(errors[: found["fitted"]])
        line = np.exp(y.mean() - (x - x.mean()) / found["gamma"])
        axis.loglog(reaches[: found["fitted"]], line, color=f"C{colour}", linewidth=1)
    axis.set_title("what a cut-off misses of the force (root mean square)", fontsize=9)
    axis.set_xlabel("neighbours on either side, pair interactions")


def draw_errors(axis: Any, name: str, rows: Rows) -> None:
    """Error against cost: frontiers as lines, one-level methods in black and grey."""
    colours = iter(plt.rcParams["axes.prop_cycle"].by_key()["color"])
    for method, own in by_method(rows).items():
        points = sorted((row["cost"], row["mse"]) for row in own if row["mse"])
        if not points:
            continue
        style: dict[str, Any] = {"marker": ".", "linewidth": 1}
        if method.family == "ML-EM":
            points = frontier(points)
            style |= {"color": next(colours), "linestyle": "--" if len(method.levels) == 2 else "-"}
        elif method.family == "top level":
            style |= {"color": "k", "linewidth": 2}
        else:
            lower = method.family == "level"
            style |= {"color": "0.6", "linestyle": "none" if lower else ":",
                      "marker": "x" if lower else "s", "markersize": 4}  # fmt: skip
        axis.loglog(*zip(*points, strict=True), label=label(method), **style)
    axis.set_title(f"{name}: strong error against cost", fontsize=9)
    axis.set_xlabel("cost, evaluations of all pairs")
    axis.set_ylabel("mean squared distance at the end")


def draw_gains(axis: Any, cases: dict[str, Any]) -> None:
    """How many times the cost of ML-EM others pay, against the error: all cases."""
    for colour, (name, case) in enumerate(cases.items()):
        errors = errors_reached(case["rows"])
        if errors is None:
            continue
        for unit, style in (("cost", "-"), ("seconds", ":")):
            ours, theirs = (price_at(of_kind(case["rows"], kind), unit, errors)
                            for kind in ("ML-EM", "all pairs"))  # fmt: skip
            text = name if unit == "cost" else None
            axis.loglog(errors, theirs / ours, style, color=f"C{colour}", label=text)
    axis.axhline(1, color="k", linewidth=0.8)
    axis.set_title("best with all pairs over best of ML-EM; dotted: in seconds", fontsize=9)
    axis.set_xlabel("mean squared distance at the end")
    axis.set_ylabel("times the cost, at equal error")
