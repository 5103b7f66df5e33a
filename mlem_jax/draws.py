"""Draws: from gates to which of them are open, and what that costs.

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
(`gates.even`). For an error eps the latter costs (sum_k (2^-k c_k)^(2/3))^(3/2) / eps. With
c_k = 2^(gamma k), up to 2^-K = eps, that is O(eps^-gamma) for every gamma > 1, which is what one
evaluation of the top level costs; independent draws get there for gamma > 2 only (arXiv:2603.24594,
theorem 1).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from mlem_jax.gates.logits import check_logits, to_probabilities
from mlem_jax.noise import as_key
from mlem_jax.types import Key, Logits, Openings, Probabilities

DRAWS = "there are `independent`, `systematic`, `midpoint` in mlem_jax.draws"
"""What an error says where no draw is given."""


class Draw(NamedTuple):
    """How gates are opened: a pair of functions of their logits.

    Attributes:
        openings: `(key, logits) -> B [steps, levels]`; ValueError without a key that it needs.
        needs: `logits -> P(level k is evaluated at step n)`, with idle evaluations left out, as
            `plans.drop_idle` leaves them.
    """

    openings: Callable[[Key | None, Logits], Openings]
    needs: Callable[[Logits], Probabilities]


def either_open(logits: Logits) -> Probabilities:
    """P(B_k or B_{k+1}) = p_k + p_{k+1} - p_k p_{k+1}, for levels independent of each other.

    A level that two differences need is counted once. Differentiable, so this is what learning
    pays for.
    """
    p = to_probabilities(logits)
    above = next_level(p)
    return p + above - p * above


def independent_needs(logits: Logits) -> Probabilities:
    """`either_open`, less what is idle: two open gates of the same probability cancel."""
    p = to_probabilities(logits)
    cancel = jnp.zeros_like(logits, bool).at[:, :-1].set(logits[:, :-1] == logits[:, 1:])
    return either_open(logits) - jnp.where(cancel, p * next_level(p), 0)


def _draw_independent(key: Key | None, logits: Logits) -> Openings:
    # A plain uniform has steps of 1e-7 in single precision: too coarse for small p under 1/p.
    return jax.random.bernoulli(_needed(key, logits), to_probabilities(logits), mode="high")


def _draw_systematic(key: Key | None, logits: Logits) -> Openings:
    offset = jax.random.uniform(_needed(key, logits), logits.shape[1:], logits.dtype)
    return spread_openings(offset, logits)


def _draw_midpoint(_: Key | None, logits: Logits) -> Openings:
    check_logits(logits)
    return spread_openings(jnp.full(logits.shape[1:], 0.5, logits.dtype), logits)


independent = Draw(_draw_independent, independent_needs)
"""B ~ Bernoulli(p), independent over steps and levels (arXiv:2603.24594, section 3)."""

systematic = Draw(_draw_systematic, independent_needs)
"""B_n = floor(c_n + U) - floor(c_{n-1} + U), c_n = p_1 + ... + p_n, one U per level.

The openings of a level are as evenly spread as its probabilities allow: after any n steps there
have been floor or ceil of c_n of them. (Systematic sampling; as a resampling scheme Carpenter et
al. 1999.)
"""

midpoint = Draw(_draw_midpoint, independent_needs)
"""`systematic` with U = 1/2: each opening in the middle of the time it stands for.

Nothing is random, so the draw is biased like a quadrature rule rather than noisy, and needs no
key. Each gate opens as often as under `systematic`, to within one opening. It is priced as that
is, as if gates opened independently of each other; as all have the same offset, two of them share
more of their steps, or fewer, and the cost of a plan is off by a few percent: `price` tells it.
"""


@jax.jit
def spread_openings(offset: Float[Array, " levels"], logits: Logits) -> Openings:
    """B_n = floor(c_n + U) - floor(c_{n-1} + U), for given offsets U in [0, 1)."""
    count = jnp.floor(jnp.cumsum(to_probabilities(logits), axis=0) + offset[None])
    before = jnp.concatenate([jnp.zeros_like(count[:1]), count[:-1]])
    # A certain gate is open whatever the rounding of long sums does.
    return (count > before) | jnp.isposinf(logits)


@jax.jit
def next_level(table: Shaped[Array, "steps levels"]) -> Shaped[Array, "steps levels"]:
    """Column k + 1 in the place of column k; zeros in the last."""
    return jnp.concatenate([table[:, 1:], jnp.zeros_like(table[:, :1])], axis=1)


def _needed(key: Key | None, logits: Logits) -> Key:
    check_logits(logits)
    if key is None:
        raise ValueError("expected a key for a random draw, got None; only `midpoint` needs none")
    return as_key(key)
