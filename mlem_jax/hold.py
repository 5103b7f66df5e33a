"""Plans that remember: a difference held from one opening to the next, instead of an impulse.

An impulse of weight 1/p at an opening stands for the steps at which the gate is closed. Where
differences change slowly along a path, holding the last one is closer: the estimate of step n is

    F = sum_k (F^k - F^{k-1})(x_m, t_m) ,    m the last opening of gate k up to n.

What the holding missed is known at the next opening n: had the difference gone in a straight line
in time from the old value to the new one, step j between would have had (t_j - t_m) / (t_n - t_m)
of the rise more. `trapezoid_plan` adds that there. A contribution of step j is worth

    gain_j scale_{j+1} ... scale_{n-1}

in the state x_n, and is made up for at step n by its own gain, so the rise has the weight

    c_n = scale_n/gain_n sum_{m<=j<n} gain_j scale_{j+1}...scale_{n-1} (t_j - t_m)/(t_n - t_m)

(for equal steps of a plain integral (gap - 1)/2: the trapezoid rule). At an opening the new
difference stands with 1 + c and the old one with -c; between openings the held one with 1. Before
the first opening nothing is known, and the first value stands for all that went before. All this is
linear in the differences and decided before the loop: two more tables, `plan.held`.

The openings are the draw's; probabilities play no part, so the mean over draws is not exactly the
top level's: the error is that of a quadrature rule, of second order in the gaps along an ODE.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from mlem_jax.plan import Held, Plan, drop_idle
from mlem_jax.stack import differences, weigh_stack
from mlem_jax.steps import Steps
from mlem_jax.types import Fires, Scalar, Weights


def hold_plan(fires: Fires, steps: Steps, shares: Weights | None = None) -> Plan:
    """F = sum_k (F^k - F^{k-1}) as of the last opening of each; before it, nothing.

    Args:
        fires: B, of any draw; a level that does not open at the first step is missing until it
            does, and then made up for at once.
        steps: the integrator.
        shares: w_k of a stacked ladder, as `stack.stack_shares` gives them; None for a plain one.
    """
    return _remember(fires, _catch_up(fires, steps, straight=False), shares)


def trapezoid_plan(fires: Fires, steps: Steps, shares: Weights | None = None) -> Plan:
    """As `hold_plan`, plus c_n (new - old) at each opening: straight lines between openings.

    Args:
        fires: B, of any draw; evenly spread is best.
        steps: the integrator the plan is for: the weights are those of its gains and scales.
        shares: as for `hold_plan`.
    """
    return _remember(fires, _catch_up(fires, steps, straight=True), shares)


def open_first(fires: Fires) -> Fires:
    """The same openings, and all gates open at the first step, so that all is known from there."""
    return jnp.asarray(fires).at[0].set(True)


def _catch_up(fires: Fires, steps: Steps, *, straight: bool) -> Float[Array, "steps levels"]:
    """c[n, k]: weight, at an opening, of what its gap has missed; 0 where the gate is closed.

    Of two-step steps a value's part in the next step is counted with its own: exact to leading
    order in the steps, and where all gates are open at the first.
    """
    fires = jnp.asarray(fires)
    given = fires.dtype, fires.shape
    if given[0] != np.bool_ or len(given[1]) != 2 or given[1][0] != len(steps.t):
        raise ValueError(f"expected openings, bool [{len(steps.t)} steps, levels], as a draw gives "
                         f"them, got {given[0]}{list(given[1])}")  # fmt: skip
    gain = steps.gain if steps.previous is None else steps.gain + steps.previous
    levels = fires.shape[1]

    def body(gap: tuple, row: tuple[Scalar, Scalar, Scalar, Shaped[Array, " levels"]]) -> tuple:
        known, since, flat, risen = gap
        t, scale, own, opens = row
        span = jnp.where(known, t - since, 1)
        missed = jnp.where(known, risen / span if straight else 0, flat)
        # A step of no gain cannot catch up: what it missed stays missed.
        caught = jnp.where(opens & (own != 0), scale * missed / jnp.where(own == 0, 1, own), 0)
        # A gap begins at its opening; the contributions of its steps decay as the state does.
        known, since = known | opens, jnp.where(opens, t, since)
        flat, risen = jnp.where(opens, 0, flat), jnp.where(opens, 0, risen)
        flat, risen = scale * flat + own, scale * risen + own * jnp.where(known, t - since, 0)
        return (known, since, flat, risen), caught

    zeros = jnp.zeros(levels, gain.dtype)
    begun = (jnp.zeros(levels, bool), zeros, zeros, zeros)
    return jax.lax.scan(body, begun, (steps.t, steps.scale, gain, fires))[1]


def _remember(fires: Fires, caught: Weights, shares: Weights | None) -> Plan:
    shares = jnp.ones_like(caught) if shares is None else shares
    known_before = jnp.cumsum(fires, axis=0) - fires > 0
    fresh = jnp.where(fires, 1 + caught, 0)
    old = jnp.where(fires, jnp.where(known_before, -caught, 0), 1.0)
    # A difference is worth holding if the next step asks for it: a closed gate, or a straight line.
    asked = jnp.concatenate([old[1:] != 0, jnp.zeros_like(fires[:1])])
    renewed = fires & asked
    parts = jnp.where(renewed[..., None], differences(shares), 0)
    plan = weigh_stack(fires, fresh, shares)
    return drop_idle(plan._replace(held=Held(old, renewed, parts)))
