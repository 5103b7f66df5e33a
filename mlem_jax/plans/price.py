"""What a plan costs, or will cost, and the gates that a budget pays for."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Shaped

from mlem_jax.checks import as_float, check_kind
from mlem_jax.draws import DRAWS, Draw
from mlem_jax.gates.logits import Gates, check_logits
from mlem_jax.gates.scale import least_scale
from mlem_jax.ladder import check_costs
from mlem_jax.plans.plan import Plan
from mlem_jax.types import Logits, PerLevel, PerStep, Scalar


class Price(NamedTuple):
    """What a plan costs, by level; the sum over levels is the plan's cost.

    Attributes:
        evaluations: of each level; a number expected need not be whole.
        costs: evaluations times the cost of one.
    """

    evaluations: Shaped[Array, " levels"]
    costs: PerLevel


def price(plan: Plan, costs: Sequence[Any]) -> Price:
    """Evaluations of each level and what they cost: what a run of this plan will take.

    Raises:
        TypeError: if it is no plan.
        ValueError: if there is not one cost per level, or they fall.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"expected a Plan, got {type(plan).__name__}; a draw and its logits are "
                        "priced by expected_price")  # fmt: skip
    return _priced(plan.needed.sum(axis=-2), costs)


def expected_price(draw: Draw, logits: Logits, costs: Sequence[Any]) -> Price:
    """E of `price` over `draw_plan(draw, logits, key)`."""
    check_kind(draw, Draw, DRAWS)
    check_logits(logits)
    return _priced(draw.needs(logits).sum(axis=0), costs)


def expected_cost(draw: Draw, logits: Logits, costs: Float[Array, " levels"]) -> Scalar:
    """The sum of `expected_price` over the levels; traceable."""
    return draw.needs(logits).sum(axis=0) @ jnp.asarray(costs, logits.dtype)


def fit_budget(
    gates: Gates,
    t: PerStep,
    costs: Sequence[float],
    budget: float,
    *,
    draw: Draw,
    theta: Any = None,
) -> Logits:
    """The logits of `gates` at the scale at which their expected cost is `budget`.

    Args:
        gates: any, fixed or learned.
        t: time of each step, `steps.t`.
        costs: of one evaluation of each level.
        budget: in the unit of `costs`, for all steps together.
        draw: that the gates are to be opened with; it says what they cost.
        theta: parameters of learned gates; by default those they start from.

    Raises:
        TypeError: if the budget is no number, or something is traced.
        ValueError: if the budget is below what the gates cost at the least scale (certain levels
            are paid at any), or above the cost with every gate certain.
    """
    check_costs(costs)
    check_kind(gates, Gates, "make them with the functions of mlem_jax.gates")
    check_kind(draw, Draw, DRAWS)
    try:
        budget = float(budget)
    except Exception as error:
        raise TypeError(f"expected a budget that is a number, got {type(budget).__name__}; fit it "
                        "outside jax.jit") from error  # fmt: skip
    paid = as_float(costs)
    theta = gates.init() if theta is None else theta

    levels = gates.logits(theta, t).shape[1]
    if levels != len(costs):
        raise ValueError(f"expected one cost for each of {levels} gates, got {len(costs)}")
    found = _scale_for(gates, draw, theta, t, paid, budget)
    if isinstance(found[0], Tracer):
        raise TypeError("expected costs and parameters that are known, got traced ones; fit a "
                        "budget outside jax.jit")  # fmt: skip
    scale, least, most = map(float, found)
    if not least <= budget or math.isnan(scale):
        raise ValueError(
            f"expected a budget from {least:g}, the cost of the certain levels, to {most:g}, with "
            f"every gate certain, got {budget:g}"
        )
    return gates.logits(theta, t, max(scale, math.exp(-60.0)))


@partial(jax.jit, static_argnums=(0, 1))
def _scale_for(
    gates: Gates, draw: Draw, theta: Any, t: PerStep, costs: PerLevel, budget: Scalar | float
) -> tuple[Scalar, Scalar, Scalar]:
    """The least scale that costs the budget, and the costs at the least scale and at the most.

    Compiled once for gates and a draw: a sweep of budgets compiles nothing anew.
    """

    def cost(scale: Scalar | float) -> Scalar:
        return expected_cost(draw, gates.logits(theta, t, scale), costs)

    least, most = (cost(jnp.exp(log_scale)) for log_scale in (-60.0, 60.0))
    return least_scale(lambda scale: cost(scale) >= budget), least, most


def _priced(evaluations: Shaped[Array, " levels"], costs: Sequence[Any]) -> Price:
    check_costs(costs)
    if evaluations.shape[-1] != len(costs):
        raise ValueError(f"expected one cost for each of {evaluations.shape[-1]} levels, got "
                         f"{len(costs)}")  # fmt: skip
    paid = as_float(tuple(costs))
    return Price(evaluations, evaluations.astype(paid.dtype) * paid)
