"""One step of the solver, and the tables it reads.

    paper                              here
    x_n, t_n                           carry.x, row.t
    eta, sigma_t sqrt(eta)             row.gain, row.noise   (and row.scale = 1)
    f^k                                ladder.drifts[k - 1](ladder.params[k - 1], x, t)
    B_{k,n}, p_k(t_n)                  openings, logits: known to `plans.weigh` alone
    B_k/p_k - B_{k+1}/p_{k+1}          row.weights[k - 1]
    B_k or B_{k+1}                     row.needed[k - 1]
    xi_n                               noise.draw_increment(path, n, x)

The multilevel Euler-Maruyama step (arXiv:2603.24594, section 3)

    x_{n+1} = x_n + eta sum_k B_k/p_k (f^k(x_n, t_n) - f^{k-1}(x_n, t_n)) + sigma sqrt(eta) xi_n

has every difference at the same point, so the sum can be taken by level instead of by difference:
level k appears with B_k/p_k in its own difference and with -B_{k+1}/p_{k+1} in the next. That
weight is the plan's. What is remembered of earlier steps enters linearly too, so the step is

    F  = weights . o + read . m             o_k = f^k(x, t), each evaluated at most once
    x' = scale x + gain F + push . m + noise xi
    m' = keep m + write . (o, F)
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mlem_jax.ladder import Ladder
from mlem_jax.plans.memory import join_memories, last_estimates
from mlem_jax.plans.plan import Plan
from mlem_jax.solver.output import evaluate_level
from mlem_jax.steps import Steps
from mlem_jax.types import Condition, Drift, Params, State


class Table(NamedTuple):
    """All that the loop is told, one row per step: a plan and an integrator on common slots.

    Attributes:
        t: the time at which the levels are evaluated.
        scale: of the state.
        gain: of the estimate F.
        noise: of the standard normal vector.
        push: of the slots, in the state.
        weights: of the levels' outputs, in F.
        needed: whether a level is evaluated.
        read: of the slots, in F.
        keep: of the slots, in the slots of the next step.
        write: of the levels' outputs and of F, in the slots of the next step.
    """

    t: Float[Array, "*steps"]
    scale: Float[Array, "*steps"]
    gain: Float[Array, "*steps"]
    noise: Float[Array, "..."]
    push: Float[Array, "*steps slots"]
    weights: Float[Array, "*steps levels"]
    needed: Bool[Array, "*steps levels"]
    read: Float[Array, "*steps slots"]
    keep: Float[Array, "*steps slots slots"]
    write: Float[Array, "*steps slots sources"]


class Carry(NamedTuple):
    """What a step hands to the next.

    Attributes:
        x: the state.
        memory: the slots, like the state with a leading axis [slots]; of no slots where nothing
            is remembered.
    """

    x: State
    memory: State


class Sums(NamedTuple):
    """What a step adds up, level by level.

    Attributes:
        estimate: F, like the state.
        kept: the slots of the next step, but for what F writes into them.
    """

    estimate: State
    kept: State


@partial(jax.jit, static_argnums=2)
def make_table(steps: Steps, plan: Plan, dtype: Any) -> Table:
    """The plan's slots, then one for each estimate that a multistep method looks back to."""
    count, levels = plan.weights.shape
    lags = steps.push.shape[1]
    memory = join_memories(plan.memory, last_estimates(count, levels, lags))
    push = jnp.concatenate([jnp.zeros_like(memory.read[:, lags:]), steps.push], axis=1)
    columns = {
        "t": steps.t, "scale": steps.scale, "gain": steps.gain, "noise": steps.noise, "push": push,
        "weights": plan.weights, **memory._asdict(),
    }  # fmt: skip
    return Table(**{name: each.astype(dtype) for name, each in columns.items()}, needed=plan.needed)


def init_carry(table: Table, x: State) -> Carry:
    """The carry before the first step: nothing is remembered yet, all slots are zero."""
    slots = table.read.shape[-1]
    return Carry(x, jax.tree.map(lambda leaf: jnp.zeros((slots, *leaf.shape), leaf.dtype), x))


def mlem_step(
    ladder: Ladder,
    carry: Carry,
    row: Table,
    increment: State | None = None,
    condition: Condition = None,
) -> Carry:
    """x' = scale x + gain F + push . m + noise xi;  m' = keep m + write . (o, F).

    Args:
        ladder: the levels.
        carry: state and memory.
        row: of the table. Where `row.needed` is a numpy array, known while tracing, there is no
            predicate.
        increment: xi, like the state; None for an ODE.
        condition: of the samples, if the levels take one.

    Raises:
        ValueError: if a level fails, or returns something unlike the state.
    """
    x = carry.x
    sums = begin_step(carry, row)
    for k, (drift, params) in enumerate(zip(ladder.drifts, ladder.params, strict=True)):

        def run(
            sums: Sums,
            given: tuple = (x, row.t, condition),
            k: int = k,
            drift: Drift = drift,
            params: Params = params,
        ) -> Sums:
            return add_output(sums, row, k, evaluate_level(k, drift, params, *given))

        if isinstance(row.needed, np.ndarray):
            # Without the barriers more would be fused than across a cond, and rounded otherwise.
            barrier = jax.lax.optimization_barrier
            sums = barrier(run(*barrier((sums, (x, row.t, condition))))) if row.needed[k] else sums
        else:
            # The sums pass through, so the branch not taken does nothing: not even a copy.
            sums = jax.lax.cond(row.needed[k], run, lambda sums: sums, sums)
    return end_step(carry, sums, row, increment)


def begin_step(carry: Carry, row: Table) -> Sums:
    """read . m and keep m."""
    return Sums(_dot(row.read, carry.memory), _dot(row.keep, carry.memory))


def add_output(sums: Sums, row: Table, k: int, output: State) -> Sums:
    """What o_k adds to both sums."""
    estimate = _add(sums.estimate, row.weights[k], output)
    return Sums(estimate, _add(sums.kept, row.write[:, k], output))


def end_step(carry: Carry, sums: Sums, row: Table, increment: State | None) -> Carry:
    """x' and m', once both sums are complete."""
    x, memory = carry
    moved = jax.tree.map(lambda x, f: row.scale * x + row.gain * f, x, sums.estimate)
    moved = jax.tree.map(jnp.add, moved, _dot(row.push, memory)) if len(row.push) else moved
    if increment is not None:
        moved = add_noise(moved, row.noise, increment)
    return Carry(moved, _add(sums.kept, row.write[:, -1], sums.estimate))


def add_noise(x: State, noise: Float[Array, "*broadcast"], increment: State) -> State:
    """X + noise xi, the noise a number, or an array that is broadcast to the state."""
    return jax.tree.map(lambda x, xi: x + jnp.broadcast_to(noise, xi.shape) * xi, x, increment)


def _dot(coefficients: Float[Array, "*rows slots"], memory: State) -> State:
    """Sums over the slots; in full precision, also where products are cut short by default."""
    return jax.tree.map(
        lambda leaf: jnp.tensordot(coefficients, leaf, 1, precision="highest"), memory
    )


def _add(sums: State, coefficients: Float[Array, "*slots"], output: State) -> State:
    """sums + coefficients (x) output."""
    if coefficients.ndim and not len(coefficients):
        return sums

    def add(total: Array, own: Array) -> Array:
        factors = coefficients.reshape(*coefficients.shape, *(1,) * own.ndim)
        return total + factors * own.reshape(*(1,) * coefficients.ndim, *own.shape)

    return jax.tree.map(add, sums, output)
