"""Subsets: which levels of a ladder earn their keep, from the pilot run of the whole ladder.

The ladder of the levels kept has the differences F^j - F^i = D_{i+1} + ... + D_j, i and j
neighbours in it, so its sensitivities are quadratic in the products of the whole ladder's J:

    v_{ij}(t_n)  =  E |J_{n,i+1} + ... + J_{n,j}|^2  =  sum_{k,l in (i,j]} E <J_{n,k}, J_{n,l}> .

One pilot run thus prices all 2^(K-1) ladders that end at the top level, each with its own best
gates p = min(1, C sqrt(v / c)), at one error. A level is worth keeping if the cheapest ladder that
has it is cheaper than the cheapest that has not. To take it out of the whole ladder and leave the
rest is another question: of two levels that can stand for each other, that would condemn both.

All is a function of means over samples, so it has an interval (`intervals`).
"""

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mlem_jax.diagnosis.intervals import Interval, Weighting, interval
from mlem_jax.diagnosis.pilot import Pilot, Sensitivities, bin_numbers, predict_error
from mlem_jax.draws import independent
from mlem_jax.gates.fixed import sensitivity_rates
from mlem_jax.gates.scale import least_scale
from mlem_jax.plans.price import expected_cost
from mlem_jax.types import Logits, PerLevel, Scalar


class Worth(NamedTuple):
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


def subsets(ladder: int) -> list[tuple[int, ...]]:
    """Every choice of levels that ends at the top one, the most levels first."""
    return [
        (*lower, ladder)
        for size in range(ladder - 1, -1, -1)
        for lower in combinations(range(1, ladder), size)
    ]


def subset_sensitivities(
    pilot: Pilot, kept: Sequence[int], weights: Weighting
) -> Float[Array, "resamples steps kept"]:
    """v of the ladder of the levels kept, for several means over the samples.

    Args:
        pilot: of the whole ladder.
        kept: which levels, 1 the cheapest, rising, the top among them.
        weights: of the samples, a row a mean.

    Returns:
        Squared sensitivities, +inf where a difference has a certain gate in it: of the lowest
        level kept if the lowest gate of the whole ladder is certain.
    """
    count, _, ladder = pilot.differences.shape
    bins, free = pilot.products.shape[1:3]
    below = np.array((0, *kept[:-1]))
    numbers = np.arange(ladder - free + 1, ladder + 1)
    member = (below[:, None] < numbers) & (numbers <= np.array(kept)[:, None])
    # Of a few numbers only; on the host, where sums keep all their digits.
    means = np.tensordot(weights, np.asarray(pilot.products), 1)
    found = np.einsum("ik,rskl,il->rsi", member, means, member)
    # A square, but for rounding.
    found = np.where(below < ladder - free, np.inf, np.maximum(found, 0))
    return jnp.asarray(found[:, bin_numbers(count, bins)], pilot.products.dtype)


@jax.jit
def gates_at_error(sensitivities: Sensitivities, costs: PerLevel, error: Scalar | float) -> Logits:
    """Gates p = min(1, C sqrt(v / c)) with the least C whose predicted error is `error`."""

    def enough(scale: Scalar) -> Bool[Array, ""]:
        return predict_error(sensitivities, _at(sensitivities, costs, scale)) <= error

    return _at(sensitivities, costs, least_scale(enough))


@partial(jax.jit, static_argnames="power")
def gates_at_budget(
    sensitivities: Sensitivities, costs: PerLevel, budget: Scalar | float, *, power: float = 1 / 2
) -> Logits:
    """Gates p = min(1, C (v / c)^power) whose expected cost is `budget`.

    As `plans.fit_budget` with `gates.from_sensitivities`, but traceable, and for any budget: the
    gates of least or largest C where it cannot be met.
    """

    def enough(scale: Scalar) -> Bool[Array, ""]:
        own = _at(sensitivities, costs, scale, power)
        return expected_cost(independent, own, costs) >= budget

    return _at(sensitivities, costs, least_scale(enough), power)


def make_offers(
    pilot: Pilot, costs: Sequence[float], budget: float, weights: Weighting
) -> tuple[list[Offer], Float[np.ndarray, "ladders resamples"]]:
    """Every ladder's error at the budget, and its cost at the least of these errors.

    Returns:
        The offers, the whole ladder's first, and their costs over the resamples.
    """
    paid = np.asarray(costs, pilot.products.dtype)
    ladders = subsets(len(costs))
    sensitivities = [subset_sensitivities(pilot, kept, weights) for kept in ladders]
    own = [jnp.asarray(paid[np.array(kept) - 1], paid.dtype) for kept in ladders]
    errors = [float(_error_at_budget(each, cost, budget))
              for each, cost in zip(sensitivities, own, strict=True)]  # fmt: skip
    table = np.stack([_costs_at_error(each, cost, min(errors))
                      for each, cost in zip(sensitivities, own, strict=True)])  # fmt: skip
    offers = [Offer(kept, float(cost), error)
              for kept, cost, error in zip(ladders, table[:, 0], errors, strict=True)]  # fmt: skip
    return offers, table


def judge_levels(
    offers: Sequence[Offer], table: Float[np.ndarray, "ladders resamples"]
) -> tuple[Worth, ...]:
    """The cheapest ladder with each level against the cheapest without, but for the top."""

    def cheapest(ours: np.ndarray) -> Offer:
        return offers[int(np.flatnonzero(ours)[np.argmin(costs[ours, 0])])]

    costs, found = table, []
    for level in range(1, offers[0].kept[-1]):
        has = np.array([level in offer.kept for offer in offers])
        with_it, without = cheapest(has), cheapest(~has)
        ratio = interval(costs[~has].min(axis=0) / costs[has].min(axis=0))
        found.append(Worth(level, with_it.kept, without.kept, with_it.cost, without.cost,
                          with_it.error, without.error, ratio))  # fmt: skip
    return tuple(found)


def _at(
    sensitivities: Sensitivities, costs: PerLevel, scale: Scalar, power: float = 1 / 2
) -> Logits:
    """Gates at a scale; all open where no scale is enough."""
    rates = sensitivity_rates(sensitivities, costs, power)
    scale = jnp.clip(jnp.where(jnp.isnan(scale), jnp.inf, scale), 1e-26, 1e26)
    return jax.scipy.special.logit(jnp.clip(scale * rates, 1e-12, 1.0))


@jax.jit
def _error_at_budget(
    resampled: Float[Array, "resamples steps kept"], costs: PerLevel, budget: Scalar | float
) -> Scalar:
    sensitivities = resampled[0]  # Of all samples.
    certain = jnp.isposinf(sensitivities).sum(axis=0, dtype=costs.dtype) @ costs
    error = predict_error(sensitivities, gates_at_budget(sensitivities, costs, budget))
    return jnp.where(certain < 0.999 * budget, error, jnp.inf)


@jax.jit
def _costs_at_error(
    sensitivities: Float[Array, "resamples steps kept"], costs: PerLevel, error: Scalar | float
) -> Float[Array, " resamples"]:
    return jax.vmap(
        lambda own: expected_cost(independent, gates_at_error(own, costs, error), costs)
    )(sensitivities)
