"""Trained ladders: where the shipped ones lie, how one is loaded, and what it is worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ladders.recipes import PREDICTIONS, Recipe, recipe_of
from mlem_jax import Drift, Ladder, checkpoint, levels, pick_levels, process
from mlem_jax.costs import never_falling
from mlem_jax.nets import UNet, default_depthwise
from mlem_jax.nets.denoise import Network
from mlem_jax.types import Params

SHIPPED = Path(__file__).parent.parent / "earth64"
"""Four UNets for 64x64 pictures of Earth."""
PROCESS = process.cosine()
PREDICTION = PREDICTIONS["v"]
"""What losses and distances are of, whatever a network predicts."""


class Trained(NamedTuple):
    """A trained ladder, ready to be solved.

    Attributes:
        ladder: predictions of the data, clipped to [-1, 1], with the costs stored beside them, in
            evaluations of the top level.
        losses: held-out, one per level.
        shape: of one picture.
    """

    ladder: Ladder
    losses: tuple[float, ...]
    shape: tuple[int, int, int]


def load(directory: Path = SHIPPED, chosen: tuple[int, ...] = (), *, dtype: Any = None) -> Trained:
    """The trained levels in a folder of checkpoints `level_1`, `level_2`, ...

    Args:
        directory: as `experiments.ladders.ship` wrote it.
        chosen: which levels, 1 the cheapest; by default all.
        dtype: of the networks' computation and of their parameters; by default as they are.

    Raises:
        FileNotFoundError: if one of them is not there.
    """
    if not isinstance(directory, Path):
        raise TypeError(f"expected the folder of a ladder, a Path, got {directory!r}")
    numbers = chosen or tuple(range(1, 1 + len(list(directory.glob("level_*")))))
    if not numbers:
        raise FileNotFoundError(f"expected checkpoints level_1, level_2, ... in {directory}")
    loaded = [restore_average(directory / f"level_{number}") for number in numbers]
    told = [about for about, _ in loaded]
    ladder = Ladder(
        tuple(data_level(recipe_of(about), dtype) for about in told),
        tuple(params if dtype is None else levels.cast(params, dtype) for _, params in loaded),
        relative_costs([about["milliseconds_per_image"] for about in told]),
    )
    losses = tuple(about["held_out_loss"] for about in told)
    return Trained(ladder, losses, tuple(told[-1]["shape"]))


def pick(trained: Trained, chosen: tuple[int, ...]) -> Trained:
    """Some levels of a ladder, 1 the cheapest, costs in the same unit; all if none is named."""
    if not chosen:
        return trained
    losses = tuple(trained.losses[level - 1] for level in chosen)
    return trained._replace(ladder=pick_levels(trained.ladder, chosen), losses=losses)


def relative_costs(costs: Sequence[float]) -> tuple[float, ...]:
    """In evaluations of the top level; a level timed slower than a better one counts as that."""
    table = never_falling(costs)
    return tuple(cost / table[-1] for cost in table)


def restore_average(directory: Path) -> tuple[dict[str, Any], Params]:
    """What a checkpoint of one network says of itself, and its averaged parameters."""
    about = checkpoint.read_about(directory)
    network = UNet(recipe_of(about).architecture, default_depthwise())
    picture = jnp.zeros((1, *about["shape"]))
    like = jax.eval_shape(network.init, jax.random.key(0), picture, jnp.zeros(1))
    return about, checkpoint.restore(directory, like)


def measured_gamma(costs: Sequence[float], losses: Sequence[float]) -> float:
    """Fit of error ~ cost^(-1/gamma), error^2 = loss - the top level's loss.

    The denoising loss of a network is its squared distance to the best denoiser plus a floor that
    no network goes below; the top level's loss stands for the floor. 2, which makes the gates
    C/T_k, where there are not two errors to fit a line to.
    """
    errors = np.sqrt(np.maximum(np.array(losses[:-1]) - losses[-1], 1e-12))
    if len(errors) < 2 or costs[0] == costs[-2]:
        return 2.0
    rate = -np.polyfit(np.log(costs[:-1]), np.log(errors), 1)[0]
    return float(1 / max(rate, 1e-3))


def data_level(recipe: Recipe, dtype: Any = None) -> Drift:
    """A network of the family as a level: the data it predicts, clipped to [-1, 1]."""
    network = trained_network(recipe)
    network = network if dtype is None else levels.in_dtype(network, dtype)
    return levels.data(network, PROCESS, PREDICTIONS[recipe.prediction], clip=1.0)


def trained_network(recipe: Recipe) -> Network:
    """What a recipe's network says once it is trained, in the form that runs fastest here."""
    return levels.linen(UNet(recipe.architecture, default_depthwise()))


def predicting(wanted: str, network: Network, given: str) -> Network:
    """Q(x, t), of a network that says P(x, t): one of `PREDICTIONS` from another."""
    if wanted == given:
        return network

    def converted(params: Params, x: jax.Array, t: jax.Array) -> jax.Array:
        at = t.reshape(t.shape + (1,) * (x.ndim - t.ndim))
        said = network(params, x, t)
        return process.convert(PROCESS, PREDICTIONS[given], PREDICTIONS[wanted], x, said, at)

    return converted
