"""The gates the experiments share: fixed, from a pilot run, and learned."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ladders.shipped import Ladder, measured_gamma
from mlem_jax import checkpoint, gates, plan
from mlem_jax.gates import Gates
from mlem_jax.pilot import effect_gates
from mlem_jax.stack import stack_price
from mlem_jax.types import Logits, Weights

Family = Callable[[float], Logits]
"""Gates by their scale, dearer with it; see `plan.fit_budget`."""


def families(ladder: Ladder, count: int, effects: np.ndarray) -> dict[str, Family]:
    """Gates of `count` steps by name; the bottom level is certain in all.

    With the predicted data as F, a step at which nothing runs would predict the picture 0.
    """
    costs = ladder.levels.costs
    gamma = measured_gamma(costs, ladder.losses)
    return {
        "inverse cost": lambda scale: open_bottom(
            gates.inverse_cost_gates(costs, count, scale=scale)
        ),
        "theory": lambda scale: open_bottom(
            gates.theory_gates(costs, count, scale=scale, gamma=gamma)
        ),
        "pilot": lambda scale: effect_gates(effects, costs, scale=scale),
    }


def stacked_logits(ladder: Ladder, effects: np.ndarray, shares: Weights, budget: float) -> Logits:
    """The pilot's gates of the stacked ladder, for a budget.

    A share w shrinks an effect by about w^2; what its gate pays is more, by the levels below.
    """
    shrunk = effects * np.asarray(shares) ** 2
    shrunk[:, 0] = np.inf
    family = families(ladder, len(effects), shrunk)["pilot"]
    expected = partial(stack_price, shares=shares)
    return plan.fit_budget(family, ladder.levels.costs, budget, expected=expected)


def shifted(learned: Logits) -> Family:
    """Learned gates as a family: the same shape in time, dearer with the scale."""
    return lambda scale: gates.shift_gates(learned, math.log(scale))


def open_bottom(logits: Logits) -> Logits:
    """The same gates with the cheapest level certain."""
    return logits.at[:, 0].set(jnp.inf)


def effects_at(file: Path, t: np.ndarray) -> np.ndarray:
    """Effects of a pilot run (experiments.ours.pilot) at other times, up to one factor for all.

    Raises:
        FileNotFoundError: if there was no pilot run.
    """
    if not file.exists():
        raise FileNotFoundError(f"expected the effects of a pilot run in {file}; measure them with "
                                "python -m experiments.ours.pilot")  # fmt: skip
    with np.load(file, allow_pickle=False) as arrays:
        times, effects = arrays["t"], arrays["effects"]
    order = np.argsort(times)
    columns = [np.exp(np.interp(t, times[order], np.log(own[order]))) for own in effects.T]
    return np.stack(columns, axis=1)


def free_start(ladder: Ladder, family: Family, budget: float) -> np.ndarray:
    """Probabilities [steps, levels] of a family for a budget, all but the bottom's free to move.

    Where the family makes a gate certain, learning must still be free to close it.
    """
    most = float(gates.table_gates([[0.95]])[0, 0])

    def movable(scale: float) -> Logits:
        return open_bottom(jnp.minimum(family(scale), most))

    return np.asarray(gates.probabilities(plan.fit_budget(movable, ladder.levels.costs, budget)))


def theory_start(ladder: Ladder, count: int, budget: float) -> list[float]:
    """Probabilities of theory for a budget, the same at all times; see `free_start`."""
    costs = ladder.levels.costs
    gamma = measured_gamma(costs, ladder.losses)

    def theory(scale: float) -> Logits:
        return gates.theory_gates(costs, count, scale=scale, gamma=gamma)

    return [float(p) for p in free_start(ladder, theory, budget)[0]]


def family_of(about: dict[str, Any]) -> Gates:
    """The family to be learned, from what is kept with the gates."""
    if about["knots"]:
        return gates.piecewise_linear_gates(about["start"], about["knots"])
    return gates.log_linear_gates(about["start"], delta=about["delta"])


def learned_logits(directory: Path, t: jax.Array) -> Logits:
    """Gates as they were learned and saved, at some times.

    Raises:
        FileNotFoundError: if there are none.
    """
    family = family_of(checkpoint.read_about(directory))
    return family.logits(checkpoint.restore(directory, family.init()), t)
