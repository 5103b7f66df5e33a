"""Which number of which result stands where in README's tables of ratios."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from experiments.readme import brief

ROOT = Path(__file__).parent.parent
ALONE = "Euler-Maruyama"
MANY = "Euler-Maruyama, 250 steps or more"
FIXED = "inverse cost or theory"
SECOND = "second-order, top alone"
BEST = "best of 15 of the paper's"


Fields = dict[str, Any]
PLAIN: Fields = {"levels": [1, 2, 3, 4], "grid": "uniform", "order": 1, "weights": "impulse"}


def ours(draw: str, gates: str = "pilot", **others: Any) -> Fields:
    """Fields of a method, ML-EM on the plain ladder but for what is named."""
    return {"family": "ML-EM", "gates": gates, "draw": draw, **PLAIN, **others}


class Told(NamedTuple):
    """A table: where its numbers come from, its columns of ratios, and what its rows are."""

    result: str
    others: tuple[str, ...]
    rows: dict[str, Fields]
    points: bool


def line_of(result: str, sampler: str, method: Fields, of_draws: str = "median") -> Fields:
    """What a result has to say of a method."""
    summary = json.loads((ROOT / "results" / result).read_text())["summary"][sampler.lower()]
    wanted = method | {"of draws": of_draws}
    (line,) = (own for own in summary if all(own[name] == wanted[name] for name in wanted))
    return line


def cells_of(table: Told, label: str) -> list[str]:
    """The cells of a row after its label."""
    of_draws = "best" if label.endswith(", best of 15") else "median"
    line = line_of(table.result, label.split(", ")[0], table.rows[label], of_draws)
    told = ", ".join(f"{cost:.0f}: {brief(error)}" for cost, error in line["points"])
    ratios = [line["ratios"][other] for other in table.others]
    return [told] * table.points + ["-" if own is None else own["told"] for own in ratios]


def fields_of(labels: tuple[str, ...]) -> dict[str, Fields]:
    """Of `DDPM, learned, best of 15` and the like: gates and draw are in the label."""
    named = {label: label.split(", ")[1:] for label in labels}
    return {label: ours("independent" if draw == "best of 15" else draw, gates)
            for label, (gates, draw) in named.items()}  # fmt: skip


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
TWO, UPPER, SNR = {"levels": [2, 4]}, {"levels": [3, 4]}, {"grid": "log-SNR"}
HELD = {"order": 2, "weights": "trapezoid"}
TABLES = (
    Told("error_against_cost.json", (FIXED, ALONE, MANY), fields_of(PAPERS), True),
    Told("compare_draws.json", (ALONE, SECOND, BEST), {
        "DDPM, independent": ours("independent"),
        "DDPM, midpoint": ours("midpoint"),
        "DDPM, levels 2 and 4, trapezoid on second order": ours("midpoint", **TWO, **HELD),
        "DDPM, levels 2 and 4 on the log-SNR grid, systematic": ours("systematic", **TWO, **SNR),
        "DDPM, levels 2 and 4 on the log-SNR grid, midpoint": ours("midpoint", **TWO, **SNR),
        "DDPM, the same on second order": ours("midpoint", **TWO, **SNR, order=2),
        "DDIM, independent": ours("independent"),
        "DDIM, midpoint": ours("midpoint"),
        "DDIM, trapezoid on second order": ours("midpoint", **HELD),
        "DDIM, levels 2 and 4, midpoint": ours("midpoint", **TWO),
        "DDIM, levels 2 and 4, trapezoid on second order": ours("midpoint", **TWO, **HELD),
        "DDIM, levels 2 and 4 on the log-SNR grid, midpoint on second order":
            ours("midpoint", **TWO, **SNR, order=2),
    }, False),
    Told("celeba64/error_against_cost.json", (FIXED, ALONE), fields_of(FACES), True),
    Told("celeba64/compare_draws.json", (ALONE, SECOND, BEST), {
        "DDPM, independent": ours("independent"),
        "DDPM, midpoint": ours("midpoint"),
        "DDPM, levels 3 and 4 on the log-SNR grid, midpoint on second order":
            ours("midpoint", **UPPER, **SNR, order=2),
        "DDPM, the same, trapezoid": ours("midpoint", **UPPER, **SNR, **HELD),
        "DDIM, independent": ours("independent"),
        "DDIM, midpoint": ours("midpoint"),
        "DDIM, levels 3 and 4 on the log-SNR grid, midpoint on second order":
            ours("midpoint", **UPPER, **SNR, order=2),
        "DDIM, the same, trapezoid": ours("midpoint", **UPPER, **SNR, **HELD),
    }, False),
)  # fmt: skip
"""In the order in which they stand there."""

RECIPE = ("error_against_cost.json", ours("independent", "learned"), "best")
OURS = {
    "DDPM, 32x32": ("", ours("midpoint", **TWO, **SNR)),
    "DDIM, 32x32": ("", ours("midpoint", **TWO, **HELD)),
    "DDPM, CelebA 64x64": ("celeba64/", ours("midpoint", **UPPER, **SNR, **HELD)),
    "DDIM, CelebA 64x64": ("celeba64/", ours("midpoint", **UPPER, **SNR, **HELD)),
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
