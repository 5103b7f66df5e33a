"""One plan for each group of samples, for gates that are not shared by a whole batch.

Errors of samples under one plan hang together; with a plan of its own for every group, of one
sample or more, they do not, and the mean over a batch concentrates. The groups run one after the
other: a batched predicate would run every level at every step.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mlem_jax.draws import Draw
from mlem_jax.levels import Levels, split_conditions
from mlem_jax.noise import BrownianPath
from mlem_jax.plan import Plan, draw_plan
from mlem_jax.problem import check_problem, check_samples
from mlem_jax.solve import run_unchecked
from mlem_jax.steps import Steps
from mlem_jax.types import Key, Logits, Params, State


def draw_plans(draw: Draw, logits: Logits, key: Key | None, count: int) -> Plan:
    """`count` plans of the same gates, stacked along a leading axis; number i from fold_in(key, i).

    With `systematic` each has offsets of its own; with `midpoint`, which needs no key, all are one.

    Raises:
        ValueError: if `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"expected at least one draw, got {count}")
    if key is None:  # All alike, as `midpoint` draws them.
        one = draw_plan(draw, logits, None)
        return jax.tree.map(lambda table: jnp.broadcast_to(table, (count, *table.shape)), one)
    numbers = jnp.arange(count)
    return jax.vmap(lambda number: draw_plan(draw, logits, jax.random.fold_in(key, number)))(
        numbers
    )


def solve_groups(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    plans: Plan,
    noise: BrownianPath | None = None,
) -> State:
    """As `solve`, group g of the samples under plan g.

    Args:
        levels: the ladder; static.
        params: one pytree a level.
        x: the starts [groups * size, ...].
        steps: the integrator.
        plans: stacked along a leading axis [groups], as `draw_plans` gives them.
        noise: a path with one index a sample, or None for an ODE.

    Raises:
        ValueError: as `solve`, and if the samples cannot be cut into the groups, or the noise is
            stored.
    """
    if plans.weights.ndim != 3:
        raise ValueError(f"expected plans stacked along a leading axis, weights [groups, steps, "
                         f"levels], got {list(plans.weights.shape)}; `solve` runs a single plan, "
                         "`draw_plans` makes several")  # fmt: skip
    groups = len(plans.weights)
    check_samples(x, params, noise)
    if len(x) % groups or not (noise is None or isinstance(noise, BrownianPath)):
        raise ValueError(
            f"expected a multiple of {groups} samples, one plan a group, and a path or no noise, "
            f"got {len(x)} samples and {type(noise).__name__}"
        )
    first = jax.tree.map(lambda table: table[0], plans)
    check_problem(levels, params, x, steps, first, noise)
    return _solve_groups(levels._replace(costs=()), params, x, steps, plans, noise)


@partial(jax.jit, static_argnums=0)
def _solve_groups(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    plans: Plan,
    noise: BrownianPath | None,
) -> State:
    conditions, put = split_conditions(params)
    samples = None if noise is None else noise.samples
    cut = jax.tree.map(
        lambda leaf: leaf.reshape(len(plans.weights), -1, *leaf.shape[1:]), (x, samples, conditions)
    )

    def one_group(given: tuple[Plan, tuple[State, Int[Array, " size"] | None, Any]]) -> State:
        plan, (start, own, conditions) = given
        path = None if noise is None else noise._replace(samples=own)
        return run_unchecked(levels, put(conditions), start, steps, plan, path)

    return jax.lax.map(one_group, (plans, cut)).reshape(x.shape)
