"""Tables and figure of `experiments.particles.rods`."""

from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Array, Shaped
from rich.table import Table

from experiments.particles.run import Problem, price_at

matplotlib.use("Agg")
from matplotlib import pyplot as plt

UNITS = {"cost": "evaluations of all pairs", "pairs": "the same, counted", "seconds": "seconds"}
ALONE = "Euler-Maruyama, all pairs"


def names_of(rows: list[dict[str, Any]], start: str = "") -> list[str]:
    """Methods in the order in which they were run."""
    return [n for n in dict.fromkeys(row["method"] for row in rows) if n.startswith(start)]


def compare(rows: list[dict[str, Any]], errors: tuple[float, ...]) -> list[dict[str, Any]]:
    """What each method pays for some errors, in every unit, and how often Euler-Maruyama pays it.

    The ratio is that of all pairs by Euler-Maruyama, at as few steps as it is stable at.
    """
    told = []
    for name in names_of(rows):
        for unit in UNITS:
            own, other = (price_at(rows, each, unit, np.array(errors)) for each in (name, ALONE))
            told.append({
                "method": name,
                "unit": unit,
                "price": known(own),
                "speed_up": known(other / own),
            })  # fmt: skip
    return told


def is_alone(name: str) -> bool:
    """Whether a method evaluates all pairs at every step, by whatever solver."""
    return name == ALONE or name.startswith("diffrax")


def is_multilevel(name: str) -> bool:
    """Whether it is ML-EM, on the whole ladder or on two levels."""
    return name.startswith("ML-EM")


def gains(rows: list[dict[str, Any]], errors: tuple[float, ...]) -> dict[str, Any]:
    """Price of the best of ML-EM at some errors, and of the others over it, in every unit."""
    found: dict[str, Any] = {}
    for unit in UNITS:
        prices = {
            "ML-EM": is_multilevel,
            "Euler-Maruyama": ALONE,
            "diffrax": lambda name: name.startswith("diffrax"),
        }
        wanted = {name: price_at(rows, chosen, unit, np.array(errors))
                  for name, chosen in prices.items()}  # fmt: skip
        ours = wanted.pop("ML-EM")
        found[unit] = {"ML-EM": known(ours)} | {
            name: known(theirs / ours) for name, theirs in wanted.items()
        }
    return found


def known(values: np.ndarray) -> list[float | None]:
    """Numbers as JSON has them."""
    return [None if np.isnan(value) else float(value) for value in values]


def cheapest_where(rows: list[dict[str, Any]], unit: str) -> dict[str, float | None] | None:
    """Over which part of the errors that methods with all pairs reach ML-EM is the cheapest."""
    reached = [row["mse"] for row in rows if row["mse"] and is_alone(row["method"])]
    if not reached:
        return None
    wanted = np.geomspace(max(reached), min(reached), 400)
    ours, theirs = (price_at(rows, kind, unit, wanted) for kind in (is_multilevel, is_alone))
    cheaper = ours < theirs  # Never where ML-EM does not get there.
    least = float(wanted[cheaper][-1]) if cheaper.any() else None
    return {"from": max(reached), "to": min(reached), "share": float(cheaper.mean()),
            "least": least}  # fmt: skip


def shown_prices(case: str, told: list[dict[str, Any]], errors: tuple[float, ...]) -> Table:
    """Prices at equal error, and in brackets how many times that Euler-Maruyama pays."""
    table = Table("method", *(f"mse {error:.0e}" for error in errors),
                  title=f"{case}: cost at equal error (Euler-Maruyama's over it)")  # fmt: skip
    for line in told:
        if line["unit"] != "cost" or all(price is None for price in line["price"]):
            continue
        cells = [
            "-" if price is None else f"{price:.1f} ({told_number(ratio)})"
            for price, ratio in zip(line["price"], line["speed_up"], strict=True)
        ]
        table.add_row(line["method"], *cells)
    return table


def shown_summary(cases: dict[str, Any]) -> Table:
    """A line a case: gamma, and the best of ML-EM against the best of the others."""
    table = Table("case", "gamma by pairs", "by seconds", "mse", "ML-EM's cost",
                  "Euler-Maruyama's over it", "diffrax's over it", "the same in seconds",
                  "ML-EM is cheapest for mse")  # fmt: skip
    for name, case in cases.items():
        gamma, where = case["gamma"], case["cheapest"]["cost"]
        for place, error in enumerate(case["errors"]):
            first = place == 0
            cost, seconds = (case["gains"][unit] for unit in ("cost", "seconds"))
            told = [cost["ML-EM"], cost["Euler-Maruyama"], cost["diffrax"]]
            times = [seconds["Euler-Maruyama"], seconds["diffrax"]]
            table.add_row(
                name if first else "",
                f"{gamma['gamma']:.2f} ± {gamma['standard_error']:.2f}" if first else "",
                f"{gamma['gamma_by_seconds']:.2f}" if first else "",
                f"{error:.0e}",
                *(told_number(own[place]) for own in told),
                " ".join(told_number(own[place]) for own in times),
                f"{where['share']:.0%} of {where['from']:.0e} to {where['to']:.0e}"
                if first and where
                else "",
            )
    return table


def told_number(value: float | None) -> str:
    """A price or a ratio, if there is one."""
    return "-" if value is None else f"{value:.1f}"


def draw_figure(
    file: str, problem: Problem, states: Shaped[Array, "kept samples rods"], cases: dict[str, Any]
) -> None:
    """Rods on their way, error against reach, error against cost, and gain against rods."""
    figure, axes = plt.subplots(2, 3, figsize=(15.5, 8.6))
    draw_rods(axes[0][0], problem, np.asarray(states))
    draw_gamma(axes[1][0], cases)
    shown = list(cases.items())[:2]
    for axis, (name, case) in zip(axes[:, 1], shown, strict=True):
        draw_errors(axis, name, case["rows"])
    draw_gains(axes[1][2], cases)
    axes[0][2].axis("off")
    axes[0][2].legend(*axes[0][1].get_legend_handles_labels(), fontsize=8, loc="center left",
                      title="methods of the panels to the left and below")  # fmt: skip
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_rods(axis: Any, problem: Problem, states: np.ndarray) -> None:
    """Some of the rods of one ring over time, the strongly charged ones in red."""
    some = states[:, 0, :24]
    times = np.linspace(0, problem.end, len(some))
    strong = np.asarray(problem.params[-1].charges)[:24] > 1
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
        label = f"{name}: gamma {found['gamma']:.2f} ± {found['standard_error']:.2f}"
        axis.loglog(reaches, errors, "o", color=f"C{colour}", label=label)
        x, y = np.log(reaches[: found["fitted"]]), np.log(errors[: found["fitted"]])
        line = np.exp(y.mean() - (x - x.mean()) / found["gamma"])
        axis.loglog(reaches[: found["fitted"]], line, color=f"C{colour}", linewidth=1)
    axis.set_title("what a cut-off misses of the force (root mean square)", fontsize=9)
    axis.set_xlabel("neighbours on either side, pair interactions")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3, which="both")


def draw_errors(axis: Any, name: str, rows: list[dict[str, Any]]) -> None:
    """Error against cost: frontiers as lines, one-level methods in black and grey."""
    colours = iter(plt.rcParams["axes.prop_cycle"].by_key()["color"])
    for method in names_of(rows):
        points = sorted((r["cost"], r["mse"]) for r in rows if r["method"] == method and r["mse"])
        if not points:
            continue
        style: dict[str, Any] = {"marker": ".", "linewidth": 1}
        if method.startswith("ML-EM"):
            points = [p for n, p in enumerate(points) if p[1] < min(
                [e for _, e in points[:n]], default=np.inf)]  # fmt: skip
            style["color"] = next(colours)
            style["linestyle"] = "--" if "two levels" in method else "-"
        elif method == ALONE:
            style |= {"color": "k", "linewidth": 2}
        else:
            lower = method.startswith("Euler")
            style |= {"color": "0.6", "linestyle": "none" if lower else ":",
                      "marker": "x" if lower else "s", "markersize": 4}  # fmt: skip
        axis.loglog(*zip(*points, strict=True), label=method, **style)
    axis.set_title(f"{name}: strong error against cost", fontsize=9)
    axis.set_xlabel("cost, evaluations of all pairs")
    axis.set_ylabel("mean squared distance at the end")
    axis.grid(alpha=0.3, which="both")


def draw_gains(axis: Any, cases: dict[str, Any]) -> None:
    """How many times the cost of ML-EM others pay, against the error: all cases."""
    for colour, (name, case) in enumerate(cases.items()):
        rows = case["rows"]
        reached = [row["mse"] for row in rows if row["mse"] and is_alone(row["method"])]
        if not reached:
            continue
        wanted = np.geomspace(max(reached), min(reached), 200)
        for unit, style in (("cost", "-"), ("seconds", ":")):
            ours, theirs = (
                price_at(rows, kind, unit, wanted) for kind in (is_multilevel, is_alone)
            )
            label = name if unit == "cost" else None
            axis.loglog(wanted, theirs / ours, style, color=f"C{colour}", label=label)
    axis.axhline(1, color="k", linewidth=0.8)
    axis.set_title("best with all pairs over best of ML-EM; dotted: in seconds", fontsize=9)
    axis.set_xlabel("mean squared distance at the end")
    axis.set_ylabel("times the cost, at equal error")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3, which="both")
