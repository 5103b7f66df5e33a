"""Learning gates: gradients of an expectation over draws, without backpropagation."""

from mlem_jax.learn.gradients import (
    forward_gradient,
    gaussian_directions,
    leave_one_out,
    no_baseline,
    orthogonal_directions,
    score,
    score_gradient,
    weigh_to_leading_order,
)
from mlem_jax.learn.learner import (
    Learner,
    LearnInfo,
    LearnState,
    Terms,
    error_gradient,
    gate_learner,
    leading_order_terms,
    score_function_terms,
)

__all__ = [
    "LearnInfo",
    "LearnState",
    "Learner",
    "Terms",
    "error_gradient",
    "forward_gradient",
    "gate_learner",
    "gaussian_directions",
    "leading_order_terms",
    "leave_one_out",
    "no_baseline",
    "orthogonal_directions",
    "score",
    "score_function_terms",
    "score_gradient",
    "weigh_to_leading_order",
]
