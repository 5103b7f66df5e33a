"""What a budget may be spent on: levels, numbers of steps, grids, and where each level runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from mlem_jax.checks import check_kind, is_number
from mlem_jax.fitting.places import Density, place_levels, sensitivities_on
from mlem_jax.ladder import Ladder, known_costs, pick_levels
from mlem_jax.steps import Steps, goes_ahead


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


Places = Bool[np.ndarray, "steps levels"] | None
"""Which levels run when; None where a budget does not suit."""


class Search(NamedTuple):
    """What is tried, in turn: grids, levels with factors, powers, memories, pairing.

    The search begins with the first levels, factor, power and memory. It tries every grid and keeps
    the best; on that grid all levels with every factor; then each of the other powers, each of the
    other memories, every grid once more, and the memory paired, keeping the best each time. The
    top level alone is tried too, on every grid, at as many steps as the budget pays for. Candidates
    that the budget does not suit are left out; each of the others costs one run of its plan on the
    pilot batch.

    Attributes:
        grids: by name, a function from a number of steps to `Steps` on points of the fine ones.
        levels: of the ladder, 1 the cheapest: tuples of two or more that end at the top.
        most: the largest number of steps to try, which every grid has to be able to make.
        factors: numbers of steps, as multiples of how many evaluations of the top level the budget
            pays for, or up to 15 % fewer where that pays for one more run of the top level; at 3
            that runs at one step of three at most. Levels that lie close want many, steps that look
            ahead few; grids are compared at the first.
        powers: of v / c in the density of the places where levels run, see `place_levels`; 0
            spreads them evenly.
        memories: how many earlier outputs are known of each lower level, and of the top, as pairs.
    """

    grids: Mapping[str, Callable[[int], Steps]]
    levels: Sequence[Sequence[int]]
    most: int
    factors: Sequence[float] = (2, 1.5, 2.5, 3)
    powers: Sequence[float] = (1 / 3, 0.2, 0.5)
    memories: Sequence[Sequence[int]] = ((2, 3), (1, 2), (0, 1))


def tables_of(ladder: Ladder, search: Search, budget: float) -> list[Steps]:
    """The steps of all candidates, for `fine_solution`."""
    candidates = [each for levels in search.levels
                  for each in starts_of(ladder, search, budget, levels)]  # fmt: skip
    candidates += alone_of(ladder, search, budget)
    every = {(one.grid, one.steps) for one in candidates}
    return [search.grids[grid](count) for grid, count in sorted(every)]


def places_of(
    ladder: Ladder, candidate: Candidate, search: Search, density: Density, budget: float
) -> Places:
    """Which levels of a candidate run when: its lowest always; None if the budget does not suit.

    Of steps that look ahead, levels run where those end on the path, at the state ahead.
    """
    own, count = pick_levels(ladder, candidate.levels), candidate.steps
    costs, steps = known_costs(own), search.grids[candidate.grid](count)
    ahead = goes_ahead(steps)
    if len(costs) == 1:
        return ~ahead[:, None] if count * costs[0] <= 1.001 * budget else None
    least = count * costs[0] + sum(costs[1:])
    most = least + (count - 2) * sum(costs[1:])  # At the first step the cheapest runs alone.
    if not least < budget < min(0.95 * count * sum(costs), most):
        return None
    values = density.values[:, np.array(candidate.levels) - 1].copy()
    values[:, 0] = np.inf
    found = sensitivities_on(density._replace(values=values), steps)
    found = jnp.where(ahead[:, None], 0, found)  # Nothing runs there.
    return place_levels(own, found, budget, power=candidate.power)


def starts_of(
    ladder: Ladder, search: Search, budget: float, levels: Sequence[int]
) -> Iterator[Candidate]:
    """Every grid with every number of steps."""
    costs = known_costs(pick_levels(ladder, levels))
    paid, begun = budget / costs[-1], (search.powers[0], tuple(search.memories[0]))
    counts = [filled_steps(costs, budget, min(round(factor * paid), search.most))
              for factor in search.factors]  # fmt: skip
    for grid in search.grids:
        for count in counts:
            if count > 0:
                yield Candidate(tuple(levels), grid, count, *begun)


def filled_steps(costs: Sequence[float], budget: float, count: int) -> int:
    """count, or up to 15 % fewer if what these save pays for one more run of the top level."""
    runs = np.floor((budget - count * costs[0]) / costs[-1]) + 1
    fewer = int((budget - runs * costs[-1]) / costs[0])
    return fewer if fewer >= 0.85 * count else count


def changes_of(search: Search) -> Iterator[list[dict[str, object]]]:
    """What is changed in the best so far, one thing after the other."""
    yield [{"power": power} for power in search.powers[1:]]
    yield [{"memory": tuple(memory)} for memory in search.memories[1:]]
    yield [{"grid": grid} for grid in search.grids]
    yield [{"paired": True}]


def alone_of(ladder: Ladder, search: Search, budget: float) -> Iterator[Candidate]:
    """The top level on every grid, at as many steps as are paid for, three outputs remembered."""
    count = int(1.001 * budget / known_costs(ladder)[-1])
    for grid in search.grids:
        if 3 <= count <= search.most:
            yield Candidate((len(ladder),), grid, count, 0.0, (0, 3))


def too_small(budget: float) -> ValueError:
    """What is raised where no candidate suits."""
    return ValueError(f"expected a budget that pays for a candidate, got {budget:g}; take fewer "
                      "steps, or cheaper levels")  # fmt: skip


def check_search(ladder: Ladder, search: Search, budget: float) -> None:
    """Raises if a search or a budget is none."""
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
