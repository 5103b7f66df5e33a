"""Training many cheap networks on what an expensive one said once: its answers on noisy images.

One answer of the expensive network may cost more than a step of a cheap one on it. What is
minimised is the squared distance to the answers, on which the variance of the multilevel sum hangs;
the times of the answers are fixed, so that networks may weigh them differently (`times.density_at`)
and still share them.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mlem_jax.nets.denoise import Images, Network
from mlem_jax.process import Process, perturb
from mlem_jax.types import Params


class Answers(NamedTuple):
    """What a network says of noisy images.

    Attributes:
        x: noisy images.
        t: the time of each.
        target: what the network predicts of them.
    """

    x: Images
    t: Float[Array, " batch"]
    target: Images


def ask(
    process: Process,
    network: Network,
    params: Params,
    images: Images,
    t: Float[Array, " batch"],
    noise: Images,
) -> Answers:
    """network(alpha x_0 + sigma eps, t), with what it was asked."""
    x = perturb(process, images, noise, t[:, None, None, None])
    return Answers(x, t, network(params, x, t))


def square_distances(network: Network, params: Params, answers: Answers) -> Float[Array, " batch"]:
    """Mean over the image of (network(x, t) - target)^2, for each."""
    return jnp.mean((network(params, answers.x, answers.t) - answers.target) ** 2, axis=(1, 2, 3))
