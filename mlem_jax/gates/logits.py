"""Gates: how likely each difference between levels is evaluated at each step.

Difference k is F^k - F^{k-1}, with F^0 = 0; its gate is open with probability p[n, k]. Gates are
handed on as logits l = log p - log(1 - p) [steps, levels], never as probabilities: 1/p = 1 + e^-l
keeps its precision at both ends, and a certain gate is l = +inf. Nothing here knows a state.

Fixed gates, those of a pilot run and learned ones are one type: parameters, of which fixed gates
have none, and a table of logits for any times and any scale. The scale traces error against cost
from one shape: 1 is the shape itself, more opens gates, less closes them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

from mlem_jax.checks import as_float, as_table, is_number
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


def to_logits(probabilities: ArrayLike) -> Logits:
    """l = log p - log(1 - p), of any table p [steps, levels].

    Raises:
        ValueError: if it is no table, or holds a probability outside (0, 1].
    """
    table = check_probabilities(probabilities)
    with np.errstate(divide="ignore"):
        logits = np.log(table) - np.log1p(-table)
    return as_float(logits)


def to_probabilities(logits: Logits) -> Probabilities:
    """p = 1 / (1 + e^-l)."""
    return jax.nn.sigmoid(logits)


def check_times(t: PerStep, scale: Scale) -> None:
    """What gates are asked for: times [steps], and a scale; what is traced passes.

    Raises:
        TypeError: if the times are no column.
        ValueError: if the scale is not above 0 and finite.
    """
    if getattr(t, "ndim", None) != 1:
        raise TypeError(f"expected times [steps], such as steps.t, got {t!r:.80}")
    positive = isinstance(scale, Tracer) or (is_number(scale) and 0 < scale < math.inf)
    if not positive:
        raise ValueError(f"expected a scale above 0, got {scale}")


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
    """Numbers in (0, 1] with a level at exactly 1 throughout are taken for probabilities.

    Without such a level they may be either, and pass: p from 1/2 to 0.73 has such logits too. What
    is traced passes.

    Raises:
        ValueError: if it is such a table.
    """
    if isinstance(logits, Tracer):
        return
    values = np.asarray(logits)
    if ((values > 0) & (values <= 1)).all() and (values == 1).all(axis=0).any():
        raise ValueError(
            "expected logits, got numbers in (0, 1] with a level at 1 throughout, as probabilities "
            "are; turn them into logits with gates.to_logits"
        )


def check_probabilities(probabilities: ArrayLike) -> np.ndarray:
    """A table p [steps, levels] of numbers in (0, 1].

    Raises:
        ValueError: if it is no such table.
    """
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
