"""What `--tiny` runs on: random networks and pictures, so that a script is seen to work in seconds.

Nothing measured on them means anything.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ladders.features import TRAITS, Traits
from mlem_jax import checkpoint
from mlem_jax.stack import Stack, save_stack
from mlem_jax.types import Params
from mlem_jax.unet import Architecture, UNet, default_depthwise

SHAPE = (8, 8, 3)


def random_ladder(folder: Path) -> Path:
    """Two random networks in the form of a shipped ladder, with shares of a stack."""
    for level, base in ((1, 4), (2, 8)):
        architecture = Architecture(base=base, scales=2)
        network = UNet(architecture, default_depthwise())
        like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *SHAPE)), jnp.zeros(1))
        about = {
            "architecture": architecture._asdict(), "shape": list(SHAPE),
            "milliseconds_per_image": float(10**level), "held_out_loss": 1 / level,
        }  # fmt: skip
        checkpoint.save(folder / f"level_{level}", _random(like, level), about=about)
    save_stack(folder / "stack.npz", Stack(jnp.array([0.0, 1.0]), jnp.array([[1, 0.7], [1, 0.5]])))
    return folder


def random_pictures(file: Path, count: int = 60) -> Path:
    """An npz of noise, with traits."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *SHAPE), np.uint8)
    np.savez(file, images=images, seeds=rng.integers(0, 2, (count, len(TRAITS))).astype(np.uint16))
    return file


def random_features(folder: Path) -> Path:
    """A classifier as it was before its training."""
    about = {"classes": [2] * len(TRAITS), "features": 4, "shape": list(SHAPE)}
    network = Traits(tuple(about["classes"]), 4)
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    checkpoint.save(folder, _random(like, 3), about=about)
    return folder


def _random(like: Params, seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) / 9).astype(np.float32), like)
