"""Gates from one pilot run: what each difference does to the end, and what that asks of its gate.

To first order in the differences D_k = F^k - F^{k-1}, the end under independent gates misses the
top level's by

    sum_{n,k} (B/p - 1) J_{n,k} ,    J_{n,k} = Phi(end, n) gain_n D_k(x_n, t_n) ,

with Phi the propagation of a perturbation along the top level's own path. The gates are independent
and (B/p - 1) has mean 0 and variance 1/p - 1, so

    E |error|^2  =  sum_{n,k} (1/p_k(t_n) - 1) v_k(t_n) ,    v_k(t_n) = E |J_{n,k}|^2 .

Minimising it for a given cost sum p c gives p ~ sqrt(v / c). For even draws the errors of an
opening and the next cancel, and what is left of a gap of 1/lambda is the change of J within it:
per unit of time q / lambda^2, where q is how fast the square of that change grows. With q in
proportion to v this gives lambda ~ (v / c)^(1/3).

The v are measured in forward mode in one run of the top level: a tangent for every stretch of
steps and every difference, into which gain_n D_k is injected at one step of the stretch, drawn for
each sample by itself. Its mean square at the end is then the mean of v over the stretch. (Random
signs at all of its steps have that mean too; but neighbours' J are nearly parallel, so the square
of a sum of signs stands before it, which varies by more than itself.) No step is stored, so memory
does not grow with the number of steps.

References:
    Derived from arXiv:2603.24594, section 2 and theorem 1, whose bound on Phi is replaced by its
    measurement.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from numpy.typing import ArrayLike

from mlem_jax.gates import probabilities, table_gates
from mlem_jax.levels import Levels, check_costs
from mlem_jax.noise import BrownianPath, draw_increment
from mlem_jax.plan import full_plan
from mlem_jax.problem import Noise, check_problem
from mlem_jax.steps import Steps
from mlem_jax.types import Key, Logits, Params, Scalar, State

_Carry = tuple[State, Shaped[Array, "tangents *state"]]
Effects = Float[Array, "steps levels"]
"""v[n, k]: mean square, over entries and samples, of what leaving difference k out of step n does
to the end; +inf where it was not measured because the gate is to stay open."""


def measure_effects(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    key: Key,
    noise: Noise = None,
    *,
    stretches: int = 16,
    certain: int = 1,
) -> Effects:
    """v[n, k] = E |Phi(end, n) gain[n] (F^k - F^{k-1})(x[n], t[n])|^2, from one run.

    The same number for all steps of a stretch. Costs about `stretches x differences / 2` runs of
    the top level.

    Args:
        levels: the ladder; static.
        params: one pytree a level.
        x: starts [batch, ...], whose mean is taken; the larger, the less noise.
        steps: the integrator.
        key: of the steps at which each sample is disturbed.
        noise: as `solve` takes it.
        stretches: of equally many steps, at most one a step.
        certain: how many of the lowest gates are to stay open; their effects are +inf.

    Raises:
        ValueError: as `solve`, and if there are no such stretches, or no gate is left to close.
    """
    count, ladder = len(steps.t), len(levels.drifts)
    check_problem(levels, params, x, steps, full_plan(count, ladder, ladder), noise)
    if steps.previous is not None:
        raise ValueError("expected one-step steps for a pilot run, got a two-step method; measure "
                         "the effects with its one-step form, exponential_euler")  # fmt: skip
    if not 1 <= stretches <= count:
        raise ValueError(f"expected from 1 to {count} stretches, one a step, got {stretches}")
    if not 0 <= certain < ladder:
        raise ValueError(f"expected fewer certain gates than {ladder} levels, got {certain}")
    own = np.arange(count) * stretches // count
    first = np.searchsorted(own, np.arange(stretches + 1))
    chosen = jax.random.randint(key, (len(x), stretches), first[:-1], first[1:])
    found = _measure(levels._replace(costs=()), params, x, steps, noise, chosen,
                     jnp.asarray(own), certain)  # fmt: skip
    return jnp.full((count, ladder), jnp.inf, x.dtype).at[:, certain:].set(found[own])


def effect_gates(
    effects: ArrayLike, costs: Sequence[float], *, scale: float, power: float = 1 / 2
) -> Logits:
    """p = min(1, C (v_k / c_k)^power), c_k what opening gate k pays: T_k, and T_{k-1} if it closes.

    Args:
        effects: from `measure_effects`.
        costs: of one evaluation of each level.
        scale: C; with `plan.fit_budget` from a budget.
        power: 1/2 for independent draws, 1/3 for even ones (`systematic`, `midpoint`).
    """
    check_costs(costs)
    table, own = np.asarray(effects, np.float64), np.asarray(costs, np.float64)
    closes = np.asarray(np.isfinite(table).any(axis=0))
    paid = own + np.insert(own[:-1] * closes[:-1], 0, 0.0)
    # An effect of 0 would be a gate that never opens; the least positive one stands for it.
    table = np.maximum(table, np.finfo(np.float64).tiny)
    return table_gates(np.clip(scale * (table / paid) ** power, 1e-9, 1.0))


def predict_error(effects: Effects, logits: Logits) -> Scalar:
    """E |x - x_ref|^2 = sum_{n,k} (1/p - 1) v, for independent draws, to first order."""
    p = probabilities(logits)
    return jnp.where(p < 1, (1 / p - 1) * jnp.where(p < 1, effects, 0), 0).sum()


def fit_error(family: Callable[[float], Logits], effects: Effects, error: float) -> Logits:
    """The gates of `family(C)` whose predicted error is `error`; `plan.fit_budget` for a cost.

    Args:
        family: gates for a scale C > 0, their probabilities rising in C to 1.
        effects: from `measure_effects`.
        error: mean square, over entries and samples, as `predict_error` says it.

    Raises:
        ValueError: if the error is not above 0, which only certain gates have.
    """
    if not 0 < error < float("inf"):
        raise ValueError(f"expected an error above 0 and finite, got {error}")

    def dear(log_scale: float) -> bool:
        return float(predict_error(effects, family(math.exp(log_scale)))) < error

    low, high = 0.0, 0.0
    while dear(low):
        low -= 1.0
    while not dear(high):
        high += 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if dear(middle) else (middle, high)
    return family(math.exp(high))


@partial(jax.jit, static_argnums=(0, 7))
def _measure(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    noise: Noise,
    chosen: Int[Array, "batch stretches"],
    stretch: Int[Array, " steps"],
    certain: int,
) -> Float[Array, "stretches differences"]:
    """Mean squares of the tangents at the end."""
    count = len(levels.drifts) - certain
    times, scale, gain, deviation = (jnp.asarray(column, x.dtype) for column in steps[:4])
    stretches = chosen.shape[1]
    number_of_stretch = jnp.repeat(jnp.arange(stretches), count)

    def body(carry: _Carry, n: Int[Array, ""]) -> tuple[_Carry, None]:
        x, tangents = carry

        def pushed(tangent: State) -> State:
            return scale[n] * tangent + gain[n] * push(tangent)

        def move(given: tuple[Array, State]) -> State:
            # Before its stretch a tangent is 0 and need not be pushed.
            return jax.lax.cond(given[0] <= stretch[n], pushed, lambda same: same, given[1])

        top, push = jax.linearize(lambda x: levels.drifts[-1](params[-1], x, times[n]), x)
        lower = [
            own(given, x, times[n])
            for own, given in zip(levels.drifts[:-1], params[:-1], strict=True)
        ]
        differences = jnp.diff(jnp.stack([*lower, top]), axis=0, prepend=0)[certain:]
        tangents = jax.lax.map(move, (number_of_stretch, tangents))
        here = (chosen[:, stretch[n]] == n).reshape(-1, *(1,) * (x.ndim - 1))
        own = stretch[n] * count + jnp.arange(count)
        tangents = tangents.at[own].add(jnp.where(here, gain[n] * differences, 0))
        x = scale[n] * x + gain[n] * top
        if noise is not None:
            drawn = draw_increment(noise, n, x) if isinstance(noise, BrownianPath) else noise[n]
            x = x + deviation[n] * drawn.astype(x.dtype)
        return (x, tangents), None

    start = jnp.zeros((stretches * count, *x.shape), x.dtype)
    (_, ends), _ = jax.lax.scan(body, (x, start), jnp.arange(len(times)))
    return jnp.mean(ends**2, axis=tuple(range(1, ends.ndim))).reshape(stretches, count)
