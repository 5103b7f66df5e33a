"""A plan for each sample, without waste: batched calls of a level for samples at different steps.

Under plans of their own, samples need a level at different steps, a few at a time: one after the
other they fill no batch. But samples do not depend on each other, so each may be at a step of its
own. A round takes some that need the same level, wherever they are, and calls it once for all of
them, with a time for each; when a sample has all that its step needs, the step ends.

Who takes part in which round is known before anything runs, from the plans' `needed`:

- the level that the most samples need now runs, the largest of those needed equally often;
- for as many as a power of two has, or for a whole batch: few programs are compiled, and no place
  in a batch is empty. Those furthest behind go first, the others wait for the next round.

Were cheap levels to run until all samples wait for the largest, its batches would be full, but the
last sample would wait alone for its cheap levels. So every batch is about half of what it could
be; where there are several times as many samples as a batch takes, nearly all are full.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int
from numpy.typing import ArrayLike

from mlem_jax.checks import check_count, check_kind
from mlem_jax.ladder import Ladder
from mlem_jax.noise import BrownianPath, draw_increment
from mlem_jax.plans.plan import Plan
from mlem_jax.problem import Problem, batch_size, take
from mlem_jax.solver.output import evaluate_level
from mlem_jax.solver.solve import stacked_tables
from mlem_jax.solver.step import (
    Carry,
    Sums,
    Table,
    add_output,
    begin_step,
    end_step,
    init_carry,
)
from mlem_jax.steps import Steps
from mlem_jax.types import Condition, Drift, Params, State

Numbers = Int[Array, " some"]


class Round(NamedTuple):
    """One call.

    Attributes:
        level: which is evaluated, counted from 1; 0 where steps end.
        samples: for which.
        steps: at which step each of them is.
    """

    level: int
    samples: Int[np.ndarray, " some"]
    steps: Int[np.ndarray, " some"]


class Lanes(NamedTuple):
    """Every sample as a batch of one, in the middle of a step: leaves [samples, ...]."""

    carry: Carry
    sums: Sums


def solve_each(
    ladder: Ladder, problem: Problem, steps: Steps, plans: Plan, *, batch: int | None = None
) -> State:
    """As `solve`, sample i under plan i, in batches of samples that need the same level.

    The samples are those of `solve_groups` with a plan for each, up to rounding. Calls are
    dispatched from Python as `make_rounds` says; a level is compiled once for each size of batch.

    Args:
        ladder: the levels. They are batched by `jax.vmap`, each sample with its own time.
        problem: of as many samples as there are plans.
        steps: the integrator.
        plans: stacked along a leading axis [samples], as `plans.draw_plans` gives them.
        batch: samples in one call at most; by default all of them.

    Raises:
        TypeError: as `solve`.
        ValueError: as `solve`, and if there is not one plan per sample, or they are traced.
    """
    check_kind(problem, Problem, "make one with Problem(x, noise)")
    count = batch_size(problem)
    # Checked as each sample is run: alone.
    tables = stacked_tables(ladder, take(problem, jnp.arange(1)), steps, plans)
    if len(plans.weights) != count:
        raise ValueError(f"expected a plan for each of {count} samples, got {len(plans.weights)}; "
                         "solve_groups runs one plan for several samples")  # fmt: skip
    if isinstance(plans.needed, Tracer):
        raise ValueError("expected plans that are known, got traced ones; call solve_each outside "
                         "jax.jit, or use solve_groups")  # fmt: skip
    lanes = _begin(problem.x, tables)
    for level, samples, places in make_rounds(plans.needed, batch=batch):
        if level:
            k = level - 1
            sums = _evaluate(k, ladder.drifts[k], ladder.params[k], lanes.sums, lanes.carry.x,
                             tables, problem.condition, samples, places)  # fmt: skip
            lanes = lanes._replace(sums=sums)
        else:
            lanes = _end(lanes, tables, problem, samples, places)
    return jax.tree.map(lambda leaf: leaf[:, 0], lanes.carry.x)


def make_rounds(needed: ArrayLike, *, batch: int | None = None) -> list[Round]:
    """All calls of `solve_each`, in their order.

    Args:
        needed: of the plans [samples, steps, levels].
        batch: samples in one call at most; by default all of them.

    Raises:
        ValueError: if `needed` has other axes, or `batch` is not positive.
    """
    table = np.asarray(needed, bool)
    if table.ndim != 3 or 0 in table.shape:
        raise ValueError(f"expected needed [samples, steps, levels], got {list(table.shape)}")
    count, length, levels = table.shape
    most = count if batch is None else batch
    check_count(most, "a batch of at least 1 sample")
    place, left = np.zeros(count, np.int32), table[:, 0].copy()
    rounds = []
    while (place < length).any():
        ended = _chosen((place < length) & ~left.any(axis=1), place, most)
        if len(ended):
            rounds.append(Round(0, ended, place[ended]))
            place[ended] += 1
            going = ended[place[ended] < length]
            left[going] = table[going, place[going]]
        waiting = left.sum(axis=0)
        if waiting.any():
            k = levels - 1 - int(waiting[::-1].argmax())
            ran = _chosen(left[:, k], place, most)
            rounds.append(Round(k + 1, ran, place[ran]))
            left[ran, k] = False
    return rounds


def _chosen(
    waiting: Bool[np.ndarray, " samples"], place: Int[np.ndarray, " samples"], batch: int
) -> Int[np.ndarray, " some"]:
    """Of those that wait the furthest behind: a batch, or the most that are a power of two."""
    found = np.flatnonzero(waiting).astype(np.int32)
    size = batch if len(found) >= batch else 1 << len(found).bit_length() >> 1
    return found[np.argsort(place[found], kind="stable")][:size]


@jax.jit
def _begin(x: State, tables: Table) -> Lanes:
    def one(x: State, table: Table) -> Lanes:
        carry = init_carry(table, jax.tree.map(lambda leaf: leaf[None], x))
        row = jax.tree.map(lambda column: column[0], table)
        return _lane(carry, row)

    return jax.vmap(one)(x, tables)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _evaluate(
    k: int,
    drift: Drift,
    params: Params,
    sums: Sums,
    x: State,
    tables: Table,
    condition: Condition,
    samples: Numbers,
    places: Numbers,
) -> Sums:
    """The sums, with what level k, counted from 0, adds to those of some samples."""

    def one(sums: Sums, x: State, sample: Int[Array, ""], n: Int[Array, ""]) -> Sums:
        row = _row(tables, sample, n)
        own = jax.tree.map(lambda leaf: leaf[sample][None], condition)
        return add_output(sums, row, k, evaluate_level(k, drift, params, x, row.t, own))

    some, states = jax.tree.map(lambda leaf: leaf[samples], (sums, x))
    return _put(sums, samples, jax.vmap(one)(some, states, samples, places))


@partial(jax.jit, donate_argnums=0)
def _end(lanes: Lanes, tables: Table, problem: Problem, samples: Numbers, places: Numbers) -> Lanes:
    """The step of some samples ends, and the next begins."""

    def one(lane: Lanes, sample: Int[Array, ""], n: Int[Array, ""]) -> Lanes:
        increment = _increment_of(problem, sample, n, lane.carry.x)
        carry = end_step(lane.carry, lane.sums, _row(tables, sample, n), increment)
        # Past the last step there is no row: what begins there is never looked at.
        after = jnp.minimum(n + 1, tables.t.shape[1] - 1)
        return _lane(carry, _row(tables, sample, after))

    some = jax.tree.map(lambda leaf: leaf[samples], lanes)
    return _put(lanes, samples, jax.vmap(one)(some, samples, places))


def _lane(carry: Carry, row: Table) -> Lanes:
    """The next step begun; what is remembered is in its sums alone."""
    sums = begin_step(carry, row)
    return Lanes(carry._replace(memory=jax.tree.map(lambda leaf: leaf[:0], carry.memory)), sums)


def _row(tables: Table, sample: Int[Array, ""], n: Int[Array, ""]) -> Table:
    return jax.tree.map(lambda column: column[sample, n], tables)


def _increment_of(
    problem: Problem, sample: Int[Array, ""], n: Int[Array, ""], like: State
) -> State | None:
    """xi[n] of one sample as a batch of one; of stored noise no more is read than that."""
    noise = problem.noise
    if isinstance(noise, BrownianPath):
        return draw_increment(noise._replace(samples=noise.samples[sample][None]), n, like)
    if noise is None:
        return None
    return jax.tree.map(lambda stored, x: stored[n, sample][None].astype(x.dtype), noise, like)


def _put(lanes: State, samples: Numbers, some: State) -> State:
    return jax.tree.map(lambda leaf, own: leaf.at[samples].set(own), lanes, some)
