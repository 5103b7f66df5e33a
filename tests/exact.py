"""Sums over every draw of the gates: expectations without Monte Carlo error."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from mlem_jax.draws import spread_openings


def every_draw(logits):
    """Pairs (probability, openings) over all draws of independent gates, certain ones open."""
    p = expit(np.asarray(logits))
    choices = [(True,) if open_ == 1 else (True, False) for open_ in p.ravel()]
    for bits in itertools.product(*choices):
        openings = np.array(bits).reshape(p.shape)
        yield float(np.prod(np.where(openings, p, 1 - p))), jnp.asarray(openings)


def every_offset(logits):
    """Pairs (probability, openings) over all systematic draws of one level, constant between the
    offsets at which a sum of probabilities passes a whole number.
    """
    due = np.cumsum(expit(np.asarray(logits))[:, 0])
    edges = np.sort(np.concatenate([[0, 1], np.ceil(due) - due]))
    offsets = (edges[1:] + edges[:-1]) / 2
    openings = _spread(jnp.asarray(offsets)[:, None], logits)
    return list(zip(np.diff(edges), openings, strict=True))


_spread = jax.jit(jax.vmap(spread_openings, (0, None)))


def every_systematic_draw(logits):
    """Pairs (probability, openings) over all systematic draws, offsets independent by level."""
    columns = [every_offset(logits[:, k : k + 1]) for k in range(logits.shape[1])]
    for chosen in itertools.product(*columns):
        chance = float(np.prod([chance for chance, _ in chosen]))
        yield chance, jnp.concatenate([openings for _, openings in chosen], axis=1)
