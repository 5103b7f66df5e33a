"""The choice of a fitted plan: which levels, how many steps, which grid, where each level runs.

A candidate is fitted on a part of the pilot batch and judged on all of it; the one that is chosen
is fitted anew, on all of it. First every grid is tried with every number of steps; then other
levels with every number, other places, other memories, each time going on from the best so far. The
top level alone with fitted weights, on each of the grids, is among the candidates, so the choice is
no worse than that, but for the noise of the samples that judge.

Coefficients are few and samples have many numbers, so that a fit errs about as much on its own
samples as on others. To choose by the others alone would be fairer and noisier: errors differ much
between samples, and on a third of them a worse candidate often comes out better.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from mlem_jax.checks import check_kind, is_number
from mlem_jax.fitting.fine import Fine, along, states_on
from mlem_jax.fitting.fit import Fit, fit_plan
from mlem_jax.fitting.places import Density, place_levels, sensitivities_on
from mlem_jax.ladder import Ladder, known_costs, pick_levels
from mlem_jax.noise import BrownianPath, store_path
from mlem_jax.plans.memory import beside_next
from mlem_jax.plans.price import price
from mlem_jax.problem import Problem, batch_size
from mlem_jax.steps import Steps, goes_ahead
from mlem_jax.types import State


class Candidate(NamedTuple):
    """A way to spend a budget.

    Attributes:
        levels: of the ladder, 1 the cheapest, ending at the top.
        grid: its name among those of the search.
        steps: how many.
        power: of v / c in the density of the places; see `place_levels`.
        memory: how many earlier outputs are known of each lower level, and of the top.
        paired: whether the lower levels' are those of steps at which the next level ran too, as
            `plans.beside_next` tells, instead of the last ones.
    """

    levels: tuple[int, ...]
    grid: str
    steps: int
    power: float
    memory: tuple[int, ...]
    paired: bool = False


class Search(NamedTuple):
    """What is tried: grids x factors first, then levels, powers, memories, and pairing.

    The search begins with the first levels, the first power and the first memory. It tries every
    grid with every factor, and of steps that look ahead as many as the budget pays for with every
    level, and keeps the best; then all of the other levels with every factor on its grid, then each
    of the other powers, each of the other memories, and the best memory paired, keeping the best
    each time. The top level alone is tried too, on every grid, at as many steps as the budget pays
    for. Candidates that the budget does not suit are left out; each of the others costs one run of
    its plan on the pilot batch.

    Attributes:
        grids: by name, a function from a number of steps to `Steps` on points of the fine ones.
        levels: of the ladder, 1 the cheapest: tuples of two or more that end at the top.
        most: the largest number of steps to try, which every grid has to be able to make.
        factors: numbers of steps, as multiples of how many evaluations of the top level the budget
            pays for; at 3 the top level runs at one step of three at most. Levels that lie close
            want many, steps that look ahead few.
        powers: of v / c in the density of the places where levels run, see `place_levels`; 0
            spreads them evenly.
        memories: how many earlier outputs are known of each lower level, and of the top, as pairs.
    """

    grids: Mapping[str, Callable[[int], Steps]]
    levels: Sequence[Sequence[int]]
    most: int
    factors: Sequence[float] = (1.5, 2, 2.5, 3)
    powers: Sequence[float] = (1 / 3, 0.2, 0.5)
    memories: Sequence[Sequence[int]] = ((2, 3), (1, 2), (0, 1))


class Choice(NamedTuple):
    """The candidate that came out best, and what all did.

    Attributes:
        candidate: the best.
        steps: its steps.
        fit: its plan, fitted on the whole batch.
        cost: of the plan, in the unit of the ladder's costs.
        errors: mean squares over the batch of every candidate that was tried, fitted on a part.
    """

    candidate: Candidate
    steps: Steps
    fit: Fit
    cost: float
    errors: dict[Candidate, float]


Report = Callable[[Candidate, float], None]
"""`(candidate, its error)`, after each fit."""


def choose_plan(
    ladder: Ladder,
    problem: Problem,
    fine: Fine,
    density: Density,
    search: Search,
    budget: float,
    *,
    held_out_share: float = 1 / 3,
    ridge: float = 1e-6,
    chunk: int = 64,
    cache: MutableMapping[str, float] | None = None,
    report: Report | None = None,
) -> Choice:
    """argmin of the error of fitted plans over grids x steps, levels x steps, places and memories.

    Args:
        ladder: the levels, with their costs.
        problem: the pilot batch: starts, conditions, and a path over the fine steps, or None for an
            ODE.
        fine: its solution by the top level, from `fine_solution`, at the points of `tables_of`.
        density: where the levels count, from a pilot run.
        search: what is tried.
        budget: in the unit of the costs.
        held_out_share: of the samples, these are not fitted in the search; all judge.
        ridge: how strongly coefficients are held at the base weights, see `fit_plan`.
        chunk: samples that a level is given at a time, to bound the memory.
        cache: errors by the text of a candidate and the budget; what is in it is not
            fitted again, so one that is kept on disk makes the choice resumable. It must be of the
            same ladder, problem and fine solution.
        report: called after each fit, for a progress bar.

    Raises:
        ValueError: if the budget pays for no candidate, or as `fit_plan`.
    """
    check_kind(fine, Fine, "fine_solution makes one")
    check_kind(density, Density, "density_of makes one")
    _check_search(ladder, search, budget)
    errors: dict[Candidate, float] = {}
    kept = {} if cache is None else cache
    if not (is_number(held_out_share) and 0 < held_out_share < 1):
        raise ValueError("expected the share of the samples that judge, between 0 and 1, got "
                         f"{held_out_share!r}")  # fmt: skip
    count = batch_size(problem)
    apart = max(1, round(held_out_share * count))
    prepared = lru_cache(maxsize=1)(partial(_prepared, problem, fine, search))
    fitted = partial(_fitted, ladder, prepared, ridge=ridge, chunk=chunk)

    def judge(candidate: Candidate) -> float:
        if candidate in errors:
            return errors[candidate]
        needed = places_of(ladder, candidate, search, density, budget)
        nothing_to_pair = candidate.paired and not candidate.memory[0]
        if needed is None or nothing_to_pair:
            return np.inf
        if (name := f"{tuple(candidate)} for {budget:g}") not in kept:
            fit = fitted(candidate, needed, apart)
            whole = (count - apart) * fit.error + apart * fit.held_out_error
            kept[name] = float(whole / count)
        errors[candidate] = kept[name] if np.isfinite(kept[name]) else np.inf
        if report is not None:
            report(candidate, errors[candidate])
        return errors[candidate]

    starts = list(_starts(ladder, search, budget, search.levels[0]))
    if not starts:
        raise _too_small(budget)
    best = min(starts, key=judge)
    others = [each for levels in search.levels[1:]
              for each in _starts(ladder, search, budget, levels)
              if each.grid == best.grid]  # fmt: skip
    best = min([best, *others], key=judge)
    for changed in _changes(search):
        best = min([best, *(best._replace(**change) for change in changed)], key=judge)
    best = min([*_alone(ladder, search, budget), best], key=judge)
    needed = places_of(ladder, best, search, density, budget)
    if needed is None:
        raise _too_small(budget)
    fit = fitted(best, needed, 0)
    costs = known_costs(pick_levels(ladder, best.levels))
    steps = search.grids[best.grid](best.steps)
    return Choice(best, steps, fit, float(price(fit.plan, costs).costs.sum()), errors)


def tables_of(ladder: Ladder, search: Search, budget: float) -> list[Steps]:
    """The steps of all candidates, for `fine_solution`."""
    candidates = [each for levels in search.levels
                  for each in _starts(ladder, search, budget, levels)]  # fmt: skip
    candidates += _alone(ladder, search, budget)
    every = {(one.grid, one.steps) for one in candidates}
    return [search.grids[grid](count) for grid, count in sorted(every)]


def places_of(
    ladder: Ladder, candidate: Candidate, search: Search, density: Density, budget: float
) -> Bool[np.ndarray, "steps levels"] | None:
    """Which levels of a candidate run when: its lowest always; None if the budget does not suit.

    Of steps that look ahead, levels run where those end on the path, at the state ahead. If the
    budget pays for the top level at all of them, the lower ones say how to get there instead.
    """
    own, count = pick_levels(ladder, candidate.levels), candidate.steps
    costs, steps = known_costs(own), search.grids[candidate.grid](count)
    ahead = goes_ahead(steps)
    everywhere = np.zeros((len(ahead), len(costs)), bool)
    everywhere[~ahead, -1], everywhere[ahead, :-1] = True, True
    everywhere[0] = True
    if everywhere.sum(axis=0) @ costs <= 1.001 * budget:
        return everywhere if len(costs) == 1 or ahead.any() else None
    least = count * costs[0] + sum(costs[1:])
    if len(costs) == 1 or not least < budget < 0.95 * count * sum(costs):
        return None
    values = density.values[:, np.array(candidate.levels) - 1].copy()
    values[:, 0] = np.inf
    found = sensitivities_on(density._replace(values=values), steps)
    found = jnp.where(ahead[:, None], 0, found)  # Nothing runs there.
    return place_levels(own, found, budget, power=candidate.power)


def _starts(
    ladder: Ladder, search: Search, budget: float, levels: Sequence[int]
) -> Iterator[Candidate]:
    """Every grid with every number of steps; where they look ahead, also all levels at each."""
    paid = budget / known_costs(ladder)[-1]
    every = int(budget / sum(known_costs(pick_levels(ladder, levels))))
    for grid, make in search.grids.items():
        counts = [min(round(factor * paid), search.most) for factor in search.factors]
        if 3 <= every <= search.most and goes_ahead(make(every)).any():
            counts.append(every)
        for count in counts:
            if count > 0:
                yield Candidate(tuple(levels), grid, count, search.powers[0],
                                tuple(search.memories[0]))  # fmt: skip


def _changes(search: Search) -> Iterator[list[dict[str, object]]]:
    """What is changed in the best so far, one thing after the other."""
    yield [{"power": power} for power in search.powers[1:]]
    yield [{"memory": tuple(memory)} for memory in search.memories[1:]]
    yield [{"paired": True}]


def _alone(ladder: Ladder, search: Search, budget: float) -> Iterator[Candidate]:
    """The top level at as many steps as the budget pays, remembering two outputs or three."""
    count = int(1.001 * budget / known_costs(ladder)[-1])
    for grid in search.grids:
        if 3 <= count <= search.most:
            for kept in (2, 3):
                yield Candidate((len(ladder),), grid, count, 0.0, (0, kept))


def _prepared(
    problem: Problem, fine: Fine, search: Search, grid: str, count: int
) -> tuple[Steps, Problem, State]:
    """Steps, the problem with its noise drawn, and the fine solution: what many fits share."""
    steps = search.grids[grid](count)
    own = along(problem, fine.steps, steps)
    if isinstance(own.noise, BrownianPath):
        own = own._replace(noise=store_path(own.noise, own.x))
    return steps, own, states_on(fine, steps, own)


def _fitted(
    ladder: Ladder,
    prepared: Callable[[str, int], tuple[Steps, Problem, State]],
    candidate: Candidate,
    needed: Bool[np.ndarray, "steps levels"],
    held_out: int,
    **options: Any,
) -> Fit:
    """`fit_plan` of a candidate."""
    own = pick_levels(ladder, candidate.levels)
    steps, problem, states = prepared(candidate.grid, candidate.steps)
    lower, top = candidate.memory
    return fit_plan(own, problem, steps, needed, states, held_out=held_out,
                    memory=(lower,) * (len(own) - 1) + (top,),
                    kept=beside_next(needed) if candidate.paired else None,
                    **options)  # fmt: skip


def _too_small(budget: float) -> ValueError:
    return ValueError(f"expected a budget that pays for a candidate, got {budget:g}; take fewer "
                      "steps, or cheaper levels")  # fmt: skip


def _check_search(ladder: Ladder, search: Search, budget: float) -> None:
    check_kind(search, Search, "make one of grids and levels")
    if not (is_number(budget) and 0 < budget < float("inf")):
        raise ValueError(f"expected a positive budget in the unit of the costs, got {budget!r}")
    for name in ("grids", "levels", "factors", "powers", "memories"):
        if not len(getattr(search, name)):
            raise ValueError(f"expected one or more {name} to try, got none")
    for levels in search.levels:
        if len(levels) < 2 or levels[-1] != len(ladder):
            raise ValueError(f"expected two or more levels that end at the top, {len(ladder)}, got "
                             f"{levels!r}")  # fmt: skip
    if wrong := [each for each in search.memories if len(each) != 2]:
        raise ValueError("expected memories as pairs, how many outputs of each lower level and of "
                         f"the top, got {wrong[0]!r}")  # fmt: skip
