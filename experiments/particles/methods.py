"""What `experiments.particles.rods` compares: tables of which level runs when, with what weight."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mlem_jax as mlem
from experiments.common.method import Method, Run
from experiments.particles.cases import BINS, Case
from experiments.particles.run import Task, steps_of
from mlem_jax import Plan, diagnosis, draws, gates, plans
from mlem_jax.types import Key, Logits


def methods_of(task: Task, case: Case, keys: list[Key]) -> Iterator[Run]:
    """All pairs at every step; the lower levels alone; ML-EM on the whole ladder, and on two.

    Each random draw is drawn once for every key.
    """
    top, most = len(task.ladder), case.bases[-1]
    for count in case.alone:
        yield run_of(task, Method("top level", (top,)), [plans.full(count, 1, 1)])
    for level in range(1, top):
        yield run_of(task, Method("level", (level,)), [plans.full(most, 1, 1)])
    sensitivities = pilot_run(task, case)
    for count in case.bases:
        for spent in case.spent:
            yield from multilevel(task, sensitivities, count, spent, keys)
            # The bottom and the top alone: impulses are r-RESPA's way.
            two = gates.constant((1.0, min(1.0, spent / count)))
            logits = two.logits((), steps_of(task, count).t)
            yield from midpoints(task, "constant", (1, top), logits, spent)


def multilevel(
    task: Task, sensitivities: np.ndarray, count: int, spent: float, keys: list[Key]
) -> Iterator[Run]:
    """Gates of two families, drawn in three ways and held in one, all for about the same price.

    The bottom level is certain in all: it has the stiff core.
    """
    costs, t = task.ladder.costs, steps_of(task, count).t
    everything = tuple(range(1, len(costs) + 1))
    v = np.repeat(sensitivities, count // BINS, axis=0)
    by_cost = gates.keep_open(gates.inverse_cost(costs))
    plain, even = (gates.from_sensitivities(v, costs, power=power) for power in (1 / 2, 1 / 3))
    # All draws have the same mean price, so one fit serves several.
    fitted = cache(lambda own: mlem.fit_budget(own, t, costs, count * costs[0] + spent,
                                               draw=draws.independent))  # fmt: skip
    for name, unevenly, evenly in (("inverse cost", by_cost, by_cost), ("pilot", plain, even)):
        for kind, draw, own in (
            ("independent", draws.independent, unevenly),
            ("systematic", draws.systematic, evenly),
        ):
            drawn = [mlem.draw_plan(draw, fitted(own), key) for key in keys]
            method = Method("ML-EM", everything, gates=name, draw=kind, weights="impulse")
            yield run_of(task, method, drawn, spent=spent)
        yield from midpoints(task, name, everything, fitted(evenly), spent)


def midpoints(
    task: Task, name: str, levels: tuple[int, ...], logits: Logits, spent: float
) -> Iterator[Run]:
    """Openings without chance: with impulses, and with differences held along straight lines."""
    openings = plans.open_first(draws.midpoint.openings(None, logits))
    held = plans.trapezoid(openings, steps_of(task, len(logits)))
    impulses = mlem.draw_plan(draws.midpoint, logits, None)
    for weights, plan in (("impulse", impulses), ("trapezoid", held)):
        method = Method("ML-EM", levels, gates=name, draw="midpoint", weights=weights)
        yield run_of(task, method, [plan], spent=spent)


def run_of(task: Task, method: Method, own: list[Plan], **parameters: Any) -> Run:
    """A point of a curve, with its number of steps among its parameters."""
    count = len(own[0].weights)
    times = mlem.grids.uniform_grid(0.0, task.end, count)
    return Run(method, {"steps": count, **parameters}, times, own)


def pilot_run(task: Task, case: Case) -> np.ndarray:
    """v[bin, k] on a coarse grid: one ring, on a path of its own, in forward mode.

    It is in proportion to the step size, the same for all bins, so it serves any grid.
    """
    steps = steps_of(task, case.bases[0])
    path_key, key = jax.random.split(jax.random.fold_in(task.key, 1))
    path = mlem.brownian_path(path_key, steps, samples=jnp.arange(1))
    problem = mlem.Problem(task.x[:1], path)
    found = diagnosis.measure_sensitivities(task.ladder, problem, steps, key, bins=BINS)
    return np.asarray(found)[:: len(found) // BINS]
