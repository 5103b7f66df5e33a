"""Many methods along the same starts and Brownian paths: what they share, and rows of what they do.

Rows go to a log as they come, so that a run that was killed goes on; a method that is there already
is not run again.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from experiments.common import runs
from experiments.common.pictures import timed_solve
from experiments.ladders.shipped import PROCESS, Ladder
from experiments.common.samplers import SAMPLERS, path_of
from mlem_jax import plan, steps
from mlem_jax.evaluate import square_errors
from mlem_jax.noise import draw_starts, store_path
from mlem_jax.plan import Plan
from mlem_jax.steps import Grid, Steps
from mlem_jax.types import Key


class Method(NamedTuple):
    """One way to draw pictures, in as many draws as it has.

    Attributes:
        name: shared by the points of one curve.
        parameters: what distinguishes the points.
        grid: the times it steps through.
        plans: its draws.
        levels: of the ladder that its plans are of, 1 the cheapest; all if none is named.
        table: the integrator; None for the sampler's own.
        target: which reference it is judged against.
    """

    name: str
    parameters: dict[str, Any]
    grid: Grid
    plans: list[Plan]
    levels: tuple[int, ...] = ()
    table: Callable[[Grid], Steps] | None = None
    target: str = "top"


class Course(NamedTuple):
    """What all methods have in common.

    Attributes:
        sampler: its name.
        x: the starts.
        samples: their numbers.
        key: of the paths.
        fine: the finest grid.
        references: where each target ends on it.
    """

    sampler: str
    x: jax.Array
    samples: jax.Array
    key: Key
    fine: Grid
    references: dict[str, jax.Array]


Targets = Callable[[Steps], dict[str, Plan]]
"""From the fine grid's steps to the plans that are to be approached, by name."""


def top_target(table: Steps, ladder: Ladder) -> Plan:
    """The top level at every step."""
    count = len(ladder.levels.drifts)
    return plan.full_plan(len(table.t), count, count)


def course_of(
    name: str, ladder: Ladder, fine: Grid, samples: jax.Array, seed: int, targets: Targets
) -> Course:
    """Starts and paths, and where the targets bring them."""
    # Not the keys of learning: what was learned on is not judged on.
    start_key, path_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    x = draw_starts(start_key, samples, ladder.shape)
    course = Course(name, x, samples, path_key, fine, {})
    table, noise = laid_out(course, fine)
    references = {
        target: timed_solve(ladder, x, table, own, noise)[0]
        for target, own in targets(table).items()
    }
    return course._replace(references=references)


def laid_out(
    course: Course, grid: Grid, table: Callable[[Grid], Steps] | None = None
) -> tuple[Steps, jax.Array | None]:
    """The table for a grid, and the course's noise along it, drawn once for many plans."""
    return (table or SAMPLERS[course.sampler].table)(grid), noise_of(course, grid)


def noise_of(course: Course, grid: Grid) -> jax.Array | None:
    """The course's noise along a grid; None for an ODE."""
    path = path_of(SAMPLERS[course.sampler], course.key, course.fine, grid, course.samples)
    return None if path is None else jax.jit(store_path)(path, course.x)


NoiseAlong = Callable[[Course, Grid], jax.Array | None]
"""`noise_of`, or one that keeps what it has drawn."""


def run_missing(
    log: Path,
    ladder: Ladder,
    methods: Iterable[Method],
    courses: Callable[[], tuple[Course, Course | None]],
    console: Console,
) -> list[dict[str, Any]]:
    """A row for every draw of every method, in their order, from the log where they are in it.

    Args:
        log: JSON lines; what is there of other methods is dropped.
        ladder: the levels.
        methods: all that should be there.
        courses: to judge on, and to choose the best of several draws on; asked for once something
            is missing.
        console: for the progress.
    """

    def judge() -> Callable[[Method], list[dict[str, Any]]]:
        judged, chosen_on = courses()
        return lambda method: rows_of(method, ladder, judged, chosen_on)

    return log_missing(log, methods, judge, console)


def log_missing(
    log: Path,
    methods: Iterable[Any],
    judge: Callable[[], Callable[[Any], list[dict[str, Any]]]],
    console: Console,
) -> list[dict[str, Any]]:
    """As `run_missing`, for anything with `name` and `parameters`.

    Args:
        log: JSON lines; what is there of other methods is dropped.
        methods: all that should be there.
        judge: asked once something is missing for what makes a method's rows, a row a draw.
        console: for the progress.
    """
    wanted = {(method.name, json.dumps(method.parameters)): method for method in methods}

    def of_row(row: dict[str, Any]) -> tuple[str, str]:
        return row["method"], json.dumps(row["parameters"])

    lines = log.read_text().splitlines() if log.exists() else []
    rows = [row for row in map(json.loads, lines) if of_row(row) in wanted]
    done = set(map(of_row, rows))
    missing = [method for each, method in wanted.items() if each not in done]
    if missing:
        with console.status(f"{log.stem}: references"):
            judged = judge()
        for method in track(missing, log.stem, console=console):
            rows += judged(method)
            runs.write_whole(log, "".join(json.dumps(row) + "\n" for row in rows))
    order = list(wanted)
    return sorted(rows, key=lambda row: (order.index(of_row(row)), row["draw"]))


def rows_of(
    method: Method,
    ladder: Ladder,
    judged: Course,
    chosen_on: Course | None,
    noise_along: NoiseAlong = noise_of,
) -> list[dict[str, Any]]:
    """A row a draw; where one is chosen, by its error on the other batch, it is marked."""
    own = rungs_of(ladder, method.levels)

    def errors_on(course: Course) -> tuple[np.ndarray, list[float]]:
        table = (method.table or SAMPLERS[course.sampler].table)(method.grid)
        noise = noise_along(course, method.grid)
        errors, seconds = [], []
        for each in method.plans:
            end, taken = timed_solve(own, course.x, table, each, noise)
            errors.append(np.asarray(square_errors(end, course.references[method.target])))
            seconds.append(taken)
        return np.stack(errors), seconds

    errors, seconds = errors_on(judged)
    best = None
    if chosen_on is not None and len(method.plans) > 1:
        best = int(np.argmin(errors_on(chosen_on)[0].mean(axis=1)))
    rows = []
    for draw, each in enumerate(method.plans):
        rows.append({
            "sampler": judged.sampler,
            "method": method.name,
            "draw": draw,
            "parameters": method.parameters,
            **paid_for(each, method, ladder),
            "mse": float(errors[draw].mean()),
            "picture_errors": [float(f"{error:.4g}") for error in errors[draw]],
            "seconds": seconds[draw],
            "best": draw == best,
        })  # fmt: skip
    return rows


def paid_for(own: Plan, method: Method, ladder: Ladder) -> dict[str, Any]:
    """Evaluations of each level of the whole ladder, and their cost, by a plan of a method."""
    paid = plan.price(own, rungs_of(ladder, method.levels).levels.costs)
    evaluations = np.zeros(len(ladder.losses), int)
    evaluations[[level - 1 for level in method.levels] or slice(None)] = paid.evaluations
    return {"evaluations": evaluations.tolist(), "cost": float(paid.costs.sum())}


def rungs_of(ladder: Ladder, chosen: tuple[int, ...]) -> Ladder:
    """Some levels of a ladder, costs in the same unit; all if none is named."""
    if not chosen:
        return ladder
    places = [number - 1 for number in chosen]

    def pick(column: tuple) -> tuple:
        return tuple(column[place] for place in places)

    levels = ladder.levels._replace(
        drifts=pick(ladder.levels.drifts), costs=pick(ladder.levels.costs)
    )
    return ladder._replace(levels=levels, params=pick(ladder.params), losses=pick(ladder.losses))


def payable(ladder: Ladder, count: int, budget: float) -> bool:
    """Whether there is something to choose: more than the bottom, less than the top, everywhere."""
    return 1.3 * ladder.levels.costs[0] * count < budget < 0.9 * count


def suffix(chosen: tuple[int, ...]) -> str:
    """What the name of a method on a shorter ladder ends with."""
    return f", levels {' '.join(map(str, chosen))}" if chosen else ""


def fine_grid(count: int) -> Grid:
    """The finest grid, uniform in time."""
    return steps.uniform_grid(PROCESS.end, 0.0, count)


def euler_maruyama(
    ladder: Ladder,
    counts: Iterable[int],
    grids: Callable[[int], dict[str, Grid]],
    *,
    lower: bool = True,
) -> Iterator[Method]:
    """The top level at several step counts on every kind of grid; the others on the first kind."""
    top = len(ladder.levels.drifts)
    for count in counts:
        for number, (kind, grid) in enumerate(grids(count).items()):
            first = 1 if lower and not number else top
            for level in range(first, top + 1):
                name = f"Euler-Maruyama, level {level}, {kind}"
                yield Method(name, {"steps": count}, grid, [plan.full_plan(count, top, level)])


def part_of(number: int, images: int) -> jax.Array:
    """Numbers of the samples of one of several batches."""
    return number * images + jnp.arange(images)
