"""One bisection: the least scale of gates that is enough for what is asked."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mlem_jax.types import Scalar

# Logarithms. Wide enough to close or to open all gates, for costs and effects of any size.
_LOWEST, _HIGHEST = -60.0, 60.0


def least_scale(enough: Callable[[Scalar], Bool[Array, ""]]) -> Float[Array, ""]:
    """C = min { C : enough(C) }, C from e^-60 to e^60; traceable.

    First in factors of e, since what is enough may, further up, be too little again: where all
    gates are certain their lower levels are idle, and cost less than nearly certain ones. Then by
    halves in the logarithm. NaN where no scale is enough, 0 where every one is.
    """
    coarse = jnp.arange(_LOWEST, _HIGHEST + 1)
    found = jax.lax.map(lambda log_scale: enough(jnp.exp(log_scale)), coarse)
    first = jnp.argmax(found)

    def halve(_: Int[Array, ""], ends: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = ends
        middle = (low + high) / 2
        reached = enough(jnp.exp(middle))
        return jnp.where(reached, low, middle), jnp.where(reached, middle, high)

    high = coarse[first]
    scale = jnp.exp(jax.lax.fori_loop(0, 40, halve, (high - 1, high))[1])
    return jnp.where(found.any(), jnp.where(found[0], 0.0, scale), jnp.nan)
