"""Gates: fixed by cost, measured by a pilot run, or learned over time."""

from mlem_jax.gates.fixed import (
    constant,
    even,
    from_sensitivities,
    inverse_cost,
    keep_open,
    table,
    theory,
)
from mlem_jax.gates.learned import LogLinear, log_linear, piecewise_linear
from mlem_jax.gates.logits import Gates, to_logits, to_probabilities

__all__ = [
    "Gates",
    "LogLinear",
    "constant",
    "even",
    "from_sensitivities",
    "inverse_cost",
    "keep_open",
    "log_linear",
    "piecewise_linear",
    "table",
    "theory",
    "to_logits",
    "to_probabilities",
]
