"""Many methods along the same starts and Brownian paths: what they share, and rows of what they do.

Rows go to a log as they come, so that a run that was killed goes on; a method that is there already
is not run again.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from experiments.common import runs
from experiments.common.method import Method, Run, fields
from experiments.common.samplers import SAMPLERS, Order, path_of
from experiments.ladders.shipped import Trained, pick
from mlem_jax import Ladder, Plan, Problem, Steps, draw_starts, plans, solve
from mlem_jax.evaluate import make_reference, square_errors
from mlem_jax.grids import Grid
from mlem_jax.noise import coarsen, store_path
from mlem_jax.types import Key


class Benchmark(NamedTuple):
    """What all methods have in common.

    Attributes:
        sampler: its name.
        x: the starts.
        samples: their numbers.
        key: of the paths.
        fine: the finest grid.
        reference: where the top level ends on it.
    """

    sampler: str
    x: jax.Array
    samples: jax.Array
    key: Key
    fine: Grid
    reference: jax.Array


NoiseAlong = Callable[[Benchmark, Grid, Order], jax.Array | None]
"""`noise_of`, or one that keeps what it has drawn."""
Rows = list[dict[str, Any]]


def make_benchmark(
    sampler: str,
    trained: Trained,
    fine: Grid,
    samples: jax.Array,
    seed: int,
    reference: np.ndarray | None = None,
    *,
    order: Order = 2,
) -> Benchmark:
    """Starts and paths, and where the top level brings them by an order, unless that is known."""
    # Not the keys of learning: what was learned on is not judged on.
    start_key, path_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    x = draw_starts(start_key, samples, trained.shape)
    benchmark = Benchmark(sampler, x, samples, path_key, fine, x)
    if reference is not None:
        return benchmark._replace(reference=jnp.asarray(reference))
    table = SAMPLERS[sampler].table(fine, order)
    problem = Problem(x, noise_of(benchmark, fine, order))
    return benchmark._replace(reference=make_reference(trained.ladder, problem, table).reference)


def part_of(number: int, images: int) -> jax.Array:
    """Numbers of the samples of one of several batches."""
    return number * images + jnp.arange(images)


def noise_of(benchmark: Benchmark, times: Grid, order: Order = 1) -> jax.Array | None:
    """The benchmark's noise along a grid, drawn once for many plans; None for an ODE."""
    sampler = SAMPLERS[benchmark.sampler]
    path = path_of(sampler, benchmark.key, benchmark.fine, times, benchmark.samples, order)
    return None if path is None else jax.jit(store_path)(path, benchmark.x)


def kept_noise(benchmark: Benchmark) -> NoiseAlong:
    """`noise_of` one benchmark, as sums of fine increments that are drawn once for all grids."""
    drawn = cache(partial(noise_of, benchmark, benchmark.fine))

    def noise_along(own: Benchmark, times: Grid, order: Order) -> jax.Array | None:
        if own is not benchmark:
            raise ValueError("expected the benchmark that the noise was drawn for, got another; "
                             "make kept_noise of it")  # fmt: skip
        path = path_of(SAMPLERS[own.sampler], own.key, own.fine, times, own.samples, order)
        return None if path is None else coarsen(path, drawn())

    return noise_along


def timed_solve(
    ladder: Ladder, problem: Problem, table: Steps, plan: Plan
) -> tuple[jax.Array, float]:
    """The end of a solve, and its seconds without compilation."""
    # The same program with nothing to evaluate: compiled, but hardly run.
    idle = plan._replace(needed=jnp.zeros_like(plan.needed))
    jax.block_until_ready(solve(ladder, problem, table, idle))
    begun = time.perf_counter()
    end = jax.block_until_ready(solve(ladder, problem, table, plan))
    return end, time.perf_counter() - begun


def ends_of(
    run: Run, trained: Trained, benchmark: Benchmark, noise_along: NoiseAlong = noise_of
) -> tuple[list[jax.Array], list[float]]:
    """Where each of a run's plans brings the starts, and the seconds of the solver."""
    ladder = pick(trained, run.method.levels).ladder
    table = SAMPLERS[benchmark.sampler].table(run.times, run.method.order)
    problem = Problem(benchmark.x, noise_along(benchmark, run.times, run.method.order))
    ends, seconds = zip(*(timed_solve(ladder, problem, table, each) for each in run.plans),
                        strict=True)  # fmt: skip
    return list(ends), list(seconds)


def rows_of(
    run: Run,
    trained: Trained,
    judged: Benchmark,
    chosen_on: Benchmark | None = None,
    noise_along: NoiseAlong = noise_of,
) -> Rows:
    """A row per draw; where one is chosen, by its error on the other batch, it is marked."""
    ends, seconds = ends_of(run, trained, judged, noise_along)
    best = None
    if chosen_on is not None and len(run.plans) > 1:
        others = ends_of(run, trained, chosen_on, noise_along)[0]
        best = int(np.argmin([square_errors(end, chosen_on.reference).mean() for end in others]))
    return [
        row_of(run, number, end, taken, trained, judged) | {"best": number == best}
        for number, (end, taken) in enumerate(zip(ends, seconds, strict=True))
    ]


def row_of(
    run: Run, number: int, end: jax.Array, seconds: float, trained: Trained, judged: Benchmark
) -> dict[str, Any]:
    """What a result has to say of one draw of a run, which ended there after so many seconds."""
    return {
        "sampler": judged.sampler,
        **fields(run.method),
        "parameters": run.parameters,
        "number": number,
        **paid_for(run.plans[number], run.method, trained),
        **errors_of(end, judged),
        "seconds": seconds,
    }


def errors_of(end: jax.Array, benchmark: Benchmark) -> dict[str, Any]:
    """The mean squared error to the reference, and that of each picture."""
    errors = np.asarray(square_errors(end, benchmark.reference))
    return {"mse": float(errors.mean()),
            "picture_errors": [float(f"{error:.4g}") for error in errors]}  # fmt: skip


def paid_for(plan: Plan, method: Method, trained: Trained) -> dict[str, Any]:
    """Evaluations of each level of the whole ladder, and their cost, by a plan of a method."""
    paid = plans.price(plan, pick(trained, method.levels).ladder.costs)
    evaluations = np.zeros(len(trained.ladder), int)
    evaluations[[level - 1 for level in method.levels]] = paid.evaluations
    return {"evaluations": evaluations.tolist(), "cost": float(paid.costs.sum())}


def measure_missing(
    log: Path,
    wanted: Iterable[Any],
    judge: Callable[[], Callable[[Any], Rows]],
    console: Console,
) -> Rows:
    """The rows of all runs, in their order, from the log where they are in it.

    Args:
        log: JSON lines; what is there of other runs is dropped.
        wanted: `Run`s, or anything with their `method` and `parameters`.
        judge: asked, once something is missing, for what makes a run's rows, a row per draw.
        console: for the progress.
    """

    def name_of(method: dict[str, Any], parameters: dict[str, Any]) -> str:
        return json.dumps([[method[name] for name in Method._fields], parameters])

    asked = {name_of(fields(run.method), run.parameters): run for run in wanted}
    found: dict[str, Rows] = {}
    for row in runs.read_log(log):
        if (name := name_of(row, row["parameters"])) in asked:
            found.setdefault(name, []).append(row)
    missing = [name for name in asked if name not in found]
    if missing:
        with console.status(f"{log.stem}: references"):
            judged = judge()
        for name in track(missing, log.stem, console=console):
            found[name] = judged(asked[name])
            runs.write_log(log, [row for own in found.values() for row in own])
    return [row for name in asked for row in found[name]]


def payable(costs: tuple[float, ...], count: int, budget: float) -> bool:
    """Whether there is something to choose: more than the bottom, less than the top, everywhere."""
    return 1.3 * costs[0] * count < budget < 0.9 * count


def alone(
    trained: Trained,
    counts: Iterable[int],
    grids: Callable[[int], dict[str, Grid]],
    *,
    order: Order = 1,
    lower: bool = False,
) -> Iterator[Run]:
    """The top level at several step counts on every kind of grid.

    Args:
        trained: the ladder.
        counts: numbers of steps.
        grids: from a number of steps to grids by kind.
        order: of the step table.
        lower: whether the other levels run too, on the first kind of grid.
    """
    top = len(trained.ladder)
    for count in counts:
        for number, (kind, times) in enumerate(grids(count).items()):
            first = 1 if lower and not number else top
            for level in range(first, top + 1):
                family = "top level" if level == top else "level"
                method = Method(family, (level,), kind, order)
                yield Run(method, {"steps": count}, times, [plans.full(count, 1, 1)])
