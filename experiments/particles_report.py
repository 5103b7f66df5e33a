"""Tables and figure of `experiments.particles`."""

from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Array, Shaped
from rich.table import Table

from experiments.particles_run import Problem, price_at

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
                "price": [None if np.isnan(p) else float(p) for p in own],
                "speed_up": [None if np.isnan(r) else float(r) for r in other / own],
            })  # fmt: skip
    return told


def crossing(rows: list[dict[str, Any]], unit: str) -> dict[str, float] | None:
    """The largest error at which the best of ML-EM is no dearer than all pairs at every step.

    None where it is cheaper, or dearer, at every error that both reach.
    """
    known = [row["mse"] for row in rows if row["mse"]]
    wanted = np.geomspace(max(known), min(known), 400)
    ours = price_at(rows, lambda name: name.startswith("ML-EM"), unit, wanted)
    theirs = price_at(rows, ALONE, unit, wanted)
    cheaper = ours <= theirs  # False where one of them is not known.
    if cheaper[0] or not cheaper.any():
        return None
    place = int(np.argmax(cheaper))
    return {"mse": float(wanted[place]), "price": float(theirs[place])}


def shown_rows(case: str, rows: list[dict[str, Any]], reaches: tuple[int, ...]) -> Table:
    """All that was run."""
    heads = "evaluations of " + " ".join(map(str, reaches))
    table = Table("method", "steps", heads, "cost", "pairs", "mse", "seconds", title=case)
    for row in rows:
        table.add_row(
            row["method"], str(row["parameters"]["steps"]),
            " ".join(f"{count:.0f}" for count in row["evaluations"]),
            f"{row['cost']:.1f}", f"{row['pairs']:.1f}",
            "unstable" if row["mse"] is None else f"{row['mse']:.1e}", f"{row['seconds']:.3f}",
        )  # fmt: skip
    return table


def shown_prices(case: str, told: list[dict[str, Any]], errors: tuple[float, ...]) -> Table:
    """Prices at equal error, and in brackets how many times cheaper than Euler-Maruyama."""
    heads = [f"mse {error:.0e}" for error in errors]
    table = Table("method", *(f"{head}, {unit}" for head in heads for unit in ("cost", "seconds")),
                  title=f"{case}: price of an error (Euler-Maruyama's over it)")  # fmt: skip
    for name in names_of(told):
        by_unit = {line["unit"]: line for line in told if line["method"] == name}
        cells = []
        for place in range(len(errors)):
            for unit, form in (("cost", ".0f"), ("seconds", ".2f")):
                price, ratio = (by_unit[unit][field][place] for field in ("price", "speed_up"))
                cells.append("-" if price is None else f"{price:{form}}"
                             + ("" if ratio is None else f" ({ratio:.1f})"))  # fmt: skip
        if set(cells) != {"-"}:
            table.add_row(name, *cells)
    return table


def draw_figure(
    file: str, problem: Problem, states: Shaped[Array, "kept samples rods"], cases: dict[str, Any]
) -> None:
    """Rods on their way, error against reach, and error against cost in each case."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.4))
    draw_rods(axes[0][0], problem, np.asarray(states))
    draw_gamma(axes[0][1], cases)
    for axis, (name, case) in zip(axes[1], cases.items(), strict=True):
        draw_errors(axis, name, case["rows"])
    axes[1][0].legend(fontsize=6.5, loc="lower left")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def draw_rods(axis: Any, problem: Problem, states: np.ndarray) -> None:
    """Some of the rods of one ring over time, the strongly charged ones in red."""
    some = states[:, 0, :40]
    times = np.linspace(0, problem.end, len(some))
    strong = np.asarray(problem.params[-1].charges)[:40] > 1
    for place, path in enumerate(some.T):
        colour = "C3" if strong[place] else "C0"
        axis.plot(times, place + path, color=colour, linewidth=1.8 if strong[place] else 1)
    axis.set_title("40 of the rods, let go from the lattice; red: the strong charges", fontsize=9)
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
