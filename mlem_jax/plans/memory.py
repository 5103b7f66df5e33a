"""Plans that remember outputs of levels: F += read . m, m[store_k] = o_k.

Differences held from one opening to the next and fitted weights differ in the two tables alone.

An impulse of weight 1/p at an opening stands for the steps at which the gate is closed. Where
differences change slowly along a path, holding the last one is closer: the estimate of step n is

    F = sum_k (F^k - F^{k-1})(x_m, t_m) ,    m the last opening of gate k up to n.

What the holding missed is known at the next opening n: had the difference gone in a straight line
in time from the old value to the new one, step j between would have had (t_j - t_m) / (t_n - t_m)
of the rise more. `trapezoid` adds that there. A contribution of step j is worth

    gain_j scale_{j+1} ... scale_{n-1}

in the state x_n, and is made up for at step n by its own gain, so the rise has the weight

    c_n = scale_n/gain_n sum_{m<=j<n} gain_j scale_{j+1}...scale_{n-1} (t_j - t_m)/(t_n - t_m)

(for equal steps of a plain integral (gap - 1)/2: the trapezoid rule). At an opening the new
difference stands with 1 + c and the old one with -c; between openings the held one with 1. Before
the first opening nothing is known, and the first value stands for all that went before.

The openings are the draw's; probabilities play no part, so the mean over draws is not exactly the
top level's: the error is that of a quadrature rule, of second order in the gaps along an ODE.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped
from numpy.typing import ArrayLike

from mlem_jax.checks import check_kind, is_count, shape_of
from mlem_jax.plans.plan import Memory, Plan, drop_idle, fingerprint
from mlem_jax.plans.weigh import weigh_ratios
from mlem_jax.steps import Steps
from mlem_jax.types import Openings, Scalar, Weights


def remember(kept: ArrayLike, counts: Sequence[int]) -> Memory:
    """The last kept outputs of each level: slots level by level, each a ring that they go round.

    Nothing is read of them yet: put weights into `read`; `store` tells which output is where.

    Args:
        kept: whether the output of each level is kept [steps, levels]: `needed` for all of them,
            or where the level runs and something else is true, as `beside_next`.
        counts: how many of them to remember of each level; 0 for none.

    Raises:
        ValueError: if there is not one count per level, or one is negative.
    """
    table = _checked(kept, "kept outputs")
    levels = table.shape[1]
    listed = isinstance(counts, list | tuple) and len(counts) == levels
    if not listed or not all(is_count(each, 0) for each in counts):
        raise ValueError(f"expected a count of at least 0 for each of {levels} levels, got "
                         f"{counts}")  # fmt: skip
    return _rings(table, tuple(map(int, counts)))


@partial(jax.jit, static_argnums=1)
def _rings(kept: Bool[Array, "steps levels"], counts: tuple[int, ...]) -> Memory:
    sizes = np.asarray([counts], np.int32)
    before = jnp.cumsum(kept, axis=0, dtype=jnp.int32) - kept.astype(jnp.int32)
    slot = (np.cumsum(sizes) - sizes).astype(np.int32) + before % np.maximum(sizes, 1)
    return Memory(jnp.zeros((len(kept), sum(counts))), jnp.where(kept & (sizes > 0), slot, -1))


def beside_next(needed: ArrayLike) -> Bool[Array, "steps levels"]:
    """needed^k and needed^{k+1}: where the next level runs too; of the top level wherever it runs.

    Outputs kept so, with `remember`, are the two sides of a difference at one state. Of a level
    that runs at every step that may say more than its last output: a fit tells
    (`fitting.choose_plan`).

    Args:
        needed: whether each level runs [steps, levels].

    Raises:
        ValueError: if it is no such table.
    """
    ran = _checked(needed, "needed")
    return ran & jnp.concatenate([ran[:, 1:], jnp.ones_like(ran[:, :1])], axis=1)


def _checked(given: ArrayLike, name: str) -> Bool[Array, "steps levels"]:
    if len(shape_of(given)) != 2:
        raise ValueError(f"expected {name} [steps, levels], got {given!r:.80}")
    return jnp.asarray(given, bool)


def trapezoid(openings: Openings, steps: Steps) -> Plan:
    """F = sum_k (F^k - F^{k-1}) as of the last opening of each, + c_n (new - old) at an opening.

    So differences are taken to go in straight lines in time between openings.

    Args:
        openings: B, of any draw; evenly spread is best. A level that does not open at the first
            step is missing until it does, and then made up for at once.
        steps: the integrator the plan is for: the weights are those of its gains and scales.
    """
    check_kind(steps, Steps, "make them with the functions of mlem_jax.steps")
    given = getattr(openings, "dtype", type(openings).__name__), shape_of(openings)
    if given[0] != np.bool_ or len(given[1]) != 2 or given[1][0] != len(steps.t):
        raise ValueError(f"expected openings, bool [{len(steps.t)} steps, levels], as a draw gives "
                         f"them, got {given[0]}{list(given[1])}")  # fmt: skip
    return _held(jnp.asarray(openings), steps)


def open_first(openings: Openings) -> Openings:
    """The same openings, and all gates open at the first step, so that all is known from there."""
    if len(shape_of(openings)) != 2 or getattr(openings, "dtype", None) != np.bool_:
        raise TypeError("expected openings, bool [steps, levels], as a draw gives them, got "
                        f"{openings!r:.80}")  # fmt: skip
    return jnp.asarray(openings).at[0].set(True)


@jax.jit
def _held(openings: Openings, steps: Steps) -> Plan:
    """The outputs of both levels of a difference, read until an opening that is asked for."""
    caught = _catch_up(openings, steps)
    opened = jnp.cumsum(openings, axis=0)
    known_before = opened > openings.astype(opened.dtype)
    fresh = jnp.where(openings, 1 + caught, 0)
    old = jnp.where(openings, jnp.where(known_before, -caught, 0), 1.0)
    # A difference is worth holding if the next step asks for it: a closed gate, or a straight line.
    asked = jnp.concatenate([old[1:] != 0, jnp.zeros_like(openings[:1])])
    plan = weigh_ratios(openings, fresh)
    plan = plan._replace(memory=_hold_outputs(old, openings & asked))
    return drop_idle(plan._replace(made_for=fingerprint(steps)))


def _catch_up(openings: Openings, steps: Steps) -> Float[Array, "steps levels"]:
    """c[n, k]: weight, at an opening, of what its gap has missed; 0 where the gate is closed.

    Of multistep methods a value's part in later steps is counted with its own: exact to leading
    order in the steps, and where all gates are open at the first.
    """
    gain = steps.gain + steps.push.sum(axis=1)
    levels = openings.shape[1]

    def body(gap: tuple, row: tuple[Scalar, Scalar, Scalar, Shaped[Array, " levels"]]) -> tuple:
        known, since, flat, risen = gap
        t, scale, own, opens = row
        span = jnp.where(known, t - since, 1)
        missed = jnp.where(known, risen / span, flat)
        # A step of no gain cannot catch up: what it missed stays missed.
        caught = jnp.where(opens & (own != 0), scale * missed / jnp.where(own == 0, 1, own), 0)
        # A gap begins at its opening; the contributions of its steps decay as the state does.
        known, since = known | opens, jnp.where(opens, t, since)
        flat, risen = jnp.where(opens, 0, flat), jnp.where(opens, 0, risen)
        flat, risen = scale * flat + own, scale * risen + own * jnp.where(known, t - since, 0)
        return (known, since, flat, risen), caught

    zeros = jnp.zeros(levels, gain.dtype)
    begun = (jnp.zeros(levels, bool), zeros, zeros, zeros)
    return jax.lax.scan(body, begun, (steps.t, steps.scale, gain, openings))[1]


def _hold_outputs(old: Weights, renewed: Openings) -> Memory:
    """F += sum_k old_k (m of o_k - m of o_{k-1}), each as of the last opening of difference k.

    Two slots per level, as its own difference may hold one output of it and the next another. A new
    output goes where neither of the two is that is still to be read. Before its first opening a
    difference reads place 0 of both levels, and that is still 0: what is stored for one difference
    alone goes to the place that the other does not hold.
    """
    count, levels = old.shape
    top = np.arange(levels) == levels - 1
    above = jnp.concatenate([renewed[:, 1:], jnp.zeros_like(renewed[:, :1])], axis=1)

    def body(
        held: tuple[Int[Array, " levels"], Int[Array, " levels"]],
        renew: tuple[Bool[Array, " levels"], Bool[Array, " levels"]],
    ) -> tuple:
        own, next_one = held
        # The top has no next, so one slot is enough; the other is cut off below.
        both = (renew[0] & renew[1]) | top
        place = jnp.where(both, 0, jnp.where(renew[0], 1 - next_one, 1 - own))
        after = jnp.where(renew[0], place, own), jnp.where(renew[1], place, next_one)
        return after, (own, next_one, jnp.where(renew[0] | renew[1], place, -1))

    begun = jnp.zeros(levels, jnp.int32), jnp.zeros(levels, jnp.int32)
    own, next_one, place = jax.lax.scan(body, begun, (renewed, above))[1]
    first = 2 * jnp.arange(levels, dtype=jnp.int32)[None]

    def reading(place: Int[Array, "steps levels"], weights: Weights) -> Float[Array, "steps slots"]:
        return (jax.nn.one_hot(place, 2, dtype=old.dtype) * weights[..., None]).reshape(count, -1)

    lower = jnp.concatenate([old[:, 1:], jnp.zeros_like(old[:, :1])], axis=1)
    read = reading(own, old) - reading(next_one, lower)
    return Memory(read[:, :-1], jnp.where(place >= 0, first + place, -1))
