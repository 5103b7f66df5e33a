"""Which number of which result stands where in README's tables of ratios."""

import json
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
ALONE = "Euler-Maruyama"
MANY = "Euler-Maruyama, 250 steps or more"
FIXED = "inverse cost or theory"
SECOND = "second-order, top alone"
BEST = "best of 15 of the paper's"


class Told(NamedTuple):
    """A table: where its numbers come from, its columns of ratios, and what its rows are."""

    result: str
    others: tuple[str, ...]
    rows: dict[str, str]
    points: bool


def line_of(result: str, sampler: str, method: str, of_draws: str = "median") -> dict[str, Any]:
    """What a result has to say of a method."""
    summary = json.loads((ROOT / "results" / result).read_text())["summary"][sampler.lower()]
    (line,) = (own for own in summary if (own["method"], own["of draws"]) == (method, of_draws))
    return line


def cells_of(table: Told, label: str) -> list[str]:
    """The cells of a row after its label."""
    sampler, method = label.split(", ", 1)
    named = table.rows.get(label) or method
    of_draws = "median"
    if named.endswith(", best of 15"):
        named, of_draws = named.replace("best of 15", "independent"), "best"
    line = line_of(table.result, sampler, named, of_draws)
    told = ", ".join(f"{cost:.0f}: {brief(error)}" for cost, error in line["points"])
    ratios = [line["ratios"][other] for other in table.others]
    return [told] * table.points + ["-" if own is None else own["told"] for own in ratios]


def brief(error: float) -> str:
    """4.1e-2."""
    mantissa, exponent = f"{error:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


PAPERS = ("DDPM, inverse cost, independent", "DDPM, pilot, independent",
          "DDPM, learned, independent", "DDPM, learned, best of 15", "DDPM, learned, midpoint",
          "DDPM, learned, systematic", "DDPM, theory, midpoint", "DDIM, inverse cost, independent",
          "DDIM, pilot, independent", "DDIM, learned, independent", "DDIM, learned, best of 15",
          "DDIM, learned, systematic", "DDIM, pilot, midpoint")  # fmt: skip
FACES = ("DDPM, inverse cost, independent", "DDPM, pilot, independent",
         "DDPM, learned, independent", "DDPM, learned, best of 15", "DDPM, pilot, midpoint",
         "DDIM, inverse cost, independent", "DDIM, pilot, independent",
         "DDIM, learned, independent", "DDIM, learned, best of 15",
         "DDIM, learned, systematic")  # fmt: skip
TABLES = (
    Told("error_against_cost.json", (FIXED, ALONE, MANY), dict.fromkeys(PAPERS, ""), True),
    Told("compare_draws.json", (ALONE, SECOND, BEST), {
        "DDPM, independent": "pilot, independent",
        "DDPM, midpoint": "pilot, midpoint",
        "DDPM, stacked, midpoint": "pilot, midpoint, stacked",
        "DDPM, stacked, nested systematic": "pilot, nested systematic, stacked",
        "DDPM, levels 2 and 4, trapezoid on second order":
            "pilot, trapezoid, second-order base, levels 2 4",
        "DDPM, levels 2 and 4 on the log-SNR grid, systematic":
            "pilot, systematic, levels 2 4, log-SNR",
        "DDPM, levels 2 and 4 on the log-SNR grid, midpoint":
            "pilot, midpoint, levels 2 4, log-SNR",
        "DDPM, the same on second order":
            "pilot, midpoint, second-order base, levels 2 4, log-SNR",
        "DDIM, independent": "pilot, independent",
        "DDIM, midpoint": "pilot, midpoint",
        "DDIM, trapezoid on second order": "pilot, trapezoid, second-order base",
        "DDIM, levels 2 and 4, midpoint": "pilot, midpoint, levels 2 4",
        "DDIM, levels 2 and 4, trapezoid on second order":
            "pilot, trapezoid, second-order base, levels 2 4",
        "DDIM, levels 2 and 4 on the log-SNR grid, midpoint on second order":
            "pilot, midpoint, second-order base, levels 2 4, log-SNR",
        "DDIM, stacked, midpoint": "pilot, midpoint, stacked",
        "DDIM, stacked, trapezoid on second order":
            "pilot, trapezoid, second-order base, stacked",
    }, False),
    Told("celeba64/error_against_cost.json", (FIXED, ALONE), dict.fromkeys(FACES, ""), True),
    Told("celeba64/compare_draws.json", (ALONE, SECOND, BEST), {
        "DDPM, independent": "pilot, independent",
        "DDPM, midpoint": "pilot, midpoint",
        "DDPM, stacked, nested systematic": "pilot, nested systematic, stacked",
        "DDPM, levels 3 and 4 on the log-SNR grid, nested systematic":
            "pilot, nested systematic, levels 3 4, log-SNR",
        "DDPM, levels 3 and 4 on the log-SNR grid, midpoint on second order":
            "pilot, midpoint, second-order base, levels 3 4, log-SNR",
        "DDPM, the same, trapezoid": "pilot, trapezoid, second-order base, levels 3 4, log-SNR",
        "DDIM, independent": "pilot, independent",
        "DDIM, midpoint": "pilot, midpoint",
        "DDIM, stacked, trapezoid on second order":
            "pilot, trapezoid, second-order base, stacked",
        "DDIM, levels 3 and 4 on the log-SNR grid, midpoint on second order":
            "pilot, midpoint, second-order base, levels 3 4, log-SNR",
        "DDIM, the same, trapezoid": "pilot, trapezoid, second-order base, levels 3 4, log-SNR",
    }, False),
)  # fmt: skip
"""In the order in which they stand there."""

RECIPE = ("error_against_cost.json", "learned, independent", "best")
OURS = {
    "DDPM, 32x32": ("", "pilot, midpoint, levels 2 4, log-SNR"),
    "DDIM, 32x32": ("", "pilot, trapezoid, second-order base, levels 2 4"),
    "DDPM, CelebA 64x64":
        ("celeba64/", "pilot, trapezoid, second-order base, levels 3 4, log-SNR"),
    "DDIM, CelebA 64x64":
        ("celeba64/", "pilot, trapezoid, second-order base, levels 3 4, log-SNR"),
}  # fmt: skip
"""Of the table that sums up: folder and our row."""


def summed_up(label: str) -> list[str]:
    """The paper's recipe and our row, each against 250 steps or more and against few steps."""
    folder, method = OURS[label]
    sampler = label.split(",", maxsplit=1)[0]
    file, recipe, of_draws = RECIPE
    lines = (
        line_of(folder + file, sampler, recipe, of_draws),
        line_of(f"{folder}compare_draws.json", sampler, method),
    )
    return [line["ratios"][other]["told"] for line in lines for other in (MANY, ALONE)]
