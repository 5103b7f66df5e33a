"""Draws: from gates to which of them are open, each algorithm a function of one shape.

A random draw opens the gate of difference k at step n with probability p[n, k], so the multilevel
sum has the top level's mean. Draws differ in how they spread the openings over the steps, and so in
how far their errors cancel along a path; `midpoint` spreads them without chance at all.

What the spread is worth. Let gate k open lambda_k = p_k / dt times a unit of time, each opening an
impulse of weight 1/lambda_k of the difference Delta_k = F^k - F^{k-1}; with mu_k the measure of
these impulses, D_k(t) = t - mu_k([0, t]) is how far they lag behind. Let J(t) be the derivative of
x_t by x_0 along the path, so that J(T) J(t)^-1 carries a change at t to the end. To first order in
the differences a path ends off that of the top level by the sum over k of

    E_k = -J(T) int_0^T G_k dD_k = J(T) [int_0^T D_k dG_k - G_k(T) D_k(T)] ,
    G_k(t) = J(t)^-1 Delta_k(x_t, t) ,

which is an integral by parts, without a bracket: G_k is continuous and D_k of finite variation. In
either draw below D_k has mean 0 and the levels are independent, so E|E|^2 = sum_k E|E_k|^2 over the
gates, given the path.

- independent: D_k is a martingale of variance t/lambda_k, so with |Delta_k| <= 2^-k
      E|E_k|^2 = O(2^-2k / lambda_k) .
- systematic: lambda_k D_k is the fractional part of lambda_k t + U, less U, so |D_k| <= 1/lambda_k.
  Assume, beyond the paper, that the derivatives of Delta_k are as small as Delta_k: once in t and
  in x, and twice in x if there is noise. If there is none, or additive noise sigma(t) dW, J is
  smooth in t, and G_k has a drift and a martingale part J^-1 sigma grad(Delta_k) dW of size 2^-k.
  The gates know nothing of W, so int D_k times the second is a martingale again, with variance
  at most lambda_k^-2 times its bracket. All parts are O(2^-k / lambda_k), so
      E|E_k|^2 = O(2^-2k / lambda_k^2) .

With n openings over the path, of cost c_k each, n_k proportional to (2^-2k / c_k)^(1/2) is the
cheapest for a sum of 2^-2k / n_k, and (2^-2k / c_k)^(1/3) for one of 2^-2k / n_k^2
(`gates.even_gates`). For an error eps the latter costs (sum_k (2^-k c_k)^(2/3))^(3/2) / eps. With
c_k = 2^(gamma k), up to 2^-K = eps, that is O(eps^-gamma) for every gamma > 1, which is what one
evaluation of the top level costs; independent draws get there for gamma > 2 only (arXiv:2603.24594,
theorem 1).
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlem_jax.gates import probabilities
from mlem_jax.types import Fires, Key, Logits


@runtime_checkable
class Draw(Protocol):
    """Which gates are open, B [steps, levels]; a key of None is an error where one is needed."""

    def __call__(self, key: Key | None, logits: Logits, /) -> Fires: ...


def independent(key: Key | None, logits: Logits) -> Fires:
    """B ~ Bernoulli(p), independent over steps and levels (arXiv:2603.24594, section 3)."""
    # A plain uniform has steps of 1e-7 in single precision: too coarse for small p under 1/p.
    return jax.random.bernoulli(_needed(key), probabilities(logits), mode="high")


def systematic(key: Key | None, logits: Logits) -> Fires:
    """B_n = floor(c_n + U) - floor(c_{n-1} + U), c_n = p_1 + ... + p_n, one U a level.

    The openings of a level are as evenly spread as its probabilities allow: after any n steps
    there have been floor or ceil of c_n of them.

    References:
        Systematic sampling; as a resampling scheme Carpenter et al. 1999.
    """
    return _systematic(jax.random.uniform(_needed(key), logits.shape[1:], logits.dtype), logits)


def midpoint(_: Key | None, logits: Logits) -> Fires:
    """`systematic` with U = 1/2: each opening in the middle of the time it stands for.

    Nothing is random, so the draw is biased like a quadrature rule rather than noisy.
    """
    return _systematic(jnp.full(logits.shape[1:], 0.5, logits.dtype), logits)


def nested(draw: Draw) -> Draw:
    """B_k ~ draw(q_k), with q_k = P(B_k | B_{k-1}) such that one opens only inside the other.

    Level by level, the gates of level k are drawn with probabilities

        q_k = min(1, p_k / p_{k-1})                    where gate k - 1 is open ,
        q_k = max(0, (p_k - p_{k-1}) / (1 - p_{k-1}))  where it is closed ,

    so that each is still open with probability p_k. Where p_k <= p_{k-1}, gate k opens only if
    gate k - 1 does, and its difference adds no evaluation of level k - 1: `plan.nested_price`.
    `nested(independent)` compares one uniform a step with p_1, ..., p_K, if those fall or rise in
    k. With `systematic` the openings of a level are evenly thinned for the next: with p constant in
    time and falling in k, there have been less than 1 + p_k/p_{k-1} + p_k/p_{k-2} + ... too many or
    too few after any steps. The errors of the levels are correlated.

    Args:
        draw: of one level; it is given q, so it must take logits of -inf, gates closed for sure.

    Returns:
        A draw of all levels, with a key for each; without a key if it is given none.
    """

    def nested_draw(key: Key | None, logits: Logits) -> Fires:
        columns: list[Fires] = []
        for k in range(logits.shape[1]):
            own = logits[:, k : k + 1]
            if columns:
                own = _given_below(own, logits[:, k - 1 : k], columns[-1])
            columns.append(draw(None if key is None else jax.random.fold_in(key, k), own))
        return jnp.concatenate(columns, axis=1)

    return nested_draw


def _needed(key: Key | None) -> Key:
    if key is None:
        raise ValueError("expected a key for a random draw, got None; only `midpoint` needs none")
    return key


def _systematic(offset: Float[Array, " levels"], logits: Logits) -> Fires:
    count = jnp.floor(jnp.cumsum(probabilities(logits), axis=0) + offset)
    before = jnp.concatenate([jnp.zeros_like(count[:1]), count[:-1]])
    # A certain gate is open whatever the rounding of long sums does.
    return (count > before) | jnp.isposinf(logits)


def _given_below(own: Logits, below: Logits, opened: Fires) -> Logits:
    """Logits of q, from p_k - p_j = p_k (1 - p_j) (1 - e^(l_j - l_k)) without cancellation."""
    certain = jnp.isposinf(own)  # Open whatever is below, and no difference of infinities.
    own = jnp.where(certain, 0, own)
    log = jax.nn.log_sigmoid
    inside = own - log(below) - jnp.log(-jnp.expm1(jnp.minimum(own - below, 0)))
    outside = own + log(-below) + jnp.log(-jnp.expm1(jnp.minimum(below - own, 0)))
    return jnp.where(certain, jnp.inf, jnp.where(opened, inside, outside))
