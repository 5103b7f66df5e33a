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

from mlem_jax.draws import independent
from mlem_jax.evaluate import Batch, check_batch, square_errors
from mlem_jax.gates import Gates
from mlem_jax.gradients import (
    forward_gradient,
    gaussian_directions,
    leave_one_out,
    no_baseline,
    score_gradient,
    weigh_to_leading_order,
)
from mlem_jax.levels import Levels, split_conditions
from mlem_jax.noise import BrownianPath
from mlem_jax.plan import Plan, expected_needs, weigh
from mlem_jax.problem import check_problem
from mlem_jax.solve import run_unchecked
from mlem_jax.steps import Steps
from mlem_jax.types import Fires, Key, Logits, Params, Scalar

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
        cost: expected, of one run, in the unit of `levels.costs`.
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
        step: `(state, params, batch, key) -> (state, info)` with the params of the levels and a
            `Batch`, to be jitted.
    """

    init: Callable[[], LearnState]
    step: Callable[[LearnState, tuple[Params, ...], Batch, Key], tuple[LearnState, LearnInfo]]


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
    levels: Levels,
    params: tuple[Params, ...],
    batch: Batch,
    steps: Steps,
    gates: Gates,
    theta: Any,
    fires: Fires,
    directions: Any,
) -> Terms:
    """The error of one run under given gates, its path derivative and its score.

    Args:
        levels: the ladder; static.
        params: one pytree a level.
        batch: the group's samples.
        steps: the integrator.
        gates: the family.
        theta: its parameters.
        fires: B, the draw of this group.
        directions: of the forward gradient, with a leading axis [tangents].
    """

    def logits(theta: Any) -> Logits:
        return gates.logits(theta, steps.t)

    def error(theta: Any) -> Scalar:
        # Not `drop_idle`: an evaluation of weight 0 may have a derivative that is not 0.
        return _error(levels, params, batch, steps, weigh(fires, logits(theta)))

    value, path = forward_gradient(error, theta, directions)
    return Terms(value, path, score_gradient(logits, theta, fires))


def leading_order_terms(
    levels: Levels,
    params: tuple[Params, ...],
    batch: Batch,
    steps: Steps,
    gates: Gates,
    theta: Any,
    fires: Fires,
    directions: Any,
) -> Terms:
    """As `score_function_terms`, to leading order in the differences, with no score.

    The derivation is that of `gradients.weigh_to_leading_order`.
    """

    def error(theta: Any) -> Scalar:
        plan = weigh_to_leading_order(fires, gates.logits(theta, steps.t))
        return _error(levels, params, batch, steps, plan)

    value, path = forward_gradient(error, theta, directions)
    return Terms(value, path, jax.tree.map(jnp.zeros_like, theta))


Estimate = Callable[
    [Levels, tuple[Params, ...], Batch, Steps, Gates, Any, Fires, Any],
    Terms,
]
"""See `score_function_terms`."""


def gate_learner(
    levels: Levels,
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
        levels: the ladder; its costs are what the penalty is paid on.
        steps: the integrator.
        gates: the family to be learned, such as `gates.log_linear_gates`.
        optimiser: any Optax optimiser.
        penalty: lambda, in square error per unit of cost.
        groups: draws of the gates a batch; as many as samples in the paper, fewer where a device
            wants larger batches. Their spread is the noise of the gradient.
        estimate: what a group gives: `score_function_terms`, the paper's and the default, whose
            mean is the gradient exactly, or `leading_order_terms`, far less noisy.
        tangents: directions of the forward gradient a group. One costs about one more run.
        directions: `gradients.gaussian_directions` or `gradients.orthogonal_directions`.
        baseline: `gradients.leave_one_out`, or `gradients.no_baseline`.

    Returns:
        The learner; its `step` raises ValueError if the batch cannot be cut into the groups, or as
        `solve`.

    Raises:
        ValueError: if the penalty is negative, if there are fewer than two groups for a baseline to
            compare, or no group or tangent.
    """
    if not penalty >= 0:
        raise ValueError(
            f"expected a penalty >= 0 on the cost, got {penalty}; a negative one rewards spending"
        )
    if tangents < 1 or groups < 1:
        raise ValueError(f"expected at least 1 group and 1 tangent, got {groups} and {tangents}")
    if groups < 2 and baseline is not no_baseline:
        raise ValueError(
            "expected at least 2 groups, got 1: a baseline compares groups with each other; take "
            "more groups, or no_baseline"
        )

    def init() -> LearnState:
        theta = gates.init()
        return LearnState(theta, optimiser.init(theta), jnp.zeros((), jnp.int32))

    def step(
        state: LearnState, params: tuple[Params, ...], batch: Batch, key: Key
    ) -> tuple[LearnState, LearnInfo]:
        theta = state.theta
        logits = gates.logits(theta, steps.t)
        check_problem(levels, params, batch.x, steps, weigh(logits > 0, logits), batch.noise)

        def one_group(given: tuple[Key, Any]) -> Terms:
            draw_key, direction_key = jax.random.split(given[0])
            fires = independent(draw_key, logits)
            along = directions(direction_key, theta, tangents)
            return estimate(levels, *cut.put(given[1]), steps, gates, theta, fires, along)

        cut = _cut(params, batch, groups)
        terms = jax.lax.map(one_group, (jax.random.split(key, groups), cut.parts))
        cost, of_cost = _cost_and_gradient(levels, steps, gates, theta)
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


def _error(
    levels: Levels, params: tuple[Params, ...], batch: Batch, steps: Steps, plan: Plan
) -> Scalar:
    end = run_unchecked(levels, params, batch.x, steps, plan, batch.noise)
    return square_errors(end, batch.reference).mean()


def _cost_and_gradient(
    levels: Levels, steps: Steps, gates: Gates, theta: Any
) -> tuple[Scalar, Any]:
    """Expected cost of a run and its gradient, in forward mode as everything here."""

    def cost(theta: Any) -> tuple[Scalar, Scalar]:
        needs = expected_needs(gates.logits(theta, steps.t)).sum(axis=0)
        total = needs @ jnp.asarray(levels.costs, needs.dtype)
        return total, total

    gradient, value = jax.jacfwd(cost, has_aux=True)(theta)
    return value, gradient


class _Cut(NamedTuple):
    """A batch in groups: what differs between them, and how to put it back together."""

    parts: Any
    put: Callable[[Any], tuple[tuple[Params, ...], Batch]]


def _cut(params: tuple[Params, ...], batch: Batch, groups: int) -> _Cut:
    """Groups of equal size, with the conditions of their samples."""
    path = batch.noise if isinstance(batch.noise, BrownianPath) else None
    if path is not batch.noise:
        raise ValueError("expected a path or no noise to learn on, got stored noise; give the "
                         "brownian_path it was stored from")  # fmt: skip
    if not len(batch.x) or len(batch.x) % groups:
        raise ValueError(
            f"expected a batch that is a multiple of {groups} groups, got {len(batch.x)} samples"
        )
    check_batch(batch)
    conditions, put_conditions = split_conditions(params)
    samples = None if path is None else path.samples
    parts = jax.tree.map(
        lambda leaf: leaf.reshape(groups, -1, *leaf.shape[1:]),
        (batch.x, batch.reference, samples, conditions),
    )

    def put(part: Any) -> tuple[tuple[Params, ...], Batch]:
        x, reference, samples, conditions = part
        noise = None if path is None else path._replace(samples=samples)
        return put_conditions(conditions), Batch(x, noise, reference)

    return _Cut(parts, put)
