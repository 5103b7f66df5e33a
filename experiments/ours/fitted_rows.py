"""Rows of experiments.ours.fitted: which are one curve, and what rivals pay for our errors."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.common.curves import Rows, recorded
from mlem_jax.frontier import Points, middle, ratio

Mean = Callable[[np.ndarray], np.floating]


def is_alone(row: dict[str, Any]) -> bool:
    """Whether a row is of the top level at every step, of ours."""
    return row["family"] == "single" and row["method"].startswith("top level")


def searched(row: dict[str, Any]) -> bool:
    """Whether our search found it, or it is drawn with what that found; perhaps one network."""
    return row["family"] == "multilevel"


def is_fitted(row: dict[str, Any]) -> bool:
    """Whether its weights are fitted."""
    return row["weights"] == "fitted"


def looks_ahead(row: dict[str, Any]) -> bool:
    """Whether its steps look ahead."""
    return row["order"] == "look-ahead"


CURVES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "Euler-Maruyama": lambda row: is_alone(row) and row["order"] == 1 and row["weights"] == "",
    "DPM-Solver++ 2M": lambda row: is_alone(row) and row["order"] == 2 and row["weights"] == "",
    "UniPC": lambda row: row["method"].startswith("UniPC"),
    "top level, fitted": lambda row: is_alone(row) and is_fitted(row) and not looks_ahead(row),
    "top level, fitted, look-ahead": lambda row: is_alone(row) and looks_ahead(row),
    "the paper's ML-EM, best of 15": lambda row: row["family"] == "paper",
    "ML-EM, midpoints": lambda row: searched(row) and row["weights"] == "impulse",
    "ML-EM, trapezoid": lambda row: searched(row) and row["weights"] == "trapezoid",
    "ML-EM, fitted, without look-ahead": lambda row: (
        searched(row) and is_fitted(row) and not looks_ahead(row) and not row["chosen"]
        and len(row["levels"]) > 1
    ),
    "chosen plan": lambda row: row["chosen"],
}  # fmt: skip
"""Rows that are one curve, at their best grid."""
NEITHER = "best single network, where neither looks ahead"
"""What ladders gain without it."""


def points_of(rows: Rows, mean: Mean, pictures: np.ndarray | slice = slice(None)) -> Points:
    """(cost, error) of each row, over some of the pictures."""
    return [(row["cost"], float(mean(np.array(row["picture_errors"])[pictures]))) for row in rows]


def summarise_fitted(rows: Rows, *, resamples: int = 400) -> Rows:
    """What each rival pays for the errors of our fitted plans, over what these pay.

    The median over all fitted plans, one for each budget, and `plans`, each of them by itself; by
    the mean and by the median picture. Intervals are 95 % over pictures drawn with repetition.
    """
    ours = [row for row in rows if row["chosen"]]
    single = [row for row in rows if row["family"] == "single"]
    plain = [row for row in single if not looks_ahead(row)]
    rivals = {
        "best single network": single,
        "best single network, without look-ahead": plain,
        "best single network, not fitted": [row for row in single if not is_fitted(row)],
        **{
            name: [row for row in rows if on_curve(row)]
            for name, on_curve in CURVES.items()
            if name != "chosen plan"
        },
    }
    count = len(rows[0]["picture_errors"])
    drawn = np.random.default_rng(0).integers(0, count, (resamples, count))

    def line(name: str, ours: Rows, theirs: Rows) -> dict[str, Any]:
        each = [{"cost": row["cost"], **ratios([row], theirs, drawn)} for row in ours]
        return {"rival": name, **ratios(ours, theirs, drawn), "plans": each}

    found = [line(name, ours, theirs) for name, theirs in rivals.items()]
    # What is chosen without look-ahead may have none anyway, as for the ODE.
    without = {row["parameters"]["budget"]: row for row in rows
               if searched(row) and is_fitted(row) and not looks_ahead(row)}  # fmt: skip
    return [*found, line(NEITHER, list(without.values()), plain)]


def ratios(ours: Rows, theirs: Rows, drawn: np.ndarray) -> dict[str, Any]:
    """The cost of theirs at equal error over ours, by the mean and by the median picture."""
    found = {}
    for kind, mean in {"mean": np.mean, "median": np.median}.items():
        again = (ratio(points_of(ours, mean, each), points_of(theirs, mean, each))
                 for each in drawn)  # fmt: skip
        own = ratio(points_of(ours, mean), points_of(theirs, mean))
        found[kind] = recorded(own, middle(again) if theirs else None)
    return found
