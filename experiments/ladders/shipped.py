"""The ladder the experiments share: which networks, how long each is trained, where they lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlem_jax import checkpoint, process
from mlem_jax.levels import Levels, data_drift, linen_drift
from mlem_jax.types import Drift, Params
from mlem_jax.unet import Architecture, UNet, default_depthwise

SHIPPED = Path(__file__).parent / "nouns32"
PROCESS = process.cosine()
PREDICTION = process.predict_v


class Recipe(NamedTuple):
    """One network and its training.

    Attributes:
        architecture: the network.
        steps: optimiser steps.
        batch: images a step.
        learning_rate: at its highest, after the warm-up.
        teacher: the level it is trained to follow, trained before it; None to follow the data.
    """

    architecture: Architecture
    steps: int
    batch: int
    learning_rate: float
    teacher: int | None = None


# Cheapest first. The lower two see pixels in squares of 4x4 and 2x2, the upper two each pixel. The
# third follows the top: what ML-EM asks of a level is not a low loss but a short way to the next.
CHARACTERS = (
    Recipe(Architecture(base=64, middle=1, bottom=1, scales=2, patch=4), 12_000, 64, 2e-3),
    Recipe(Architecture(base=32, middle=1, bottom=1, scales=3, patch=2), 10_000, 64, 2e-3),
    Recipe(Architecture(base=32, middle=1, bottom=2, scales=4, patch=1), 20_000, 32, 1.5e-3, 4),
    Recipe(Architecture(base=64, middle=1, bottom=2, scales=4, patch=1), 20_000, 32, 1e-3),
)
# For 64x64 pixels on two CPU cores: what an hour can train, each on the data as in the paper. No
# level has fewer channels than the 48 numbers of a 4x4 square: what those lose no depth brings back
# (with 32 the held-out loss was twice that with 48).
FACES = (
    Recipe(Architecture(base=48, middle=1, bottom=1, scales=2, patch=4), 6_000, 64, 2e-3),
    Recipe(Architecture(base=48, middle=1, bottom=1, scales=3, patch=4), 6_000, 64, 2e-3),
    Recipe(Architecture(base=64, middle=1, bottom=2, scales=3, patch=4), 8_000, 64, 1.5e-3),
    Recipe(Architecture(base=64, middle=1, bottom=2, scales=4, patch=2), 6_000, 32, 1e-3),
)
LADDERS = {"characters": CHARACTERS, "faces": FACES}


class Ladder(NamedTuple):
    """A trained ladder, ready to be solved.

    Attributes:
        levels: predictions of the data, clipped to [-1, 1], with the costs stored beside them, in
            evaluations of the top level.
        params: one pytree a level.
        losses: held-out, one a level.
        shape: of one picture.
    """

    levels: Levels
    params: tuple[Params, ...]
    losses: tuple[float, ...]
    shape: tuple[int, int, int]


def load(directory: Path = SHIPPED, chosen: tuple[int, ...] = ()) -> Ladder:
    """The trained levels in a folder of checkpoints `level_1`, `level_2`, ...

    Args:
        directory: as `experiments.ladders.ship` wrote it.
        chosen: which levels, 1 the cheapest; by default all.

    Raises:
        FileNotFoundError: if one of them is not there.
    """
    numbers = chosen or tuple(range(1, 1 + len(list(directory.glob("level_*")))))
    if not numbers:
        raise FileNotFoundError(f"expected checkpoints level_1, level_2, ... in {directory}")
    drifts, params, costs, losses, shape = [], [], [], [], (0, 0, 0)
    for number in numbers:
        about, averaged = restore_average(directory / f"level_{number}")
        params.append(averaged)
        shape = tuple(about["shape"])
        drifts.append(data_level(Architecture(**about["architecture"])))
        costs.append(about["milliseconds_per_image"])
        losses.append(about["held_out_loss"])
    levels = Levels(tuple(drifts), relative_costs(costs))
    return Ladder(levels, tuple(params), tuple(losses), shape)


def relative_costs(costs: Sequence[float]) -> tuple[float, ...]:
    """In evaluations of the top level; a level timed slower than a better one counts as that."""
    sorted_costs = np.minimum.accumulate(np.array(costs)[::-1])[::-1]
    return tuple(float(cost) for cost in sorted_costs / costs[-1])


def restore_average(directory: Path) -> tuple[dict[str, Any], Params]:
    """What a checkpoint of one network says of itself, and its averaged parameters."""
    about = checkpoint.read_about(directory)
    network = UNet(Architecture(**about["architecture"]), default_depthwise())
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


def data_level(architecture: Architecture) -> Drift:
    """A network of the family as a level: the data it predicts, clipped to [-1, 1]."""
    network = linen_drift(UNet(architecture, default_depthwise()))
    return data_drift(network, PROCESS, PREDICTION, clip=1.0)
