"""Rungs: which levels of a ladder earn their keep, from the pilot run of the whole ladder.

The ladder of the levels kept has the differences F^j - F^i = D_{i+1} + ... + D_j, i and j
neighbours in it, so its effects are quadratic in the products of the whole ladder's J:

    v_{ij}(t_n)  =  E |J_{n,i+1} + ... + J_{n,j}|^2  =  sum_{k,l in (i,j]} E <J_{n,k}, J_{n,l}> .

One pilot run thus prices all 2^(K-1) ladders that end at the top level, each with its own best
gates p = min(1, C sqrt(v / c)), at one error. A level is worth keeping if the cheapest ladder that
has it is cheaper than the cheapest that has not. To take it out of the whole ladder and leave the
rest is another question: of two levels that can stand for each other, that would condemn both.

All is a function of means over samples, so it has an interval (`intervals`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlem_jax.intervals import Interval, Weighting, interval
from mlem_jax.levels import Levels, check_params
from mlem_jax.pilot import Effects, Pilot, effect_chances, predict_error, stretch_numbers
from mlem_jax.plan import expected_evaluations
from mlem_jax.types import Logits, Params, PerLevel, Scalar


class Rung(NamedTuple):
    """What one level is worth: the cheapest ladder that has it against the cheapest without.

    Attributes:
        level: its number, 1 the cheapest.
        kept_with: levels of the cheapest ladder that has it.
        kept_without: levels of the cheapest that has not.
        cost_with: of the former, at the error that all are compared at.
        cost_without: of the latter.
        error_with: of the former, at the budget.
        error_without: of the latter; +inf where the budget does not pay its certain level.
        ratio: cost without over cost with; the level pays for itself above 1.
    """

    level: int
    kept_with: tuple[int, ...]
    kept_without: tuple[int, ...]
    cost_with: float
    cost_without: float
    error_with: float
    error_without: float
    ratio: Interval


class Offer(NamedTuple):
    """A ladder of some of the levels, with its best gates.

    Attributes:
        kept: which levels, 1 the cheapest.
        cost: expected, at the least error that any has at the budget.
        error: predicted, at the budget; +inf where that does not pay the certain level.
    """

    kept: tuple[int, ...]
    cost: float
    error: float


def check_kept(kept: Sequence[int], ladder: int) -> None:
    """Levels that end at the top of a ladder.

    Raises:
        ValueError: if they do not rise to the top level, or one is not there.
    """
    if not len(kept) or kept[0] < 1 or kept[-1] != ladder or (np.diff(kept) <= 0).any():
        raise ValueError(f"expected levels to keep that rise from 1 at the least to the top level "
                         f"{ladder}, got {tuple(kept)}")  # fmt: skip


def keep_levels(
    levels: Levels, params: tuple[Params, ...], kept: Sequence[int]
) -> tuple[Levels, tuple[Params, ...]]:
    """The ladder of some of the levels, 1 the cheapest, the top among them, and its params.

    Raises:
        ValueError: if these are no such levels.
    """
    kept = tuple(map(int, kept))
    check_kept(kept, len(levels.drifts))
    check_params(levels, params)
    drifts = tuple(levels.drifts[level - 1] for level in kept)
    costs = tuple(levels.costs[level - 1] for level in kept)
    return Levels(drifts, costs), tuple(params[level - 1] for level in kept)


def sub_ladders(ladder: int) -> list[tuple[int, ...]]:
    """Every choice of levels that ends at the top one, the most levels first."""
    return [
        (*lower, ladder)
        for size in range(ladder - 1, -1, -1)
        for lower in combinations(range(1, ladder), size)
    ]


def ladder_effects(
    pilot: Pilot, kept: Sequence[int], weights: Weighting
) -> Float[Array, "resamples steps kept"]:
    """v of the ladder of the levels kept, for several means over the samples.

    Args:
        pilot: of the whole ladder.
        kept: which levels, 1 the cheapest, rising, the top among them.
        weights: of the samples, a row a mean.

    Returns:
        Effects, +inf where a difference has a certain gate in it: of the lowest level kept if the
        lowest gate of the whole ladder is certain.

    Raises:
        ValueError: if these are no such levels.
    """
    count, _, ladder = pilot.differences.shape
    stretches, free = pilot.products.shape[1:3]
    check_kept(kept, ladder)
    below = np.array((0, *kept[:-1]))
    numbers = np.arange(ladder - free + 1, ladder + 1)
    member = (below[:, None] < numbers) & (numbers <= np.array(kept)[:, None])
    # Of a few numbers only; on the host, where sums keep all their digits.
    means = np.tensordot(weights, np.asarray(pilot.products), 1)
    found = np.einsum("ik,rskl,il->rsi", member, means, member)
    # A square, but for rounding.
    found = np.where(below < ladder - free, np.inf, np.maximum(found, 0))
    return jnp.asarray(found[:, stretch_numbers(count, stretches)], pilot.products.dtype)


def gates_at_error(effects: Effects, costs: PerLevel, error: Scalar | float) -> Logits:
    """Gates p = min(1, C sqrt(v / c)) with the least C whose predicted error is `error`."""
    return _least(effects, costs, lambda logits: predict_error(effects, logits) <= error)


@partial(jax.jit, static_argnames="power")
def gates_at_budget(
    effects: Effects, costs: PerLevel, budget: Scalar | float, *, power: float = 1 / 2
) -> Logits:
    """Gates p = min(1, C (v / c)^power) whose expected cost is `budget`.

    As `plan.fit_budget` with `pilot.effect_gates`, but traceable, and for any budget: the gates of
    least or largest C where it cannot be met.
    """
    return _least(effects, costs, lambda logits: expected_cost(logits, costs) >= budget, power)


@jax.jit
def expected_cost(logits: Logits, costs: PerLevel) -> Scalar:
    """As `plan.expected_price`, all levels together; traceable."""
    return expected_evaluations(logits) @ costs


def make_offers(
    pilot: Pilot, costs: Sequence[float], budget: float, weights: Weighting
) -> tuple[list[Offer], Float[Array, "ladders resamples"]]:
    """Every ladder's error at the budget, and its cost at the least of these errors.

    Returns:
        The offers, the whole ladder's first, and their costs over the resamples.
    """
    paid = jnp.asarray(costs, pilot.products.dtype)
    ladders = sub_ladders(len(costs))
    effects = [ladder_effects(pilot, kept, weights) for kept in ladders]
    own = [paid[np.array(kept) - 1] for kept in ladders]
    errors = [float(_error_at_budget(each[0], cost, budget))
              for each, cost in zip(effects, own, strict=True)]  # fmt: skip
    table = jnp.stack([_costs_at_error(each, cost, min(errors))
                       for each, cost in zip(effects, own, strict=True)])  # fmt: skip
    offers = [Offer(kept, float(cost), error)
              for kept, cost, error in zip(ladders, table[:, 0], errors, strict=True)]  # fmt: skip
    return offers, table


def judge_rungs(
    offers: Sequence[Offer], table: Float[Array, "ladders resamples"]
) -> tuple[Rung, ...]:
    """The cheapest ladder with each level against the cheapest without, but for the top."""

    def cheapest(ours: np.ndarray) -> Offer:
        return offers[int(np.flatnonzero(ours)[np.argmin(costs[ours, 0])])]

    costs, rungs = np.asarray(table), []
    for level in range(1, offers[0].kept[-1]):
        has = np.array([level in offer.kept for offer in offers])
        with_it, without = cheapest(has), cheapest(~has)
        ratio = interval(costs[~has].min(axis=0) / costs[has].min(axis=0))
        rungs.append(Rung(level, with_it.kept, without.kept, with_it.cost, without.cost,
                          with_it.error, without.error, ratio))  # fmt: skip
    return tuple(rungs)


def _least(
    effects: Effects,
    costs: PerLevel,
    enough: Callable[[Logits], Bool[Array, ""]],
    power: float = 1 / 2,
) -> Logits:
    """The gates of the least scale that is enough, by bisection of its logarithm."""

    def gates(log_scale: Scalar) -> Logits:
        return jax.scipy.special.logit(effect_chances(effects, costs, jnp.exp(log_scale), power))

    def halve(_: Int[Array, ""], ends: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = ends
        middle = (low + high) / 2
        found = enough(gates(middle))
        return jnp.where(found, low, middle), jnp.where(found, middle, high)

    # Wide enough to close or open all gates for effects of any size in single precision.
    ends = jnp.asarray(-60.0, effects.dtype), jnp.asarray(60.0, effects.dtype)
    return gates(jax.lax.fori_loop(0, 60, halve, ends)[1])


@jax.jit
def _error_at_budget(effects: Effects, costs: PerLevel, budget: Scalar | float) -> Scalar:
    certain = jnp.isposinf(effects).sum(axis=0) @ costs
    error = predict_error(effects, gates_at_budget(effects, costs, budget))
    return jnp.where(certain < 0.999 * budget, error, jnp.inf)


@jax.jit
def _costs_at_error(
    effects: Float[Array, "resamples steps kept"], costs: PerLevel, error: Scalar | float
) -> Float[Array, " resamples"]:
    return jax.vmap(lambda own: expected_cost(gates_at_error(own, costs, error), costs))(effects)
