"""Double precision in every test: identities are then tested to 1e-12."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import checkpoint
from mlem_jax.unet import Architecture, UNet, default_depthwise

jax.config.update("jax_enable_x64", True)


@pytest.fixture
def small_ladder(tmp_path):
    """Two random networks in the form of a shipped ladder."""
    for level, base in ((1, 4), (2, 8)):
        architecture = Architecture(base=base, scales=2)
        network = UNet(architecture, default_depthwise())
        shapes = jax.eval_shape(
            network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1)
        )
        rng = np.random.default_rng(level)
        params = jax.tree.map(
            lambda leaf, rng=rng: (rng.normal(size=leaf.shape) / 9).astype(np.float32), shapes
        )
        about = {"architecture": architecture._asdict(), "shape": [8, 8, 3],
                 "milliseconds_per_image": float(level), "held_out_loss": 1 / level}  # fmt: skip
        checkpoint.save(tmp_path / "ladder" / f"level_{level}", params, about=about)
    return tmp_path / "ladder"
