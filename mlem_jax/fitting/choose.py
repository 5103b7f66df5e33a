"""The choice of a fitted plan: which levels, how many steps, which grid, where each level runs.

A closed loop: candidates are fitted on a part of the pilot batch and judged on its other part, the
better half of them on more samples, until one is left. One network with fitted weights is among
them, so the choice is no worse than that, but for the noise of the samples that judge.
"""

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from mlem_jax.diagnosis.pilot import measure_sensitivities
from mlem_jax.fitting.fit import Fit, fit_plan
from mlem_jax.fitting.places import Density, density_of, place_levels, sensitivities_on
from mlem_jax.ladder import Ladder, known_costs, pick_levels
from mlem_jax.noise import BrownianPath, brownian_path
from mlem_jax.plans.plan import full
from mlem_jax.plans.price import price
from mlem_jax.problem import Problem, batch_size, take
from mlem_jax.solver.solve import solve_path
from mlem_jax.steps import Steps
from mlem_jax.types import Key, State


class Candidate(NamedTuple):
    """A way to spend the budget.

    Attributes:
        levels: of the ladder, 1 the cheapest, ending at the top.
        steps: the integrator, on points of the fine steps.
        power: of v / c in the density of the places; see `place_levels`.
        memory: how many earlier outputs are known of each of these levels.
        name: of this candidate alone; for whoever prints it.
    """

    levels: tuple[int, ...]
    steps: Steps
    power: float
    memory: tuple[int, ...]
    name: str


class Choice(NamedTuple):
    """The candidate that came out best, and what all did.

    Attributes:
        candidate: the best.
        fit: its plan, fitted on all samples but those held out.
        cost: of the plan, in the unit of the ladder's costs.
        errors: held-out error of every candidate in the rounds that it was in [rounds], NaN after
            it had left.
    """

    candidate: Candidate
    fit: Fit
    cost: float
    errors: Float[np.ndarray, "candidates rounds"]


Report = Callable[[str, Candidate, float], None]
"""`(stage, candidate, held-out error)`, after each fit."""


class Fine(NamedTuple):
    """The fine solution at the points that candidates step through.

    Attributes:
        steps: the fine steps.
        done: after how many of them the states are kept, rising.
        states: the states then.
    """

    steps: Steps
    done: np.ndarray
    states: State


def choose_plan(
    ladder: Ladder,
    problem: Problem,
    fine: Steps,
    candidates: Sequence[Candidate],
    budget: float,
    key: Key,
    *,
    pilot: Steps,
    samples: Sequence[int] = (24, 64),
    held_out: float = 1 / 4,
    cache: MutableMapping[str, float] | None = None,
    report: Report | None = None,
) -> Choice:
    """argmin over the candidates of the held-out error of their fitted plans, by halving.

    Args:
        ladder: the levels, with their costs.
        problem: starts, conditions, and a path over the fine steps, or None for an ODE.
        fine: the steps whose solution by the top level is to be approached.
        candidates: see `Candidate`; those that the budget does not suit are left out.
        budget: in the unit of the costs.
        key: of the pilot run.
        pilot: one-step steps on points of the fine ones, along which sensitivities are measured.
        samples: how many samples the candidates of each round are fitted and judged on; after
            each round the better half of them goes on.
        held_out: share of the samples that judge.
        cache: held-out errors by the name of a candidate and the number of samples; what is in it
            is not fitted again, so one that is kept on disk makes the choice resumable. It must be
            of the same ladder, problem and budget.
        report: called after each fit, for a progress bar.

    Raises:
        ValueError: if no candidate suits the budget, or as `fit_plan`.
    """
    count = batch_size(problem)
    kept = fine_solution(ladder, problem, fine, [each.steps for each in candidates])
    density = _measure_density(ladder, problem, fine, pilot, key, min(samples[0], count))
    running = list(_placed(ladder, candidates, density, budget))
    if not running:
        raise ValueError(f"expected a candidate that a budget of {budget:g} suits, got none of "
                         f"{len(candidates)}; take fewer steps, or cheaper levels")  # fmt: skip
    cache = {} if cache is None else cache
    errors = np.full((len(candidates), len(samples)), np.nan)
    sizes = [min(size, count) for size in samples]
    for number, size in enumerate(sizes):
        for place, needed in running:
            own, name = candidates[place], f"{candidates[place].name}, {size} samples"
            if name not in cache:
                found = _fitted(ladder, problem, kept, own, needed, size, held_out)
                cache[name] = float(found.held_out_error)
            errors[place, number] = cache[name]
            if report is not None:
                report(f"{number + 1} of {len(sizes)}", own, cache[name])
        running.sort(key=lambda given: np.nan_to_num(errors[given[0], number], nan=np.inf))
        running = running[: max(1, len(running) // 2)] if number + 1 < len(sizes) else running
    best, needed = running[0]
    chosen = candidates[best]
    fit = _fitted(ladder, problem, kept, chosen, needed, sizes[-1], held_out)
    costs = known_costs(pick_levels(ladder, chosen.levels))
    return Choice(chosen, fit, float(price(fit.plan, costs).costs.sum()), errors)


def fine_solution(ladder: Ladder, problem: Problem, fine: Steps, coarse: Iterable[Steps]) -> Fine:
    """The top level at every fine step, kept where any of the coarse steps begins or ends."""
    done = np.unique(np.concatenate([points_on(fine, own) for own in coarse]))
    top = full(len(fine.t), len(ladder), len(ladder))
    return Fine(fine, done, solve_path(ladder, problem, fine, top, keep=done).states)


def points_on(fine: Steps, coarse: Steps) -> np.ndarray:
    """After how many fine steps each coarse one begins, and the last one ends.

    Raises:
        ValueError: if a coarse step does not begin and end where fine ones do.
    """
    path = brownian_path(jax.random.key(0), fine, coarse, samples=jnp.arange(1))
    return np.append(np.asarray(path.first), np.asarray(path.last)[-1])


def along(problem: Problem, fine: Steps, coarse: Steps) -> Problem:
    """The problem with the same Brownian paths in coarser steps."""
    noise = problem.noise
    if not isinstance(noise, BrownianPath):
        return problem
    return problem._replace(noise=brownian_path(noise.key, fine, coarse, samples=noise.samples))


def states_on(fine: Fine, coarse: Steps) -> State:
    """The fine solution at the beginnings of coarse steps and at the end."""
    places = np.searchsorted(fine.done, points_on(fine.steps, coarse))
    return jax.tree.map(lambda leaf: leaf[places], fine.states)


def _measure_density(
    ladder: Ladder, problem: Problem, fine: Steps, pilot: Steps, key: Key, samples: int
) -> Density:
    some = take(along(problem, fine, pilot), jnp.arange(samples))
    if len(ladder) == 1:
        return density_of(jnp.full((len(pilot.t), 1), jnp.inf), pilot)
    bins = min(16, len(pilot.t))
    return density_of(measure_sensitivities(ladder, some, pilot, key, bins=bins), pilot)


def _placed(
    ladder: Ladder, candidates: Sequence[Candidate], density: Density, budget: float
) -> Iterator[tuple[int, Bool[np.ndarray, "steps levels"]]]:
    """Candidates by number, with where their levels run; without those of another budget."""
    costs = known_costs(ladder)
    for place, candidate in enumerate(candidates):
        count, top = len(candidate.steps.t), costs[-1]
        if len(candidate.levels) == 1:
            # One network, at every step: its steps are its budget.
            if 0.9 * budget <= count * top <= 1.001 * budget:
                yield place, np.ones((count, 1), bool)
            continue
        own = pick_levels(ladder, candidate.levels)
        values = density.values[:, np.array(candidate.levels) - 1].copy()
        values[:, 0] = np.inf
        found = sensitivities_on(density._replace(values=values), candidate.steps)
        least = count * own.costs[0] + sum(own.costs[1:])
        if least < budget < 0.95 * count * sum(own.costs):
            yield place, place_levels(own, found, budget, power=candidate.power)


def _fitted(
    ladder: Ladder,
    problem: Problem,
    fine: Fine,
    candidate: Candidate,
    needed: Bool[np.ndarray, "steps levels"],
    size: int,
    held_out: float,
) -> Fit:
    samples = jnp.arange(size)
    own = take(along(problem, fine.steps, candidate.steps), samples)
    path = jax.tree.map(lambda leaf: leaf[:, samples], states_on(fine, candidate.steps))
    return fit_plan(
        pick_levels(ladder, candidate.levels), own, candidate.steps, needed, path,
        memory=candidate.memory, held_out=max(1, round(held_out * size)),
    )  # fmt: skip
