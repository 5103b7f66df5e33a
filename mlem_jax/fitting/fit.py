"""Fitted plans: the weights as a regression on all that is known at each step.

At step n certain numbers are known: the outputs of the levels that run now, and outputs that are
remembered from earlier steps. The estimate is linear in them, with coefficients that are tables
fixed before the loop; so take the best ones. Along the method's own path x, with X the top level's
fine solution at the same times, from the same starts along the same Brownian paths,

    known_n  = (f^k(x_n) of the levels that run, the last outputs of each that ran before)
    target_n = (X_{n+1} - scale_n x_n - push_n . e - noise_n xi_n) / gain_n
    c_n      = argmin_c |target_n - c . known_n|^2 + ridge max_j |known_nj|^2 |c - base_n|^2
    x_{n+1}  = scale_n x_n + gain_n c_n . known_n + push_n . e + noise_n xi_n

with e the earlier estimates of a multistep method; one number for each known value and step, shared
by all entries and samples. `base` is 1 on the best level that runs, or where none does on the last
output of the best that has, and 0 elsewhere. As x_n is the method's own state, the fit sees its own
earlier errors and makes up for them, sees how deviations propagate through the levels without
linearising, and corrects the steps' own discretisation. The result is an ordinary plan with memory.

References:
    Shaul et al. 2024, arXiv:2403.01329: such weights for one network and an ODE.
    Schaden & Ullmann 2020, arXiv:2003.08324: best linear unbiased estimators over levels.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from mlem_jax.checks import as_float, check_count, is_count, is_number, shape_of
from mlem_jax.evaluate import square_errors
from mlem_jax.fitting.fine import at_step, increment_of
from mlem_jax.fitting.regression import fit_step
from mlem_jax.ladder import Ladder
from mlem_jax.plans.memory import remember
from mlem_jax.plans.plan import Memory, Plan, fingerprint, make_plan
from mlem_jax.problem import Problem, batch_size, increment_at, map_chunks
from mlem_jax.solver.check import checked_table
from mlem_jax.solver.output import evaluate_level
from mlem_jax.solver.step import Table, init_carry
from mlem_jax.steps import Steps
from mlem_jax.types import Condition, Drift, Params, Scalar, State


class Fit(NamedTuple):
    """A fitted plan, and what it is worth.

    Attributes:
        plan: to be run with `solve` along the steps it was fitted for.
        error: mean square error at the end, to the fine solution, on the samples fitted.
        held_out: the same of each of the samples that the fit has not seen.
        gaps: mean square of target - estimate at each step, from the same state, with the base
            weights and with the fitted ones.
    """

    plan: Plan
    error: Float[Array, ""]
    held_out: Float[Array, " held_out"]
    gaps: Float[Array, "steps 2"]


def fit_plan(
    ladder: Ladder,
    problem: Problem,
    steps: Steps,
    needed: ArrayLike,
    fine: State,
    *,
    memory: Sequence[int],
    kept: ArrayLike | None = None,
    ridge: float = 1e-6,
    held_out: int = 0,
    chunk: int = 64,
) -> Fit:
    """c_n = argmin_c |target_n - c . known_n|^2 + ridge max |known_n|^2 |c - base_n|^2, n by n.

    Costs one run of the plan.

    Args:
        ladder: the levels.
        problem: the pilot batch; for pictures of Earth 96 were better than 32 (results/README).
        steps: the integrator, one-step or multistep: the fit stands on top of it.
        needed: which levels run at each step [steps, levels], bool; at the first step one at least.
        fine: the fine solution at the beginning of every step and at the end, of the same starts
            and paths, [steps + 1, batch, ...]: the states of `solve_path` on finer steps.
        memory: how many earlier outputs of each level are known.
        kept: which outputs are remembered [steps, levels], bool, such as those that
            `plans.beside_next` tells; without it, every output.
        ridge: how strongly coefficients are held at the base weights, relative to the squares of
            the known values.
        held_out: so many of the last samples are kept from the fit, to judge it.
        chunk: samples that a level is given at a time, to bound the memory.

    Raises:
        ValueError: if no level runs at the first step, if there are too few samples for the
            coefficients of a step, or if the fine solution is not finite, is not of these starts
            and times, or is along another path; and as `solve`.
    """
    check_count(chunk, "a chunk of at least 1 sample")
    if not is_count(held_out, 0):
        raise ValueError(f"expected a whole number of samples as held_out, got {held_out!r}")
    if not (is_number(ridge) and 0 <= ridge < float("inf")):
        raise ValueError(f"expected a ridge of 0 or more, got {ridge!r}")
    if np.asarray(needed).dtype != bool:
        raise TypeError(f"expected needed as bool [steps, levels], got {needed!r:.80}")
    ran = jnp.asarray(needed, bool)
    stored = ran if kept is None else _checked_kept(kept, ran)
    slots = remember(stored, memory)
    draft = make_plan(jnp.zeros(ran.shape, slots.read.dtype), ran, slots, steps)
    table = checked_table(ladder, problem, steps, draft)
    count = batch_size(problem)
    seen = count - held_out
    _check_pilot(problem, steps, ran, fine, seen, len(ladder) + sum(memory))
    known = known_before(ran, slots)
    base = base_weights(known, slots).astype(table.scale.dtype)
    carry = init_carry(table, jax.tree.map(jnp.asarray, problem.x))
    # Rows are cut by numpy: JAX would compile a program for each of them.
    rows, found = jax.tree.map(np.asarray, (table, known, base)), []
    for n in range(len(ran)):
        row, known_now, base_now = jax.tree.map(lambda column, n=n: column[n], rows)
        outputs = _outputs(ladder, carry.x, row, problem, _divisor(count, chunk))
        increment = increment_of(problem, n, problem.x)
        goal = _state(fine, n + 1)
        carry, *told = fit_step(
            outputs, increment, carry, row, goal, known_now, base_now, ridge, seen
        )
        found.append(told)
    coefficients, gaps = (np.stack(column) for column in zip(*found, strict=True))
    # Without a type a program would be compiled for each.
    weights, read = (jnp.asarray(each, coefficients.dtype)
                     for each in np.split(coefficients, [len(ladder)], axis=1))  # fmt: skip
    plan = Plan(weights, ran, slots._replace(read=read), fingerprint(steps))
    errors = square_errors(carry.x, _state(fine, len(ran)))
    return Fit(plan, errors[:seen].mean(), errors[seen:], as_float(gaps))


def _checked_kept(kept: ArrayLike, ran: Bool[Array, "steps levels"]) -> Bool[Array, "steps levels"]:
    """The outputs to be kept, all of which have to be there."""
    if shape_of(kept) != ran.shape or np.asarray(kept).dtype != bool:
        raise ValueError(f"expected kept outputs as bool {list(ran.shape)}, [steps, levels], got "
                         f"{kept!r:.80}")  # fmt: skip
    if (np.asarray(kept) & ~np.asarray(ran)).any():
        raise ValueError("expected kept outputs of levels that run, got one where needed is False; "
                         "take kept & needed")  # fmt: skip
    return jnp.asarray(kept)


def known_before(needed: ArrayLike, memory: Memory) -> Bool[Array, "steps known"]:
    """Whether each value is known at each step: levels that run, and slots that were written."""
    ran, store = np.asarray(needed), np.asarray(memory.store)
    written = (store[:, :, None] == np.arange(memory.read.shape[1])).any(axis=1)
    before = np.cumsum(written, axis=0) - written > 0
    return jnp.asarray(np.concatenate([ran, before], axis=1), bool)


def base_weights(known: Bool[Array, "steps known"], memory: Memory) -> Float[Array, "steps known"]:
    """1 on the best level that runs; where none does, on the last output of the best that has."""
    table, newest = np.asarray(known), _newest_slots(memory)
    levels = newest.shape[1]
    base = np.zeros(table.shape)
    for n, row in enumerate(table):
        runs, held = np.flatnonzero(row[:levels]), newest[n][newest[n] >= 0]
        if len(runs) or len(held):
            base[n, runs[-1] if len(runs) else levels + held[-1]] = 1
    return as_float(base)


def _newest_slots(memory: Memory) -> Int[np.ndarray, "steps levels"]:
    """Where the last output of each level is, as a step finds it; -1 where there is none."""
    store = np.asarray(memory.store)
    newest = np.full_like(store, -1)
    for n in range(1, len(store)):
        newest[n] = np.where(store[n - 1] >= 0, store[n - 1], newest[n - 1])
    return newest


def _check_pilot(
    problem: Problem, steps: Steps, needed: Array, fine: State, samples: int, coefficients: int
) -> None:
    """What `fit_plan` refuses."""
    if not bool(needed[0].any()):
        raise ValueError("expected a level to run at the first step, where nothing is remembered "
                         "yet, got none; set needed[0]")  # fmt: skip
    entries = sum(leaf[0].size for leaf in jax.tree.leaves(problem.x))
    if samples < 2 or samples * entries < 4 * coefficients:
        raise ValueError(
            f"expected a pilot of at least {max(2, -(-4 * coefficients // entries))} samples for "
            f"{coefficients} coefficients per step, got {samples}; give more starts, or remember "
            "less"
        )
    if jax.tree.structure(fine) != jax.tree.structure(problem.x):
        raise TypeError(f"expected a fine solution like the starts, {jax.tree.structure(problem.x)}"
                        f", got {jax.tree.structure(fine)}")  # fmt: skip
    for start, path in zip(jax.tree.leaves(problem.x), jax.tree.leaves(fine), strict=True):
        if path.shape != (len(steps.t) + 1, *start.shape):
            raise ValueError(f"expected a fine solution {[len(steps.t) + 1, *start.shape]}, "
                             f"[steps + 1, batch, ...], got {list(path.shape)}")  # fmt: skip
        if not np.isfinite(np.asarray(path)).all():
            raise ValueError("expected a finite fine solution, got NaN or infinity in it; find the "
                             "level that returns it with solve_checked")  # fmt: skip
        # As JAX takes it: float64 of numpy is float32 unless double precision is on.
        taken = np.asarray(start, jax.dtypes.canonicalize_dtype(start.dtype))
        if not np.array_equal(np.asarray(path)[0], taken):
            raise ValueError("expected a fine solution from the same starts, got others")
    if problem.noise is None:
        return
    if (share := float(_shared_path(problem, steps, fine))) < 0.5:
        raise ValueError(
            f"expected a fine solution along the problem's Brownian path, got one in which "
            f"{share:.0%} of an increment is found; make both paths of one key, "
            "brownian_path(key, fine) and brownian_path(key, fine, steps)"
        )


def _shared_path(problem: Problem, steps: Steps, fine: State) -> Float[Array, ""]:
    """<X' - scale X, noise xi> / |noise xi|^2 at the noisiest step: 1, or 0 along another path."""
    noise, scale = np.asarray(steps.noise), np.asarray(steps.scale)
    n = int(np.abs(noise.reshape(len(noise), -1)).mean(axis=1).argmax())
    return _shared_noise(at_step(problem, n), noise[n], scale[n], _state(fine, n),
                         _state(fine, n + 1))  # fmt: skip


@jax.jit
def _shared_noise(
    problem: Problem, noise: Array, scale: Array, before: State, after: State
) -> Float[Array, ""]:
    increment = increment_at(problem, jnp.asarray(0), before)
    pushed = jax.tree.map(lambda xi: noise * xi, increment)
    moved = jax.tree.map(lambda x, y: y - scale * x, before, after)
    squares = _inner(pushed, pushed)
    return jnp.where(squares > 0, _inner(moved, pushed) / squares, 1.0)


def _inner(left: State, right: State) -> Array:
    return jnp.stack(jax.tree.leaves(jax.tree.map(jnp.vdot, left, right))).sum()


@jax.jit
def _state(stacked: State, n: Int[Array, ""] | int) -> State:
    return jax.tree.map(lambda leaf: leaf[n], stacked)


def _outputs(ladder: Ladder, x: State, row: Table, problem: Problem, chunk: int) -> State:
    """Outputs of the levels [levels, batch, ...]; zeros of those that do not run.

    A program per level, not per plan: what is needed is known, so there is no predicate, and other
    plans, memories and steps compile no network anew.
    """
    given = row.t, problem.condition, chunk
    each = [
        _output(k, drift, params, x, *given) if row.needed[k] else jax.tree.map(jnp.zeros_like, x)
        for k, (drift, params) in enumerate(zip(ladder.drifts, ladder.params, strict=True))
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


@partial(jax.jit, static_argnums=(0, 1, 6))
def _output(
    k: int, drift: Drift, params: Params, x: State, t: Scalar, condition: Condition, chunk: int
) -> State:
    """f^k(x, t), so many samples at a time; `chunk` divides the batch."""

    def run(part: Problem) -> State:
        return evaluate_level(k, drift, params, part.x, t, part.condition)

    return map_chunks(run, Problem(x, None, condition), chunk)


def _divisor(count: int, most: int) -> int:
    """The largest divisor of a count that is not above `most`."""
    return next(each for each in range(min(count, most), 0, -1) if count % each == 0)
