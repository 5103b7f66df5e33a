"""The methods of experiments.ours.compare_draws, by name: how each makes its plans.

The gates are those of a pilot run, but for one; a random draw gives a plan a key.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from experiments.common import benchmark as courses
from experiments.common.benchmark import Method, suffix
from experiments.paper.gates import families, stacked_logits
from experiments.ladders.shipped import Ladder
from experiments.quickstart import coarse_grids
from experiments.common.samplers import SAMPLERS, two_step
from mlem_jax import draws, plan
from mlem_jax.hold import open_first, trapezoid_plan
from mlem_jax.plan import Plan
from mlem_jax.stack import Stack, draw_stack_plan, stack_shares, stack_top
from mlem_jax.steps import Grid, Steps
from mlem_jax.types import Key, Logits, Weights


def second_order_alone(
    name: str, ladder: Ladder, counts: list[int], fine: Grid
) -> Iterator[Method]:
    """The top level alone, by the two-step solver."""
    for method in courses.euler_maruyama(ladder, counts, partial(coarse_grids, fine), lower=False):
        other = method.name.replace("Euler-Maruyama", "second-order")
        yield method._replace(name=other, table=two_step(name))


def stacked_alone(
    name: str, ladder: Ladder, stack: Stack, counts: Iterable[int], fine: Grid
) -> Iterator[Method]:
    """The top of the stacked ladder at every step, Euler-Maruyama: all networks, each time."""
    for method in courses.euler_maruyama(ladder, counts, partial(coarse_grids, fine), lower=False):
        kind = method.name.rsplit(", ", 1)[1]
        shares = stack_shares(stack, SAMPLERS[name].table(method.grid).t)
        yield method._replace(name=f"stacked top alone, Euler-Maruyama, {kind}",
                              plans=[stack_top(shares)], target="stacked top")  # fmt: skip


def switches(own: Ladder, chosen: tuple[int, ...], budget: float, base: Grid) -> Iterator[Method]:
    """From the best level that can be paid at every step to the top, for a budget."""
    count, top, costs = len(base) - 1, len(own.losses), own.levels.costs
    payable = [level for level in range(1, top) if costs[level - 1] * count < budget]
    if payable:
        at = round((count - budget) / (1 - costs[payable[-1] - 1]))
        each = plan.switch_plan(count, top, at, early=payable[-1], late=top)
        name = f"switch{suffix(chosen)}"
        yield Method(name, {"budget": budget, "base": count}, base, [each], chosen)


def plain(
    name: str,
    own: Ladder,
    chosen: tuple[int, ...],
    effects: np.ndarray,
    budget: float,
    base: Grid,
    keys: Key,
) -> Iterator[Method]:
    """Multilevel plans of the plain ladder."""
    costs, count = own.levels.costs, len(base) - 1
    table = SAMPLERS[name].table(base)
    every = families(own, count, effects)
    logits = plan.fit_budget(every["pilot"], costs, budget)
    by_cost = plan.fit_budget(every["inverse cost"], costs, budget)
    together = plan.fit_budget(every["pilot"], costs, budget, expected=plan.nested_price)
    fires, two = draws.midpoint(None, logits), two_step(name)
    cells = plan.drop_idle(plan.weigh_ratios(fires, plan.cell_ratios(fires)))

    def drawn(draw: draws.Draw, of: Logits) -> list[Plan]:
        return [plan.draw_plan(draw, of, key) for key in keys]

    middle = plan.draw_plan(draws.midpoint, logits, None)
    plans: dict[str, tuple[list[Plan], Callable[[Grid], Steps] | None]] = {
        "inverse cost, midpoint": ([plan.draw_plan(draws.midpoint, by_cost, None)], None),
        "pilot, independent": (drawn(draws.independent, logits), None),
        "pilot, nested independent": (drawn(draws.nested(draws.independent), together), None),
        "pilot, systematic": (drawn(draws.systematic, logits), None),
        "pilot, nested systematic": (drawn(draws.nested(draws.systematic), together), None),
        "pilot, midpoint": ([middle], None),
        "pilot, midpoint, cell weights": ([cells], None),
        "pilot, trapezoid": ([trapezoid_plan(open_first(fires), table)], None),
        "pilot, midpoint, second-order base": ([middle], two),
        "pilot, trapezoid, second-order base": (
            [trapezoid_plan(open_first(fires), two(base))], two,
        ),
    }  # fmt: skip
    for kind, (each, own_table) in plans.items():
        parameters = {"budget": budget, "base": count}
        yield Method(kind + suffix(chosen), parameters, base, each, chosen, own_table)


def stacked(
    name: str,
    own: Ladder,
    effects: np.ndarray,
    shares: Weights,
    budget: float,
    base: Grid,
    keys: Key,
) -> Iterator[Method]:
    """Plans of the stacked ladder, judged against its own fine solution."""
    logits = stacked_logits(own, effects, shares, budget)
    fires, two = draws.midpoint(None, logits), two_step(name)

    def drawn(draw: draws.Draw) -> list[Plan]:
        return [draw_stack_plan(draw, logits, shares, key) for key in keys]

    held = trapezoid_plan(open_first(fires), SAMPLERS[name].table(base), shares)
    held_two = trapezoid_plan(open_first(fires), two(base), shares)
    plans: dict[str, tuple[list[Plan], Callable[[Grid], Steps] | None]] = {
        "pilot, independent, stacked": (drawn(draws.independent), None),
        "pilot, systematic, stacked": (drawn(draws.systematic), None),
        # Within a nest nothing below is run for a level alone, so this costs less than the budget.
        "pilot, nested systematic, stacked": (drawn(draws.nested(draws.systematic)), None),
        "pilot, midpoint, stacked": (
            [draw_stack_plan(draws.midpoint, logits, shares, None)], None,
        ),
        "pilot, trapezoid, stacked": ([held], None),
        "pilot, trapezoid, second-order base, stacked": ([held_two], two),
    }  # fmt: skip
    for kind, (each, table) in plans.items():
        parameters = {"budget": budget, "base": len(base) - 1}
        yield Method(kind, parameters, base, each, (), table, "stacked top")
