"""Sums over every draw of the gates: expectations without Monte Carlo error."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from mlem_jax.draws import _systematic, nested
from mlem_jax.gates import probabilities


def every_draw(logits):
    """Pairs (probability, fires) over all draws of independent gates, certain ones open."""
    p = np.asarray(probabilities(logits))
    choices = [(True,) if open_ == 1 else (True, False) for open_ in p.ravel()]
    for bits in itertools.product(*choices):
        fires = np.array(bits).reshape(p.shape)
        yield float(np.prod(np.where(fires, p, 1 - p))), jnp.asarray(fires)


def every_offset(logits):
    """Pairs (probability, fires) over all systematic draws of one level, constant between the
    offsets at which a sum of probabilities passes a whole number.
    """
    due = np.cumsum(np.asarray(probabilities(logits))[:, 0])
    edges = np.sort(np.concatenate([[0, 1], np.ceil(due) - due]))
    offsets = (edges[1:] + edges[:-1]) / 2
    fires = jax.vmap(_systematic, (0, None))(jnp.asarray(offsets)[:, None], logits)
    return list(zip(np.diff(edges), fires, strict=True))


def every_nested_draw(outcomes, logits):
    """Pairs (probability, fires) over all draws of `nested`.

    `outcomes(logits)` are those of one level, as many whatever the logits.
    """
    levels = logits.shape[1]
    for choice in itertools.product(range(len(outcomes(logits[:, :1]))), repeat=levels):
        chances, chosen = [], iter(choice)

        def draw(_, own, chances=chances, chosen=chosen):
            chance, fires = outcomes(own)[next(chosen)]
            chances.append(chance)
            return fires

        fires = nested(draw)(None, logits)
        yield float(np.prod(chances)), fires


def every_column(logits):
    """Pairs (probability, fires) over all independent draws of one level, impossible ones too."""
    p = np.asarray(probabilities(logits))
    draws = [np.array(bits)[:, None] for bits in itertools.product((True, False), repeat=len(p))]
    return [(float(np.prod(np.where(fires, p, 1 - p))), jnp.asarray(fires)) for fires in draws]
