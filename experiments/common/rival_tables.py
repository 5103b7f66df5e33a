"""Tables of the paper's gates and of other projects' solvers, from their results, in Markdown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common.method import label, method_of
from experiments.peers.crossings import points
from experiments.peers.distances_to_data import DATA
from experiments.peers.figures import judged
from experiments.peers.methods import GROUPS, OURS, in_groups

RESULTS = Path(__file__).parent.parent.parent / "results"
Result = dict[str, Any]
PROCESSES = {"ddpm": "SDE", "ddim": "ODE"}
COSTS = (10.0, 20.0, 30.0, 60.0)
"""At which solvers are compared by their distance to the exact solution."""


def result_of(name: str) -> Result:
    """A result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def lines(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def brief(error: float) -> str:
    """4.1e-2."""
    mantissa, exponent = f"{error:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def gates(folder: str = "") -> str:
    """Of all gates and draws of a ladder: cost and error, and what others pay for the errors."""
    result = result_of(f"{folder}error_against_cost")
    count = result["settings"]["draws"]

    def name_of(line: Result) -> str:
        draw = f"best of {count}" if line["of draws"] == "best" else line["draw"]
        return f"{line['gates']}, {draw}"

    others = {"inverse cost or theory": "fixed gates, independent",
              "Euler-Maruyama": "Euler-Maruyama, better grid",
              "Euler-Maruyama, same grid": "same grid",
              "Euler-Maruyama, 250 steps or more": "250 steps or more"}  # fmt: skip
    shown = [(sampler, line) for sampler in PROCESSES for line in result["summary"][sampler]
             if line["of draws"] == "median" or line["draw"] == "independent"]  # fmt: skip
    return ratios("gates, draw", others, shown, name_of, with_points=True)


def faces_draws() -> str:
    """Of draws with gates of a pilot on faces: all levels, and the upper two on other bases."""
    summary = result_of("celeba64/compare_draws")["summary"]
    whole = {"levels": [1, 2, 3, 4], "grid": "uniform", "order": 1, "weights": "impulse"}
    upper = {"levels": [3, 4], "grid": "log-SNR", "order": 2, "draw": "midpoint"}
    kinds = [whole | {"draw": "independent"}, whole | {"draw": "midpoint"},
             upper | {"weights": "impulse"}, upper | {"weights": "trapezoid"}]  # fmt: skip
    shown = [
        (sampler, line) for sampler in PROCESSES for kind in kinds for line in summary[sampler]
        if (kind | {"gates": "pilot", "of draws": "median"}).items() <= line.items()
    ]  # fmt: skip
    others = {"Euler-Maruyama": "Euler-Maruyama, better grid",
              "second-order, top alone": "second order (DPM-Solver++ 2M), top alone",
              "best of 15 of the paper's": "the paper's best of 15"}  # fmt: skip
    return ratios("method", others, shown, lambda line: label(method_of(line)), with_points=False)


def ratios(
    what: str,
    others: dict[str, str],
    shown: list[tuple[str, Result]],
    name_of: Callable[[Result], str],
    *,
    with_points: bool,
) -> str:
    """A row per line of a summary, with what each of the others pays for its errors."""
    rows = []
    for sampler, line in shown:
        told = ", ".join(f"{cost:.0f}: {brief(error)}" for cost, error in line["points"])
        paid = [line["ratios"][other] for other in others]
        rows.append([f"{PROCESSES[sampler]}, {name_of(line)}", *[told] * with_points,
                     *("-" if own is None else own["told"] for own in paid)])  # fmt: skip
    return lines([what, *["cost: mse"] * with_points, *others.values()], rows)


def peers() -> str:
    """The least error of every group of solvers for at most a cost, the least of all in bold."""
    rows, told = result_of("peers")["rows"], {group: [group] for group in GROUPS}
    header = ["solver"]
    for process in PROCESSES.values():
        own = [row for row in rows if row["process"] == process]
        paid = {group: points(in_groups(own, group)) for group in GROUPS}
        for number, cost in enumerate(COSTS):
            header.append(f"{process}: {cost:g}" if number == 0 else f"{cost:g}")
            within = {group: min((error for each, error in found if each <= 1.02 * cost),
                                 default=None) for group, found in paid.items()}  # fmt: skip
            least = min(error for error in within.values() if error is not None)
            for group, error in within.items():
                cell = "-" if error is None else brief(error)
                told[group].append(f"**{cell}**" if error == least else cell)
    return lines(header, list(told.values()))


def to_data() -> str:
    """Frechet distances to the held-out pictures, of the best of each group at a cost."""
    result = result_of("peers")
    costs = result["settings"]["judged_at"]
    header = ["solver", *(f"{process}: {cost:g}" for process in PROCESSES.values()
                          for cost in costs)]  # fmt: skip

    def told(distance: Result) -> str:
        return f"{distance['mean']:.2f} ± {distance['half_width']:.2f}"

    rows = []
    for group in GROUPS:
        cells = []
        for process in PROCESSES.values():
            own = [row for row in result["rows"] if row["process"] == process]
            found = judged(in_groups(own, group))
            for cost in costs:
                within = [line for line in found if line["cost"] <= 1.05 * cost]
                best = min(within, key=lambda line: line["mse"], default=None)
                cells.append("-" if best is None else told(best["distances"]["frechet"]))
        rows.append([f"**{group}**" if group in OURS else group, *cells])
    data = told(result["data against data"]["frechet"])
    settings = result["settings"]
    return lines(header, rows) + (
        f"\n\nMean and 95 % of {settings['seeds']} seeds of {settings['samples']} pictures. "
        f"{DATA.method.family.capitalize()}: {data}."
    )
