"""Distances between a set of drawn pictures and the data that need no network from elsewhere.

    Frechet        |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), means and covariances of features
    kernel MMD     E k(a, a') + E k(b, b') - 2 E k(a, b), k(a, b) = (a.b / d + 1)^3 on the features
    sliced W2      root mean square over directions of the distance between sorted projections

The first two on the features of experiments.ladders.features, each in units of its standard
deviation over the data; the third on the pixels themselves, so that it knows nothing of any
network. Frechet and sliced distances of a finite set lie above those of what it was drawn from, the
more the smaller the set: compare sets of one size only. The kernel's is unbiased, so it may come
out below 0.

References:
    Heusel et al. 2017, arXiv:1706.08500; Binkowski et al. 2018, arXiv:1801.01401 (that kernel);
    Bonneel et al. 2015 (sliced).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.ladders.features import Features

METRICS = ("frechet", "kernel_mmd", "sliced_wasserstein")
DIRECTIONS = 256
"""On which the pixels are projected."""
Distance = Callable[[np.ndarray], dict[str, float]]
"""From drawn pictures in [-1, 1] to their distances to the data, by metric."""


def distance_to(data: np.ndarray, features: Features) -> Distance:
    """Distances to these pictures, whose own features and projections are taken once."""
    theirs, shadows = _features_of(data, features), _projected(data)
    # In units of the data's own spread: the cube in the kernel would otherwise see the largest.
    centre, spread = theirs.mean(0), theirs.std(0)
    theirs = (theirs - centre) / spread

    def distances(drawn: np.ndarray) -> dict[str, float]:
        own = (_features_of(drawn, features) - centre) / spread
        sliced = sorted_distance(_projected(drawn), shadows)
        found = frechet(own, theirs), kernel_mmd(own, theirs), sliced
        return dict(zip(METRICS, found, strict=True))

    return distances


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared 2-Wasserstein distance of the normal distributions of two sets of features."""
    gap = a.mean(0) - b.mean(0)
    own, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr (C C')^(1/2) = tr (R C' R)^(1/2) with R^2 = C: symmetric, so real.
    root = _root(own)
    cross = np.linalg.eigvalsh(root @ other @ root)
    return float(gap @ gap + np.trace(own) + np.trace(other) - 2 * np.sqrt(cross.clip(0)).sum())


def kernel_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of features."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        pairs = kernel(x, x)
        return (pairs.sum() - np.trace(pairs)) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def sorted_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square over directions [set, directions] of the distance between quantiles."""
    places = (np.arange(min(len(a), len(b))) + 0.5) / min(len(a), len(b))
    gaps = _quantiles(a, places) - _quantiles(b, places)
    return float(np.sqrt((gaps**2).mean()))


def interval(values: Sequence[float]) -> dict[str, float]:
    """The mean over seeds and half the width of its 95 % interval, by Student's t."""
    count = len(values)
    spread = np.std(values, ddof=1) / count**0.5 if count > 1 else np.nan
    half = stats.t.ppf(0.975, count - 1) * spread if count > 1 else np.nan
    return {"mean": float(np.mean(values)), "half_width": float(half)}


def _quantiles(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """As np.quantile along the first axis, which does not sort and takes minutes for many."""
    ordered, at = np.sort(values, axis=0), places * (len(values) - 1)
    low = np.minimum(at.astype(int), len(values) - 2)
    share = (at - low)[:, None]
    return (1 - share) * ordered[low] + share * ordered[low + 1]


def _root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def _features_of(pictures: np.ndarray, features: Features, chunk: int = 64) -> np.ndarray:
    parts = [features(jnp.asarray(pictures[n : n + chunk], jnp.float32))
             for n in range(0, len(pictures), chunk)]  # fmt: skip
    return np.concatenate([np.asarray(part, np.float64) for part in parts])


def _projected(pictures: np.ndarray) -> np.ndarray:
    """On directions that are the same for all sets of pictures of one shape."""
    flat = np.asarray(pictures, np.float32).reshape(len(pictures), -1)
    directions = np.asarray(jax.random.normal(jax.random.key(0), (flat.shape[1], DIRECTIONS)))
    return flat @ (directions / np.linalg.norm(directions, axis=0))
