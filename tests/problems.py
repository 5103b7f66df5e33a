"""Problems with closed forms, and ladders whose levels differ by a known amount."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from mlem_jax.ladder import Ladder
from mlem_jax.process import Process

SPREAD = 0.6
"""Standard deviation of the Gaussian data of `gaussian_data`."""


def ornstein_uhlenbeck(params, x, t):
    """Drift -rate x of dX = -rate X dt + noise dW."""
    return -params * x


def ou_ladder(costs=(1.0, 4.0, 16.0)):
    """Three rates that approach 1: the top level is the drift itself."""
    rates = tuple(jnp.asarray(rate) for rate in (0.5, 0.8, 1.0))
    return Ladder((ornstein_uhlenbeck,) * 3, rates, tuple(costs))


def wavy(params, x, t):
    """A drift that is nonlinear in x and depends on t."""
    return params * jnp.sin(x + t) - 0.3 * x


def wavy_ladder(sizes=(0.6, 0.9, 1.0), costs=(1.0, 4.0, 16.0)):
    count = len(sizes)
    return Ladder((wavy,) * count, tuple(map(jnp.asarray, sizes)), tuple(costs[:count]))


def output_of(ladder, k, x, t):
    """f^k(x, t), levels counted from 0."""
    return ladder.drifts[k](ladder.params[k], x, t)


def drift_of_time(params, x, t):
    """A polynomial of t, the same for every entry of the state."""
    return jnp.full_like(x, jnp.polyval(params, t))


def time_ladder(*polynomials):
    params = tuple(jnp.asarray(own) for own in polynomials)
    return Ladder((drift_of_time,) * len(params), params, tuple(2.0**k for k in range(len(params))))


def gaussian_data(process: Process):
    """E[x_0 | x_t] for data N(0, SPREAD^2): one exact level."""

    def drift(params, x, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * x

    return Ladder((drift,), ((),), (1.0,))


def count_of(primitive, jaxpr) -> int:
    """Equations of a primitive in a jaxpr and in everything inside it."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == primitive
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            total += count_of(primitive, inner)
    return total


def normals(seed, *shape):
    drawn = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(drawn, jnp.result_type(float))  # Without a type it would be compiled.


def openings_at(count, *columns):
    """B [count steps, levels]: open at the steps that each column names."""
    opened = [np.isin(np.arange(count), list(own)) for own in columns]
    return jnp.asarray(np.stack(opened, axis=1), bool)
