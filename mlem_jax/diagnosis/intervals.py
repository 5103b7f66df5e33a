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
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mlem_jax.frontier import by_rank
from mlem_jax.types import Key

Weighting = Float[np.ndarray, "resamples samples"]
"""Shares of the samples in a mean; the first row is the plain mean, the others are resamples."""


class Interval(NamedTuple):
    """A number, and the ends of the middle 95 % of what it is over resamples."""

    value: float
    low: float
    high: float


def resample(key: Key, samples: int, resamples: int) -> Weighting:
    """The plain mean, and means over as many samples drawn with repetition."""
    drawn = np.asarray(jax.random.randint(key, (resamples, samples), 0, samples))
    counts = [np.bincount(own, minlength=samples) for own in drawn]
    return np.stack([np.ones(samples), *counts]) / samples


def interval(values: ArrayLike) -> Interval:
    """Of the first value, by the others."""
    first, *others = np.asarray(values)
    return Interval(float(first), *by_rank(others, others))


def fit_gamma(costs: ArrayLike, errors: Float[np.ndarray, "resamples levels"]) -> Interval:
    """error_k ~ cost_k^(-1/gamma), by least squares of log error on log cost.

    Args:
        costs: of one evaluation of each level.
        errors: root-mean-square distance of each level to the top; levels at distance 0, as the
            top itself, are left out.

    Returns:
        Gamma; +inf where errors do not fall as costs rise, NaN where fewer than two levels of
        different cost are left, as on a ladder of two.
    """
    told = (errors > 0).all(axis=0)
    x, y = np.log(np.asarray(costs)[told]), np.log(errors[:, told])
    x = x - x.mean() if len(x) else x
    if not x.any():
        return Interval(math.nan, math.nan, math.nan)
    with np.errstate(divide="ignore"):
        return interval(1 / np.maximum(-(y @ x) / (x @ x), 0))
