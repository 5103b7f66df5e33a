"""Gates: how likely each difference between levels is evaluated at each step.

Difference k is F^k - F^{k-1}, with F^0 = 0; its gate is open with probability p[n, k]. Gates are
handed on as logits l = log p - log(1 - p) [steps, levels], never as probabilities: 1/p = 1 + e^-l
keeps its precision at both ends, and a certain gate is l = +inf. Nothing here knows a state.

Fixed gates are a table at once. `Gates` are a family with parameters, to be learned; at any values
of them they are such a table as well.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from mlem_jax.levels import check_costs
from mlem_jax.types import Logits, PerStep, Probabilities


class Gates(NamedTuple):
    """A family of gates over time: a pair of pure functions, as in Optax.

    Attributes:
        init: `() -> theta`, the parameters, a pytree of arrays.
        logits: `(theta, t[steps]) -> logits [steps, levels]`, differentiable in theta; columns of
            gates that are certain are +inf.
    """

    init: Callable[[], Any]
    logits: Callable[[Any, PerStep], Logits]


class LogLinear(NamedTuple):
    """Parameters of `log_linear_gates`, one of each for every gate that is not certain.

    Attributes:
        slope: alpha, of the logit against log(t + delta).
        offset: beta, the logit at t + delta = 1.
    """

    slope: Float[Array, " free"]
    offset: Float[Array, " free"]


def table_gates(probabilities: ArrayLike) -> Logits:
    """l = log p - log(1 - p), of any table p [steps, levels].

    Raises:
        ValueError: if it is no table, or holds a probability outside (0, 1].
    """
    table = np.asarray(probabilities, np.float64)
    if table.ndim != 2:
        raise ValueError(f"expected probabilities [steps, levels], got shape {table.shape}")
    wrong = ~((table > 0) & (table <= 1))  # NaN is wrong as well.
    if wrong.any():
        n, k = np.argwhere(wrong)[0]
        raise ValueError(
            f"expected probabilities in (0, 1], got {table[n, k]} at step {n}, level {k + 1}; a "
            "level that is never to be used is left out of the ladder instead"
        )
    with np.errstate(divide="ignore"):
        logits = np.log(table) - np.log1p(-table)
    return jnp.asarray(logits, jnp.result_type(float))


def constant_gates(probabilities: Sequence[float], steps: int) -> Logits:
    """p[n, k] = p[k]."""
    return table_gates(np.tile(np.asarray(probabilities, np.float64), (steps, 1)))


def inverse_cost_gates(costs: Sequence[float], steps: int, *, scale: float) -> Logits:
    """p[n, k] = min(1, C / T_k), with costs T and scale C (arXiv:2603.24594, section 4)."""
    return _power_gates(costs, scale, 1.0, steps)


def theory_gates(costs: Sequence[float], steps: int, *, scale: float, gamma: float) -> Logits:
    """p[n, k] = min(1, C T_k^-(1/gamma + 1/2)) (arXiv:2603.24594, section 4).

    Args:
        costs: of one evaluation of each level.
        steps: length of the table.
        scale: C; sweep it to trace error against cost.
        gamma: the exponent of cost against error: a level of error e costs e^-gamma.
    """
    return _power_gates(costs, scale, 1 / gamma + 0.5, steps)


def even_gates(costs: Sequence[float], steps: int, *, scale: float, gamma: float) -> Logits:
    """p[n, k] = min(1, C T_k^-(1/3)(1 + 2/gamma)), for draws that are evenly spread.

    The cheapest where the squared error of n openings is 2^-2k / n^2 instead of 2^-2k / n, so for
    `draws.systematic` and its like; derived in `draws`. Arguments as for `theory_gates`.
    """
    return _power_gates(costs, scale, (1 + 2 / gamma) / 3, steps)


def log_linear_gates(start: Sequence[float], *, delta: float = 0.1) -> Gates:
    """p_k(t) = sigmoid(alpha_k log(t + delta) + beta_k) (arXiv:2603.24594, section 3).

    Args:
        start: probability of each level at the beginning, the same at all times; a level that
            starts at 1 is certain and stays so.
        delta: keeps the logarithm finite at t = 0, the data.

    Raises:
        ValueError: if a probability is outside (0, 1], if no level is left to learn, or (from
            `logits`) if a time is not above -delta.
    """
    free, begin = _free_gates(np.asarray(start, np.float64)[None])

    def init() -> LogLinear:
        return LogLinear(jnp.zeros_like(begin[0]), begin[0])

    def logits(theta: LogLinear, t: PerStep) -> Logits:
        if not isinstance(t, Tracer) and not np.all(np.asarray(t) > -delta):
            raise ValueError(
                f"expected times above -delta = {-delta}, got {np.min(np.asarray(t))}; learn the "
                "gates over a time that runs from 0, at the data"
            )
        feature = jnp.log(jnp.asarray(t, theta.offset.dtype) + delta)[:, None]
        return _with_certain(free, theta.slope * feature + theta.offset)

    return Gates(init, logits)


def piecewise_linear_gates(start: ArrayLike, knots: Sequence[float]) -> Gates:
    """l_k(t) linear between its values at the knots, constant beyond the first and the last.

    The parameters are the logits [knots, free] at the knots.

    Args:
        start: as for `log_linear_gates`, or a table [knots, levels] of probabilities at the knots;
            a level that is to be certain is 1 at all of them.
        knots: times, rising, at least two.

    Raises:
        ValueError: as `log_linear_gates`, and if the knots are not such times, or the table has
            not a row for each, or a level is certain at some of them alone.
    """
    places = np.asarray(knots, np.float64)
    if places.ndim != 1 or len(places) < 2 or not (np.diff(places) > 0).all():
        raise ValueError(f"expected at least two knots, rising, got {tuple(knots)}")
    table = np.asarray(start, np.float64)
    if table.ndim == 2 and len(table) != len(places):
        raise ValueError(f"expected a start at each of {len(places)} knots, got {len(table)} rows")
    free, begin = _free_gates(np.broadcast_to(table, (len(places), table.shape[-1])))

    def init() -> Float[Array, "knots free"]:
        return begin

    def logits(theta: Float[Array, "knots free"], t: PerStep) -> Logits:
        at = jnp.asarray(places, theta.dtype)
        along = jax.vmap(lambda own: jnp.interp(jnp.asarray(t, theta.dtype), at, own), 1, 1)
        return _with_certain(free, along(theta))

    return Gates(init, logits)


def shift_gates(logits: Logits, amount: float) -> Logits:
    """l + amount: the same shape in time, dearer and better with a rising amount.

    The constant of arXiv:2603.24594, section 3, that traces error against cost from one learned
    shape, for gates of any family; certain gates stay certain. With `plan.fit_budget`,
    `lambda scale: shift_gates(logits, math.log(scale))` is the family of all shifts.
    """
    return logits + amount


def probabilities(logits: Logits) -> Probabilities:
    """p = 1 / (1 + e^-l)."""
    return jax.nn.sigmoid(logits)


def _power_gates(costs: Sequence[float], scale: float, exponent: float, steps: int) -> Logits:
    check_costs(costs)
    rates = scale * np.asarray(costs, np.float64) ** -exponent
    return table_gates(np.tile(np.minimum(1.0, rates), (steps, 1)))


def _free_gates(start: np.ndarray) -> tuple[np.ndarray, Float[Array, "rows free"]]:
    """Which gates are to be learned, and their logits at the start, of a table [rows, levels]."""
    logits = table_gates(start)
    finite = np.asarray(jnp.isfinite(logits))
    free = np.asarray(finite.all(axis=0))
    if (finite.any(axis=0) & ~free).any():
        raise ValueError(
            f"expected levels that start below 1 at all knots, or at 1 at all of them, got {start}"
        )
    if not free.any():
        raise ValueError(
            "expected a level to learn, one that starts below 1, got probabilities "
            f"{start.tolist()}"
        )
    return free, logits[:, free]


def _with_certain(free: np.ndarray, columns: Float[Array, "steps free"]) -> Logits:
    table = jnp.full((len(columns), len(free)), jnp.inf, columns.dtype)
    return table.at[:, np.flatnonzero(free)].set(columns)
