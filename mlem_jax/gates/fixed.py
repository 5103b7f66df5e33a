"""Fixed gates: by cost, by a table, by a pilot run's sensitivities. Only their scale is free."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from mlem_jax.checks import as_float, as_table, check_kind, is_count, is_number, shape_of
from mlem_jax.gates.logits import Gates, Scale, check_probabilities, check_times
from mlem_jax.ladder import check_costs
from mlem_jax.types import Logits, PerStep


def table(probabilities: ArrayLike) -> Gates:
    """p[n, k] = min(1, C p_given[n, k]), for any table [steps, levels].

    Raises:
        ValueError: as `to_logits`, and (from `logits`) if there are not as many times as rows.
    """
    rates = check_probabilities(probabilities)
    return _scaled(lambda t: _as_long(rates, t))


def constant(probabilities: Sequence[float]) -> Gates:
    """p[n, k] = min(1, C p[k])."""
    rates = check_probabilities(as_table(probabilities, "probabilities")[None])
    return _scaled(lambda t: np.tile(rates, (len(t), 1)))


def inverse_cost(costs: Sequence[float]) -> Gates:
    """p[n, k] = min(1, C / T_k), with costs T and scale C (arXiv:2603.24594, section 4)."""
    return _power(costs, 1.0)


def theory(costs: Sequence[float], *, gamma: float) -> Gates:
    """p[n, k] = min(1, C T_k^-(1/gamma + 1/2)) (arXiv:2603.24594, section 4).

    Args:
        costs: of one evaluation of each level.
        gamma: the exponent of cost against error: a level of error e costs e^-gamma.

    Raises:
        ValueError: if gamma is not above 0.
    """
    return _power(costs, 1 / _check_gamma(gamma) + 0.5)


def even(costs: Sequence[float], *, gamma: float) -> Gates:
    """p[n, k] = min(1, C T_k^-(1/3)(1 + 2/gamma)), for draws that are evenly spread.

    The cheapest where the squared error of n openings is 2^-2k / n^2 instead of 2^-2k / n, so for
    `draws.systematic` and its like; derived in `draws`. Arguments and errors as for `theory`.
    """
    return _power(costs, (1 + 2 / _check_gamma(gamma)) / 3)


def keep_open(gates: Gates, *, certain: int = 1) -> Gates:
    """The same gates with the lowest levels certain.

    With the predicted data as F, a step at which nothing runs would predict the data 0; so the
    bottom level mostly runs at every step.

    Args:
        gates: any.
        certain: how many of the lowest gates are always open.

    Raises:
        ValueError: if that is no count, or more than there are gates.
    """
    check_kind(gates, Gates, "make them with the functions of mlem_jax.gates")
    if not is_count(certain, 0):
        raise ValueError(f"expected how many of the lowest gates are certain, got {certain!r}")

    def logits(theta: Any, t: PerStep, scale: Scale = 1.0) -> Logits:
        own = gates.logits(theta, t, scale)
        if certain > own.shape[1]:
            raise ValueError(f"expected at most {own.shape[1]} certain gates, one per level, got "
                             f"{certain}")  # fmt: skip
        return own.at[:, :certain].set(jnp.inf)

    return Gates(gates.init, logits)


def from_sensitivities(
    sensitivities: ArrayLike, costs: Sequence[float], *, power: float = 1 / 2
) -> Gates:
    """p[n, k] = min(1, C (v[n, k] / c_k)^power), with c_k the price of an opening.

    That is T_k, and T_{k-1} too unless the gate of level k - 1 is always open.

    Args:
        sensitivities: v [steps, levels], squared, from `diagnosis.measure_sensitivities`; +inf
            for a gate that is to stay open.
        costs: of one evaluation of each level.
        power: 1/2 for independent draws, 1/3 for even ones (`systematic`, `midpoint`).

    Raises:
        ValueError: if the table is not [steps, levels] for these costs, or holds a NaN.
    """
    check_costs(costs)
    shape = shape_of(sensitivities)
    if len(shape) != 2 or shape[1] != len(costs):
        raise ValueError(f"expected sensitivities [steps, {len(costs)} levels], one level per "
                         f"cost, got shape {list(shape)}")  # fmt: skip
    if (
        not isinstance(sensitivities, Tracer)
        and not (as_table(sensitivities, "sensitivities") >= 0).all()
    ):
        raise ValueError("expected sensitivities without NaN, 0 or more; find the level "
                         "that returns it with solve_checked")  # fmt: skip
    if not (is_number(power) and 0 <= power < math.inf):
        raise ValueError(f"expected a power of v / c, mostly 1/2 or 1/3, got {power!r}")
    paid = as_float(costs)
    rates = sensitivity_rates(jnp.asarray(sensitivities, paid.dtype), paid, power)
    return _scaled(lambda t: _as_long(rates, t))


def sensitivity_rates(
    sensitivities: Float[Array, "steps levels"], costs: Float[Array, " levels"], power: float
) -> Float[Array, "steps levels"]:
    """(v_k / c_k)^power of `from_sensitivities`, +inf where v is, at any power; traceable."""
    closes = jnp.isfinite(sensitivities).any(axis=0)[:-1]
    below = jnp.where(closes, costs[:-1], 0)
    paid = costs + jnp.concatenate([jnp.zeros(1, costs.dtype), below])
    # A sensitivity of 0 would be a gate that never opens; the least positive one stands for it.
    worth = jnp.maximum(sensitivities, jnp.finfo(sensitivities.dtype).tiny) / paid[None]
    return jnp.where(jnp.isposinf(worth), jnp.inf, worth**power)


def _scaled(rates: Callable[[PerStep], Any]) -> Gates:
    def logits(theta: Any, t: PerStep, scale: Scale = 1.0) -> Logits:
        del theta
        check_times(t, scale)
        # A gate that can never open would have an infinite weight.
        p = jnp.clip(scale * as_float(rates(t)), 1e-12, 1.0)
        return jax.scipy.special.logit(p)

    return Gates(lambda: (), logits)


def _power(costs: Sequence[float], exponent: float) -> Gates:
    check_costs(costs)
    rates = np.asarray(costs, np.float64) ** -exponent
    return _scaled(lambda t: np.tile(rates, (len(t), 1)))


def _check_gamma(gamma: float) -> float:
    if not (is_number(gamma) and 0 < gamma < math.inf):
        raise ValueError(f"expected gamma above 0, got {gamma}; a level of error e costs e^-gamma")
    return gamma


def _as_long(rates: Any, t: PerStep) -> Any:
    if len(rates) != len(t):
        raise ValueError(f"expected {len(rates)} times, one per row of the table that these gates "
                         f"were made from, got {len(t)}")  # fmt: skip
    return rates
