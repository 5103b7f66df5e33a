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

    F  = read . m + weights . o             o_k = f^k(x, t), each evaluated at most once
    m[store_k] = o_k                        for each level that runs and is remembered
    x' = scale x + gain F + push . e + noise xi
    e' = (F, e without its last)            earlier estimates, if the integrator looks back to any
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlem_jax.ladder import Ladder
from mlem_jax.plans.plan import Plan
from mlem_jax.solver.output import evaluate_level
from mlem_jax.steps import Steps
from mlem_jax.types import Condition, Drift, Params, State


class Table(NamedTuple):
    """All that the loop is told, one row per step: a plan and an integrator.

    Attributes:
        t: the time at which the levels are evaluated.
        scale: of the state.
        gain: of the estimate F.
        noise: of the standard normal vector.
        push: of earlier estimates, in the state.
        weights: of the levels' outputs, in F.
        needed: whether a level is evaluated.
        read: of the slots, in F.
        store: the slot that the output of each level goes into; -1 for none.
    """

    t: Float[Array, "*steps"]
    scale: Float[Array, "*steps"]
    gain: Float[Array, "*steps"]
    noise: Float[Array, "..."]
    push: Float[Array, "*steps lags"]
    weights: Float[Array, "*steps levels"]
    needed: Bool[Array, "*steps levels"]
    read: Float[Array, "*steps slots"]
    store: Int[Array, "*steps levels"]


class Carry(NamedTuple):
    """What a step hands to the next.

    Attributes:
        x: the state.
        memory: the slots, like the state with a leading axis [slots]; of no slots where nothing
            is remembered.
        estimates: the last F, newest first, with a leading axis [lags]; of none for one-step
            methods.
    """

    x: State
    memory: State
    estimates: State


class Sums(NamedTuple):
    """What a step adds up, level by level.

    Attributes:
        estimate: F, like the state.
        memory: the slots, with the outputs of this step in them.
    """

    estimate: State
    memory: State


@partial(jax.jit, static_argnums=2)
def make_table(steps: Steps, plan: Plan, dtype: Any) -> Table:
    """The columns of both, in the dtype of the state."""
    columns = {"t": steps.t, "scale": steps.scale, "gain": steps.gain, "noise": steps.noise,
               "push": steps.push, "weights": plan.weights, "read": plan.memory.read}  # fmt: skip
    return Table(**{name: each.astype(dtype) for name, each in columns.items()},
                 needed=plan.needed, store=plan.memory.store)  # fmt: skip


def init_carry(table: Table, x: State) -> Carry:
    """The carry before the first step: nothing is remembered yet, all slots are zero."""

    def zeros(count: int) -> State:
        return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), x)

    return Carry(x, zeros(table.read.shape[-1]), zeros(table.push.shape[-1]))


def mlem_step(
    ladder: Ladder,
    carry: Carry,
    row: Table,
    increment: State | None = None,
    condition: Condition = None,
) -> Carry:
    """x' = scale x + gain F + push . e + noise xi,  F = read . m + weights . o;  m[store_k] = o_k.

    Args:
        ladder: the levels.
        carry: state, memory and earlier estimates.
        row: of the table. Where `row.needed` is a numpy array, known while tracing, there is no
            predicate.
        increment: xi, like the state; None for an ODE.
        condition: of the samples, if the levels take one.

    Raises:
        ValueError: if a level fails, or returns something unlike the state.
    """
    x = carry.x
    sums = begin_step(carry, row)
    known = isinstance(row.needed, np.ndarray)
    # Without the barriers more would be fused than across a cond, and rounded otherwise.
    barrier = jax.lax.optimization_barrier
    sums = barrier(sums) if known else sums
    for k, (drift, params) in enumerate(zip(ladder.drifts, ladder.params, strict=True)):

        def run(
            sums: Sums,
            given: tuple = (x, row.t, condition),
            k: int = k,
            drift: Drift = drift,
            params: Params = params,
        ) -> Sums:
            return add_output(sums, row, k, evaluate_level(k, drift, params, *given))

        if known:
            sums = barrier(run(sums, barrier((x, row.t, condition)))) if row.needed[k] else sums
        else:
            # The sums pass through, so the branch not taken does nothing: not even a copy.
            sums = jax.lax.cond(row.needed[k], run, lambda sums: sums, sums)
    return end_step(carry, sums, row, increment)


def begin_step(carry: Carry, row: Table) -> Sums:
    """F = read . m."""
    return Sums(dot(row.read, carry.memory), carry.memory)


def add_output(sums: Sums, row: Table, k: int, output: State) -> Sums:
    """F + weights_k o_k;  m[store_k] = o_k."""
    estimate = jax.tree.map(lambda f, own: f + row.weights[k] * own, sums.estimate, output)
    return Sums(estimate, store_output(sums.memory, row.store[k], output))


def end_step(carry: Carry, sums: Sums, row: Table, increment: State | None) -> Carry:
    """x' = scale x + gain F + push . e + noise xi;  e' = (F, e without its last)."""
    estimate, memory = sums
    moved = jax.tree.map(lambda x, f: row.scale * x + row.gain * f, carry.x, estimate)
    estimates = carry.estimates
    if len(row.push):
        moved = jax.tree.map(jnp.add, moved, dot(row.push, estimates))
        estimates = jax.tree.map(
            lambda e, f: jnp.concatenate([f[None], e[:-1]]), estimates, estimate
        )
    if increment is not None:
        moved = add_noise(moved, row.noise, increment)
    return Carry(moved, memory, estimates)


def add_noise(x: State, noise: Float[Array, "*broadcast"], increment: State) -> State:
    """X + noise xi, the noise a number, or an array that is broadcast to the state."""
    return jax.tree.map(lambda x, xi: x + jnp.broadcast_to(noise, xi.shape) * xi, x, increment)


def dot(coefficients: Float[Array, " count"], stacked: State) -> State:
    """coefficients . stacked, over the leading axis.

    In full precision, also where products are cut short by default. A matrix product, as it is
    compiled alike everywhere: a sum may be fused with what comes next.
    """
    return jax.tree.map(
        lambda leaf: jnp.tensordot(coefficients, leaf, 1, precision="highest"), stacked
    )


def store_output(memory: State, slot: Int[Array, ""], output: State) -> State:
    """m[slot] = output; as it was if the slot is -1, which is the last slot written as it stands.

    Not a scatter, which a CPU does entry by entry.
    """

    def put(leaf: Array, own: Array) -> Array:
        if not len(leaf):
            return leaf
        before = jax.lax.dynamic_index_in_dim(leaf, slot, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(leaf, jnp.where(slot < 0, before, own), slot, 0)

    return jax.tree.map(put, memory, output)
