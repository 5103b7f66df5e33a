"""A diagnosis of a ladder: its differences, gamma, effects, rungs worth keeping, gates, a check.

One pilot run of the top level measures the differences between levels along its path and what each
does to the end; all else follows from it but the check, for which plans are drawn and run. Nothing
is printed here: `report.report` makes text of a diagnosis.

Starts are asked for, as everywhere, since what a ladder is worth depends on where it is used: give
those that are to be sampled, with the steps that are to be taken. A coarser grid cannot be had from
the tables of a finer one, so the top level alone at fewer steps, the rival that matters, is judged
where its steps are given too (`coarser`); otherwise the top level at every one of `steps` stands
for it.

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

from mlem_jax.draws import independent, midpoint
from mlem_jax.evaluate import Batch, couple, judge, stack_plans
from mlem_jax.groups import draw_plans
from mlem_jax.intervals import Interval, fit_gamma, interval, resample
from mlem_jax.levels import Levels
from mlem_jax.pilot import Effects, predict_error, run_pilot
from mlem_jax.plan import full_plan
from mlem_jax.problem import Noise
from mlem_jax.rungs import (
    Offer,
    Rung,
    expected_cost,
    gates_at_budget,
    judge_rungs,
    keep_levels,
    ladder_effects,
    make_offers,
)
from mlem_jax.steps import Steps
from mlem_jax.types import Key, Logits, Params, PerLevel, PerStep, State


class Advice(NamedTuple):
    """The ladder to use at the budget, and its gates.

    Attributes:
        kept: which levels, 1 the cheapest; `rungs.keep_levels` makes their ladder.
        logits: of the gates for independent draws, with the least predicted error.
        even: the same for even draws (`systematic`, `midpoint`).
        cost: expected.
        error: predicted mean squared error to the top level at every step, for independent draws.
    """

    kept: tuple[int, ...]
    logits: Logits
    even: Logits
    cost: float
    error: float


class Check(NamedTuple):
    """What plans with the advised gates do when they are run.

    Attributes:
        predicted: mean squared error of independent draws.
        measured: the same, the mean over draws.
        standard_error: of the mean, by the spread of the draws.
        cost: of the draws, their mean.
        even: mean squared error of the one midpoint draw of the gates for even draws.
        even_cost: of that.
    """

    predicted: float
    measured: float
    standard_error: float
    cost: float
    even: float
    even_cost: float


class Alone(NamedTuple):
    """The top level alone at so many steps."""

    steps: int
    cost: float
    error: float


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
        effects: v[n, k]; +inf where the gate is to stay open.
        totals: of the effects over the steps, each level's with its interval.
        offers: every ladder of some of the levels, the whole one first.
        rungs: what each level but the top is worth.
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
    effects: Effects
    totals: tuple[Interval, ...]
    offers: tuple[Offer, ...]
    rungs: tuple[Rung, ...]
    advice: Advice
    check: Check
    alone: tuple[Alone, ...]


def diagnose(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    key: Key,
    noise: Noise = None,
    *,
    budget: float | None = None,
    coarser: Sequence[tuple[Steps, Noise]] = (),
    stretches: int = 16,
    certain: int = 1,
    draws: int = 16,
    resamples: int = 200,
) -> Diagnosis:
    """E |error|^2 = sum_{n,k} (1/p - 1) v, measured, minimised over gates and levels, and checked.

    Costs about `stretches x differences / 2` runs of the top level, and the runs of the check.

    Args:
        levels: the ladder; static.
        params: one pytree a level.
        x: starts [batch, ...], at least two; the more, the narrower the intervals.
        steps: the integrator.
        key: of the disturbed steps, the gates and the resamples; never the one of the noise.
        noise: as `solve` takes it.
        budget: for all steps together, in the unit of the costs, between what the lowest level and
            what the top level cost at every step; by default the geometric mean of the two.
        coarser: steps, each with its noise along the same paths, at which the top level alone is
            judged.
        stretches: as for `run_pilot`; at most one a step.
        certain: 1 if the lowest level of a ladder is to run at every step, 0 if its gate may close.
        draws: plans that are run for the check, at least two.
        resamples: of the samples, for the intervals.

    Raises:
        ValueError: as `run_pilot`, and if there are too few samples, draws or resamples, or the
            budget is not such a one.
    """
    count, ladder = len(steps.t), len(levels.drifts)
    for name, given in (("samples", len(x)), ("draws", draws), ("resamples", resamples)):
        if given < 2:
            raise ValueError(f"expected at least 2 {name}, whose spread is the error, got {given}")
    budget = _checked_budget(levels.costs, count, budget, certain)
    stretches = min(stretches, count)
    pilot_key, resample_key, draw_key = jax.random.split(key, 3)
    pilot = run_pilot(
        levels, params, x, steps, pilot_key, noise, stretches=stretches, certain=certain
    )
    weights = resample(resample_key, len(x), resamples).astype(x.dtype)
    offers, table = make_offers(pilot, levels.costs, budget, weights)
    best = min(offers, key=lambda offer: offer.cost)
    advice = _advise(ladder_effects(pilot, best.kept, weights[0]), levels, best, budget)
    batch = couple(levels, params, x, steps, noise)
    effects = ladder_effects(pilot, range(1, ladder + 1), weights)
    distances = jnp.sqrt(weights @ pilot.distances.mean(axis=0))
    return Diagnosis(
        steps.t, levels.costs, budget,
        jnp.sqrt(pilot.differences.mean(axis=1)), distances[0],
        _judge_ends(levels, params, batch, steps),
        fit_gamma(jnp.asarray(levels.costs, x.dtype), distances),
        effects[0], tuple(interval(own) for own in effects.sum(axis=1).T),
        tuple(offers), judge_rungs(offers, table),
        advice, _check(levels, params, batch, steps, advice, draw_key, draws),
        _judge_alone(levels, params, batch, [*coarser, (steps, noise)]),
    )  # fmt: skip


def _checked_budget(
    costs: tuple[float, ...], count: int, budget: float | None, certain: int
) -> float:
    least, most = count * costs[0] * certain, count * costs[-1]
    chosen = count * math.sqrt(costs[0] * costs[-1]) if budget is None else budget
    if not least < chosen < most:
        raise ValueError(
            f"expected a budget above {least:g} and below {most:g}, between the lowest and the top "
            f"level at every one of {count} steps, got {chosen:g}"
        )
    return float(chosen)


def _advise(effects: Effects, levels: Levels, best: Offer, budget: float) -> Advice:
    costs = jnp.asarray(levels.costs, effects.dtype)[np.array(best.kept) - 1]
    logits = gates_at_budget(effects, costs, budget)
    even = gates_at_budget(effects, costs, budget, power=1 / 3)
    return Advice(best.kept, logits, even, float(expected_cost(logits, costs)),
                  float(predict_error(effects, logits)))  # fmt: skip


def _judge_ends(levels: Levels, params: tuple[Params, ...], batch: Batch, steps: Steps) -> PerLevel:
    """Errors of single levels; the top is the reference."""
    count, ladder = len(steps.t), len(levels.drifts)
    plans = stack_plans([full_plan(count, ladder, level) for level in range(1, ladder + 1)])
    return judge(levels, params, batch, steps, plans).mean(axis=1)


def _check(
    levels: Levels, params: tuple[Params, ...], batch: Batch, steps: Steps, advice: Advice,
    key: Key, draws: int,
) -> Check:  # fmt: skip
    kept, own = keep_levels(levels, params, advice.kept)
    costs = jnp.asarray(kept.costs)
    plans = draw_plans(independent, advice.logits, key, draws)
    even = draw_plans(midpoint, advice.even, key, 1)
    errors = judge(kept, own, batch, steps, plans).mean(axis=1)
    return Check(
        advice.error, float(errors.mean()), float(errors.std(ddof=1) / draws**0.5),
        float(plans.needed.mean(axis=0).sum(axis=0) @ costs),
        float(judge(kept, own, batch, steps, even).mean()),
        float(even.needed[0].sum(axis=0) @ costs),
    )  # fmt: skip


def _judge_alone(
    levels: Levels,
    params: tuple[Params, ...],
    batch: Batch,
    tables: Sequence[tuple[Steps, Noise]],
) -> tuple[Alone, ...]:
    top, own = keep_levels(levels, params, [len(levels.drifts)])
    rows = []
    for table, noise in tables:
        count = len(table.t)
        plans = stack_plans([full_plan(count, 1, 1)])
        errors = judge(top, own, batch._replace(noise=noise), table, plans)
        rows.append(Alone(count, count * top.costs[0], float(errors.mean())))
    return tuple(rows)
