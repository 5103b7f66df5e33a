"""Gates: how likely each difference between levels is evaluated at each step.

Difference k is F^k - F^{k-1}, with F^0 = 0; its gate is open with probability p[n, k]. Gates are
handed on as logits l = log p - log(1 - p) [steps, levels], never as probabilities: 1/p = 1 + e^-l
keeps its precision at both ends, and a certain gate is l = +inf. Nothing here knows a state.

Fixed gates, those of a pilot run and learned ones are one type: parameters, of which fixed gates
have none, and a table of logits for any times and any scale. The scale traces error against cost
from one shape: 1 is the shape itself, more opens gates, less closes them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from mlem_jax.checks import as_table, check_kind, is_count, is_number, shape_of
from mlem_jax.ladder import check_costs
from mlem_jax.types import Logits, PerStep, Probabilities, Scalar

Scale = Scalar | float


class _Table(Protocol):
    def __call__(self, theta: Any, t: PerStep, scale: Scale = 1.0, /) -> Logits: ...


class Gates(NamedTuple):
    """Gates over time: a pair of pure functions, as in Optax.

    Attributes:
        init: `() -> theta`, the parameters to be learned, a pytree of arrays; () for fixed gates.
        logits: `(theta, t[steps], scale=1) -> logits [steps, levels]`, differentiable in theta;
            columns of gates that are certain are +inf.
    """

    init: Callable[[], Any]
    logits: _Table


class LogLinear(NamedTuple):
    """Parameters of `log_linear`, one of each for every gate that is not certain.

    Attributes:
        slope: alpha, of the logit against log(t + delta).
        offset: beta, the logit at t + delta = 1.
    """

    slope: Float[Array, " free"]
    offset: Float[Array, " free"]


def to_logits(probabilities: ArrayLike) -> Logits:
    """l = log p - log(1 - p), of any table p [steps, levels].

    Raises:
        ValueError: if it is no table, or holds a probability outside (0, 1].
    """
    table = _check_probabilities(probabilities)
    with np.errstate(divide="ignore"):
        logits = np.log(table) - np.log1p(-table)
    return jnp.asarray(logits, jnp.result_type(float))


def to_probabilities(logits: Logits) -> Probabilities:
    """p = 1 / (1 + e^-l)."""
    return jax.nn.sigmoid(logits)


def table(probabilities: ArrayLike) -> Gates:
    """p[n, k] = min(1, C p_given[n, k]), for any table [steps, levels].

    Raises:
        ValueError: as `to_logits`, and (from `logits`) if there are not as many times as rows.
    """
    rates = _check_probabilities(probabilities)
    return _scaled(lambda t: _as_long(rates, t))


def constant(probabilities: Sequence[float]) -> Gates:
    """p[n, k] = min(1, C p[k])."""
    rates = _check_probabilities(as_table(probabilities, "probabilities")[None])
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


def keep_open(gates: Gates, *, lowest: int = 1) -> Gates:
    """The same gates with the lowest levels certain.

    With the predicted data as F, a step at which nothing runs would predict the data 0; so the
    bottom level mostly runs at every step.
    """
    check_kind(gates, Gates, "make them with the functions of mlem_jax.gates")
    if not is_count(lowest, 0):
        raise ValueError(f"expected how many of the lowest gates to keep open, got {lowest!r}")

    def logits(theta: Any, t: PerStep, scale: Scale = 1.0) -> Logits:
        own = gates.logits(theta, t, scale)
        if lowest > own.shape[1]:
            raise ValueError(f"expected at most {own.shape[1]} lowest gates to keep open, one per "
                             f"level, got {lowest}")  # fmt: skip
        return own.at[:, :lowest].set(jnp.inf)

    return Gates(gates.init, logits)


def from_sensitivities(
    sensitivities: ArrayLike, costs: Sequence[float], *, power: float = 1 / 2
) -> Gates:
    """p = min(1, C (v_k / c_k)^power), c_k what opening gate k pays: T_k, and T_{k-1} if it closes.

    Args:
        sensitivities: v [steps, levels], squared, from `diagnosis.measure_sensitivities`.
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
    paid = jnp.asarray(costs, jnp.result_type(float))
    rates = sensitivity_rates(jnp.asarray(sensitivities, paid.dtype), paid, power)
    return _scaled(lambda t: _as_long(rates, t))


def sensitivity_rates(
    sensitivities: Float[Array, "steps levels"], costs: Float[Array, " levels"], power: float
) -> Float[Array, "steps levels"]:
    """(v_k / c_k)^power of `from_sensitivities`; traceable."""
    closes = jnp.isfinite(sensitivities).any(axis=0)[:-1]
    below = jnp.where(closes, costs[:-1], 0)
    paid = costs + jnp.concatenate([jnp.zeros(1, costs.dtype), below])
    # A sensitivity of 0 would be a gate that never opens; the least positive one stands for it.
    return (jnp.maximum(sensitivities, jnp.finfo(sensitivities.dtype).tiny) / paid[None]) ** power


def log_linear(start: Sequence[float], *, delta: float = 0.1) -> Gates:
    """p_k(t) = sigmoid(alpha_k log(t + delta) + beta_k + log C) (arXiv:2603.24594, section 3).

    Args:
        start: probability of each level at the beginning, the same at all times; a level that
            starts at 1 is certain and stays so.
        delta: keeps the logarithm finite at t = 0, the data.

    Raises:
        ValueError: if a probability is outside (0, 1], if no level is left to learn, or (from
            `logits`) if a time is not above -delta.
    """
    free, begin = _free_columns(as_table(start, "probabilities")[None])
    if not (is_number(delta) and 0 < delta < math.inf):
        raise ValueError(f"expected delta above 0, in the unit of time, got {delta!r}")

    def init() -> LogLinear:
        return LogLinear(jnp.zeros_like(begin[0]), begin[0])

    def logits(theta: LogLinear, t: PerStep, scale: Scale = 1.0) -> Logits:
        check_kind(theta, LogLinear, "init() makes theta")
        if not isinstance(t, Tracer) and not np.all(np.asarray(t) > -delta):
            raise ValueError(
                f"expected times above -delta = {-delta}, got {np.min(np.asarray(t))}; learn the "
                "gates over a time that runs from 0, at the data"
            )
        feature = jnp.log(jnp.asarray(t, theta.offset.dtype) + delta)[:, None]
        rises = theta.slope[None] * feature + theta.offset[None]
        return _with_certain(free, rises + _log(scale, rises.dtype))

    return Gates(init, logits)


def piecewise_linear(start: ArrayLike, knots: Sequence[float]) -> Gates:
    """l_k(t) - log C linear between its values at the knots, constant beyond the first and last.

    The parameters are the logits [knots, free] at the knots.

    Args:
        start: as for `log_linear`, or a table [knots, levels] of probabilities at the knots; a
            level that is to be certain is 1 at all of them.
        knots: times, rising, at least two.

    Raises:
        ValueError: as `log_linear`, and if the knots are not such times, or the table has not a
            row for each, or a level is certain at some of them alone.
    """
    places = as_table(knots, "knots")
    if (
        places.ndim != 1
        or len(places) < 2
        or not np.isfinite(places).all()
        or not (np.diff(places) > 0).all()
    ):
        raise ValueError(f"expected at least two knots, rising, got {knots}")
    rows = as_table(start, "probabilities")
    if rows.ndim not in (1, 2):
        raise ValueError(f"expected probabilities [levels] or [knots, levels], got {start}")
    if rows.ndim == 2 and len(rows) != len(places):
        raise ValueError(f"expected a start at each of {len(places)} knots, got {len(rows)} rows")
    free, begin = _free_columns(np.broadcast_to(rows, (len(places), rows.shape[-1])))

    def init() -> Float[Array, "knots free"]:
        return begin

    def logits(theta: Float[Array, "knots free"], t: PerStep, scale: Scale = 1.0) -> Logits:
        at = jnp.asarray(places, theta.dtype)
        along = jax.vmap(lambda own: jnp.interp(jnp.asarray(t, theta.dtype), at, own), 1, 1)
        return _with_certain(free, along(theta) + _log(scale, theta.dtype))

    return Gates(init, logits)


def check_logits(logits: Logits) -> None:
    """A table of logits; what is traced passes.

    Raises:
        ValueError: if it is no table, holds a NaN, or looks like probabilities.
    """
    if getattr(logits, "ndim", None) != 2:
        shape = getattr(logits, "shape", None)
        told = type(logits).__name__ if shape is None else f"shape {list(shape)}"
        raise ValueError(f"expected logits [steps, levels], got {told}")
    if isinstance(logits, Tracer):
        return
    values = np.asarray(logits)
    if np.isnan(values).any():
        n, k = np.argwhere(np.isnan(values))[0]
        raise ValueError(f"expected logits without NaN, got one at step {n}, level {k + 1}")
    refuse_probabilities(logits)


def refuse_probabilities(logits: Logits) -> None:
    """A table of numbers in (0, 1] is taken for probabilities; what is traced passes.

    Raises:
        ValueError: if it is such a table.
    """
    if isinstance(logits, Tracer):
        return
    values = np.asarray(logits)
    if ((values > 0) & (values <= 1)).all():
        raise ValueError(
            "expected logits, got a table of numbers in (0, 1], as probabilities are; turn them "
            "into logits with gates.to_logits"
        )


def _scaled(rates: Callable[[PerStep], Any]) -> Gates:
    def logits(theta: Any, t: PerStep, scale: Scale = 1.0) -> Logits:
        del theta
        if getattr(t, "ndim", None) != 1:
            raise TypeError(f"expected times [steps], such as steps.t, got {t!r:.80}")
        if not isinstance(scale, Tracer) and not (
            is_number(scale) and scale > 0 and math.isfinite(scale)
        ):
            raise ValueError(f"expected a scale above 0, got {scale}")
        # A gate that can never open would have an infinite weight.
        p = jnp.clip(scale * jnp.asarray(rates(t), jnp.result_type(float)), 1e-12, 1.0)
        return jnp.log(p) - jnp.log1p(-p)

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


def _check_probabilities(probabilities: ArrayLike) -> np.ndarray:
    given = as_table(probabilities, "probabilities")
    if given.ndim != 2 or not given.size:
        raise ValueError(f"expected probabilities [steps, levels], got shape {given.shape}")
    wrong = ~((given > 0) & (given <= 1))  # NaN is wrong as well.
    if wrong.any():
        n, k = np.argwhere(wrong)[0]
        raise ValueError(
            f"expected probabilities in (0, 1], got {given[n, k]} at step {n}, level {k + 1}; a "
            "level that is never to be used is left out of the ladder instead"
        )
    return given


def _free_columns(start: np.ndarray) -> tuple[np.ndarray, Float[Array, "rows free"]]:
    """Which gates are to be learned, and their logits at the start, of a table [rows, levels]."""
    logits = to_logits(start)
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


def _log(scale: Scale, dtype: Any) -> Scalar:
    return jnp.log(scale).astype(dtype)


def _with_certain(free: np.ndarray, columns: Float[Array, "steps free"]) -> Logits:
    whole = jnp.full((len(columns), len(free)), jnp.inf, columns.dtype)
    return whole.at[:, np.flatnonzero(free)].set(columns)
