"""The choice of a fitted plan: which levels, how many steps, which grid, where each level runs.

The samples of the pilot batch are cut into folds. In the search a candidate is fitted on all folds
but the last and judged on all of them. First every grid is tried; then every number of steps with
all levels, other places, other memories, the grids again, each time going on from the best so far;
and the top level alone with fitted weights, on each of the grids.

At the end the best and the top level alone are cross-validated, each fold judged by a fit on the
others, and the best is chosen only if it is better by more than one standard error of the
difference, both in the mean error and in the mean of its logarithm. Where errors are small and
coefficients many a search among dozens of candidates finds some that are better on these samples
alone; and a few samples make up most of a mean error, while the logarithm tells of all of them.

References:
    After Breiman et al. 1984, Classification and Regression Trees, section 3.4.3: the simplest
    within one standard error of the best.
"""

from collections.abc import Callable, Mapping, MutableMapping
from functools import cache as cached
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlem_jax.checks import check_kind, is_count
from mlem_jax.fitting.candidates import (
    Candidate,
    Places,
    Search,
    alone_of,
    changes_of,
    check_search,
    places_of,
    starts_of,
    too_small,
)
from mlem_jax.fitting.fine import Fine, along, states_on
from mlem_jax.fitting.fit import Fit, fit_plan
from mlem_jax.fitting.places import Density
from mlem_jax.ladder import Ladder, known_costs, pick_levels
from mlem_jax.noise import BrownianPath, store_path
from mlem_jax.plans.memory import beside_next
from mlem_jax.plans.price import price
from mlem_jax.problem import Problem, batch_size, take
from mlem_jax.steps import Steps
from mlem_jax.types import State


class Choice(NamedTuple):
    """The candidate that was chosen, and what all did.

    Attributes:
        candidate: the one chosen.
        steps: its steps.
        fit: its plan, fitted on the whole batch.
        cost: of the plan, in the unit of the ladder's costs.
        cross_validated: mean square error of each sample, by a fit on the other folds: what to
            expect of the plan on new samples, but for the search, which had seen these.
        errors: mean squares over the batch of every candidate that was tried, fitted on all folds
            but the last.
    """

    candidate: Candidate
    steps: Steps
    fit: Fit
    cost: float
    cross_validated: Float[np.ndarray, " batch"]
    errors: dict[Candidate, float]


Report = Callable[[Candidate, float], None]
"""`(candidate, its error)`, of each that is tried."""
Prepared = tuple[Steps, Problem, State]
"""Steps of a grid, the problem with its noise on them, and the fine solution."""


def choose_plan(
    ladder: Ladder,
    problem: Problem,
    fine: Fine,
    density: Density,
    search: Search,
    budget: float,
    *,
    folds: int = 3,
    ridge: float = 1e-6,
    chunk: int = 64,
    cache: MutableMapping[str, float] | None = None,
    report: Report | None = None,
) -> Choice:
    """argmin of the error of fitted plans, or the top level alone if that is within the noise.

    Args:
        ladder: the levels, with their costs.
        problem: the pilot batch, in no particular order: starts, conditions, and a path over the
            fine steps, or None for an ODE. The path is drawn once, and kept in memory.
        fine: its solution by the top level, from `fine_solution`, at the points of `tables_of`.
        density: where the levels count, from a pilot run.
        search: what is tried.
        budget: in the unit of the costs.
        folds: in how many parts the batch is cut to judge, neighbours together; 2 or more.
        ridge: how strongly coefficients are held at the base weights, see `fit_plan`.
        chunk: samples that a level is given at a time, to bound the memory.
        cache: errors by the text of a candidate, the budget and the folds; what is in it is not
            fitted again, so one that is kept on disk makes the choice resumable. It must be of the
            same ladder, problem, fine solution, grids and ridge.
        report: called with each candidate of the search and its error, for a progress bar.

    Raises:
        ValueError: if the budget pays for no candidate, if there are more folds than samples, or
            as `fit_plan`.
    """
    check_kind(fine, Fine, "fine_solution makes one")
    check_kind(density, Density, "density_of makes one")
    check_search(ladder, search, budget)
    count = batch_size(problem)
    parts = _folds(folds, count)
    noise = problem.noise
    drawn = store_path(noise, problem.x) if isinstance(noise, BrownianPath) else None
    places = cached(partial(places_of, ladder, search=search, density=density, budget=budget))
    prepared = _keeping_the_last(partial(_prepared, problem, fine, drawn, search))
    fitted = partial(_fitted, ladder, prepared, places, ridge=ridge, chunk=chunk)
    errors: dict[Candidate, float] = {}
    kept = {} if cache is None else cache

    def judge(candidate: Candidate) -> float:
        if candidate in errors:
            return errors[candidate]
        nothing_to_pair = candidate.paired and not candidate.memory[0]
        if places(candidate) is None or nothing_to_pair:
            return np.inf
        if (name := f"{tuple(candidate)} for {budget:g}, {folds} folds") not in kept:
            fit, apart = fitted(candidate, parts[-1]), len(parts[-1])
            kept[name] = float(((count - apart) * fit.error + fit.held_out.sum()) / count)
        errors[candidate] = kept[name] if np.isfinite(kept[name]) else np.inf
        if report is not None:
            report(candidate, errors[candidate])
        return errors[candidate]

    finalists = [_best_with_levels(ladder, search, budget, judge)]
    if alone := list(alone_of(ladder, search, budget)):
        finalists.append(min(alone, key=judge))
    crossed = {each: np.concatenate([np.asarray(fitted(each, part).held_out) for part in parts])
               for each in finalists if np.isfinite(judge(each))}  # fmt: skip
    if not crossed:
        raise too_small(budget)
    best = chosen_of(crossed)
    fit, costs = fitted(best, None), known_costs(pick_levels(ladder, best.levels))
    cost = float(price(fit.plan, costs).costs.sum())
    return Choice(best, search.grids[best.grid](best.steps), fit, cost, crossed[best], errors)


def _best_with_levels(
    ladder: Ladder, search: Search, budget: float, judge: Callable[[Candidate], float]
) -> Candidate:
    """The best candidate of two levels or more, found greedily."""
    starts = [each for levels in search.levels
              for each in starts_of(ladder, search, budget, levels)]  # fmt: skip
    if not starts:
        raise too_small(budget)
    first = starts[0]
    grids = [first._replace(grid=grid) for grid in search.grids]
    best = min(grids, key=judge)
    others = [each for each in starts if each.grid == best.grid or not np.isfinite(judge(best))]
    best = min([best, *others], key=judge)
    for changed in changes_of(search):
        best = min([best, *(best._replace(**change) for change in changed)], key=judge)
    return best


def chosen_of(errors: Mapping[Candidate, Float[np.ndarray, " batch"]]) -> Candidate:
    """The first, if mean(last - first) and mean(log last - log first) > their standard errors.

    Else the last.

    Args:
        errors: cross-validated, by sample, of one or two candidates, the simpler one last.
    """
    candidates = list(errors)
    first, last = candidates[0], candidates[-1]
    if not np.isfinite(errors[last]).all():
        return first
    ours, theirs = (np.maximum(errors[each], np.finfo(float).tiny) for each in (first, last))
    gains = (theirs - ours, np.log(theirs) - np.log(ours))
    better = (each.mean() > each.std(ddof=1) / len(each) ** 0.5 for each in gains)
    return first if all(better) else last


def _folds(folds: int, count: int) -> list[np.ndarray]:
    """Numbers of the samples in each fold, neighbours together."""
    if not (is_count(folds, 2) and folds <= count):
        raise ValueError(f"expected 2 folds or more, none of them empty, got {folds!r} of "
                         f"{count} samples")  # fmt: skip
    return np.array_split(np.arange(count), folds)


def _keeping_the_last(make: Callable[[str, int], Prepared]) -> Callable[[str, int], Prepared]:
    """`make`; what it made last is kept, and let go before something else is made: it is large."""
    kept: dict[tuple[str, int], Prepared] = {}

    def made(grid: str, count: int) -> Prepared:
        if (grid, count) not in kept:
            kept.clear()
            kept[grid, count] = make(grid, count)
        return kept[grid, count]

    return made


def _prepared(
    problem: Problem, fine: Fine, drawn: State | None, search: Search, grid: str, count: int
) -> Prepared:
    """Steps, the problem with its noise drawn, and the fine solution: what many fits share."""
    steps = search.grids[grid](count)
    own = along(problem, fine.steps, steps, drawn)
    return steps, own, states_on(fine, steps, own)


def _fitted(
    ladder: Ladder,
    prepared: Callable[[str, int], Prepared],
    places: Callable[[Candidate], Places],
    candidate: Candidate,
    apart: np.ndarray | None,
    **options: Any,
) -> Fit:
    """`fit_plan` of a candidate that suits the budget, some samples kept from it."""
    needed = places(candidate)
    assert needed is not None
    own = pick_levels(ladder, candidate.levels)
    steps, problem, states = prepared(candidate.grid, candidate.steps)
    count = batch_size(problem)
    if apart is not None and apart[-1] + 1 < count:
        order = np.concatenate([np.setdiff1d(np.arange(count), apart), apart])
        problem = take(problem, jnp.asarray(order))
        states = jax.tree.map(lambda leaf: leaf[:, order], states)
    lower, top = candidate.memory
    return fit_plan(own, problem, steps, needed, states,
                    held_out=0 if apart is None else len(apart),
                    memory=(lower,) * (len(own) - 1) + (top,),
                    kept=beside_next(needed) if candidate.paired else None,
                    **options)  # fmt: skip
