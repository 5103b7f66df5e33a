"""The gates the experiments share: fixed, from a pilot run, and learned."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.ladders.shipped import Trained, measured_gamma
from mlem_jax import checkpoint, draws, fit_budget, gates
from mlem_jax.diagnosis import Sensitivities
from mlem_jax.gates import Gates
from mlem_jax.types import Logits, PerStep


def families(trained: Trained, sensitivities: Sensitivities) -> dict[str, Gates]:
    """Gates by name, of as many steps as there are sensitivities; the bottom level is certain.

    With the predicted data as F, a step at which nothing runs would predict the picture 0.
    """
    costs = trained.ladder.costs
    gamma = measured_gamma(costs, trained.losses)
    return {
        "inverse cost": gates.keep_open(gates.inverse_cost(costs)),
        "theory": gates.keep_open(gates.theory(costs, gamma=gamma)),
        "pilot": gates.from_sensitivities(sensitivities, costs),
    }


def free_start(family: Gates, t: PerStep, costs: tuple[float, ...], budget: float) -> np.ndarray:
    """Probabilities [steps, levels] of gates for a budget, all but the bottom's free to move.

    Where they are certain, learning must still be free to close them.
    """
    most = gates.to_logits([[0.95]])[0, 0]

    def movable(theta: Any, t: PerStep, scale: Any = 1.0) -> Logits:
        return jnp.minimum(family.logits(theta, t, scale), most)

    free = gates.keep_open(Gates(family.init, movable))
    logits = fit_budget(free, t, costs, budget, draw=draws.independent)
    return np.asarray(gates.to_probabilities(logits))


def theory_start(trained: Trained, count: int, budget: float) -> list[float]:
    """Probabilities of theory for a budget, the same at all times; see `free_start`."""
    costs = trained.ladder.costs
    theory = gates.theory(costs, gamma=measured_gamma(costs, trained.losses))
    return free_start(theory, jnp.zeros(count), costs, budget)[0].tolist()


def family_of(about: dict[str, Any]) -> Gates:
    """The gates to be learned, from what is kept with their parameters."""
    if about["knots"]:
        return gates.piecewise_linear(about["start"], about["knots"])
    return gates.log_linear(about["start"], delta=about["delta"])


def learned_gates(directory: Path) -> Gates:
    """Gates as they were learned and saved.

    Raises:
        FileNotFoundError: if there are none.
    """
    family = family_of(checkpoint.read_about(directory))
    theta = checkpoint.restore(directory, family.init())
    return family._replace(init=lambda: theta)
