"""Judging plans: how far each brings the same starts from where the top level brings them.

Starts, paths and references are made once (`couple`) and shared by all that is compared, so a
difference between two plans is theirs and not the noise's. Plans are judged one after the other,
never batched: a batched predicate would run every level at every step.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from mlem_jax.draws import Draw
from mlem_jax.groups import draw_plans
from mlem_jax.levels import Levels
from mlem_jax.plan import Plan, Price, full_plan, price
from mlem_jax.problem import Noise, check_problem
from mlem_jax.solve import run_unchecked, solve
from mlem_jax.steps import Steps
from mlem_jax.types import Key, Logits, Params, State


class Batch(NamedTuple):
    """Starts, what drives them, and where they ought to end.

    Attributes:
        x: the starts [batch, ...].
        noise: as `solve` takes it; to learn on, a path or None.
        reference: the ends [batch, ...] of whatever is to be approached.
    """

    x: Shaped[Array, "batch *state"]
    noise: Noise
    reference: Shaped[Array, "batch *state"]


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


def couple(
    levels: Levels, params: tuple[Params, ...], x: State, steps: Steps, noise: Noise
) -> Batch:
    """The reference of learning: the top level at every one of the steps, same start, same path.

    It is the mean the multilevel sum has at any gates, so what is left of the error is due to them
    and not to the size of the steps. Any other ends can stand in its place in a `Batch`.
    """
    count = len(levels.drifts)
    top = full_plan(len(steps.t), count, count)
    return Batch(x, noise, solve(levels, params, x, steps, top, noise))


def check_batch(batch: Batch) -> None:
    """References like the starts.

    Raises:
        ValueError: if their shapes or dtypes differ.
    """
    x, reference = batch.x, batch.reference
    if x.shape != reference.shape or x.dtype != reference.dtype:
        raise ValueError(
            f"expected references like the starts, {x.dtype}{list(x.shape)}, got "
            f"{reference.dtype}{list(reference.shape)}"
        )


def square_errors(end: State, reference: State) -> Float[Array, " batch"]:
    """Mean over the entries of a sample of (x - x_ref)^2, for each sample."""
    return jnp.mean((end - reference) ** 2, axis=tuple(range(1, end.ndim)))


def judge(
    levels: Levels, params: tuple[Params, ...], batch: Batch, steps: Steps, plans: Plan
) -> Float[Array, "plans batch"]:
    """Square errors of every sample under each of several plans.

    Args:
        levels: the ladder; static.
        params: one pytree a level.
        batch: starts, paths and references.
        steps: the integrator.
        plans: stacked along a leading axis, as `stack_plans` gives them.

    Raises:
        ValueError: as `solve`.
    """
    check_batch(batch)
    one = jax.tree.map(lambda table: table[0], plans)
    check_problem(levels, params, batch.x, steps, one, batch.noise)
    return _judge(levels._replace(costs=()), params, batch, steps, plans)


def best_of(
    levels: Levels,
    params: tuple[Params, ...],
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
        levels: the ladder; static.
        params: one pytree a level.
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
    errors = judge(levels, params, batch, steps, plans).mean(axis=1)
    chosen = jnp.argmin(jnp.where(jnp.isfinite(errors), errors, jnp.inf))
    plan = jax.tree.map(lambda table: table[chosen], plans)
    return Best(plan, errors[chosen], price(plan, levels.costs), errors)


def stack_plans(plans: list[Plan]) -> Plan:
    """Plans of the same steps and levels as one, with a leading axis."""
    return jax.tree.map(lambda *tables: jnp.stack(tables), *plans)


@partial(jax.jit, static_argnums=0)
def _judge(
    levels: Levels, params: tuple[Params, ...], batch: Batch, steps: Steps, plans: Plan
) -> Float[Array, "plans batch"]:
    def one_plan(plan: Plan) -> Float[Array, " batch"]:
        end = run_unchecked(levels, params, batch.x, steps, plan, batch.noise)
        return square_errors(end, batch.reference)

    return jax.lax.map(one_plan, plans)
