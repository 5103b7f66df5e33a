"""Judging plans: how far each brings the same starts from where the top level brings them.

Starts, paths and references are made once (`make_reference`) and shared by all that is compared,
so a difference between two plans is theirs and not the noise's. Plans are judged one after the
other, never batched: a batched predicate would run every level at every step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlem_jax.checks import check_kind
from mlem_jax.draws import Draw
from mlem_jax.ladder import Ladder, check_ladder, known_costs, pick_levels
from mlem_jax.plans.plan import Plan, full
from mlem_jax.plans.price import Price, price
from mlem_jax.plans.weigh import draw_plans
from mlem_jax.problem import Problem, take
from mlem_jax.solver.solve import run_table, solve, stacked_tables
from mlem_jax.solver.step import Table
from mlem_jax.steps import Steps
from mlem_jax.types import Key, Logits, State


class Batch(NamedTuple):
    """A problem, and where its samples ought to end.

    Attributes:
        problem: starts, noise, conditions.
        reference: the ends of whatever is to be approached, like the starts.
    """

    problem: Problem
    reference: State


class Best(NamedTuple):
    """The best of several draws, and what it and the others are worth.

    Attributes:
        plan: the best, to be run again with `solve`, or kept with `save_plan`.
        error: its mean error on the batch that it was chosen on, hence too good by the choice:
            judge it again on another batch.
        price: of the plan.
        errors: of all draws, in their order.
    """

    plan: Plan
    error: Float[Array, ""]
    price: Price
    errors: Float[Array, " draws"]


def make_reference(ladder: Ladder, problem: Problem, steps: Steps) -> Batch:
    """The reference of learning: the top level at every one of the steps, same start, same path.

    The multilevel sum has the top level as its mean at any gates, so an error to this reference is
    due to the gates and not to the size of the steps. Any other ends can stand in its place in a
    `Batch`.
    """
    check_ladder(ladder)
    top = pick_levels(ladder, (len(ladder),))  # What does not run is not compiled either.
    return Batch(problem, solve(top, problem, steps, full(len(steps.t), 1, 1)))


def check_batch(batch: Batch) -> None:
    """References like the starts.

    Raises:
        ValueError: if their structures, shapes or dtypes differ.
    """
    check_kind(batch, Batch, "make_reference makes one")
    if not isinstance(batch.problem, Problem):
        raise TypeError(f"expected a Problem in the batch, got {type(batch.problem).__name__}")
    starts, ends = (
        jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", tree)
        for tree in (batch.problem.x, batch.reference)
    )
    if starts != ends:
        raise ValueError(f"expected references like the starts, {starts}, got {ends}")


def take_batch(batch: Batch, samples: Int[Array, " some"]) -> Batch:
    """Some of the samples, with their references."""
    ends = jax.tree.map(lambda leaf: jnp.take(leaf, samples, axis=0), batch.reference)
    return Batch(take(batch.problem, samples), ends)


def square_errors(end: State, reference: State) -> Float[Array, " batch"]:
    """Mean over the entries of a sample of (x - x_ref)^2, for each sample.

    Raises:
        ValueError: if the two are not arrays [batch, ...] of the same structure and shapes.
    """
    shapes = [[_told(leaf) for leaf in jax.tree.leaves(tree)] for tree in (end, reference)]
    same = jax.tree.structure(end) == jax.tree.structure(reference) and shapes[0] == shapes[1]
    if not same or not shapes[0] or not all(told.startswith("[") for told in shapes[0]):
        raise ValueError("expected ends and references, arrays [batch, ...] of the same shapes, "
                         f"got {shapes[0]!s:.80} and {shapes[1]!s:.80}")  # fmt: skip
    squares = jax.tree.map(lambda x, y: ((x - y) ** 2).reshape(len(x), -1), end, reference)
    return jnp.concatenate(jax.tree.leaves(squares), axis=1).mean(axis=1)


def _told(leaf: Any) -> str:
    """`[4, 3]` of an array of numbers with a batch axis, else its type."""
    array = isinstance(leaf, jax.Array) or type(leaf) is np.ndarray
    if array and leaf.ndim and jnp.issubdtype(leaf.dtype, jnp.floating):
        return str(list(leaf.shape))
    return type(leaf).__name__


def judge(ladder: Ladder, batch: Batch, steps: Steps, plans: Plan) -> Float[Array, "plans batch"]:
    """Square errors of every sample under each of several plans.

    Args:
        ladder: the levels.
        batch: problem and references.
        steps: the integrator.
        plans: stacked along a leading axis, as `plans.stack_plans` gives them.

    Raises:
        ValueError: as `solve`, and if the references are not like the starts.
    """
    check_batch(batch)
    return _judge(ladder, batch, stacked_tables(ladder, batch.problem, steps, plans))


def best_of(
    ladder: Ladder,
    batch: Batch,
    steps: Steps,
    draw: Draw,
    logits: Logits,
    key: Key,
    *,
    count: int,
) -> Best:
    """argmin over `count` drawn plans of the mean error on the batch, where that is finite.

    Args:
        ladder: the levels, with their costs.
        batch: to choose on; judge what was chosen on another one.
        steps: the integrator.
        draw: such as `draws.independent`.
        logits: of the gates.
        key: of the gates; draw i is that of `fold_in(key, i)`.
        count: draws, at least 1.

    Raises:
        ValueError: as `solve`, and if `count` is not positive.

    References:
        arXiv:2603.24594, section 4: the best of 15 draws.
    """
    plans = draw_plans(draw, logits, key, count)
    errors = judge(ladder, batch, steps, plans).mean(axis=1)
    chosen = jnp.argmin(jnp.where(jnp.isfinite(errors), errors, jnp.inf))
    plan = jax.tree.map(lambda table: table[chosen], plans)
    return Best(plan, errors[chosen], price(plan, known_costs(ladder)), errors)


@jax.jit
def _judge(ladder: Ladder, batch: Batch, tables: Table) -> Float[Array, "plans batch"]:
    def one_plan(table: Table) -> Float[Array, " batch"]:
        return square_errors(run_table(ladder, batch.problem, table), batch.reference)

    return jax.lax.map(one_plan, tables)
