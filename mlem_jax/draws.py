"""Draws: from gates to which of them are open, each algorithm a function of one shape.

A random draw opens the gate of difference k at step n with probability p[n, k], so the multilevel
sum has the top level's mean. Draws differ in how they spread the openings over the steps, and so in
how far their errors cancel along a path; `midpoint` spreads them without chance at all.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlem_jax.gates import probabilities
from mlem_jax.types import Fires, Key, Logits


@runtime_checkable
class Draw(Protocol):
    """Which gates are open, B [steps, levels]; a key of None is an error where one is needed."""

    def __call__(self, key: Key | None, logits: Logits, /) -> Fires: ...


def independent(key: Key | None, logits: Logits) -> Fires:
    """B ~ Bernoulli(p), independent over steps and levels (arXiv:2603.24594, section 3)."""
    # A plain uniform has steps of 1e-7 in single precision: too coarse for small p under 1/p.
    return jax.random.bernoulli(_needed(key), probabilities(logits), mode="high")


def systematic(key: Key | None, logits: Logits) -> Fires:
    """B_n = floor(c_n + U) - floor(c_{n-1} + U), c_n = p_1 + ... + p_n, one U a level.

    The openings of a level are as evenly spread as its probabilities allow: after any n steps
    there have been floor or ceil of c_n of them.

    References:
        Systematic sampling; as a resampling scheme Carpenter et al. 1999.
    """
    return _systematic(jax.random.uniform(_needed(key), logits.shape[1:], logits.dtype), logits)


def midpoint(_: Key | None, logits: Logits) -> Fires:
    """`systematic` with U = 1/2: each opening in the middle of the time it stands for.

    Nothing is random, so the draw is biased like a quadrature rule rather than noisy.
    """
    return _systematic(jnp.full(logits.shape[1:], 0.5, logits.dtype), logits)


def _needed(key: Key | None) -> Key:
    if key is None:
        raise ValueError("expected a key for a random draw, got None; only `midpoint` needs none")
    return key


def _systematic(offset: Float[Array, " levels"], logits: Logits) -> Fires:
    count = jnp.floor(jnp.cumsum(probabilities(logits), axis=0) + offset)
    before = jnp.concatenate([jnp.zeros_like(count[:1]), count[:-1]])
    # A certain gate is open whatever the rounding of long sums does.
    return (count > before) | jnp.isposinf(logits)
