"""From openings to a plan: the multilevel estimate in weight form.

With gates B and probabilities p, r_k = B_k / p_k and r_{K+1} = 0, the multilevel estimate is

    sum_k r_k (F^k - F^{k-1})  =  sum_k w_k F^k ,    w_k = r_k - r_{k+1} ,

so level k is evaluated at a step iff gate k or gate k + 1 is open, once, and weighted with w_k.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mlem_jax.checks import check_count, check_kind, shape_of
from mlem_jax.draws import DRAWS, Draw, next_level
from mlem_jax.gates.logits import check_logits, refuse_probabilities
from mlem_jax.noise import as_key
from mlem_jax.plans.plan import Plan, drop_idle, make_plan
from mlem_jax.types import Key, Logits, Openings, Weights


def weigh(openings: Openings, logits: Logits) -> Plan:
    """w_k = B_k/p_k - B_{k+1}/p_{k+1};  needed_k = B_k or B_{k+1}.

    Raises:
        ValueError: if the openings are no table of bool of the shape of the logits, or these look
            like probabilities.
    """
    if len(shape_of(logits)) != 2:
        raise ValueError(f"expected logits [steps, levels], got {type(logits).__name__}"
                         f"{list(shape_of(logits))}")  # fmt: skip
    refuse_probabilities(logits)
    kind = getattr(openings, "dtype", type(openings).__name__), list(shape_of(openings))
    if kind != (np.bool_, list(logits.shape)):
        raise ValueError(f"expected openings, bool {list(logits.shape)} like the logits, as a draw "
                         f"gives them, got {kind[0]}{kind[1]}")  # fmt: skip
    return weigh_ratios(openings, open_ratios(openings, logits))


@jax.jit
def open_ratios(openings: Openings, logits: Logits) -> Weights:
    """r_k = B_k/p_k, 0 where a gate is closed; NaN where a logit is."""
    # The inner `where` keeps the overflow of a closed gate's e^-l out of derivatives.
    ratios = jnp.where(openings, 1 + jnp.exp(-jnp.where(openings, logits, 0)), 0)
    return jnp.where(jnp.isnan(logits), jnp.nan, ratios)


@jax.jit
def weigh_ratios(openings: Openings, ratios: Weights) -> Plan:
    """w_k = r_k - r_{k+1} for any ratios r, 0 where a gate is closed."""
    weights = ratios - next_level(ratios)
    # A level of weight NaN runs, so that what is wrong is seen in the samples.
    return make_plan(weights, openings | next_level(openings) | jnp.isnan(weights))


def draw_plan(draw: Draw, logits: Logits, key: Key | None) -> Plan:
    """A plan to run: gates drawn, weighed, idle evaluations dropped.

    Args:
        draw: `draws.independent`, `draws.systematic`, `draws.midpoint`, or your own.
        logits: of the gates [steps, levels], such as `fit_budget` returns.
        key: of the gates; never the one the noise is drawn with. None where the draw needs none.

    Raises:
        ValueError: if the logits hold a NaN or look like probabilities, or a key is missing.
    """
    check_kind(draw, Draw, DRAWS)
    check_logits(logits)
    return drop_idle(weigh(draw.openings(key, logits), logits))


def draw_plans(draw: Draw, logits: Logits, key: Key | None, count: int) -> Plan:
    """`count` plans of the same gates, stacked along a leading axis; number i from fold_in(key, i).

    With `systematic` each has offsets of its own; with `midpoint`, which needs no key, all are one.

    Raises:
        ValueError: as `draw_plan`, and if `count` is not positive.
    """
    check_kind(draw, Draw, DRAWS)
    check_logits(logits)
    check_count(count, "at least one draw")
    if key is None:  # All alike, as `midpoint` draws them.
        return stack_plans([draw_plan(draw, logits, None)] * count)
    return _draw_each(
        draw, logits, as_key(key), jnp.asarray(np.arange(count), jnp.result_type(int))
    )


@partial(jax.jit, static_argnums=0)
def _draw_each(draw: Draw, logits: Logits, key: Key, numbers: Int[Array, " count"]) -> Plan:
    return jax.vmap(lambda number: draw_plan(draw, logits, jax.random.fold_in(key, number)))(
        numbers
    )


def stack_plans(plans: list[Plan]) -> Plan:
    """Plans of the same steps and levels as one, with a leading axis."""
    alike = (
        isinstance(plans, list | tuple)
        and len({str(jax.tree.map(jnp.shape, each)) for each in plans if isinstance(each, Plan)})
        == 1
    )
    if type(plans) is Plan or not alike or not all(isinstance(each, Plan) for each in plans):
        raise ValueError("expected a list of plans of the same steps, levels and slots, at least "
                         f"one, got {plans!r:.80}")  # fmt: skip
    return _stack(plans)


@jax.jit
def _stack(plans: Sequence[Plan]) -> Plan:
    return jax.tree.map(lambda *tables: jnp.stack(tables), *plans)
