"""Networks and their training: the factored UNets of the paper, in Flax, on Optax."""

from mlem_jax.nets.denoise import (
    Trainer,
    TrainState,
    denoising_loss,
    denoising_trainer,
    loss_by_band,
)
from mlem_jax.nets.following import Answers, ask, following_loss, recovered
from mlem_jax.nets.unet import (
    Architecture,
    UNet,
    default_depthwise,
    depthwise_convolution,
    depthwise_shifts,
    depthwise_trained,
)

__all__ = [
    "Answers",
    "Architecture",
    "TrainState",
    "Trainer",
    "UNet",
    "ask",
    "default_depthwise",
    "denoising_loss",
    "denoising_trainer",
    "depthwise_convolution",
    "depthwise_shifts",
    "depthwise_trained",
    "following_loss",
    "loss_by_band",
    "recovered",
]
