"""Learning gates: an (init, step) pair on any Optax optimiser, without backpropagation.

The loss of gates with parameters theta is, with the expectation over starts, noise and gates,

    E |x - x_ref|^2  +  penalty sum_{n,k} P(B_k or B_{k+1}) T_k .

One step takes a batch in groups. Each group has its own draw of the gates, and gives an error, the
path term of its gradient, and its score (see `gradients`); the mean of

    path_g + (error_g - baseline_g) score_g

over the groups, plus the plain gradient of the penalty, is an unbiased gradient of the loss. The
groups run one after the other (`lax.map`), so that a level that a group's gates leave closed is
skipped for it: batched predicates would run every level at every step.

References:
    arXiv:2603.24594, section 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mlem_jax.checks import check_kind, is_count, is_number
from mlem_jax.draws import either_open, independent
from mlem_jax.evaluate import Batch, check_batch, square_errors, take_batch
from mlem_jax.gates.logits import Gates
from mlem_jax.ladder import Ladder, known_costs
from mlem_jax.learn.gradients import (
    forward_gradient,
    gaussian_directions,
    leave_one_out,
    no_baseline,
    score_gradient,
    weigh_to_leading_order,
)
from mlem_jax.noise import as_key
from mlem_jax.plans.plan import Plan
from mlem_jax.plans.weigh import weigh
from mlem_jax.problem import batch_size
from mlem_jax.solver.check import checked_table
from mlem_jax.solver.solve import run_table
from mlem_jax.steps import Steps
from mlem_jax.types import Key, Logits, Openings, Scalar

Baseline = Callable[[Float[Array, " groups"]], Float[Array, " groups"]]
"""What is taken off each group's error; it may depend on the errors of the others alone."""
Directions = Callable[[Key, Any, int], Any]
"""`(key, theta, tangents)` to vectors like theta, stacked, of mean 0 and covariance I."""


class LearnState(NamedTuple):
    """All that the next step of learning needs.

    Attributes:
        theta: parameters of the gates.
        optimiser: state of the Optax optimiser.
        step: steps done.
    """

    theta: Any
    optimiser: Any
    step: Int[Array, ""]


class LearnInfo(NamedTuple):
    """What one looks at while gates are learned.

    Attributes:
        loss: error + penalty x cost.
        error: mean square error of the batch to its references, under the gates drawn.
        deviation: standard deviation of the error over groups.
        cost: expected, of one run, in the unit of the ladder's costs.
        gradient: Euclidean norm of the estimated gradient.
    """

    loss: Scalar
    error: Scalar
    deviation: Scalar
    cost: Scalar
    gradient: Scalar


class Learner(NamedTuple):
    """A pair of pure functions, as in Optax.

    Attributes:
        init: `() -> LearnState`.
        step: `(state, ladder, batch, key) -> (state, info)`, to be jitted.
    """

    init: Callable[[], LearnState]
    step: Callable[[LearnState, Ladder, Batch, Key], tuple[LearnState, LearnInfo]]


class Terms(NamedTuple):
    """What the run of one group gives.

    Attributes:
        error: mean square error of its samples.
        path: derivative of the error in the parameters of the gates at fixed draws, estimated.
        score: derivative of the log-probability of its draw.
    """

    error: Scalar
    path: Any
    score: Any


def score_function_terms(
    ladder: Ladder,
    batch: Batch,
    steps: Steps,
    gates: Gates,
    theta: Any,
    openings: Openings,
    directions: Any,
) -> Terms:
    """The error of one run under given gates, its path derivative and its score.

    Args:
        ladder: the levels.
        batch: the group's samples.
        steps: the integrator.
        gates: the family.
        theta: its parameters.
        openings: B, the draw of this group.
        directions: of the forward gradient, with a leading axis [tangents].
    """

    def logits(theta: Any) -> Logits:
        return gates.logits(theta, steps.t)

    def error(theta: Any) -> Scalar:
        # Not `drop_idle`: an evaluation of weight 0 may have a derivative that is not 0.
        return _error(ladder, batch, steps, weigh(openings, logits(theta)))

    value, path = forward_gradient(error, theta, directions)
    return Terms(value, path, score_gradient(logits, theta, openings))


def leading_order_terms(
    ladder: Ladder,
    batch: Batch,
    steps: Steps,
    gates: Gates,
    theta: Any,
    openings: Openings,
    directions: Any,
) -> Terms:
    """As `score_function_terms`, to leading order in the differences, with no score.

    The derivation is that of `gradients.weigh_to_leading_order`.
    """

    def error(theta: Any) -> Scalar:
        plan = weigh_to_leading_order(openings, gates.logits(theta, steps.t))
        return _error(ladder, batch, steps, plan)

    value, path = forward_gradient(error, theta, directions)
    return Terms(value, path, jax.tree.map(jnp.zeros_like, theta))


Estimate = Callable[[Ladder, Batch, Steps, Gates, Any, Openings, Any], Terms]
"""See `score_function_terms`."""


def gate_learner(
    steps: Steps,
    gates: Gates,
    optimiser: optax.GradientTransformation,
    *,
    penalty: float,
    groups: int,
    estimate: Estimate = score_function_terms,
    tangents: int = 1,
    directions: Directions = gaussian_directions,
    baseline: Baseline = leave_one_out,
) -> Learner:
    """theta <- optimiser(grad of E |x - x_ref|^2 + penalty x expected cost).

    Args:
        steps: the integrator.
        gates: the family to be learned, such as `gates.log_linear`.
        optimiser: any Optax optimiser.
        penalty: lambda, in square error per unit of the ladder's costs.
        groups: draws of the gates per batch; as many as samples in the paper, fewer where a device
            wants larger batches. Their spread is the noise of the gradient.
        estimate: what a group gives: `score_function_terms`, the paper's and the default, whose
            mean is the gradient exactly, or `leading_order_terms`, far less noisy.
        tangents: directions of the forward gradient per group. One costs about one more run.
        directions: `gradients.gaussian_directions` or `gradients.orthogonal_directions`.
        baseline: `gradients.leave_one_out`, or `gradients.no_baseline`.

    Returns:
        The learner; its `step` raises ValueError if the batch cannot be cut into the groups, or as
        `solve`.

    Raises:
        ValueError: if the penalty is negative, if there are fewer than two groups for a baseline to
            compare, or no group or tangent.
    """
    check_kind(steps, Steps, "make them with the functions of mlem_jax.steps")
    check_kind(gates, Gates, "make them with the functions of mlem_jax.gates")
    if not hasattr(optimiser, "update"):
        raise TypeError(f"expected an Optax optimiser, such as optax.adam(0.01), got {optimiser!r}")
    if not (is_number(penalty) and 0 <= penalty < float("inf")):
        raise ValueError(
            f"expected a penalty >= 0 on the cost, got {penalty}; a negative one rewards spending"
        )
    if not (is_count(groups) and is_count(tangents)):
        raise ValueError(f"expected at least 1 group and 1 tangent, got {groups} and {tangents}")
    if groups < 2 and baseline is not no_baseline:
        raise ValueError(
            "expected at least 2 groups, got 1: a baseline compares groups with each other; take "
            "more groups, or no_baseline"
        )

    if not jax.tree.leaves(gates.init()):
        raise ValueError("expected gates with parameters to learn, such as gates.log_linear, got "
                         "fixed ones")  # fmt: skip

    def init() -> LearnState:
        theta = gates.init()
        return LearnState(theta, optimiser.init(theta), jnp.zeros((), jnp.int32))

    def step(
        state: LearnState, ladder: Ladder, batch: Batch, key: Key
    ) -> tuple[LearnState, LearnInfo]:
        theta, key = state.theta, as_key(key)
        logits = gates.logits(theta, steps.t)
        numbers = _group_numbers(batch, groups)

        def one_group(given: tuple[Key, Int[Array, " size"]]) -> Terms:
            draw_key, direction_key = jax.random.split(given[0])
            openings = independent.openings(draw_key, logits)
            along = directions(direction_key, theta, tangents)
            return estimate(
                ladder, take_batch(batch, given[1]), steps, gates, theta, openings, along
            )

        terms = jax.lax.map(one_group, (jax.random.split(key, groups), numbers))
        cost, of_cost = _cost_and_gradient(ladder, steps, gates, theta)
        gradient = jax.tree.map(
            lambda error, cost: error + penalty * cost, error_gradient(terms, baseline), of_cost
        )
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, theta)
        error = terms.error.mean()
        info = LearnInfo(
            error + penalty * cost, error, terms.error.std(), cost, optax.tree.norm(gradient)
        )
        theta = optax.apply_updates(theta, updates)
        return LearnState(theta, optimiser_state, state.step + 1), info

    return Learner(init, step)


def error_gradient(terms: Terms, baseline: Baseline) -> Any:
    """mean_g [ path_g + (error_g - baseline_g) score_g ], over terms stacked [groups]."""
    advantage = terms.error - baseline(terms.error)
    return jax.tree.map(
        lambda path, score: path.mean(axis=0) + jnp.tensordot(advantage, score, 1) / len(advantage),
        terms.path,
        terms.score,
    )


def _error(ladder: Ladder, batch: Batch, steps: Steps, plan: Plan) -> Scalar:
    table = checked_table(ladder, batch.problem, steps, plan)
    return square_errors(run_table(ladder, batch.problem, table), batch.reference).mean()


def _cost_and_gradient(
    ladder: Ladder, steps: Steps, gates: Gates, theta: Any
) -> tuple[Scalar, Any]:
    """Expected cost of a run and its gradient, in forward mode as everything here."""
    costs = known_costs(ladder)

    def cost(theta: Any) -> tuple[Scalar, Scalar]:
        needs = either_open(gates.logits(theta, steps.t)).sum(axis=0)
        total = needs @ jnp.asarray(costs, needs.dtype)
        return total, total

    gradient, value = jax.jacfwd(cost, has_aux=True)(theta)
    return value, gradient


def _group_numbers(batch: Batch, groups: int) -> Int[Array, "groups size"]:
    """Which samples are in which group."""
    check_batch(batch)
    size = batch_size(batch.problem)
    if size % groups:
        raise ValueError(
            f"expected a batch that is a multiple of {groups} groups, got {size} samples"
        )
    return jnp.arange(size).reshape(groups, -1)
