"""Validation: what is run rather than predicted, all along the same paths to the same references.

Plans of the advised gates, to hold against what was predicted of them; each level alone; and the
top level alone at fewer steps, the rival of every ladder.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlem_jax.diagnosis.intervals import Interval
from mlem_jax.draws import independent, midpoint
from mlem_jax.evaluate import Batch, judge
from mlem_jax.ladder import Ladder, pick_levels
from mlem_jax.plans.plan import Plan, full
from mlem_jax.plans.weigh import draw_plan, draw_plans, stack_plans
from mlem_jax.problem import Noise
from mlem_jax.steps import Steps
from mlem_jax.types import Key, Logits, PerLevel


class Advice(NamedTuple):
    """The ladder to use at the budget, and its gates.

    Attributes:
        kept: which levels, 1 the cheapest; `pick_levels` makes their ladder.
        logits: of the gates for independent draws, with the least predicted error.
        even: the same for even draws (`systematic`, `midpoint`).
        cost: expected.
        error: predicted mean squared error to the top level at every step, for independent draws.
    """

    kept: tuple[int, ...]
    logits: Logits
    even: Logits
    cost: float
    error: Interval


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


def judge_ends(ladder: Ladder, batch: Batch, steps: Steps) -> PerLevel:
    """Errors of single levels; the top is the reference."""
    count, levels = len(steps.t), len(ladder)
    plans = stack_plans([full(count, levels, level) for level in range(1, levels + 1)])
    return judge(ladder, batch, steps, plans).mean(axis=1)


def run_check(
    ladder: Ladder, batch: Batch, steps: Steps, advice: Advice, key: Key, draws: int
) -> Check:
    """Independent draws of the advised gates, and the midpoint draw of those for even draws."""
    kept = pick_levels(ladder, advice.kept)
    drawn = draw_plans(independent, advice.logits, key, draws)
    even = draw_plan(midpoint, advice.even, None)
    plans = _append(drawn, even)
    errors = np.asarray(judge(kept, batch, steps, plans).mean(axis=1))
    paid = np.asarray(plans.needed).sum(axis=1) @ np.array(kept.costs)
    deviation = errors[:-1].std(ddof=1)
    return Check(advice.error.value, float(errors[:-1].mean()), float(deviation / draws**0.5),
                 float(paid[:-1].mean()), float(errors[-1]), float(paid[-1]))  # fmt: skip


@jax.jit
def _append(plans: Plan, plan: Plan) -> Plan:
    return jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), plans, plan)


def judge_alone(
    ladder: Ladder, batch: Batch, steps: Steps, coarser: Sequence[tuple[Steps, Noise]]
) -> tuple[Alone, ...]:
    """The top level at coarser steps, each with its noise along the batch's paths, and at all."""
    top = pick_levels(ladder, [len(ladder)])
    rows = []
    for table, noise in coarser:
        count = len(table.t)
        along = Batch(batch.problem._replace(noise=noise), batch.reference)
        errors = judge(top, along, table, stack_plans([full(count, 1, 1)]))
        rows.append(Alone(count, count * top.costs[0], float(errors.mean())))
    # At all steps it is the reference.
    every = len(steps.t)
    return (*rows, Alone(every, every * top.costs[0], 0.0))
