"""Which times a network is trained at: evenly spread, or as often as a density says.

A density is a table: its values at evenly spaced times from 0 to 1, up to a common factor, straight
in between. Losses at times drawn by a density, and losses at even times multiplied by it, have the
same mean.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlem_jax.types import Key

EVEN = (1.0, 1.0)
"""The density of even times."""


def stratified_times(key: Key, count: int) -> Float[Array, " batch"]:
    """Uniform times in [0, 1], one in each of `count` equal strata up to a common shift."""
    return (jax.random.uniform(key) + jnp.arange(count) / count) % 1


def times_of_density(
    even: Float[Array, " batch"], density: Sequence[float]
) -> Float[Array, " batch"]:
    """Times in [0, 1] that fall as often as the density says, from even ones, in their order."""
    table = jnp.asarray(density, even.dtype)
    at = jnp.linspace(0.0, 1.0, len(table), dtype=even.dtype)
    left, right = table[:-1], table[1:]
    areas = (left + right) / 2
    risen = jnp.concatenate([jnp.zeros(1, even.dtype), jnp.cumsum(areas)])
    wanted = even * risen[-1]
    cell = jnp.clip(jnp.searchsorted(risen, wanted, side="right") - 1, 0, len(areas) - 1)
    area, slope = wanted - risen[cell], (right - left)[cell]
    # left u + slope u^2 / 2 = area, by the form of the root that holds for slope 0 too.
    root = jnp.sqrt(jnp.maximum(left[cell] ** 2 + 2 * slope * area, 0))
    share = 2 * area / jnp.maximum(left[cell] + root, jnp.finfo(even.dtype).tiny)
    return at[cell] + jnp.clip(share, 0, 1) * (at[1] - at[0])


def density_at(t: Float[Array, "*any"], density: Sequence[float]) -> Float[Array, "*any"]:
    """The density at times in [0, 1], with the factor that makes its mean over them 1."""
    table = jnp.asarray(density, t.dtype)
    places = jnp.linspace(0.0, 1.0, len(table), dtype=t.dtype)
    mean = (table[:-1] + table[1:]).mean() / 2
    return jnp.interp(t, places, table) / mean


def density_by_band(bands: int, density: Sequence[float]) -> Float[Array, " bands"]:
    """Mean of `density_at` over each of some equal bands of [0, 1], to 1e-4 or so."""
    t = (jnp.arange(100 * bands) + 0.5) / (100 * bands)
    return density_at(t, density).reshape(bands, 100).mean(axis=1)
