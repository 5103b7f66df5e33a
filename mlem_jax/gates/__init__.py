"""Gates: fixed by cost, measured by a pilot run, or learned over time."""

from mlem_jax.gates.families import (
    Gates,
    LogLinear,
    constant,
    even,
    from_sensitivities,
    inverse_cost,
    keep_open,
    log_linear,
    piecewise_linear,
    table,
    theory,
    to_logits,
    to_probabilities,
)

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
