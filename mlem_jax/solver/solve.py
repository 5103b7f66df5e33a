"""The solver: a plan along steps, whole, in chunks, or one plan for each group of samples.

    process --> Steps  (t, scale, gain, push, noise)[steps]      x' = scale x + gain F + ...
    gates   --> logits --draw--> Plan (weights, needed, memory)  F  = weights . o + read . m

Both are tables made before the loop begins; an executor runs their rows.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int
from numpy.typing import ArrayLike

from mlem_jax.checks import check_count
from mlem_jax.ladder import Ladder
from mlem_jax.plans.plan import Plan, check_store
from mlem_jax.problem import (
    Problem,
    axes_of,
    batch_size,
    device_count,
    map_chunks,
    map_parts,
    sharding_of,
    specs_of,
)
from mlem_jax.solver.check import checked_table, made_for_others
from mlem_jax.solver.executors import Executor, scan, scan_rows
from mlem_jax.solver.step import Table, init_carry
from mlem_jax.steps import Steps
from mlem_jax.types import State


class Trajectory(NamedTuple):
    """States on the way.

    Attributes:
        steps: how many steps had been done.
        states: the states then, stacked; where every step is kept, the first is the start and the
            last the end.
    """

    steps: Int[Array, " kept"]
    states: State


def solve(
    ladder: Ladder, problem: Problem, steps: Steps, plan: Plan, *, executor: Executor = scan
) -> State:
    """x[n+1] = scale[n] x[n] + gain[n] sum_k weights[n, k] f^k(x[n], t[n]) + noise[n] xi[n].

    Compiled once for a number of steps, a batch size and a ladder's functions; other parameters,
    costs, tables and noise compile nothing anew. Gradients go through it, also in reverse.

    Args:
        ladder: the levels.
        problem: starts, noise, conditions.
        steps: the integrator, from `mlem_jax.steps`.
        plan: which levels run when, and with what weight, from `mlem_jax.plans`. One for the whole
            batch: batching the plan by vmap would run every level at every step.
        executor: how the steps are run: `scan`, or `segments`, or `reporting(...)`.

    Returns:
        The state after the last step.

    Raises:
        TypeError: if a part is of another kind.
        ValueError: if lengths do not match, if a level fails or changes the state's shape or
            dtype, if the steps are noisy and there is no noise, or if the plan was made for other
            steps.
    """
    table = checked_table(ladder, problem, steps, plan)
    if not callable(executor):
        raise TypeError(f"expected an executor, such as solver.segments, got {executor!r}")
    if executor is scan:
        return _solve(ladder, problem, table)
    return executor(ladder, init_carry(table, problem.x), table, problem).x


def solve_path(
    ladder: Ladder,
    problem: Problem,
    steps: Steps,
    plan: Plan,
    *,
    keep: ArrayLike | None = None,
) -> Trajectory:
    """As `solve`, up to rounding, keeping states on the way.

    Args:
        ladder: the levels.
        problem: starts, noise, conditions.
        steps: the integrator.
        plan: which levels run when.
        keep: after how many steps to keep the state, rising, 0 for the start; by default every
            state. `np.arange(0, count + 1, 10)` keeps every tenth.

    Raises:
        ValueError: as `solve`, and if `keep` does not rise from 0 at least to the number of steps
            at most.
    """
    table = checked_table(ladder, problem, steps, plan)
    count = len(steps.t)
    done = np.arange(count + 1) if keep is None else np.asarray(keep)
    rises = done.ndim == 1 and len(done) and done.dtype.kind in "iu" and (np.diff(done) > 0).all()
    if not rises or done[0] < 0 or done[-1] > count:
        raise ValueError(f"expected whole numbers of steps, rising, from 0 to {count}, to keep the "
                         f"state after, got {keep}")  # fmt: skip
    # A state is written over by the next until the one that is to be kept.
    place = np.searchsorted(done, np.arange(count + 1))
    states = _solve_path(
        ladder, problem, table, jnp.asarray(place, jnp.result_type(int)), len(done)
    )
    return Trajectory(jnp.asarray(done), states)


def solve_chunks(
    ladder: Ladder, problem: Problem, steps: Steps, plan: Plan, *, chunk: int
) -> State:
    """As `solve` for a large batch, `chunk` samples at a time: the memory is that of one chunk.

    The samples are those of one call, up to rounding. Of a problem that is spread over devices each
    takes its share of every chunk: let the chunk be a multiple of their number, and divide that of
    the samples.

    Raises:
        ValueError: as `solve`, and if `chunk` is not positive, or starts, noise and conditions are
            not equally many.
    """
    table = checked_table(ladder, problem, steps, plan)
    batch_size(problem)
    check_count(chunk, "a chunk of at least 1 sample")
    return _solve_chunks(ladder, problem, table, chunk)


def solve_groups(ladder: Ladder, problem: Problem, steps: Steps, plans: Plan) -> State:
    """As `solve`, group g of the samples under plan g.

    Samples under one plan share its error; with a plan for every group, of one sample or more,
    the mean over a batch concentrates. The groups run one after the other; of a problem that is
    spread over devices, those of each device, if each has as many.

    Args:
        ladder: the levels.
        problem: of groups x size samples.
        steps: the integrator.
        plans: stacked along a leading axis [groups], as `plans.draw_plans` gives them.

    Raises:
        TypeError: as `solve`.
        ValueError: as `solve`, and if the samples cannot be cut into the groups.
    """
    tables = stacked_tables(ladder, problem, steps, plans)
    sharding = sharding_of(problem)
    if sharding is not None and len(plans.weights) % device_count(sharding):
        sharding = None  # A group lies on several devices, which run it together.
    ends = _solve_groups(ladder, problem, tables, sharding)
    return jax.tree.map(lambda end, x: end.reshape(x.shape), ends, problem.x)


def stacked_tables(ladder: Ladder, problem: Problem, steps: Steps, plans: Plan) -> Table:
    """The tables of plans stacked along a leading axis, stacked in the same way.

    Raises:
        TypeError, ValueError: as `solve`, and if they are no such plans.
    """
    if not isinstance(plans, Plan):
        raise TypeError(f"expected plans stacked into one Plan, got {type(plans).__name__}; "
                        "plans.stack_plans makes one of a list")  # fmt: skip
    if plans.weights.ndim != 3:
        raise ValueError(f"expected plans stacked along a leading axis, weights [groups, steps, "
                         f"levels], got {list(plans.weights.shape)}; `solve` runs a single plan, "
                         "`plans.draw_plans` makes several")  # fmt: skip
    one = _first(plans)
    checked_table(ladder, problem, steps, one)
    if not isinstance(plans.memory.store, Tracer):
        check_store(np.asarray(plans.memory.store), plans.memory.read.shape[-1])
    if not isinstance(plans.made_for, Tracer):
        made_for_others(steps, plans)
    return _tables(ladder, problem, steps, plans)


@jax.jit
def _first(plans: Plan) -> Plan:
    return jax.tree.map(lambda table: table[0], plans)


@jax.jit
def _tables(ladder: Ladder, problem: Problem, steps: Steps, plans: Plan) -> Table:
    return jax.vmap(lambda plan: checked_table(ladder, problem, steps, plan))(plans)


def run_table(ladder: Ladder, problem: Problem, table: Table) -> State:
    """`solve` as it is compiled, for whoever has the table."""
    return scan(ladder, init_carry(table, problem.x), table, problem).x


_solve = jax.jit(run_table)


@partial(jax.jit, static_argnums=4)
def _solve_path(
    ladder: Ladder, problem: Problem, table: Table, place: Int[Array, " points"], kept: int
) -> State:
    def body(given: tuple, n: Int[Array, ""]) -> tuple[tuple, None]:
        carry, states = given
        carry = scan_rows(ladder, carry, table, problem, n[None])
        return (carry, write(states, n + 1, carry.x)), None

    def write(states: State, done: Int[Array, ""], x: State) -> State:
        # Past the last one to be kept the place is out of bounds, and nothing is written.
        return jax.tree.map(lambda kept, own: kept.at[place[done]].set(own, mode="drop"), states, x)

    empty = jax.tree.map(lambda leaf: jnp.zeros((kept, *leaf.shape), leaf.dtype), problem.x)
    begun = init_carry(table, problem.x), write(empty, jnp.asarray(0), problem.x)
    return jax.lax.scan(body, begun, jnp.arange(len(table.t)))[0][1]


@partial(jax.jit, static_argnums=3)
def _solve_chunks(ladder: Ladder, problem: Problem, table: Table, chunk: int) -> State:
    return map_chunks(lambda part: run_table(ladder, part, table), problem, chunk)


@partial(jax.jit, static_argnums=3)
def _solve_groups(
    ladder: Ladder, problem: Problem, tables: Table, sharding: NamedSharding | None
) -> State:
    def run(ladder: Ladder, problem: Problem, tables: Table) -> State:
        def run_group(part: Problem, table: Table) -> State:
            return run_table(ladder, part, table)

        return map_parts(run_group, problem, len(tables.t), tables)

    if sharding is not None:
        # Each device runs its own loop, since what its groups need is not what the others' do.
        specs = PartitionSpec(), specs_of(problem, sharding), sharding.spec
        run = jax.shard_map(run, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec,
                            axis_names={*axes_of(sharding)}, check_vma=False)  # fmt: skip
    return run(ladder, problem, tables)
