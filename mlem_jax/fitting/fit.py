"""Fitted plans: the weights as a regression on all that is known at each step.

At step n certain numbers are known: the outputs of the levels that run now, and outputs that are
remembered from earlier steps. The estimate is linear in them, with coefficients that are tables
fixed before the loop; so take the best ones. Along the method's own path x, with X the top level's
fine solution at the same times, from the same starts along the same Brownian paths,

    known_n  = (f^k(x_n) of the levels that run, the last outputs of each that ran before)
    target_n = (X_{n+1} - scale_n x_n - push_n . m - noise_n xi_n) / gain_n
    c_n      = argmin_c |target_n - c . known_n|^2 + ridge |known_n|^2 |c - base_n|^2
    x_{n+1}  = scale_n x_n + gain_n c_n . known_n + push_n . m + noise_n xi_n

one number for each known value and step, shared by all entries and samples. `base` is 1 on the best
level that runs and 0 elsewhere. As x_n is the method's own state, the fit sees its own earlier
errors and makes up for them, sees how deviations propagate through the levels without linearising,
and corrects the steps' own discretisation. The result is an ordinary plan with memory.

The least squares are solved by a QR decomposition, not by normal equations: a level's output and
its last one are nearly parallel, and in single precision a squared condition is too much.

References:
    Shaul et al. 2024, arXiv:2403.01329: such weights for one network and an ODE.
    Schaden & Ullmann 2020, arXiv:2003.08324: best linear unbiased estimators over levels.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from mlem_jax.checks import check_count, is_count, is_number
from mlem_jax.evaluate import square_errors
from mlem_jax.ladder import Ladder
from mlem_jax.noise import BrownianPath
from mlem_jax.plans.memory import remember
from mlem_jax.plans.plan import Memory, Plan, fingerprint, make_plan
from mlem_jax.problem import Problem, batch_size, increment_at
from mlem_jax.solver.check import checked_table
from mlem_jax.solver.output import evaluate_level
from mlem_jax.solver.step import Carry, Table, init_carry
from mlem_jax.steps import Steps
from mlem_jax.types import State


class Fit(NamedTuple):
    """A fitted plan, and what it is worth.

    Attributes:
        plan: to be run with `solve` along the steps it was fitted for.
        error: mean square error at the end, to the fine solution, on the samples fitted.
        held_out_error: the same on samples that the fit has not seen; NaN if there are none.
        gaps: mean square of target - estimate at each step, from the same state, with the base
            weights and with the fitted ones.
    """

    plan: Plan
    error: Float[Array, ""]
    held_out_error: Float[Array, ""]
    gaps: Float[Array, "steps 2"]


def fit_plan(
    ladder: Ladder,
    problem: Problem,
    steps: Steps,
    needed: ArrayLike,
    fine: State,
    *,
    memory: Sequence[int],
    ridge: float = 1e-6,
    held_out: int = 0,
    chunk: int = 64,
) -> Fit:
    """c_n = argmin_c |target_n - c . known_n|^2 + ridge |known_n|^2 |c - base_n|^2, step by step.

    Costs one run of the plan.

    Args:
        ladder: the levels.
        problem: the pilot batch; 64 pictures were enough.
        steps: the integrator, one-step or multistep: the fit stands on top of it.
        needed: which levels run at each step [steps, levels], bool; at the first step one at least.
        fine: the fine solution at the beginning of every step and at the end, of the same starts
            and paths, [steps + 1, batch, ...]: the states of `solve_path` on finer steps.
        memory: how many earlier outputs of each level are known.
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
    slots = remember(ran, memory)
    draft = make_plan(jnp.zeros(ran.shape, slots.read.dtype), ran, slots, steps)
    table = checked_table(ladder, problem, steps, draft)
    count = batch_size(problem)
    seen = count - held_out
    _check_pilot(problem, steps, ran, fine, seen, len(ladder) + sum(memory))
    known = known_before(ran, memory)
    base = base_weights(known, memory).astype(table.scale.dtype)
    carry = init_carry(table, problem.x)
    # Rows are cut by numpy: JAX would compile a program for each of them.
    rows, found = jax.tree.map(np.asarray, (table, known, base)), []
    for n in range(len(ran)):
        row, known_now, base_now = jax.tree.map(lambda column, n=n: column[n], rows)
        carry, *told = _fit_step(
            ladder, _at_step(problem, n), carry, row, _state(fine, n + 1), known_now, base_now,
            np.asarray(ridge, base.dtype), seen, _divisor(count, chunk),
        )  # fmt: skip
        found.append(told)
    coefficients, gaps = (jnp.stack(column) for column in zip(*found, strict=True))
    weights, read = coefficients[:, : len(ladder)], coefficients[:, len(ladder) :]
    plan = Plan(weights, ran, Memory(read, slots.keep, slots.write), fingerprint(steps))
    errors = square_errors(carry.x, _state(fine, len(ran)))
    left = errors[seen:].mean() if held_out else jnp.asarray(jnp.nan, errors.dtype)
    return Fit(plan, errors[:seen].mean(), left, gaps)


def known_before(needed: ArrayLike, memory: Sequence[int]) -> Bool[Array, "steps known"]:
    """Whether each value is known at each step: levels that run, and slots that were written."""
    ran = np.asarray(needed)
    runs_before = np.cumsum(ran, axis=0) - ran
    slots = [runs_before[:, level] > age for level, count in enumerate(memory)
             for age in range(count)]  # fmt: skip
    return jnp.asarray(np.concatenate([ran, np.array(slots, bool).reshape(-1, len(ran)).T], axis=1))


def base_weights(
    known: Bool[Array, "steps known"], memory: Sequence[int]
) -> Float[Array, "steps known"]:
    """1 on the best level that runs; where none does, on the last output of the best that has."""
    table = np.asarray(known)
    levels = len(memory)
    newest = levels + np.cumsum([0, *memory[:-1]])
    base = np.zeros(table.shape)
    for n, row in enumerate(table):
        runs = np.flatnonzero(row[:levels])
        held = [newest[k] for k in range(levels) if memory[k] and row[newest[k]]]
        if len(runs) or held:
            base[n, runs[-1] if len(runs) else held[-1]] = 1
    return jnp.asarray(base, jnp.result_type(float))


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
    for start, path in zip(jax.tree.leaves(problem.x), jax.tree.leaves(fine), strict=True):
        if path.shape != (len(steps.t) + 1, *start.shape):
            raise ValueError(f"expected a fine solution {[len(steps.t) + 1, *start.shape]}, "
                             f"[steps + 1, batch, ...], got {list(path.shape)}")  # fmt: skip
        if not np.isfinite(np.asarray(path)).all():
            raise ValueError("expected a finite fine solution, got NaN or infinity in it; find the "
                             "level that returns it with solve_checked")  # fmt: skip
        if not np.array_equal(np.asarray(path)[0], np.asarray(start)):
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
    return _shared_noise(_at_step(problem, n), noise[n], scale[n], _state(fine, n),
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


def _at_step(problem: Problem, n: int) -> Problem:
    """The problem with the noise of one step, as step 0: its shapes do not tell how many there are.

    So what is compiled for one number of steps serves any other.
    """
    noise = problem.noise
    if isinstance(noise, BrownianPath):
        first, last = np.asarray(noise.first), np.asarray(noise.last)
        noise = noise._replace(first=first[n : n + 1], last=last[n : n + 1])
    elif noise is not None:
        noise = jax.tree.map(lambda xi: xi[None], _state(noise, n))
    return problem._replace(noise=noise)


@jax.jit
def _state(stacked: State, n: Int[Array, ""] | int) -> State:
    return jax.tree.map(lambda leaf: leaf[n], stacked)


@partial(jax.jit, static_argnums=(8, 9))
def _fit_step(
    ladder: Ladder,
    problem: Problem,
    carry: Carry,
    row: Table,
    goal: State,
    known: Bool[Array, " known"],
    base: Float[Array, " known"],
    ridge: Float[Array, ""],
    seen: int,
    chunk: int,
) -> tuple[Carry, Float[Array, " known"], Float[Array, " 2"]]:
    """The carry after a step with the best coefficients, these, and the gaps they leave."""
    x, memory = carry
    slots = len(known) - len(ladder)
    outputs = _outputs(ladder, x, row, problem, chunk)
    values = jax.tree.map(lambda now, then: jnp.concatenate([now, then[:slots]]), outputs, memory)
    free = jax.tree.map(lambda x, then: row.scale * x + jnp.tensordot(row.push, then, 1), x, memory)
    if (drawn := increment_at(problem, jnp.asarray(0), x)) is not None:
        free = jax.tree.map(lambda own, xi: own + row.noise * xi, free, drawn)
    gain = jnp.where(row.gain == 0, 1, row.gain)
    target = jax.tree.map(lambda end, own: (end[:seen] - own[:seen]) / gain, goal, free)
    some = jax.tree.map(lambda each: each[:, :seen], values)
    coefficients, gaps = _least_squares(some, target, known, base, ridge)
    coefficients = jnp.where(row.gain == 0, base, coefficients)
    estimate = jax.tree.map(lambda each: jnp.tensordot(coefficients, each, 1), values)
    moved = jax.tree.map(lambda own, f: own + row.gain * f, free, estimate)
    memory = jax.tree.map(
        lambda then, now, f: jnp.tensordot(row.keep, then, 1)
        + jnp.tensordot(row.write, jnp.concatenate([now, f[None]]), 1),
        memory, outputs, estimate,
    )  # fmt: skip
    return Carry(moved, memory), coefficients, gaps


def _outputs(ladder: Ladder, x: State, row: Table, problem: Problem, chunk: int) -> State:
    """Outputs of the levels [levels, batch, ...]; zeros of those that do not run."""

    def of_level(k: int) -> State:
        def run(x: State) -> State:
            return _in_chunks(
                lambda x, condition: evaluate_level(
                    k, ladder.drifts[k], ladder.params[k], x, row.t, condition
                ),
                (x, problem.condition), chunk,
            )  # fmt: skip

        return jax.lax.cond(row.needed[k], run, lambda x: jax.tree.map(jnp.zeros_like, x), x)

    each = [of_level(k) for k in range(len(ladder))]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def _in_chunks(function: Any, given: tuple[State, Any], chunk: int) -> State:
    """A function of a batch, so many samples at a time; `chunk` divides the batch."""
    cut = jax.tree.map(lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:]), given)
    ends = jax.lax.map(lambda part: function(*part), cut)
    return jax.tree.map(lambda end, x: end.reshape(x.shape), ends, given[0])


def _least_squares(
    values: State,
    target: State,
    known: Bool[Array, " known"],
    base: Float[Array, " known"],
    ridge: Array,
) -> tuple[Float[Array, " known"], Float[Array, " 2"]]:
    """c = base + argmin_d |target - base . v - d . v|^2 + ridge |v|^2 |d|^2, by QR.

    Values that are not known have no coefficient. Also the mean squares left with base and with c.
    """
    left = jax.tree.map(lambda goal, each: goal - jnp.tensordot(base, each, 1), target, values)
    columns = jnp.concatenate(
        [each.reshape(len(known), -1) for each in jax.tree.leaves(values)], axis=1
    )
    columns = jnp.where(known[:, None], columns, 0)
    rest = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(left)])
    scale = jnp.sqrt((columns**2).sum(axis=1).max())
    # Rows that hold each coefficient at its base; of what is not known, with all force.
    anchors = jnp.diag(jnp.where(known, jnp.sqrt(ridge), 1.0) * jnp.maximum(scale, 1e-30))
    matrix = jnp.concatenate([columns, anchors], axis=1).T
    goal = jnp.concatenate([rest, jnp.zeros(len(known), rest.dtype)])
    triangle = jnp.linalg.qr(jnp.column_stack([matrix, goal]), mode="r")
    change = jax.scipy.linalg.solve_triangular(triangle[:-1, :-1], triangle[:-1, -1])
    change = jnp.where(known, change, 0)
    after = rest - change @ columns
    gaps = jnp.stack([jnp.mean(rest**2), jnp.mean(after**2)])
    return base + change, gaps


def _divisor(count: int, most: int) -> int:
    """The largest divisor of a count that is not above `most`."""
    return next(each for each in range(min(count, most), 0, -1) if count % each == 0)
