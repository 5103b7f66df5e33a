"""Tables of gates and draws beside their rivals, from the results, in Markdown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.common.method import PROCESSES, label, method_of

RESULTS = Path(__file__).parent.parent.parent / "results"
Result = dict[str, Any]


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


def short(told: Result | None) -> str:
    """A ratio without the number of runs that it rests on."""
    return "-" if told is None else told["told"].rpartition(", ")[0]


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
