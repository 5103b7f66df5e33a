"""Train the small classifier whose features Frechet and kernel distances are taken on.

It names the traits each character was composed of (background, body, accessory, head, glasses), and
so has to see what the characters differ in. Trained on the pictures the levels were trained on, by
the same split; the held-out ones say how well it names. Writes a checkpoint with its card.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float
from rich.console import Console
from rich.progress import track

from experiments.common import tiny
from experiments.common.machine import machine
from experiments.ladders import images
from experiments.ladders.shipped import NOUNS
from experiments.ladders.shown import split, to_unit
from mlem_jax import checkpoint
from mlem_jax.arrays import read_arrays
from mlem_jax.types import Params

TRAITS = ("background", "body", "accessory", "head", "glasses")
"""What the columns of `seeds` in the npz stand for."""
Features = Callable[[jax.Array], Float[Array, "batch features"]]
"""From pictures in [-1, 1] to their features."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train the classifier of traits and ship it with its card."""

    data: Path
    """An .npz with uint8 `images` and, a row per picture, the numbers of its traits in `seeds`."""
    out: Path = NOUNS / "features"
    """Where the checkpoint goes; replaced if it is there."""
    size: int = 32
    """Side of the pictures in pixels."""
    held_out: int = 1000
    """As in the training of the levels."""
    epochs: int = 12
    """Passes over the training pictures."""
    batch: int = 128
    """Pictures a step."""
    seed: int = 0
    """Of the initial parameters and the order of pictures."""
    tiny: bool = False
    """On noise, in seconds: does it run here?"""


class Traits(nn.Module):
    """Three strided convolutions, a layer of features, one linear layer for all traits.

    Attributes:
        classes: how many of each trait there are.
        features: how many features.
    """

    classes: tuple[int, ...]
    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Features, and for each trait the logits of its classes."""
        for width in (16, 32, 64):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
        # Before the bend: nearer to the normal distribution that a Frechet distance assumes.
        features = nn.Dense(self.features)(x.reshape(len(x), -1))
        logits = nn.Dense(sum(self.classes))(nn.relu(features))
        return features, jnp.split(logits, np.cumsum(self.classes)[:-1].tolist(), axis=1)


def main(settings: Settings) -> None:
    """Train, measure on the held-out pictures, write."""
    with tiny.settings_of(settings, shrink) as own:
        train(own)


def shrink(settings: Settings, folder: Path) -> Settings:
    """As little as there can be of everything."""
    return dataclasses.replace(settings, data=tiny.random_pictures(folder / "pictures.npz"),
                               size=8, epochs=1, batch=8)  # fmt: skip


def train(settings: Settings) -> None:
    """The classifier and its card."""
    pictures = images.load(settings.data, settings.size).images
    (shown, held_out), (labels, wanted) = (
        split(own, settings.held_out) for own in (pictures, labels_of(settings.data))
    )
    classes = tuple(int(count) for count in 1 + np.maximum(labels.max(0), wanted.max(0)))
    network = Traits(classes)
    params = trained(network, shown, labels, settings)
    logits = jax.jit(network.apply)(params, to_unit(held_out))[1]
    named = [float((own.argmax(1) == column).mean())
             for own, column in zip(logits, wanted.T, strict=True)]  # fmt: skip
    about = {
        "classes": classes, "features": network.features, "shape": list(shown.shape[1:]),
        "data": settings.data.name, "epochs": settings.epochs, "batch": settings.batch,
        "training_pictures": len(shown), "held_out_pictures": len(held_out),
        "held_out_accuracy": dict(zip(TRAITS, named, strict=True)), "machine": machine(),
    }  # fmt: skip
    checkpoint.save(settings.out, params, about=about)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    (settings.out / "README.md").write_text(written_card(about, size))
    told = ", ".join(f"{trait} {share:.3f}" for trait, share in about["held_out_accuracy"].items())
    print(f"{size:,} parameters; named among the held-out pictures: {told}")
    print(f"wrote {settings.out}")


def labels_of(data: Path) -> np.ndarray:
    """The numbers of the traits [pictures, traits].

    Raises:
        ValueError: if the pictures come without them.
    """
    arrays = read_arrays(data, "pictures with their traits")
    if "seeds" not in arrays or arrays["seeds"].shape[1:] != (len(TRAITS),):
        raise ValueError(f"expected `seeds` [pictures, {len(TRAITS)}], the traits of each "
                         f"picture, in {data}, got {sorted(arrays)}")  # fmt: skip
    return arrays["seeds"].astype(np.int32)


def trained(network: Traits, train: np.ndarray, labels: np.ndarray, settings: Settings) -> Params:
    """Parameters after all epochs of Adam on the sum of the traits' cross entropies."""
    batches = len(train) // settings.batch
    schedule = optax.cosine_decay_schedule(2e-3, batches * settings.epochs)
    optimiser = optax.adam(schedule)
    params = network.init(jax.random.key(settings.seed), to_unit(train[:1]))
    state = optimiser.init(params)

    def loss(params: Params, pictures: jax.Array, wanted: jax.Array) -> jax.Array:
        entropy = optax.softmax_cross_entropy_with_integer_labels
        logits: Any = network.apply(params, to_unit(pictures))[1]
        losses = [entropy(own, wanted[:, k]).mean() for k, own in enumerate(logits)]
        return jnp.stack(losses).sum()

    @jax.jit
    def step(
        params: Params, state: optax.OptState, pictures: jax.Array, wanted: jax.Array
    ) -> tuple[Params, optax.OptState]:
        moves, state = optimiser.update(jax.grad(loss)(params, pictures, wanted), state, params)
        return optax.apply_updates(params, moves), state

    rng = np.random.default_rng(settings.seed)
    for _ in track(range(settings.epochs), "epochs", console=Console(width=100)):
        order = rng.permutation(len(train))[: batches * settings.batch]
        for own in order.reshape(batches, -1):
            params, state = step(params, state, train[own], labels[own])
    return params


def load_features(directory: Path = NOUNS / "features") -> Features:
    """The trained features.

    Raises:
        FileNotFoundError: if there are none.
    """
    about = checkpoint.read_about(directory)
    network = Traits(tuple(about["classes"]), about["features"])
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *about["shape"])))
    params = checkpoint.restore(directory, like)
    return jax.jit(lambda pictures: network.apply(params, pictures)[0])


def written_card(about: dict[str, Any], size: int) -> str:
    """The model card in Markdown."""
    named = about["held_out_accuracy"]
    return "\n".join([
        "# A classifier of the characters' traits, for distances between sets of pictures",
        "",
        f"Three strided 3x3 convolutions (16, 32, 64), {about['features']} features, one linear "
        f"layer for all traits: {size:,} parameters. Trained on {about['training_pictures']} "
        f"pictures of `{about['data']}` (CC0 art of the Nouns project) for {about['epochs']} "
        f"epochs of Adam, batch {about['batch']}; {about['held_out_pictures']} pictures held out, "
        "the same as of the ladder beside it. It is meant for comparing sets of such pictures "
        "with each other and for nothing else: its distances are not those of networks trained "
        "on photographs, and compare to none published.",
        "",
        "```sh",
        f"python -m experiments.ladders.features --data {about['data']}",
        "```",
        "",
        "| trait | classes | named correctly, held out |",
        "|---|---|---|",
        *(f"| {trait} | {count} | {named[trait]:.3f} |"
          for trait, count in zip(TRAITS, about["classes"], strict=True)),
        "",
        f"{about['machine']}. Under the licence of this repository.",
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Settings))
