"""The solver: one scan of one small step over tables that were made before it began.

    paper                              here
    x_n, t_n                           x, steps.t[n]
    eta, sigma_t sqrt(eta)             steps.gain[n], steps.noise[n]   (and steps.scale[n] = 1)
    f^k                                levels.drifts[k - 1](params[k - 1], x, t)
    B_{k,n}, p_k(t_n)                  fires, logits: known to `plan.weigh` alone
    B_k/p_k - B_{k+1}/p_{k+1}          plan.weights[n, k - 1]
    B_k or B_{k+1}                     plan.needed[n, k - 1]
    xi_n                               noise.draw_increment(path, n, x)

The multilevel Euler-Maruyama step (arXiv:2603.24594, section 3)

    x_{n+1} = x_n + eta sum_k B_k/p_k (f^k(x_n, t_n) - f^{k-1}(x_n, t_n)) + sigma sqrt(eta) xi_n

has every difference at the same point, so the sum can be taken by level instead of by difference:
level k appears with B_k/p_k in its own difference and with -B_{k+1}/p_{k+1} in the next. That
weight is the plan's, and the step is

    x' = scale x + gain sum_k weights[k] f^k(x, t) + noise xi ,

each level evaluated at most once, and not at all where the plan does not need it. Where the tables
say so, a step remembers: differences as they were last evaluated (`plan.held`), and the estimate of
the step before (`steps.previous`). Both enter linearly, so they are two more terms of the same sum.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from mlem_jax.levels import Levels, split_conditions
from mlem_jax.noise import BrownianPath, draw_increment
from mlem_jax.plan import Plan
from mlem_jax.problem import Noise, check_problem, check_samples
from mlem_jax.steps import Steps
from mlem_jax.types import Drift, Params, Scalar, State


class StepInputs(NamedTuple):
    """All that one step is told: a row of the steps, a row of the plan, a normal vector."""

    steps: Steps
    plan: Plan
    increment: State | None


class Carry(NamedTuple):
    """What a step hands to the next.

    Attributes:
        x: the state.
        held: differences as last evaluated; None for a plan that holds none.
        previous: the estimate of the last step; None for steps that do not ask for it.
    """

    x: State
    held: Shaped[Array, "levels *state"] | None = None
    previous: State | None = None


class Trajectory(NamedTuple):
    """States on the way.

    Attributes:
        steps: how many steps had been done.
        states: the state then; the first is the start, the last the end.
    """

    steps: Int[Array, " kept"]
    states: Shaped[Array, "kept *state"]


_FORGETFUL = "expected a carry with `{0}`, which this {1} asks for, got None; make it with begin"


def mlem_step(
    levels: Levels, params: tuple[Params, ...], carry: Carry, inputs: StepInputs
) -> Carry:
    """x' = scale x + gain F + previous F_before + noise xi,  F the multilevel estimate.

    Raises:
        ValueError: if a level's result has not the state's shape and dtype, or the carry has no
            room for what the steps or the plan remember; `begin` makes one that has.
    """
    steps = inputs.steps
    if inputs.plan.held is not None and carry.held is None:
        raise ValueError(_FORGETFUL.format("held", "plan"))
    estimate, held = _estimate(levels, params, carry, steps.t, inputs.plan)
    x = steps.scale * carry.x + steps.gain * estimate
    if inputs.increment is not None:
        x = x + steps.noise * inputs.increment
    if steps.previous is None:
        return Carry(x, held)
    if carry.previous is None:
        raise ValueError(_FORGETFUL.format("previous", "steps"))
    return Carry(x + steps.previous * carry.previous, held, estimate)


def _estimate(
    levels: Levels, params: tuple[Params, ...], carry: Carry, t: Scalar, plan: Plan
) -> tuple[State, Shaped[Array, "levels *state"] | None]:
    """F = sum_k weights[k] f^k + sum_k held.weights[k] H_k, and the differences H held from now."""
    total, held, parts = jnp.zeros_like(carry.x), carry.held, jnp.zeros(0)
    if held is not None and plan.held is not None:
        total, parts = jnp.tensordot(plan.held.weights, held, 1), plan.held.parts
        held = jnp.where(jnp.expand_dims(plan.held.renewed, range(1, held.ndim)), 0, held)
    for k, (level, own) in enumerate(zip(levels.drifts, params, strict=True)):

        def run(sums: tuple, k: int = k, level: Drift = level, own: Params = own) -> tuple:
            total, held = sums
            value = _evaluate(k, level, own, carry.x, t)
            if held is not None:
                # In its own difference, in the next, and on a stacked ladder in those above.
                held = held + jnp.tensordot(parts[:, k], value, 0)
            return total + plan.weights[k] * value, held

        # The sums pass through, so the branch not taken does nothing: not even a copy.
        total, held = jax.lax.cond(plan.needed[k], run, lambda sums: sums, (total, held))
    return total, held


def solve(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    plan: Plan,
    noise: Noise = None,
) -> State:
    """x[n+1] = scale[n] x[n] + gain[n] sum_k weights[n, k] f^k(x[n], t[n]) + noise[n] xi[n].

    Args:
        levels: the ladder; static.
        params: one pytree a level.
        x: the start: one array, often a batch.
        steps: the integrator, from `mlem_jax.steps`.
        plan: which levels run when, and with what weight, from `mlem_jax.plan`. One for the whole
            batch: batching the plan would run every level at every step.
        noise: a path from `noise.brownian_path`, or standard normals [steps, *state]; None for an
            ODE.

    Returns:
        The state after the last step.

    Raises:
        ValueError: if lengths do not match, if a level changes the state's shape or dtype, or if
            the steps are noisy and there is no noise.
    """
    check_problem(levels, params, x, steps, plan, noise)
    return _solve(_costless(levels), params, x, steps, plan, noise)


def solve_path(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    plan: Plan,
    noise: Noise = None,
    *,
    stride: int = 1,
) -> Trajectory:
    """As `solve`, keeping the start and then every `stride`-th state.

    Raises:
        ValueError: as `solve`, and if the number of steps is no multiple of `stride`.
    """
    check_problem(levels, params, x, steps, plan, noise)
    count = len(steps.t)
    if stride < 1 or count % stride:
        raise ValueError(f"expected a stride that divides the {count} steps, got {stride}")
    states = _solve_path(_costless(levels), params, x, steps, plan, noise, stride)
    return Trajectory(jnp.arange(0, count + 1, stride), states)


def solve_chunks(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    plan: Plan,
    noise: BrownianPath | None = None,
    *,
    chunk: int,
) -> State:
    """As `solve` for a large batch, `chunk` samples at a time: the memory is that of one chunk.

    The samples are those of one call, since a sample does not depend on its batch. Conditions of
    `Conditional` and `Guided` params are cut along with their samples.

    Args:
        levels: the ladder; static.
        params: one pytree a level.
        x: the starts [batch, ...].
        steps: the integrator.
        plan: which levels run when.
        noise: a path with one index a sample, or None for an ODE.
        chunk: samples at a time.

    Raises:
        ValueError: as `solve`, and if `chunk` is not positive, the noise is stored, or samples,
            their path and their conditions are not equally many.
    """
    check_problem(levels, params, x, steps, plan, noise)
    check_samples(x, params, noise)
    if chunk < 1 or not (noise is None or isinstance(noise, BrownianPath)):
        raise ValueError(
            f"expected a positive chunk and a path or no noise, got chunk {chunk} and "
            f"{type(noise).__name__}"
        )
    return _solve_chunks(_costless(levels), params, x, steps, plan, noise, chunk)


def run_unchecked(
    levels: Levels, params: tuple[Params, ...], x: State, steps: Steps, plan: Plan, noise: Noise
) -> State:
    """`solve` as it is compiled, for whoever has checked the problem."""
    begun = begin(levels, x, steps, plan)
    return _scan(levels, params, begun, steps, plan, noise, jnp.arange(len(steps.t))).x


_solve = jax.jit(run_unchecked, static_argnums=0)


@partial(jax.jit, static_argnums=(0, 6))
def _solve_path(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    plan: Plan,
    noise: Noise,
    stride: int,
) -> Shaped[Array, "kept *state"]:
    def stretch(carry: Carry, numbers: Int[Array, " stride"]) -> tuple[Carry, State]:
        carry = _scan(levels, params, carry, steps, plan, noise, numbers)
        return carry, carry.x

    blocks = jnp.arange(len(steps.t)).reshape(-1, stride)
    states = jax.lax.scan(stretch, begin(levels, x, steps, plan), blocks)[1]
    return jnp.concatenate([x[None], states])


@partial(jax.jit, static_argnums=(0, 6))
def _solve_chunks(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    plan: Plan,
    noise: BrownianPath | None,
    chunk: int,
) -> State:
    conditions, put = split_conditions(params)
    batched = (x, None if noise is None else noise.samples, conditions)

    def one_chunk(part: tuple[State, Int[Array, " chunk"] | None, Any]) -> State:
        start, samples, own = part
        path = None if noise is None else noise._replace(samples=samples)
        return run_unchecked(levels, put(own), start, steps, plan, path)

    whole = len(x) // chunk * chunk
    parts = []
    if whole:
        blocks = jax.tree.map(
            lambda leaf: leaf[:whole].reshape(-1, chunk, *leaf.shape[1:]), batched
        )
        parts.append(jax.lax.map(one_chunk, blocks).reshape(x[:whole].shape))
    if whole < len(x):
        parts.append(one_chunk(jax.tree.map(lambda leaf: leaf[whole:], batched)))
    return jnp.concatenate(parts)


def _costless(levels: Levels) -> Levels:
    """The levels without what the solver never reads: new costs are no reason to compile anew."""
    return levels._replace(costs=())


def begin(levels: Levels, x: State, steps: Steps, plan: Plan) -> Carry:
    """The carry before the first step. Nothing is held yet: zeros, until the first renewal."""
    held = None if plan.held is None else jnp.zeros((len(levels.drifts), *x.shape), x.dtype)
    return Carry(x, held, None if steps.previous is None else jnp.zeros_like(x))


def _scan(
    levels: Levels,
    params: tuple[Params, ...],
    carry: Carry,
    steps: Steps,
    plan: Plan,
    noise: Noise,
    numbers: Int[Array, " numbers"],
) -> Carry:
    """The loop: over the steps with these numbers."""
    like = carry.x

    def in_the_states_dtype(table: Array) -> Array:
        # So that nothing is promoted.
        return table if table.dtype == bool else table.astype(like.dtype)

    tables = jax.tree.map(in_the_states_dtype, (steps, plan))

    def body(carry: Carry, n: Int[Array, ""]) -> tuple[Carry, None]:
        increment = draw_increment(noise, n, like) if isinstance(noise, BrownianPath) else (
            None if noise is None else noise[n].astype(like.dtype)
        )  # fmt: skip
        own_steps, own_plan = jax.tree.map(lambda table: table[n], tables)
        return mlem_step(levels, params, carry, StepInputs(own_steps, own_plan, increment)), None

    return jax.lax.scan(body, carry, numbers)[0]


def _evaluate(k: int, level: Drift, params: Params, x: State, t: Scalar) -> State:
    value = level(params, x, t)
    if value.shape != x.shape or value.dtype != x.dtype:
        raise ValueError(
            f"expected level {k + 1} to return {x.dtype}{list(x.shape)}, like the state, got "
            f"{value.dtype}{list(value.shape)}"
        )
    return value
