"""Learned gates: logits with parameters, differentiable in them (arXiv:2603.24594, section 3)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from mlem_jax.checks import as_table, check_kind, is_number
from mlem_jax.gates.logits import Gates, Scale, check_times, to_logits
from mlem_jax.types import Logits, PerStep, Scalar


class LogLinear(NamedTuple):
    """Parameters of `log_linear`, one of each for every gate that is not certain.

    Attributes:
        slope: alpha, of the logit against log(t + delta).
        offset: beta, the logit at t + delta = 1.
    """

    slope: Float[Array, " free"]
    offset: Float[Array, " free"]


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
        check_times(t, scale)
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
        check_times(t, scale)
        at = jnp.asarray(places, theta.dtype)
        along = jax.vmap(lambda own: jnp.interp(jnp.asarray(t, theta.dtype), at, own), 1, 1)
        return _with_certain(free, along(theta) + _log(scale, theta.dtype))

    return Gates(init, logits)


def _free_columns(start: np.ndarray) -> tuple[np.ndarray, Float[Array, "rows free"]]:
    """Which gates are to be learned, and their logits at the start, of a table [rows, levels]."""
    logits = np.asarray(to_logits(start))
    finite = np.isfinite(logits)
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
    return free, jnp.asarray(logits[:, free], logits.dtype)


def _log(scale: Scale, dtype: Any) -> Scalar:
    return jnp.log(scale).astype(dtype)


def _with_certain(free: np.ndarray, columns: Float[Array, "steps free"]) -> Logits:
    whole = jnp.full((len(columns), len(free)), jnp.inf, columns.dtype)
    return whole.at[:, np.flatnonzero(free)].set(columns)
