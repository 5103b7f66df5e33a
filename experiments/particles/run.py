"""How methods are run in `experiments.particles.rods`: one path for all, and a row for each."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import mlem_jax as mlem
from experiments.common.method import Method, Run
from mlem_jax import Ladder, Problem, Steps, grids, plans, solve, steps
from mlem_jax.noise import brownian_path, store_path
from mlem_jax.solver import Trajectory
from mlem_jax.types import Key, State


class Task(NamedTuple):
    """What all methods have in common.

    Attributes:
        ladder: costs in evaluations of the top.
        reaches: neighbours of each level, which its pair interactions are in proportion to.
        x: the start [samples, rods].
        deviation: of the noise in unit time.
        end: of time.
        fine: steps of the finest grid.
        key: of the Brownian path.
    """

    ladder: Ladder
    reaches: tuple[int, ...]
    x: State
    deviation: float
    end: float
    fine: int
    key: Key


def steps_of(task: Task, count: int) -> Steps:
    """Euler-Maruyama in `count` steps."""
    times = grids.uniform_grid(0.0, task.end, count)
    return steps.euler_maruyama(times, lambda t: jnp.full_like(t, task.deviation))


def problem_of(task: Task, count: int) -> Problem:
    """The start, and the path in `count` steps: its increments are drawn once for many methods."""
    fine, own = (steps_of(task, each) for each in (task.fine, count))
    path = brownian_path(task.key, fine, own, samples=jnp.arange(len(task.x)))
    return Problem(task.x, jax.jit(store_path)(path, task.x))


def solve_finely(task: Task, kept: int = 40) -> Trajectory:
    """All pairs on the fine grid: the reference, with states on the way."""
    top = mlem.pick_levels(task.ladder, (len(task.ladder),))
    own, plan = steps_of(task, task.fine), plans.full(task.fine, 1, 1)
    done = np.arange(0, task.fine + 1, task.fine // kept)
    return mlem.solve_path(top, problem_of(task, task.fine), own, plan, keep=done)


def run_method(run: Run, task: Task, problem: Problem, reference: State) -> dict[str, Any]:
    """The row of a method: what it evaluated and paid, how far it ended from the reference."""
    ladder = mlem.pick_levels(task.ladder, run.method.levels)
    given = ladder, problem, steps_of(task, len(run.times) - 1)
    # The same program with nothing to evaluate: compiled, but hardly run.
    first = run.plans[0]
    compiled = jax.jit(solve)
    jax.block_until_ready(compiled(*given, first._replace(needed=jnp.zeros_like(first.needed))))
    errors, seconds, counts = [], [], []
    for plan in run.plans:
        end, taken = timed(compiled, *given, plan)
        seconds.append(taken)
        errors.append(float(jnp.mean((end - reference) ** 2)))
        counts.append(plan.needed.sum(axis=0))
    evaluations = np.zeros(len(task.reaches))
    evaluations[np.array(run.method.levels) - 1] = np.median(counts, axis=0)
    return row_of(run.method, run.parameters, task, evaluations, errors, seconds)


def run_peers(
    task: Task, solvers: Sequence[str], counts: Sequence[int], reference: State
) -> list[dict[str, Any]]:
    """Rows of diffrax with all pairs, along the same increments."""
    from experiments.peers import diffrax_driver as driver

    top, rows = mlem.pick_levels(task.ladder, (len(task.ladder),)), []
    fine = cast(jax.Array, problem_of(task, task.fine).noise)
    for count in counts:
        path = driver.pad(driver.coarse_increments(fine, count), max(counts))
        step = task.end / count
        gains = (jnp.asarray(step), jnp.asarray(task.deviation * step**0.5))
        for name in solvers:
            solver, evaluations = driver.SOLVERS[name]
            given = (solver, top.drifts[0], top.params[0], task.x, path)
            # One program for all counts; a single step compiles it.
            jax.block_until_ready(driver.solve_along(*given, jnp.asarray(1), *gains))
            end, taken = timed(driver.solve_along, *given, jnp.asarray(count), *gains)
            error = float(jnp.mean((end - reference) ** 2))
            counted = [0.0] * (len(task.ladder) - 1) + [float(evaluations * count)]
            method = Method(f"diffrax {name}", (len(task.ladder),))
            rows.append(row_of(method, {"steps": count}, task, counted, [error], [taken]))
    return rows


def timed(run: Callable[..., State], *given: Any) -> tuple[State, float]:
    """What it returns, and its seconds; a short run is timed thrice, and the least one counts."""
    seconds: list[float] = []
    while True:
        begun = time.perf_counter()
        end = jax.block_until_ready(run(*given))
        seconds.append(time.perf_counter() - begun)
        if len(seconds) == 3 or max(seconds) > 0.1:
            return end, min(seconds)


def row_of(
    method: Method,
    parameters: dict[str, Any],
    task: Task,
    evaluations: Sequence[float] | np.ndarray,
    errors: list[float],
    seconds: list[float],
) -> dict[str, Any]:
    """A row, of medians; without an error if it left all bounds."""
    # A rod that ends a spacing away from where it should has passed others: no error to compare.
    error = float(np.median(np.nan_to_num(errors, nan=np.inf)))
    reaches = np.array(task.reaches)
    return {
        **method._asdict(),
        "parameters": parameters,
        "evaluations": [float(number) for number in evaluations],
        "cost": float(np.dot(evaluations, task.ladder.costs)),
        "pairs": float(np.dot(evaluations, reaches / reaches[-1])),
        "mse": error if error < 1 else None,
        "draws": len(errors),
        "seconds": float(np.median(seconds)),
    }


def measure_gamma(task: Task, states: Float[Array, "kept *state"]) -> dict[str, Any]:
    """error ~ pairs^(-1/gamma), of cut-offs that double, up to an eighth of all.

    Further out the error falls faster, as the ring comes to its end. Once against pairs, and once
    against the measured seconds of an evaluation.
    """
    drift, top = task.ladder.drifts[-1], task.ladder.params[-1]
    reaches = 2 ** np.arange(int(np.log2(task.reaches[-1])))
    params = tuple(top._replace(reach=jnp.asarray(reach)) for reach in reaches)
    zero = jnp.zeros((), task.x.dtype)
    along = jax.jit(lambda own: jax.lax.map(lambda x: drift(own, x, zero), states))
    full = along(top)
    errors = np.array([float(jnp.sqrt(jnp.mean((along(own) - full) ** 2))) for own in params])
    ladder = Ladder((drift,) * len(params), params)
    seconds = np.array(mlem.measure_costs(ladder, task.x, zero, repeats=15).costs)
    fitted = reaches <= max(task.reaches[-1] // 8, 4)
    gamma, deviation = fit_power(reaches[fitted], errors[fitted])
    by_seconds, its_deviation = fit_power(seconds[fitted], errors[fitted])
    return {
        "gamma": gamma,
        "standard_error": deviation,
        "gamma_by_seconds": by_seconds,
        "standard_error_by_seconds": its_deviation,
        "reaches": reaches.tolist(),
        "errors": errors.tolist(),
        "seconds": seconds.tolist(),
        "fitted": int(fitted.sum()),
        "force": float(jnp.sqrt(jnp.mean(full**2))),
    }


def fit_power(costs: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """gamma of error ~ cost^(-1/gamma), and its standard error from what the line leaves over.

    NaN where all costs are equal, as seconds of very small levels can be.
    """
    x, y = (np.log(each) - np.log(each).mean() for each in (costs, errors))
    if x @ x < 1e-12:
        return math.nan, math.nan
    slope = x @ y / (x @ x)
    rest = y - slope * x
    deviation = math.sqrt(rest @ rest / (len(x) - 2) / (x @ x))
    return float(-1 / slope), float(deviation / slope**2)
