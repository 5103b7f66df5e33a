"""Where the evaluations go: which levels run at which steps, by their sensitivities.

Even places waste a fit. What leaving a difference out of one step does to the end, v(t), says where
the levels above are worth running: per unit of gain^2 it is a function of time, which one pilot run
measures on one grid and which is read off on any other. Level k runs at the midpoints of equal
shares of a density that goes like a power of it, 1/3 being the best for even draws (`draws`).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mlem_jax.checks import as_float
from mlem_jax.diagnosis.pilot import Sensitivities
from mlem_jax.ladder import Ladder, known_costs
from mlem_jax.steps import Steps

_LOWEST, _HIGHEST = -60.0, 60.0
"""Logarithms between which the scale of a density lies, from no run to all."""


class Density(NamedTuple):
    """Squared sensitivity per squared gain, as a function of time.

    Attributes:
        t: times, rising.
        values: of each level at these times; +inf for levels that run at every step.
    """

    t: Float[np.ndarray, " times"]
    values: Float[np.ndarray, "times levels"]


def density_of(sensitivities: Sensitivities, steps: Steps) -> Density:
    """v / gain^2 at the steps that the sensitivities were measured on."""
    gain = np.asarray(steps.gain, np.float64)[:, None]
    table = np.asarray(sensitivities, np.float64)
    order = np.argsort(np.asarray(steps.t))
    values = table / np.where(gain == 0, 1, gain) ** 2
    return Density(np.asarray(steps.t, np.float64)[order], values[order])


def sensitivities_on(density: Density, steps: Steps) -> Sensitivities:
    """gain^2 density, on other steps; between times by straight lines in the logarithm."""
    t, gain = np.asarray(steps.t, np.float64), np.asarray(steps.gain, np.float64)
    columns = []
    for column in density.values.T:
        if np.isinf(column).all():
            columns.append(np.full(len(t), np.inf))
        else:
            logs = np.log(np.maximum(column, 1e-300))
            columns.append(gain**2 * np.exp(np.interp(t, density.t, logs)))
    return as_float(np.stack(columns, axis=1))


def place_levels(
    ladder: Ladder, sensitivities: Sensitivities, budget: float, *, power: float
) -> Bool[np.ndarray, "steps levels"]:
    """Which levels run when: at midpoints of equal shares of (v / c)^power.

    A level runs where its own difference opens; unlike an unbiased estimate, a fit does not ask
    for the level below beside it. At the first step the cheapest runs, as something has to be
    known, and no other that does not always run: a start of pure noise tells large networks no more
    than small ones. Where the budget does not pay for one more run of a level, the cheaper ones get
    the rest.

    Args:
        ladder: the levels, with their costs.
        sensitivities: v of each step, +inf for levels that always run there, 0 where none may.
        budget: in the unit of the costs; the plan costs that at most.
        power: of v / c; 0 spreads evenly.

    Raises:
        ValueError: if the budget does not pay for what always runs, or pays for every level at
            every step.
    """
    costs, table = np.asarray(known_costs(ladder)), np.asarray(sensitivities, np.float64)
    always, never = np.isinf(table), table == 0
    rates = np.where(always | never, 0.0, np.where(always | never, 1.0, table / costs) ** power)
    rates[0] = 0.0

    def opened(scales: Float[np.ndarray, " levels"]) -> Bool[np.ndarray, "steps levels"]:
        count = np.floor(np.cumsum(np.minimum(scales * rates, 1.0), axis=0) + 0.5)
        ran = always | (np.diff(count, axis=0, prepend=0.0) > 0)
        ran[0, 0] = True
        return ran

    def cost(scales: Float[np.ndarray, " levels"]) -> float:
        return float(opened(scales).sum(axis=0) @ costs)

    scales = np.zeros(len(costs))
    least, most = cost(scales), cost(np.full(len(costs), np.exp(_HIGHEST)))
    if not least < budget <= most:
        raise ValueError(f"expected a budget above {least:g}, what always runs, to {most:g}, "
                         f"every level at every step, got {budget:g}")  # fmt: skip
    for free in range(len(costs), 0, -1):  # All levels, then all but the top one, and so on.
        low, high = _LOWEST, _HIGHEST
        for _ in range(60):
            tried = np.append(np.full(free, np.exp((low + high) / 2)), scales[free:])
            if cost(tried) <= budget * (1 + 1e-9):
                low, scales = (low + high) / 2, tried
            else:
                high = (low + high) / 2
    return opened(scales)
