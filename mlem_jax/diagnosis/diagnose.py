"""A diagnosis of a ladder: differences, gamma, sensitivities, levels worth keeping, a check.

One pilot run of the top level measures the differences between levels along its path and what each
does to the end. All else follows from it but the checks, for which plans are drawn and run. Nothing
is printed here: `report` makes text of a diagnosis.

What a ladder is worth depends on where it is used: give the starts that are to be sampled and the
steps that are to be taken. The rival that matters is the top level alone at fewer steps. It is
judged if its steps are given (`coarser`), as they cannot be had from the table of the finer ones;
otherwise the top level at every one of `steps` stands for it.

References:
    Giles 2015, Multilevel Monte Carlo methods, Acta Numerica 24, section 3: what users of that
    method check before they trust it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlem_jax.checks import is_count, is_number
from mlem_jax.diagnosis.intervals import Interval, fit_gamma, interval, resample
from mlem_jax.diagnosis.pilot import Pilot, Sensitivities, predict_error, run_pilot
from mlem_jax.diagnosis.subsets import (
    Offer,
    Worth,
    gates_at_budget,
    judge_levels,
    make_offers,
    subset_sensitivities,
)
from mlem_jax.diagnosis.validation import Advice, Alone, Check, judge_alone, judge_ends, run_check
from mlem_jax.draws import independent
from mlem_jax.evaluate import make_reference
from mlem_jax.ladder import Ladder, known_costs
from mlem_jax.plans.price import expected_cost
from mlem_jax.problem import Noise, Problem, batch_size
from mlem_jax.steps import Steps
from mlem_jax.types import Key, PerLevel, PerStep


class Diagnosis(NamedTuple):
    """All that one asks of a ladder; errors are mean squares over entries and samples.

    Attributes:
        t: time of each step.
        costs: of one evaluation of each level.
        budget: that gates were made for.
        sizes: root-mean-square of F^k - F^{k-1} along the top level's path, with F^0 = 0.
        distances: root-mean-square of F^k - F^K over the whole path.
        ends: error of each level alone at every step, to the top level.
        gamma: fitted to costs and distances.
        sensitivities: v[n, k], squared; +inf where the gate is to stay open.
        totals: of the sensitivities over the steps, each level's with its interval.
        heaviest: share of one sample in the squared sensitivities; near 1, they are one sample's
            slope, which stands here for the kurtosis of multilevel Monte Carlo.
        offers: every ladder of some of the levels, the whole one first.
        worth: what each level but the top is worth.
        advice: the best of the offers and its gates.
        check: of the advice.
        alone: the top level at each of the coarser steps given, and at every step.
    """

    t: PerStep
    costs: tuple[float, ...]
    budget: float
    sizes: Float[Array, "steps levels"]
    distances: PerLevel
    ends: PerLevel
    gamma: Interval
    sensitivities: Sensitivities
    totals: tuple[Interval, ...]
    heaviest: float
    offers: tuple[Offer, ...]
    worth: tuple[Worth, ...]
    advice: Advice
    check: Check
    alone: tuple[Alone, ...]


def diagnose(
    ladder: Ladder,
    problem: Problem,
    steps: Steps,
    key: Key,
    *,
    budget: float | None = None,
    coarser: Sequence[tuple[Steps, Noise]] = (),
    bins: int = 16,
    certain: int = 1,
    draws: int = 16,
    resamples: int = 200,
) -> Diagnosis:
    """E |error|^2 = sum_{n,k} (1/p - 1) v, measured, minimised over gates and levels, and checked.

    Costs a pilot run (`run_pilot`), and the runs of the check.

    Args:
        ladder: the levels, with their costs.
        problem: starts, noise, conditions; at least two samples, the more, the narrower the
            intervals.
        steps: the integrator.
        key: of the disturbed steps, the gates and the resamples; never the one of the noise.
        budget: for all steps together, in the unit of the costs, between what the lowest level and
            what the top level cost at every step; by default the geometric mean of the two.
        coarser: steps, each with its noise along the same paths, at which the top level alone is
            judged.
        bins: time bins, as for `run_pilot`; at most one per step.
        certain: 1 if the lowest level of a ladder is to run at every step, 0 if its gate may close.
        draws: plans that are run for the check, at least two.
        resamples: of the samples, for the intervals.

    Raises:
        ValueError: as `run_pilot`, and if there are too few samples, draws or resamples, or the
            budget is not such a one.
    """
    _check_coarser(coarser)
    count, costs, samples = len(steps.t), known_costs(ladder), batch_size(problem)
    _check_asked(certain, samples=samples, draws=draws, resamples=resamples)
    budget = _checked_budget(costs, count, budget, certain)
    pilot_key, resample_key, draw_key = jax.random.split(key, 3)
    pilot = run_pilot(ladder, problem, steps, pilot_key, bins=min(bins, count), certain=certain)
    weights = resample(resample_key, samples, resamples)
    offers, table = make_offers(pilot, costs, budget, weights)
    best = min(offers, key=lambda offer: offer.cost)
    advice = _advise(subset_sensitivities(pilot, best.kept, weights), ladder, best, budget)
    batch = make_reference(ladder, problem, steps)
    found = subset_sensitivities(pilot, range(1, len(ladder) + 1), weights)
    differences, distances = np.asarray(pilot.differences), np.asarray(pilot.distances)
    distances = np.sqrt(weights @ distances.mean(axis=0))
    return Diagnosis(
        steps.t, costs, budget,
        jnp.asarray(np.sqrt(differences.mean(axis=1)), differences.dtype),
        jnp.asarray(distances[0], found.dtype),
        judge_ends(ladder, batch, steps),
        fit_gamma(costs, distances),
        found[0], tuple(interval(own) for own in np.asarray(found).sum(axis=1).T),
        _heaviest(pilot),
        tuple(offers), judge_levels(offers, table),
        advice, run_check(ladder, batch, steps, advice, draw_key, draws),
        judge_alone(ladder, batch, steps, coarser),
    )  # fmt: skip


def _check_coarser(coarser: Sequence[tuple[Steps, Noise]]) -> None:
    pairs = isinstance(coarser, list | tuple) and not isinstance(coarser, Steps)
    if not pairs or not all(
        type(each) is tuple and len(each) == 2 and isinstance(each[0], Steps) for each in coarser
    ):
        raise TypeError(f"expected coarser steps, each as (steps, noise), got {coarser!r:.80}; "
                        "[(steps, None)] for an ODE")  # fmt: skip


def _check_asked(certain: int, **spread: int) -> None:
    for name, given in spread.items():
        if not is_count(given, 2):
            raise ValueError(f"expected at least 2 {name}, whose spread is the error, got {given}")
    if certain not in (0, 1):
        raise ValueError(f"expected certain to be 0 or 1, got {certain}; which level is to be the "
                         "lowest of several is a question here")  # fmt: skip


def _checked_budget(
    costs: tuple[float, ...], count: int, budget: float | None, certain: int
) -> float:
    if costs[0] == costs[-1]:
        raise ValueError(f"expected a ladder of two levels or more, of different cost, got costs "
                         f"{costs}; there is nothing to choose between")  # fmt: skip
    least, most = count * costs[0] * certain, count * costs[-1]
    chosen = count * math.sqrt(costs[0] * costs[-1]) if budget is None else budget
    if not is_number(chosen) or not least < chosen < most:
        raise ValueError(
            f"expected a budget above {least:g} and below {most:g}, between the lowest and the top "
            f"level at every one of {count} steps, got {chosen}"
        )
    return float(chosen)


def _advise(
    sensitivities: Float[Array, "resamples steps kept"], ladder: Ladder, best: Offer, budget: float
) -> Advice:
    paid = np.asarray(ladder.costs, sensitivities.dtype)[np.array(best.kept) - 1]
    costs = jnp.asarray(paid, paid.dtype)
    whole = jnp.asarray(np.asarray(sensitivities)[0], sensitivities.dtype)
    logits = gates_at_budget(whole, costs, budget)
    even = gates_at_budget(whole, costs, budget, power=1 / 3)
    cost = float(expected_cost(independent, logits, costs))
    return Advice(best.kept, logits, even, cost, interval(_errors(sensitivities, logits)))


_errors = jax.jit(jax.vmap(predict_error, (0, None)))


def _heaviest(pilot: Pilot) -> float:
    """The largest share of one sample in the squared sensitivities of all."""
    own = np.trace(np.asarray(pilot.products), axis1=2, axis2=3).sum(axis=1)
    return float(own.max() / own.sum()) if own.sum() > 0 else 0.0
