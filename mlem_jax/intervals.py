"""Intervals by the bootstrap, and the exponent gamma with its own.

What is measured here is a function of means over the samples of a batch. Over weights of the
samples as if they had been drawn anew, with repetition, it spreads as it would over new batches:
the middle 95 % of that is its interval. It tells of the samples alone, not of whether the law that
is fitted is the right one.

References:
    Efron 1979: the bootstrap.
    arXiv:2603.24594, section 2: gamma, the exponent of cost against error.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlem_jax.types import Key, PerLevel

Weighting = Float[Array, "resamples samples"]
"""Shares of the samples in a mean; the first row is the plain mean, the others are resamples."""


class Interval(NamedTuple):
    """A number, and the ends of the middle 95 % of what it is over resamples."""

    value: float
    low: float
    high: float


def resample(key: Key, samples: int, resamples: int) -> Weighting:
    """The plain mean, and means over as many samples drawn with repetition."""
    drawn = jax.random.randint(key, (resamples, samples), 0, samples)
    counts = jax.vmap(lambda own: jnp.bincount(own, length=samples))(drawn)
    return jnp.concatenate([jnp.ones((1, samples)), counts.astype(float)]) / samples


def interval(values: Float[Array, " resamples"] | Float[np.ndarray, " resamples"]) -> Interval:
    """Of the first value, by the others."""
    # By rank, as infinities are no numbers to go between.
    ordered = np.sort(np.asarray(values[1:]))
    last = len(ordered) - 1
    low, high = ordered[math.floor(0.025 * last)], ordered[math.ceil(0.975 * last)]
    return Interval(float(values[0]), float(low), float(high))


def fit_gamma(costs: PerLevel, errors: Float[Array, "resamples levels"]) -> Interval:
    """error_k ~ cost_k^(-1/gamma), by least squares of log error on log cost.

    Args:
        costs: of one evaluation of each level.
        errors: root-mean-square distance of each level to the top; levels at distance 0, as the
            top itself, are left out.

    Returns:
        Gamma; +inf where errors do not fall as costs rise, NaN where fewer than two levels of
        different cost are left, as on a ladder of two.
    """
    told = jnp.all(errors > 0, axis=0)
    x = jnp.where(told, jnp.log(costs), 0)
    y = jnp.where(told, jnp.log(jnp.where(told, errors, 1)), 0)
    count = told.sum()
    x = jnp.where(told, x - x.sum() / count, 0)
    # Over 0 where there is nothing to fit: NaN, which the result is to be.
    rates = -(x * y).sum(axis=1) / (x**2).sum()
    return interval(1 / jnp.maximum(rates, 0))
