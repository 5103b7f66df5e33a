"""Where the evaluations go: which levels run at which steps, by their sensitivities.

Even places waste a fit. What leaving a difference out of one step does to the end, v(t), says where
the levels above are worth running: per unit of gain^2 it is a function of time, which one pilot run
measures on one grid and which is read off on any other. Level k runs at the midpoints of equal
shares of a density that goes like a power of it, 1/3 being the best for even draws (`draws`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from mlem_jax.checks import as_float
from mlem_jax.diagnosis.pilot import Sensitivities
from mlem_jax.draws import spread_openings
from mlem_jax.gates.scale import least_scale
from mlem_jax.ladder import Ladder, known_costs
from mlem_jax.steps import Steps
from mlem_jax.types import Openings, PerLevel, Probabilities, Scalar


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
    """Which levels run when: at midpoints of equal shares of (v / c)^power, all at the first step.

    A level runs where its own difference opens; unlike an unbiased estimate, a fit does not ask
    for the level below beside it. At the first step every level runs, so that all is known from
    there.

    Args:
        ladder: the levels, with their costs.
        sensitivities: v of each step, +inf for levels that always run there, 0 where none may.
        budget: in the unit of the costs; the plan costs as much to within an evaluation per level.
        power: of v / c; 0 spreads evenly.

    Raises:
        ValueError: if the budget does not pay for what always runs, or pays for every level at
            every step.
    """
    costs = jnp.asarray(known_costs(ladder), sensitivities.dtype)
    least, most, opened = _opened(sensitivities, costs, float(budget), float(power))
    if not float(least) < budget <= float(most):
        raise ValueError(f"expected a budget above {least:g}, what always runs, to {most:g}, "
                         f"every level at every step, got {budget:g}")  # fmt: skip
    ran = np.array(opened)
    ran[0] = True
    return ran


@partial(jax.jit, static_argnums=3)
def _opened(
    sensitivities: Sensitivities, costs: PerLevel, budget: Scalar | float, power: float
) -> tuple[Scalar, Scalar, Openings]:
    """The least and the most that a budget may be, and what runs under this one."""
    always = jnp.isinf(sensitivities)
    worth = jnp.where(always, 1.0, sensitivities / costs[None, :]) ** power
    rates = jnp.where(always, jnp.inf, jnp.where(sensitivities == 0, 0.0, worth))

    def chances(scale: Scalar) -> Probabilities:
        return jnp.where(always, 1.0, jnp.clip(scale * rates, 1e-12, 1.0))

    def cost(scale: Scalar) -> Scalar:
        p = chances(scale)
        return (p.sum(axis=0) + 1 - p[0]) @ costs

    scale = least_scale(lambda scale: cost(scale) >= budget)
    least, most = (cost(jnp.exp(jnp.asarray(end))) for end in (-60.0, 60.0))
    logits = jax.scipy.special.logit(chances(scale))
    return least, most, spread_openings(jnp.full(len(costs), 0.5, logits.dtype), logits)
