"""A diagnosis as text: tables and sentences, after the reports of multilevel Monte Carlo.

    level: cost, size of the difference to the one below, distance to the top, squared sensitivity
    ladder: cost at equal error, how many times cheaper than the top alone, error at equal cost
    sentences: the rates, which level does not pay, what to use, whether to believe it

Rows and sentences are made apart from their layout, for whoever has a better one.
"""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mlem_jax.checks import check_kind
from mlem_jax.diagnosis.diagnose import Diagnosis
from mlem_jax.diagnosis.intervals import Interval
from mlem_jax.diagnosis.subsets import Worth
from mlem_jax.diagnosis.validation import Check
from mlem_jax.frontier import cost_range

Rows = list[tuple[str, ...]]
"""Cells; the first row is the heading."""


def report(diagnosis: Diagnosis) -> str:
    """The whole diagnosis, in lines of at most 100 characters but for long ladders."""
    check_kind(diagnosis, Diagnosis, "diagnose makes one")
    parts = [level_rows(diagnosis), ladder_rows(diagnosis), alone_rows(diagnosis)]
    told = "\n".join(
        textwrap.fill(sentence, 100, initial_indent="- ", subsequent_indent="  ")
        for sentence in sentences(diagnosis)
    )
    return "\n\n".join([*map(_aligned, parts), told])


def level_rows(diagnosis: Diagnosis) -> Rows:
    """One row a level: what multilevel Monte Carlo plots, in powers of two beside the numbers.

    Size of the difference to the level below and distance to the top, both root-mean-square along
    the path; error at the end of the level alone; squared sensitivity of the end to the difference,
    all steps together.
    """
    rows: Rows = [("level", "cost", "log2", "size", "log2", "to the top", "alone, mse",
                   "squared sensitivity", "log2")]  # fmt: skip
    sizes = np.sqrt((np.asarray(diagnosis.sizes) ** 2).mean(axis=0)).tolist()
    for k, cost in enumerate(diagnosis.costs):
        total = diagnosis.totals[k]
        rows.append((
            str(k + 1), f"{cost:.3g}", _power(cost), f"{sizes[k]:.2e}", _power(sizes[k]),
            f"{diagnosis.distances[k]:.2e}", f"{diagnosis.ends[k]:.2e}",
            "always open" if math.isinf(total.value) else _with_ends(total, ".1e"),
            "" if math.isinf(total.value) else _power(total.value),
        ))  # fmt: skip
    return rows


def ladder_rows(diagnosis: Diagnosis) -> Rows:
    """One row a ladder of some of the levels, cheapest first."""
    top = _at_every_step(diagnosis)
    error = min(offer.error for offer in diagnosis.offers)
    rows: Rows = [("levels", f"cost at mse {error:.1e}", "times cheaper than the top",
                   f"mse at cost {diagnosis.budget:.3g}")]  # fmt: skip
    for offer in sorted(diagnosis.offers, key=lambda offer: offer.cost):
        cannot = math.isinf(offer.error)
        rows.append((_levels(offer.kept), f"{offer.cost:.3g}", f"{top / offer.cost:.2f}",
                     "cannot pay" if cannot else f"{offer.error:.1e}"))  # fmt: skip
    return rows


def alone_rows(diagnosis: Diagnosis) -> Rows:
    """The top level alone, at the steps it was judged at."""
    rows: Rows = [("top level alone, steps", "cost", "mse")]
    return rows + [(str(own.steps), f"{own.cost:.3g}", f"{own.error:.1e}")
                   for own in diagnosis.alone]  # fmt: skip


def sentences(diagnosis: Diagnosis) -> list[str]:
    """What follows from the numbers."""
    advice, check = diagnosis.advice, diagnosis.check
    top = _at_every_step(diagnosis)
    return [
        *_rates(diagnosis),
        *(_worth(own, top) for own in diagnosis.worth),
        f"To use at a cost of {advice.cost:.3g}: levels {_levels(advice.kept)}, predicted mse "
        f"{_with_ends(advice.error, '.1e')}, {top / advice.cost:.2f} times cheaper than the top "
        "level at every step.",
        f"Predicted and measured: mse {check.predicted:.1e} and {check.measured:.1e} "
        f"+- {check.standard_error:.0e} (ratio {_ratio(check.measured, check.predicted)} +- "
        f"{_ratio(check.standard_error, check.predicted)}), cost {advice.cost:.3g} and "
        f"{check.cost:.3g}: {verdict(check)}.",
        _concentration(diagnosis.heaviest),
        f"With midpoint draws, which are more even: mse {check.even:.1e} at cost "
        f"{check.even_cost:.3g}.",
        *_against_fewer_steps(diagnosis),
    ]


def verdict(check: Check) -> str:
    """Whether the linear law sum (1/p - 1) v is to be believed, to a fifth and two standard errors.

    A prediction of 0 is that of levels which do not differ, so anything else disproves it.
    """
    gap = check.measured - check.predicted
    if abs(gap) > 0.2 * check.predicted + 2 * check.standard_error:
        return (
            "errors saturate, the law is an upper guide only" if gap < 0
            else "errors feed on each other, the law is a lower guide only"
        )  # fmt: skip
    if check.standard_error > 0.3 * check.predicted:
        return "they agree, but so few draws would agree with much else"
    return "the linear law holds"


def _rates(diagnosis: Diagnosis) -> list[str]:
    gamma = diagnosis.gamma
    if math.isnan(gamma.value):
        return ["Gamma: not to be had from fewer than three levels."]
    regime = (
        "above 2, where the top level's own cost rules" if gamma.low > 2
        else "below 2, where the lower levels rule the cost" if gamma.high < 2
        else "on neither side of 2 for sure"
    )  # fmt: skip
    told = f"Gamma {_with_ends(gamma, '.2f')}, of error ~ cost^(-1/gamma): {regime}."
    totals = [total.value for total in diagnosis.totals]
    # The top has no distance, and a level that always runs no sensitivity; all have a cost.
    columns = {"distance to the top": diagnosis.distances, "squared sensitivity": totals,
               "cost": diagnosis.costs}  # fmt: skip
    slopes = ", ".join(f"{name} x 2^{_slope(own):.2f}" for name, own in columns.items())
    return [told, f"A level more: {slopes} (alpha, beta and gamma of multilevel Monte Carlo)."]


def _concentration(heaviest: float) -> str:
    told = f"One sample makes {heaviest:.0%} of the squared sensitivities of all"
    if heaviest < 0.5:
        return f"{told}: none rules them."
    return (f"{told}: a slope so steep is followed for a short way only, so the prediction is too "
            "high. More samples would tell how common it is.")  # fmt: skip


def _worth(worth: Worth, top: float) -> str:
    pays = worth.ratio.value > 1
    sure = worth.ratio.low > 1 if pays else worth.ratio.high < 1
    told = f"Level {worth.level} {'pays' if pays else 'does not pay'} for itself"
    doubt = "" if sure else ", though these samples cannot tell for sure"
    return (
        f"{told}{doubt}: with it {worth.cost_with:.3g} (levels {_levels(worth.kept_with)}, "
        f"{top / worth.cost_with:.2f} times cheaper than the top), without "
        f"{worth.cost_without:.3g} ({_levels(worth.kept_without)}, "
        f"{top / worth.cost_without:.2f}): "
        f"{_with_ends(worth.ratio, '.2f')} times the cost."
    )


def _against_fewer_steps(diagnosis: Diagnosis) -> list[str]:
    """Measured against measured: what the top level alone costs at the errors of the check."""
    if len(diagnosis.alone) < 2:
        return ["The top level alone at fewer steps was not judged: give `coarser` to compare."]
    check, told = diagnosis.check, []
    for name, error, cost in (("independent", check.measured, check.cost),
                              ("midpoint", check.even, check.even_cost)):  # fmt: skip
        bound, paid = _alone_at(diagnosis, error)
        told.append(
            f"The top level alone reaches the measured mse of {name} draws, {error:.1e}, at a cost "
            f"of {bound}{paid:.3g}: {bound}{paid / cost:.2f} times theirs."
        )
    return told


def _alone_at(diagnosis: Diagnosis, error: float) -> tuple[str, float]:
    """Cost of the top alone at an error; a bound where none of its runs is so good or so bad."""
    told = [(own.cost, own.error) for own in diagnosis.alone if own.error > 0]
    if not told:
        return "less than ", min(own.cost for own in diagnosis.alone)
    least, most = map(float, cost_range(told, error))
    if least == 0:
        return "less than ", most
    return ("more than ", least) if math.isinf(most) else ("", least)


def _at_every_step(diagnosis: Diagnosis) -> float:
    return len(diagnosis.t) * diagnosis.costs[-1]


def _slope(values: ArrayLike) -> float:
    """Of log2 over the number of the level, where there are two values to tell."""
    own = np.asarray(values, np.float64)
    told = np.isfinite(own) & (own > 0)
    if told.sum() < 2:
        return math.nan
    return float(np.polyfit(np.flatnonzero(told), np.log2(own[told]), 1)[0])


def _power(value: float) -> str:
    return f"{math.log2(value):.1f}" if value > 0 else "-inf"


def _ratio(value: float, over: float) -> str:
    return f"{value / over:.2f}" if over > 0 else "-"


def _with_ends(own: Interval, form: str) -> str:
    return f"{own.value:{form}} ({own.low:{form}} to {own.high:{form}})"


def _levels(kept: Sequence[int]) -> str:
    return " ".join(map(str, kept))


def _aligned(rows: Rows) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
