"""How methods are run in `experiments.particles.rods`: one path for all, and a row for each."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from mlem_jax import plan, steps
from mlem_jax.frontier import cost_at_error, frontier
from mlem_jax.levels import Levels, measure_costs
from mlem_jax.noise import brownian_path, store_path
from mlem_jax.plan import Plan
from mlem_jax.solve import Trajectory, solve, solve_path
from mlem_jax.steps import Steps
from mlem_jax.types import Key, Params, State


class Problem(NamedTuple):
    """A ladder, and what all methods have in common.

    Attributes:
        levels: the ladder, costs in evaluations of the top.
        params: one pytree a level.
        reaches: neighbours of each level, which its pair interactions are in proportion to.
        x: the start [samples, rods].
        deviation: of the noise in unit time.
        end: of time.
        fine: steps of the finest grid.
        key: of the Brownian path.
    """

    levels: Levels
    params: tuple[Params, ...]
    reaches: tuple[int, ...]
    x: State
    deviation: float
    end: float
    fine: int
    key: Key


class Method(NamedTuple):
    """One way to the end, in as many plans as it draws.

    Attributes:
        name: shared by the points of one curve.
        parameters: what distinguishes the points.
        steps: of its grid.
        plans: its draws; a row tells their median.
        levels: of the ladder that they are of, counted from 1.
    """

    name: str
    parameters: dict[str, Any]
    steps: int
    plans: list[Plan]
    levels: tuple[int, ...]


def table_of(problem: Problem, count: int) -> Steps:
    """Euler-Maruyama in `count` steps."""
    grid = steps.uniform_grid(0.0, problem.end, count)
    return steps.euler_maruyama(grid, lambda t: problem.deviation + 0 * t)


def fine_noise(problem: Problem) -> Shaped[Array, "fine *state"]:
    """The path's increments on the finest grid, drawn once for all methods."""
    grid = steps.uniform_grid(0.0, problem.end, problem.fine)
    path = brownian_path(problem.key, grid, samples=jnp.arange(len(problem.x)))
    return jax.jit(store_path)(path, problem.x)


def coarse_noise(fine: Shaped[Array, "fine *state"], count: int) -> Shaped[Array, "steps *state"]:
    """The same path in `count` equal steps, as `brownian_path` has it, from the stored increments.

    A path can be asked for any grid at once; it would draw all fine increments again.
    """
    each = len(fine) // count
    return fine.reshape(count, each, *fine.shape[1:]).sum(axis=1) / each**0.5


def rungs_of(problem: Problem, chosen: tuple[int, ...]) -> tuple[Levels, tuple[Params, ...]]:
    """Some levels of the ladder, counted from 1, and their parameters."""
    places = [number - 1 for number in chosen]
    drifts = tuple(problem.levels.drifts[place] for place in places)
    costs = tuple(problem.levels.costs[place] for place in places)
    return Levels(drifts, costs), tuple(problem.params[place] for place in places)


def solve_finely(
    problem: Problem, noise: Shaped[Array, "fine *state"], kept: int = 40
) -> tuple[Trajectory, float]:
    """All pairs on the fine grid: the reference, with states on the way, and its seconds."""
    levels, params = rungs_of(problem, (len(problem.reaches),))
    count = problem.fine
    begun = time.perf_counter()
    found = solve_path(levels, params, problem.x, table_of(problem, count),
                       plan.full_plan(count, 1, 1), noise, stride=count // kept)  # fmt: skip
    return jax.block_until_ready(found), time.perf_counter() - begun


def run_method(
    method: Method, problem: Problem, noise: Shaped[Array, "steps *state"], reference: State
) -> dict[str, Any]:
    """The row of a method: what it evaluated and paid, how far it ended from the reference."""
    levels, params = rungs_of(problem, method.levels)
    table = table_of(problem, method.steps)
    # The same program with nothing to evaluate: compiled, but hardly run.
    first = method.plans[0]
    idle = first._replace(needed=jnp.zeros_like(first.needed))
    jax.block_until_ready(solve(levels, params, problem.x, table, idle, noise))
    errors, seconds, counts = [], [], []
    for each in method.plans:
        end, taken = timed(solve, levels, params, problem.x, table, each, noise)
        seconds.append(taken)
        errors.append(float(jnp.mean((end - reference) ** 2)))
        counts.append(plan.price(each, levels.costs).evaluations)
    evaluations = np.zeros(len(problem.reaches))
    evaluations[[number - 1 for number in method.levels]] = np.median(counts, axis=0)
    return row_of(method.name, method.parameters, problem, evaluations, errors, seconds)


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
    name: str,
    parameters: dict[str, Any],
    problem: Problem,
    evaluations: Sequence[float] | np.ndarray,
    errors: list[float],
    seconds: list[float],
) -> dict[str, Any]:
    """A row, of medians; without an error if it left all bounds."""
    # A rod that ends a spacing away from where it should has passed others: no error to compare.
    error = float(np.median(np.nan_to_num(errors, nan=np.inf)))
    reaches = np.array(problem.reaches)
    return {
        "method": name,
        "parameters": parameters,
        "evaluations": [float(number) for number in evaluations],
        "cost": float(np.dot(evaluations, problem.levels.costs)),
        "pairs": float(np.dot(evaluations, reaches / reaches[-1])),
        "mse": error if error < 1 else None,
        "draws": len(errors),
        "seconds": float(np.median(seconds)),
    }


def measure_gamma(problem: Problem, states: Float[Array, "kept *state"]) -> dict[str, Any]:
    """error ~ pairs^(-1/gamma), of cut-offs that double, up to an eighth of all.

    Further out the error falls faster, as the ring comes to its end. Once against pairs, and once
    against the measured seconds of an evaluation.
    """
    drift, top = problem.levels.drifts[-1], problem.params[-1]
    reaches = 2 ** np.arange(int(np.log2(problem.reaches[-1])))
    zero = jnp.zeros((), problem.x.dtype)
    along = jax.jit(lambda own: jax.lax.map(lambda x: drift(own, x, zero), states))
    full = along(top)
    errors = [
        float(jnp.sqrt(jnp.mean((along(top._replace(reach=jnp.asarray(reach))) - full) ** 2)))
        for reach in reaches
    ]
    params = [top._replace(reach=jnp.asarray(reach)) for reach in reaches]
    seconds = measure_costs([drift] * len(params), params, problem.x, zero, repeats=15)
    fitted = reaches <= max(problem.reaches[-1] // 8, 4)
    gamma, deviation = fit_power(reaches[fitted], np.array(errors)[fitted])
    by_seconds, its_deviation = fit_power(without_spikes(seconds)[fitted], np.array(errors)[fitted])
    return {
        "gamma": gamma,
        "standard_error": deviation,
        "gamma_by_seconds": by_seconds,
        "standard_error_by_seconds": its_deviation,
        "reaches": reaches.tolist(),
        "errors": errors,
        "seconds": seconds,
        "fitted": int(fitted.sum()),
        "force": float(jnp.sqrt(jnp.mean(full**2))),
    }


def without_spikes(seconds: Sequence[float]) -> np.ndarray:
    """Costs that never fall: what a busy machine adds to a level, a dearer one shows it up."""
    return np.minimum.accumulate(np.array(seconds)[::-1])[::-1]


def fit_power(costs: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """gamma of error ~ cost^(-1/gamma), and its standard error from what the line leaves over."""
    x, y = np.log(costs), np.log(errors)
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    rest = y - slope * x
    deviation = float(np.sqrt(rest @ rest / max(len(x) - 2, 1) / (x @ x)))
    return -1 / slope, deviation / slope**2


def price_at(
    rows: list[dict[str, Any]], method: str | Callable[[str], bool], unit: str, wanted: np.ndarray
) -> np.ndarray:
    """Cost at which a method reaches an error, in one of the units that rows are told in.

    Above its largest error the cheapest stable run stands: it is better than was asked for. NaN
    below its least error.
    """
    chosen = method if callable(method) else method.__eq__
    own = [row for row in rows if chosen(row["method"]) and row["mse"] is not None]
    if not own:
        return np.full(len(wanted), np.nan)
    points = [(row[unit], row["mse"]) for row in own]
    _, cheapest = frontier(points)[0]
    costs, errors = np.array(points).T
    return cost_at_error(costs, errors, np.minimum(wanted, cheapest))
