"""Sums over every draw of independent gates: expectations without Monte Carlo error."""

import itertools

import jax.numpy as jnp
import numpy as np

from mlem_jax.gates import probabilities


def every_draw(logits):
    """Pairs (probability, fires) over all draws of independent gates, certain ones open."""
    p = np.asarray(probabilities(logits))
    choices = [(True,) if open_ == 1 else (True, False) for open_ in p.ravel()]
    for bits in itertools.product(*choices):
        fires = np.array(bits).reshape(p.shape)
        yield float(np.prod(np.where(fires, p, 1 - p))), jnp.asarray(fires)
