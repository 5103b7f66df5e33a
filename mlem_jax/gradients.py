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
from jaxtyping import Array, Float

from mlem_jax.gates import probabilities
from mlem_jax.types import Fires, Key, Logits, Params, Scalar

Tree = TypeVar("Tree")


def score(fires: Fires, logits: Logits) -> Float[Array, "steps levels"]:
    """d log P(B) / dl = B - p, for independent gates; 0 where a gate is certain."""
    return fires - probabilities(logits)


def score_gradient(logits: Callable[[Tree], Logits], params: Tree, fires: Fires) -> Tree:
    """d log P(B) / dtheta = sum_{n,k} (B - p) dl/dtheta.

    Args:
        logits: of the gates as a function of their parameters; few, so it is differentiated in
            forward mode, all directions at once.
        params: theta.
        fires: B, drawn by `draws.independent`.
    """
    own = score(fires, logits(params))
    jacobian = jax.jacfwd(logits)(params)
    return jax.tree.map(lambda leaf: jnp.tensordot(own, leaf, axes=2), jacobian)


def forward_gradient(
    function: Callable[[Tree], Scalar], params: Tree, directions: Tree
) -> tuple[Scalar, Tree]:
    """L, and 1/m sum_i (v_i . grad L) v_i, by forward mode.

    Args:
        function: L; its `lax.cond`s keep skipping, for no predicate depends on a direction.
        params: where.
        directions: v, like `params` with a leading axis [tangents]; of mean 0 and covariance I,
            such as `draw_directions` gives, the result is unbiased.
    """

    def along(direction: Tree) -> tuple[Scalar, Scalar]:
        return jax.jvp(function, (params,), (direction,))

    value, slopes = jax.vmap(along, out_axes=(None, 0))(directions)
    return value, jax.tree.map(lambda v: jnp.tensordot(slopes, v, axes=1) / len(slopes), directions)


def draw_directions(key: Key, params: Params, tangents: int) -> Any:
    """v ~ N(0, I), `tangents` of them, stacked along a leading axis."""
    leaves, structure = jax.tree.flatten(params)
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
