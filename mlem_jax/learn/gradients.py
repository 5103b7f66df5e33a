"""Gradients of an expectation over gates, without backpropagation.

With parameters theta, logits l(theta), gates B and the loss L(theta, B) of a run, in which theta
stands in the weights B/p as well,

    d/dtheta E_B[L]  =  E_B[ L d log P(B)/dtheta ]  +  E_B[ dL/dtheta at fixed B ] .
                        score function                 path

The score-function term asks only for the value of the loss, and for independent gates
d log P / dl = B - p, bounded whatever the probabilities: dp/dl = p (1 - p) cancels the denominator
of (B - p) / (p (1 - p)). The path term is taken forward: one `jax.jvp` through the whole run gives
the derivative along a direction v ~ N(0, I), and (v . grad L) v has the mean grad L, since
E[v v^T] = I. Nothing is stored along the run, so memory does not grow with its steps.

The score function is noisy: it multiplies the error that all gates make together with what each of
them did. `weigh_to_leading_order` does without it. Where the end depends on the gates linearly,

    x - x_ref = sum_g (B_g/p_g - 1) J_g ,      E |x - x_ref|^2 = sum_g |J_g|^2 (1/p_g - 1) ,

the path term alone has the right mean if B/p is given the derivative -B/(2p) in the logit instead
of its own, -B (1-p)/p: for E[2 (B/p - 1) (-B/(2p))] = -(1-p)/p = d/dl (1/p - 1). In general this is
the gradient to leading order in the differences J, at a small part of the variance.

References:
    arXiv:2603.24594, section 3.
    Williams 1992, REINFORCE: the score function and its baselines.
    Baydin et al. 2022, arXiv:2202.08587: forward gradients.
    Kool et al. 2019: the leave-one-out baseline.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from mlem_jax.gates.logits import to_probabilities
from mlem_jax.plans.plan import Plan
from mlem_jax.plans.weigh import open_ratios, weigh_ratios
from mlem_jax.types import Key, Logits, Openings, Scalar

Tree = TypeVar("Tree")


def score(openings: Openings, logits: Logits) -> Float[Array, "steps levels"]:
    """d log P(B) / dl = B - p, for independent gates; 0 where a gate is certain."""
    return openings.astype(logits.dtype) - to_probabilities(logits)


def score_gradient(logits: Callable[[Tree], Logits], theta: Tree, openings: Openings) -> Tree:
    """d log P(B) / dtheta = sum_{n,k} (B - p) dl/dtheta.

    Args:
        logits: of the gates as a function of their parameters; few, so it is differentiated in
            forward mode, all directions at once.
        theta: where.
        openings: B, drawn by `draws.independent`.
    """
    own = score(openings, logits(theta))
    jacobian = jax.jacfwd(logits)(theta)
    return jax.tree.map(lambda leaf: jnp.tensordot(own, leaf, axes=2), jacobian)


def forward_gradient(
    function: Callable[[Tree], Scalar], theta: Tree, directions: Tree
) -> tuple[Scalar, Tree]:
    """L, and 1/m sum_i (v_i . grad L) v_i, by forward mode.

    Args:
        function: L; its `lax.cond`s keep skipping, for no predicate depends on a direction.
        theta: where.
        directions: v, like theta with a leading axis [tangents]; of mean 0 and covariance I,
            such as `gaussian_directions` gives, the result is unbiased.
    """

    def along(direction: Tree) -> tuple[Scalar, Scalar]:
        return jax.jvp(function, (theta,), (direction,))

    value, slopes = jax.vmap(along, out_axes=(None, 0))(directions)
    return value, jax.tree.map(lambda v: jnp.tensordot(slopes, v, axes=1) / len(slopes), directions)


def weigh_to_leading_order(openings: Openings, logits: Logits) -> Plan:
    """The plan of `plans.weigh`, with d(B/p)/dl = -B/(2p): a path term that needs no score."""
    ratios = jax.lax.stop_gradient(open_ratios(openings, logits))
    # Zero, with a derivative of one; a certain gate has none.
    moved = jnp.where(jnp.isfinite(logits), logits - jax.lax.stop_gradient(logits), 0)
    return weigh_ratios(openings, ratios * (1 - moved / 2))


def orthogonal_directions(key: Key, theta: Any, tangents: int) -> Any:
    """v = sqrt(d) times rows of a random orthogonal matrix: E[v v^T] = I, and less noise.

    With as many tangents as there are parameters the forward gradient is the gradient itself.

    Raises:
        ValueError: if there are more tangents than parameters.
    """
    flat, unravel = ravel_pytree(theta)
    if tangents > len(flat):
        raise ValueError(
            f"expected at most one tangent for each of {len(flat)} parameters, got {tangents}"
        )
    rotation = jax.random.orthogonal(key, len(flat), dtype=flat.dtype)
    return jax.vmap(unravel)(len(flat) ** 0.5 * rotation[:tangents])


def gaussian_directions(key: Key, theta: Any, tangents: int) -> Any:
    """v ~ N(0, I), `tangents` of them, stacked along a leading axis."""
    leaves, structure = jax.tree.flatten(theta)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.normal(own, (tangents, *leaf.shape), leaf.dtype)
        for own, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def leave_one_out(losses: Float[Array, " groups"]) -> Float[Array, " groups"]:
    """b_g = mean of the losses of all other groups: independent of B_g, so it adds no bias."""
    return (losses.sum() - losses) / (len(losses) - 1)


def no_baseline(losses: Float[Array, " groups"]) -> Float[Array, " groups"]:
    """b_g = 0: the plain score function."""
    return jnp.zeros_like(losses)
