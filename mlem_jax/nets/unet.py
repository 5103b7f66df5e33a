"""The UNets of the paper, in Flax linen: a family of networks from very small to large.

An image goes down through `scales` resolutions, each half the one above and twice as wide, and
comes back up through the same resolutions, where what was left on the way down is added. Every
filter is factored: a 3x3 filter on each channel alone, then a 1x1 filter across channels.

A network can be made cheaper in three ways, and a ladder uses all of them: narrower (`base`),
shallower (`bottom`, `middle`, `scales`), or coarser (`patch`): with `patch=2` each 2x2 square of
pixels becomes one position with four times the channels, so the whole network runs on a quarter
of the positions and still sees and writes every pixel.

This module is a leaf: it knows nothing of levels, plans or processes.

References:
    arXiv:2603.24594, section 4: scales, widths, factored filters, depths.
    arXiv:1801.04381: a per-channel filter followed by one across channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Images = Float[Array, "batch height width channels"]
Resized = Float[Array, "batch _ _ _"]
Taps = Float[Array, "3 3 channels"]
DepthwiseFilter = Callable[[Images, Taps], Images]


class Architecture(NamedTuple):
    """What distinguishes one network of the family from another; plain numbers, so it prints.

    Attributes:
        base: channels at the finest scale; scale `s` has `base * 2**s`.
        middle: residual blocks at every scale but the last, on the way down and again up
            ("intermediate depth" in the paper).
        bottom: residual blocks at the last scale ("bottom depth").
        scales: number of resolutions.
        patch: side of the squares of pixels that become one position.
        channels: channels of the image.
    """

    base: int
    middle: int = 1
    bottom: int = 1
    scales: int = 4
    patch: int = 1
    channels: int = 3


def depthwise_shifts(x: Images, taps: Taps) -> Images:
    """y[i, j] = sum_{a, b} taps[a, b] x[i + a - 1, j + b - 1], as nine shifted products.

    The fastest form on a CPU, where a grouped convolution is 30 to 90 times slower.
    """
    height, width = x.shape[1:3]
    # Without the barrier XLA computes what made `x` nine times over, once a shift.
    padded = jnp.pad(jax.lax.optimization_barrier(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = taps[:, :, None, None, None]
    shifted = [
        padded[:, a : a + height, b : b + width] * taps[a, b] for a in range(3) for b in range(3)
    ]
    return sum(shifted[1:], start=shifted[0])


def depthwise_convolution(x: Images, taps: Taps) -> Images:
    """The same filter as `depthwise_shifts`, as one grouped convolution."""
    return jax.lax.conv_general_dilated(
        x,
        taps[:, :, None, :],
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@jax.custom_vjp
def depthwise_trained(x: Images, taps: Taps) -> Images:
    """`depthwise_shifts` with a faster reverse mode; it has no forward mode, so train with it only.

    The nine sums of the gradient in `taps` are taken in one pass over memory; XLA's own nine
    separate passes cost up to eight times as much on a CPU.
    """
    return depthwise_shifts(x, taps)


def _trained_forward(x: Images, taps: Taps) -> tuple[Images, tuple[Images, Taps]]:
    return depthwise_shifts(x, taps), (x, taps)


def _trained_backward(saved: tuple[Images, Taps], cotangent: Images) -> tuple[Images, Taps]:
    x, taps = saved
    x, cotangent = jax.lax.optimization_barrier((x, cotangent))
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    products = tuple(
        padded[:, a : a + height, b : b + width] * cotangent for a in range(3) for b in range(3)
    )
    zeros = (jnp.zeros((), x.dtype),) * 9
    sums = jax.lax.reduce(
        products, zeros, lambda left, right: jax.tree.map(jnp.add, left, right), (1, 2)
    )
    sums = jnp.stack(sums).sum(axis=1).reshape(taps.shape)
    return depthwise_shifts(cotangent, taps[::-1, ::-1]), sums


depthwise_trained.defvjp(_trained_forward, _trained_backward)


def default_depthwise() -> DepthwiseFilter:
    """The form of the per-channel filter that suits the default device."""
    return depthwise_shifts if jax.default_backend() == "cpu" else depthwise_convolution


class FactoredFilter(nn.Module):
    """A 3x3 filter on each channel, then a 1x1 filter across channels."""

    depthwise: DepthwiseFilter
    zero: bool = False

    @nn.compact
    def __call__(self, x: Images) -> Images:
        channels = x.shape[-1]
        # Flax's own layers keep parameters in float32 too, whatever JAX's default is.
        initial = nn.initializers.normal(1 / 3)
        taps = self.param("taps", initial, (3, 3, channels), jnp.float32)
        kernel = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        return nn.Dense(channels, use_bias=False, kernel_init=kernel)(self.depthwise(x, taps))


class Block(nn.Module):
    """x + filter(silu(filter(norm(x) (1 + gain(t)) + offset(t))))."""

    depthwise: DepthwiseFilter

    @nn.compact
    def __call__(self, x: Images, time: Float[Array, "times features"]) -> Images:
        modulation = nn.Dense(2 * x.shape[-1], kernel_init=nn.initializers.zeros)(time)
        gain, offset = jnp.split(modulation[:, None, None, :], 2, axis=-1)
        hidden = nn.RMSNorm(use_scale=False)(x) * (1 + gain) + offset
        hidden = nn.silu(FactoredFilter(self.depthwise)(hidden))
        return x + FactoredFilter(self.depthwise, zero=True)(hidden)


class TimeEmbedding(nn.Module):
    """Sines and cosines of t at frequencies from 1 to 1000, through two layers."""

    features: int

    @nn.compact
    def __call__(self, t: Float[Array, " times"]) -> Float[Array, "times features"]:
        frequencies = jnp.exp(jnp.linspace(0.0, jnp.log(1000.0), 32, dtype=t.dtype))
        angles = t[:, None] * frequencies[None]
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return nn.silu(nn.Dense(self.features)(nn.silu(nn.Dense(self.features)(waves))))


class UNet(nn.Module):
    """A network of the family; `t` is in [0, 1], a number for all images or one for each.

    Raises:
        ValueError: if the image's sides are not divisible by `patch * 2**(scales - 1)`.
    """

    architecture: Architecture
    depthwise: DepthwiseFilter

    @nn.compact
    def __call__(self, x: Images, t: Float[Array, "*times"]) -> Images:
        base, middle, bottom, scales, patch, channels = self.architecture
        _check_sides(x.shape, patch * 2 ** (scales - 1))
        # The time in full precision, what is made of it in that of the image.
        time = TimeEmbedding(max(64, 2 * base))(jnp.atleast_1d(t)).astype(x.dtype)
        hidden = nn.Dense(base)(_space_to_depth(x, patch))
        skips = []
        for scale in range(scales - 1):
            for _ in range(middle):
                hidden = Block(self.depthwise)(hidden, time)
            skips.append(hidden)
            hidden = nn.Dense(base * 2 ** (scale + 1))(_halve(hidden))
        for _ in range(bottom):
            hidden = Block(self.depthwise)(hidden, time)
        for scale in reversed(range(scales - 1)):
            hidden = _double(nn.Dense(base * 2**scale)(hidden)) + skips.pop()
            for _ in range(middle):
                hidden = Block(self.depthwise)(hidden, time)
        hidden = nn.silu(nn.RMSNorm()(hidden))
        hidden = nn.Dense(channels * patch**2, kernel_init=nn.initializers.zeros)(hidden)
        return _depth_to_space(hidden, patch)


def _check_sides(shape: tuple[int, ...], multiple: int) -> None:
    if len(shape) != 4 or shape[1] % multiple or shape[2] % multiple:
        raise ValueError(
            f"expected images [batch, height, width, channels] with sides divisible by {multiple} "
            f"(patch times 2**(scales - 1)), got shape {shape}; resize them or use fewer scales"
        )


def _space_to_depth(x: Images, patch: int) -> Resized:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.swapaxes(2, 3).reshape(batch, height // patch, width // patch, -1)


def _depth_to_space(x: Images, patch: int) -> Resized:
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, patch, patch, -1).swapaxes(2, 3)
    return x.reshape(batch, height * patch, width * patch, -1)


def _halve(x: Images) -> Resized:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def _double(x: Images) -> Resized:
    batch, height, width, channels = x.shape
    # Not `repeat`: its gradient is a scatter, slow everywhere.
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)
