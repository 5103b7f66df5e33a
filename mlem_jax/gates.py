"""Gates: how likely each difference between levels is evaluated at each step.

Difference k is F^k - F^{k-1}, with F^0 = 0; its gate is open with probability p[n, k]. Gates are
handed on as logits l = log p - log(1 - p) [steps, levels], never as probabilities: 1/p = 1 + e^-l
keeps its precision at both ends, and a certain gate is l = +inf. Nothing here knows a state.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mlem_jax.levels import check_costs
from mlem_jax.types import Logits, Probabilities


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


def probabilities(logits: Logits) -> Probabilities:
    """p = 1 / (1 + e^-l)."""
    return jax.nn.sigmoid(logits)


def _power_gates(costs: Sequence[float], scale: float, exponent: float, steps: int) -> Logits:
    check_costs(costs)
    rates = scale * np.asarray(costs, np.float64) ** -exponent
    return table_gates(np.tile(np.minimum(1.0, rates), (steps, 1)))
