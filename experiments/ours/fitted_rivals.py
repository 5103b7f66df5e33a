"""The rivals of fitted plans: one network, fitted and not, the paper's recipe, drawn gates."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import benchmark
from experiments.common.kept_plans import KeptPlan
from experiments.common.method import Method, Run, fitted
from experiments.common.pilots import Pilot, grid_of, kinds_of
from experiments.common.samplers import SAMPLERS, coarse_grids
from experiments.ladders.shipped import Trained, pick
from experiments.paper.gates import families, learned_gates
from experiments.peers import solvers
from experiments.peers.solvers import Peer
from mlem_jax import Steps, draws, fit_budget, gates, pick_levels, plans
from mlem_jax.evaluate import Batch, best_of
from mlem_jax.fitting import Candidate, along, fit_plan, part_of, sensitivities_on, states_on
from mlem_jax.grids import Grid
from mlem_jax.noise import store_path
from mlem_jax.problem import batch_size
from mlem_jax.steps import goes_ahead
from mlem_jax.types import Key

Keep = Callable[[str, KeptPlan, dict[str, Any]], None]
"""Keeps a plan under a name, with what else is to be known of it."""


class Asked(NamedTuple):
    """What the paper's recipe is given.

    Attributes:
        gates: folder of learned gates of this ladder; without one, gates of theory.
        draws: of which the best is taken.
        key: of them.
    """

    gates: Path | None
    draws: int
    key: Key


def alone(name: str, trained: Trained, count: int, fine: Grid) -> Iterator[Run]:
    """The top level at every step, of first and of second order, on every grid."""
    for kind in kinds_of(name, ahead=False):
        times, order = grid_of(kind, fine, count)
        method = Method("top level", (len(trained.ladder),), kind.partition(",")[0], order)
        yield Run(method, {"steps": count}, times, [plans.full(count, 1, 1)])


def fitted_alone(
    name: str, trained: Trained, pilot: Pilot, count: int, fine: Grid, keep: Keep | None
) -> Iterator[Run]:
    """The same with fitted weights, and steps that look ahead; of all grids the best is kept."""
    levels, least = (len(trained.ladder),), {"top": np.inf, "top_ahead": np.inf}
    own, noise = pick_levels(trained.ladder, levels), pilot.problem.noise
    drawn = None if noise is None else jax.jit(store_path)(noise, pilot.problem.x)
    for kind in kinds_of(name):
        times, order = grid_of(kind, fine, count)
        steps = SAMPLERS[name].table(times, order)
        problem = along(pilot.problem, pilot.fine.steps, steps, drawn)
        goal, runs = states_on(pilot.fine, steps, problem), ~goes_ahead(steps)[:, None]
        fit = fit_plan(own, problem, steps, runs, goal, memory=(3,))
        grid, error = kind.partition(",")[0], float(fit.error)
        stem = "top_ahead" if order == "look-ahead" else "top"
        if keep is not None and error < least[stem]:
            least[stem] = error
            kept = KeptPlan(fit.plan, levels, name, times, grid, order, float(count))
            keep(f"{name}_{count}_{stem}.npz", kept, {"name": f"top level, {kind}", "mse": error})
        yield Run(fitted(levels, grid, order), {"steps": count}, times, [fit.plan])


def unipc(name: str, trained: Trained, count: int, fine: Grid) -> Iterator[Peer]:
    """UniPC of diffusers, for the ODE, where it is installed."""
    if SAMPLERS[name].noisy or solvers.missing() is not None:
        return
    for kind, times in coarse_grids(fine, count).items():
        method = Method("UniPC", (len(trained.ladder),), kind, 2)
        yield Peer(method, {"steps": count}, times, count, solvers.unipc(fine, times))


def papers(
    name: str, trained: Trained, pilot: Pilot, budget: float, fine: Grid, asked: Asked
) -> Iterator[Run]:
    """All levels, 250 steps, learned gates or those of theory, the best of so many draws.

    The steps are even in time as far as they can be on points of the fine grid: of its 400 even
    ones they take one or two.
    """
    costs, count = trained.ladder.costs, min(250, (len(fine) - 1) // 2)
    times = coarse_grids(fine, count)["uniform"]
    steps = SAMPLERS[name].table(times)
    if asked.gates is not None:
        kind, family = "learned", learned_gates(asked.gates / name)
    else:
        kind, family = "theory", families(trained, sensitivities_on(pilot.density, steps))["theory"]
    if not benchmark.payable(costs, count, budget):
        return
    logits = fit_budget(family, steps.t, costs, budget, draw=draws.independent)
    some, _ = part_of(pilot.problem, pilot.fine, min(16, batch_size(pilot.problem)))
    ends = jax.tree.map(lambda leaf: leaf[-1, : len(some.x)], pilot.fine.states)
    batch = Batch(along(some, pilot.fine.steps, steps), ends)
    best = best_of(trained.ladder, batch, steps, draws.independent, logits, asked.key,
                   count=asked.draws)  # fmt: skip
    levels = tuple(range(1, len(costs) + 1))
    method = Method("ML-EM", levels, "uniform", 1, kind, "independent", "impulse")
    yield Run(method, {"budget": budget, "base": count, "best of": asked.draws}, times,
              [best.plan])  # fmt: skip


def midpoints(
    name: str, trained: Trained, pilot: Pilot, best: Candidate, budget: float, fine: Grid
) -> Iterator[Run]:
    """Midpoint draws of the pilot's gates, with levels and steps of a candidate, unfitted."""
    if len(best.levels) == 1:
        return
    times, order = grid_of(best.grid, fine, best.steps)
    steps: Steps = SAMPLERS[name].table(times, order)
    own = pick(trained, best.levels)
    values = pilot.density.values[:, np.array(best.levels) - 1].copy()
    values[:, 0] = np.inf
    found = sensitivities_on(pilot.density._replace(values=values), steps)
    family = gates.from_sensitivities(found, own.ladder.costs, power=1 / 3)
    if not benchmark.payable(own.ladder.costs, best.steps, budget):
        return
    logits = fit_budget(family, steps.t, own.ladder.costs, budget, draw=draws.midpoint)
    method = Method("ML-EM", best.levels, best.grid.partition(",")[0], order, "pilot", "midpoint",
                    "impulse")  # fmt: skip
    parameters = {"budget": budget, "base": best.steps}
    yield Run(method, parameters, times, [plans.draw_plan(draws.midpoint, logits, None)])
    held = plans.trapezoid(plans.open_first(draws.midpoint.openings(None, logits)), steps)
    yield Run(method._replace(weights="trapezoid"), parameters, times, [held])
