"""Plans: what the solver is told, and all it is told, of levels and chance.

With gates B and probabilities p, r_k = B_k / p_k and r_{K+1} = 0, the multilevel estimate is

    sum_k r_k (F^k - F^{k-1})  =  sum_k w_k F^k ,    w_k = r_k - r_{k+1} ,

so level k is evaluated at a step iff gate k or gate k + 1 is open, once, and weighted with w_k.
Plain Euler-Maruyama of one level, a switch from a small network to a large one, and every
multilevel draw are tables (weights, needed); a plan can be printed, priced before it is run,
stored, run again, or written by hand.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped
from numpy.typing import ArrayLike

from mlem_jax.draws import Draw
from mlem_jax.gates import probabilities
from mlem_jax.levels import check_costs
from mlem_jax.types import Fires, Key, Logits, PerLevel, Probabilities, Weights


class Held(NamedTuple):
    """What a plan does with differences F^k - F^{k-1} as they were when last evaluated.

    Attributes:
        weights: of the held difference k in the estimate of each step, before it is renewed.
        renewed: whether the difference of this step is held from now on.
        parts: of the levels in a difference to be held, 1 and -1 on a plain ladder; else 0.
    """

    weights: Weights
    renewed: Bool[Array, "steps levels"]
    parts: Float[Array, "steps levels levels"]


class Plan(NamedTuple):
    """Which levels run at each step, and with what weight.

    Attributes:
        weights: of each level's F at each step; differentiable in the logits.
        needed: whether the level is evaluated. Not `weights != 0`: with p_k = p_{k+1} and both
            gates open the weight is 0 while its derivative is not.
        held: use of earlier differences; None where a step knows nothing of those before it.
    """

    weights: Weights
    needed: Bool[Array, "steps levels"]
    held: Held | None = None


class Price(NamedTuple):
    """What a plan costs, by level; the sum over levels is the plan's cost.

    Attributes:
        evaluations: of each level; a number expected need not be whole.
        costs: evaluations times the cost of one.
    """

    evaluations: PerLevel
    costs: PerLevel


def weigh(fires: Fires, logits: Logits) -> Plan:
    """w_k = B_k/p_k - B_{k+1}/p_{k+1};  needed_k = B_k or B_{k+1}."""
    return weigh_ratios(fires, open_ratios(fires, logits))


def open_ratios(fires: Fires, logits: Logits) -> Weights:
    """r_k = B_k/p_k, 0 where a gate is closed."""
    # The inner `where` keeps the overflow of a closed gate's e^-l out of derivatives.
    return jnp.where(fires, 1 + jnp.exp(-jnp.where(fires, logits, 0)), 0)


def cell_ratios(fires: Fires) -> Weights:
    """r = the number of steps nearer to this opening than to another, ties split in halves.

    Weights for `weigh_ratios` in place of B/p: the openings of each level that has any then stand
    for all steps, exactly, so a difference that does not change is summed without error. In turn
    the sum is biased, like a quadrature rule at nodes drawn at random, and a level that never opens
    is left out altogether. Steps count as equally long.
    """
    count = len(fires)
    number = jnp.arange(count)[:, None]
    none = jnp.full((1, fires.shape[1]), -1)
    seen = jax.lax.cummax(jnp.where(fires, number, -1), axis=0)
    due = jax.lax.cummin(jnp.where(fires, number, count), axis=0, reverse=True)
    before = jnp.concatenate([none, seen[:-1]])
    after = jnp.concatenate([due[1:], none + 1 + count])
    # The first and the last are mirrored at the ends, so that their cells reach there.
    before = jnp.where(before < 0, -1 - number, before)
    after = jnp.where(after == count, 2 * count - 1 - number, after)
    return jnp.where(fires, (after - before) / 2, 0.0)


def weigh_ratios(fires: Fires, ratios: Weights) -> Plan:
    """w_k = r_k - r_{k+1} for any ratios r, 0 where a gate is closed."""
    return Plan(ratios - _next_level(ratios), fires | _next_level(fires))


def drop_idle(plan: Plan) -> Plan:
    """The same plan without evaluations of weight 0, for running it: never for learning its gates.

    With every gate certain this leaves the top level alone, which is plain Euler-Maruyama. What a
    difference to be held is made of stays.
    """
    used = plan.weights != 0
    if plan.held is not None:
        used |= (plan.held.parts != 0).any(axis=1)
    return plan._replace(needed=plan.needed & used)


def draw_plan(draw: Draw, logits: Logits, key: Key | None) -> Plan:
    """A plan to run: gates drawn, weighed, idle evaluations dropped.

    Args:
        draw: `draws.independent`, `draws.systematic`, `draws.midpoint`, or your own.
        logits: of the gates, as a function of `gates` gives them.
        key: of the gates; never the one the noise is drawn with. None where the draw needs none.
    """
    return drop_idle(weigh(draw(key, logits), logits))


def full_plan(steps: int, levels: int, level: int) -> Plan:
    """One level at every step, its Euler-Maruyama. Levels are counted from 1, the cheapest."""
    _check_level(level, levels)
    return hand_plan(np.tile(np.arange(1, levels + 1) == level, (steps, 1)))


def switch_plan(steps: int, levels: int, at: int, *, early: int, late: int) -> Plan:
    """One level for the first `at` steps, another for the rest; counted from 1, the cheapest.

    References:
        T-Stitch, Pan et al. 2024, arXiv:2402.14167: small early, large late.
    """
    _check_level(early, levels)
    _check_level(late, levels)
    if not 0 <= at <= steps:
        raise ValueError(f"expected a switch after 0 to {steps} steps, got {at}")
    chosen = np.where(np.arange(steps) < at, early, late)
    return hand_plan(chosen[:, None] == np.arange(1, levels + 1))


def hand_plan(weights: ArrayLike) -> Plan:
    """Any weights [steps, levels]; levels of weight 0 do not run.

    Raises:
        ValueError: if `weights` is no table of finite numbers.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or not np.isfinite(weights).all():
        raise ValueError(f"expected finite weights [steps, levels], got shape {weights.shape}")
    return Plan(jnp.asarray(weights, jnp.result_type(float)), jnp.asarray(weights != 0))


def price(plan: Plan, costs: Sequence[float]) -> Price:
    """Evaluations of each level and what they cost: what a run of this plan will take."""
    _check_costs(plan.needed.shape, costs)
    evaluations = plan.needed.sum(axis=0)
    return Price(evaluations, evaluations * jnp.asarray(costs))


def expected_needs(logits: Logits) -> Probabilities:
    """P(B_k or B_{k+1}) = p_k + p_{k+1} - p_k p_{k+1}: E of the `needed` of `weigh`.

    For draws whose levels are independent of each other. A level that two differences need is
    counted once. Differentiable, so this is what learning pays for.
    """
    open_ = probabilities(logits)
    above = _next_level(open_)
    return open_ + above - open_ * above


def expected_price(logits: Logits, costs: Sequence[float]) -> Price:
    """E of `price` over `draw_plan`, for draws whose levels are independent of each other.

    The `expected_needs`, less what `drop_idle` saves: two open gates with the same probability
    cancel.
    """
    _check_costs(logits.shape, costs)
    evaluations = expected_evaluations(logits)
    return Price(evaluations, evaluations * jnp.asarray(costs))


def expected_evaluations(logits: Logits) -> PerLevel:
    """Those of `expected_price`; traceable."""
    open_ = probabilities(logits)
    cancel = jnp.zeros_like(logits, bool).at[:, :-1].set(logits[:, :-1] == logits[:, 1:])
    idle = jnp.where(cancel, open_ * _next_level(open_), 0)
    return (expected_needs(logits) - idle).sum(axis=0)


def nested_price(logits: Logits, costs: Sequence[float]) -> Price:
    """E of `price` over `draw_plan` for draws made `nested`: P(B_k or B_{k+1}) = max(p_k, p_{k+1}).

    Two gates of the same probability are open together or not at all, so where they are neighbours
    the lower level is always idle and dropped.
    """
    _check_costs(logits.shape, costs)
    open_ = probabilities(logits)
    idle = jnp.zeros_like(logits, bool).at[:, :-1].set(logits[:, :-1] == logits[:, 1:])
    needs = jnp.where(idle, 0, jnp.maximum(open_, _next_level(open_)))
    evaluations = needs.sum(axis=0)
    return Price(evaluations, evaluations * jnp.asarray(costs))


def fit_budget(
    family: Callable[[float], Logits],
    costs: Sequence[float],
    budget: float,
    *,
    expected: Callable[[Logits, Sequence[float]], Price] = expected_price,
) -> Logits:
    """The gates of `family(C)` whose expected cost is `budget`.

    Args:
        family: gates for a scale C > 0, their cost rising in C, such as
            `lambda scale: inverse_cost_gates(costs, steps, scale=scale)`.
        costs: of one evaluation of each level.
        budget: in the unit of `costs`, for all steps together.
        expected: the price of gates under the draw they are for: `expected_price`, or
            `nested_price`.

    Raises:
        ValueError: if the budget is below what the gates cost at the least scale (certain levels
            are paid at any), or above the cost with every gate certain.
    """

    def cost(log_scale: float) -> float:
        return float(expected(family(math.exp(log_scale)), costs).costs.sum())

    # With idle evaluations dropped a certain ladder costs its top alone, which may be less than
    # a nearly certain one: search below the scale at which the budget is first met.
    low, high = math.log(1e-9 * min(costs)), math.log(1e-9 * min(costs))
    if not cost(low) <= budget:  # NaN is wrong as well.
        raise ValueError(
            f"expected a budget above {cost(low)}, the cost of the certain levels, got {budget}"
        )
    while cost(high) < budget:
        low, high = high, high + 1.0
        if high > math.log(1e9 * max(costs)):
            raise ValueError(f"expected a budget the gates can spend, got {budget}; with every "
                             f"gate certain they cost {cost(high)}")  # fmt: skip
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) < budget else (low, middle)
    return family(math.exp(low))


def save_plan(file: str | Path, plan: Plan) -> None:
    """Write a plan as .npz, without pickle."""
    tables = {"weights": plan.weights, "needed": plan.needed}
    if plan.held is not None:
        tables |= {f"held_{name}": table for name, table in plan.held._asdict().items()}
    with Path(file).open("wb") as stream:
        np.savez(stream, allow_pickle=False, **{n: np.asarray(x) for n, x in tables.items()})


def load_plan(file: str | Path) -> Plan:
    """Read a plan; it runs to the same bits as the one saved.

    Raises:
        ValueError: if the file is not a plan.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            tables = {name: jnp.asarray(arrays[name]) for name in arrays.files}
    except (ValueError, TypeError, AttributeError, EOFError) as error:
        raise ValueError(f"expected a plan as save_plan writes it, an .npz, in {file}") from error
    plain, held = {"weights", "needed"}, [f"held_{name}" for name in Held._fields]
    if set(tables) == plain:
        return Plan(tables["weights"], tables["needed"])
    if set(tables) != {*plain, *held}:
        raise ValueError(
            f"expected arrays `weights` and `needed`, perhaps with {held}, in {file}, got "
            f"{sorted(tables)}"
        )
    return Plan(tables["weights"], tables["needed"], Held(*(tables[name] for name in held)))


def _next_level(table: Shaped[Array, "steps levels"]) -> Shaped[Array, "steps levels"]:
    """Column k + 1 in the place of column k; zeros in the last."""
    return jnp.concatenate([table[:, 1:], jnp.zeros_like(table[:, :1])], axis=1)


def _check_level(level: int, levels: int) -> None:
    if not 1 <= level <= levels:
        raise ValueError(f"expected a level from 1 to {levels}, got {level}")


def _check_costs(shape: tuple[int, ...], costs: Sequence[float]) -> None:
    if shape[1] != len(costs):
        raise ValueError(f"expected one cost for each of {shape[1]} levels, got {len(costs)}")
    check_costs(costs)
