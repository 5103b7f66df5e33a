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
of a sum of signs stands before it, which varies by more than itself.) No state is stored, so
memory does not grow with the number of steps but for a few numbers a step.

A ladder of fewer levels needs no run of its own: its differences are sums of neighbouring ones, so
its J are sums of their J, and its v follow from the mean products of neighbours' J
(`rungs.ladder_effects`).

References:
    Derived from arXiv:2603.24594, section 2 and theorem 1, whose bound on Phi is replaced by its
    measurement.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

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
from mlem_jax.types import Key, Logits, Params, PerLevel, Probabilities, Scalar, State

_Carry = tuple[State, Shaped[Array, "tangents *state"]]
Effects = Float[Array, "steps levels"]
"""v[n, k]: mean square, over entries and samples, of what leaving difference k out of step n does
to the end; +inf where it was not measured because the gate is to stay open."""


class Pilot(NamedTuple):
    """What one run of the top level tells of the ladder, sample by sample; means over entries.

    Attributes:
        differences: squares of F^k - F^{k-1} along the top level's path, with F^0 = 0.
        distances: squares of F^k - F^K along it.
        products: of J_{n,k} and J_{n,l} at the end, n one step of each stretch, drawn for each
            sample; of the differences above the certain ones.
    """

    differences: Float[Array, "steps batch levels"]
    distances: Float[Array, "steps batch levels"]
    products: Float[Array, "batch stretches free free"]


def run_pilot(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    key: Key,
    noise: Noise = None,
    *,
    stretches: int = 16,
    certain: int = 1,
) -> Pilot:
    """J[n, k] = Phi(end, n) gain[n] (F^k - F^{k-1})(x[n], t[n]), and the differences, in one run.

    Costs about `stretches x differences / 2` runs of the top level.

    Args:
        levels: the ladder; static.
        params: one pytree a level.
        x: starts [batch, ...], whose mean is taken; the larger, the less noise.
        steps: the integrator.
        key: of the steps at which each sample is disturbed.
        noise: as `solve` takes it.
        stretches: of equally many steps, at most one a step.
        certain: how many of the lowest gates are to stay open; their effects are not measured.

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
    own = stretch_numbers(count, stretches)
    first = np.searchsorted(own, np.arange(stretches + 1))
    chosen = jax.random.randint(key, (len(x), stretches), first[:-1], first[1:])
    return _measure(levels._replace(costs=()), params, x, steps, noise, chosen, jnp.asarray(own),
                    certain)  # fmt: skip


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

    The same number for all steps of a stretch; +inf for the certain gates. Arguments and errors as
    for `run_pilot`.
    """
    products = run_pilot(
        levels, params, x, steps, key, noise, stretches=stretches, certain=certain
    ).products
    found = jnp.diagonal(products.mean(axis=0), axis1=1, axis2=2)
    table = jnp.full((len(steps.t), len(levels.drifts)), jnp.inf, x.dtype)
    return table.at[:, certain:].set(found[stretch_numbers(len(steps.t), stretches)])


def stretch_numbers(count: int, stretches: int) -> Int[np.ndarray, " steps"]:
    """The stretch that each step belongs to."""
    return np.arange(count) * stretches // count


def effect_gates(
    effects: ArrayLike, costs: Sequence[float], *, scale: float, power: float = 1 / 2
) -> Logits:
    """p = min(1, C (v_k / c_k)^power), c_k what opening gate k pays: T_k, and T_{k-1} if it closes.

    Args:
        effects: from `measure_effects`.
        costs: of one evaluation of each level.
        scale: C; with `plan.fit_budget` from a budget.
        power: 1/2 for independent draws, 1/3 for even ones (`systematic`, `midpoint`).

    Raises:
        ValueError: if the effects are not [steps, levels] for these costs, or the scale is not
            above 0.
    """
    check_costs(costs)
    effects = jnp.asarray(effects, jnp.result_type(float))
    if effects.ndim != 2 or effects.shape[1] != len(costs):
        raise ValueError(f"expected effects [steps, {len(costs)} levels], one level a cost, got "
                         f"shape {list(effects.shape)}")  # fmt: skip
    if not scale > 0:
        raise ValueError(f"expected a scale above 0, got {scale}")
    return table_gates(effect_chances(
        effects, jnp.asarray(costs, jnp.result_type(float)), scale, power
    ))  # fmt: skip


def effect_chances(
    effects: Effects, costs: PerLevel, scale: Scalar | float, power: float = 1 / 2
) -> Probabilities:
    """p of `effect_gates`, traceable in all but the power."""
    closes = jnp.isfinite(effects).any(axis=0)[:-1]
    paid = costs + jnp.concatenate([jnp.zeros(1, costs.dtype), costs[:-1] * closes])
    # An effect of 0 would be a gate that never opens; the least positive one stands for it.
    positive = jnp.maximum(effects, jnp.finfo(effects.dtype).tiny)
    return jnp.clip(scale * (positive / paid) ** power, 1e-9, 1.0)


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
        ValueError: if the error is not above 0, which only certain gates have, or more than the
            gates have that are all but closed, or the effects hold a NaN.
    """
    if not 0 < error < float("inf"):
        raise ValueError(f"expected an error above 0 and finite, got {error}")
    if jnp.isnan(effects).any():
        raise ValueError("expected effects without NaN; see which level returns it, and when, with "
                         "solve_checked")  # fmt: skip

    def predicted(log_scale: float) -> float:
        return float(predict_error(effects, family(math.exp(log_scale))))

    def dear(log_scale: float) -> bool:
        return predicted(log_scale) < error

    low = high = 0.0
    # Below the scale of a sixtieth power of e no gate opens, above it none is closed.
    while low > -60 and dear(low):
        low -= 1.0
    while high < 60 and not dear(high):
        high += 1.0
    if dear(low) or not dear(high):
        raise ValueError(f"expected an error that the gates can have, from {predicted(high):.3g} "
                         f"to {predicted(low):.3g}, got {error:.3g}")  # fmt: skip
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
) -> Pilot:
    """The run: the tangents at the end, and what the levels said on the way."""
    count = len(levels.drifts) - certain
    times, scale, gain, deviation = (jnp.asarray(column, x.dtype) for column in steps[:4])
    stretches = chosen.shape[1]
    number_of_stretch = jnp.repeat(jnp.arange(stretches), count)

    def body(carry: _Carry, n: Int[Array, ""]) -> tuple[_Carry, tuple[Array, Array]]:
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
        every = jnp.stack([*lower, top])
        differences = jnp.diff(every, axis=0, prepend=0)
        squares = _squares(differences), _squares(every - top)
        tangents = jax.lax.map(move, (number_of_stretch, tangents))
        here = (chosen[:, stretch[n]] == n).reshape(-1, *(1,) * (x.ndim - 1))
        own = stretch[n] * count + jnp.arange(count)
        tangents = tangents.at[own].add(jnp.where(here, gain[n] * differences[certain:], 0))
        x = scale[n] * x + gain[n] * top
        if noise is not None:
            drawn = draw_increment(noise, n, x) if isinstance(noise, BrownianPath) else noise[n]
            x = x + deviation[n] * drawn.astype(x.dtype)
        return (x, tangents), squares

    start = jnp.zeros((stretches * count, *x.shape), x.dtype)
    (_, ends), (differences, distances) = jax.lax.scan(body, (x, start), jnp.arange(len(times)))
    ends = ends.reshape(stretches, count, len(x), -1)
    products = jnp.mean(ends[:, :, None] * ends[:, None], axis=-1)
    return Pilot(differences, distances, jnp.moveaxis(products, -1, 0))


def _squares(values: Shaped[Array, "levels *state"]) -> Float[Array, "batch levels"]:
    """Mean squares over the entries of each sample."""
    return jnp.mean(values**2, axis=tuple(range(2, values.ndim))).T
