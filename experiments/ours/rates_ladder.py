"""A ladder of known error, gates that are the cheapest for it, and where their draws end."""

import math
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlem_jax import Drift, Ladder, Problem, Steps, draws, gates, grids, plans, solve, steps
from mlem_jax.draws import Draw
from mlem_jax.types import Logits


class Method(NamedTuple):
    """A draw, with gates for its rate."""

    draw: Draw
    even: bool


METHODS = {
    "independent": Method(draws.independent, even=False),
    "systematic": Method(draws.systematic, even=True),
}


@cache
def drift(k: int) -> Drift:
    """f + 2^-k sin(a x + b t + c), f alone for k = 0; made once, as they are compared by name."""

    def level(_: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        exact = 0.5 * jnp.sin(2 * x + 3 * t) - 0.3 * x
        error = jnp.sin((1 + 0.3 * math.sin(k)) * x + (2 + math.cos(3 * k)) * t + 2 * k)
        return exact if k == 0 else exact + 2.0**-k * error

    return level


def costs_of(gamma: float, levels: int) -> tuple[float, ...]:
    """c_k = 2^(gamma k)."""
    return tuple(2.0 ** (gamma * k) for k in range(1, levels + 1))


def best_openings(
    gamma: float, levels: int, method: Method, gate_error: float
) -> tuple[float, float]:
    """C and n_1 of the cheapest n_k = C T_k^-rho with sum_k 2^-2k / n_k^(2 if even) = error^2.

    By Lagrange: C = sqrt(sum_k (2^-k c_k)^(2/3)) / error if even, sum_k 2^-k c_k^(1/2) / error^2
    if not.
    """
    costs, size = np.array(costs_of(gamma, levels)), 2.0 ** -np.arange(1, levels + 1)
    error = gate_error * size[-1]
    if method.even:
        scale = math.sqrt(((size * costs) ** (2 / 3)).sum()) / error
        return scale, scale * costs[0] ** (-(1 + 2 / gamma) / 3)
    scale = (size * costs**0.5).sum() / error**2
    return scale, scale * costs[0] ** -(0.5 + 1 / gamma)


def scaled_gates(
    gamma: float, costs: tuple[float, ...], method: Method, scale: float, count: int
) -> Logits:
    """Gates of the method's family with n_k = scale T_k^-rho openings in any number of steps."""
    family = gates.even if method.even else gates.theory
    return family(costs, gamma=gamma).logits((), jnp.zeros(count), scale / count)


def predicted_exponent(gamma: float, method: Method, levels: np.ndarray) -> float:
    """As it is fitted, of sum_k n_k c_k against 2^-K: the sums are far from their limits here."""
    prices = []
    for count in levels:
        scale, often = best_openings(gamma, int(count), method, 1.0)
        costs = np.array(costs_of(gamma, int(count)))
        exponent = math.log(scale / often) / math.log(costs[0])
        prices.append(float((scale * costs ** (1 - exponent)).sum()))
    x = np.log(prices) - np.log(prices).mean()
    return float((x @ x) / (x @ (levels * math.log(2))))


def grid_of(count: int, noise: float) -> Steps:
    """Euler-Maruyama from 0 to 1 with additive noise."""
    return steps.euler_maruyama(grids.uniform_grid(0.0, 1.0, count), lambda t: noise + 0 * t)


@partial(jax.jit, static_argnums=(0, 4))
def errors_of(
    draw: Draw, logits: Logits, table: Steps, keys: jax.Array, lanes: int
) -> tuple[jax.Array, jax.Array]:
    """End less the exact drift's on the same path, and evaluations of each level, for each key.

    A plan per lane, so that every level is evaluated at every step here; what is counted is what a
    single run would evaluate.
    """
    count, levels = logits.shape
    ladder = Ladder(tuple(drift(k + 1) for k in range(levels)), ((),) * levels)
    exact, alone = Ladder((drift(0),), ((),)), plans.full(count, 1, 1)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        start_key, path_key, gate_key = jax.random.split(key, 3)
        x = jax.random.normal(start_key)
        noise = jax.random.normal(path_key, (count,))
        problem = Problem(x, noise)
        drawn = plans.draw_plan(draw, logits, gate_key)
        end = solve(ladder, problem, table, drawn)
        return end - solve(exact, problem, table, alone), drawn.needed.sum(axis=0)

    return jax.lax.map(one, keys, batch_size=lanes)


@partial(jax.jit, static_argnums=0)
def evaluations_of(draw: Draw, logits: Logits, keys: jax.Array) -> jax.Array:
    """Of each level, in the plan of each key."""
    return jax.vmap(lambda key: plans.draw_plan(draw, logits, key).needed.sum(axis=0))(keys)
