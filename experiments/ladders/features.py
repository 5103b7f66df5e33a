"""Train the small classifier whose features Frechet and kernel distances are taken on.

It says where on Earth a crop lies, from the crop in any of its eight symmetries, and so has to see
what places differ in. Trained on the pictures the levels were trained on; the held-out ones, which
lie in the middle of each sixth of the longitudes, say how well it tells. Writes a checkpoint with
its card.
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
from experiments.ladders.shipped import SHIPPED
from experiments.ladders.shown import any_way, batches, split, to_unit
from mlem_jax import checkpoint
from mlem_jax.arrays import read_arrays
from mlem_jax.types import Params

PLACES = {"latitude, by 12 degrees": 180, "longitude, by 60 degrees": 900}
"""What the classifier tells, and the pixels of the map that are one class."""
Features = Callable[[jax.Array], Float[Array, "batch features"]]
"""From pictures in [-1, 1] to their features."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train the classifier of places and ship it with its card."""

    data: Path
    """An .npz as experiments.ladders.earth writes it."""
    out: Path = SHIPPED / "features"
    """Where the checkpoint goes; replaced if it is there."""
    size: int = 64
    """Side of the pictures in pixels."""
    held_out: int = 1000
    """As in the training of the levels."""
    epochs: int = 4
    """Passes over the training pictures."""
    batch: int = 128
    """Pictures a step."""
    seed: int = 0
    """Of the initial parameters and the order of pictures."""
    tiny: bool = False
    """On noise, in seconds: does it run here?"""


class Places(nn.Module):
    """Four strided convolutions, a layer of features, one linear layer for all classes.

    Attributes:
        classes: how many there are of latitude and of longitude.
        features: how many features.
    """

    classes: tuple[int, ...]
    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Features, and the logits of the classes of latitude and of longitude."""
        for width in (16, 32, 64, 64):
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
    given = images.load(settings.data, settings.size)
    (shown, held_out), (labels, wanted) = (
        split(own, settings.held_out, given.held_out)
        for own in (given.images, labels_of(settings.data))
    )
    classes = tuple(int(count) for count in 1 + np.maximum(labels.max(0), wanted.max(0)))
    network = Places(classes)
    params = trained(network, shown, labels, settings)
    logits = jax.jit(network.apply)(params, to_unit(held_out))[1]
    named = [float((own.argmax(1) == column).mean())
             for own, column in zip(logits, wanted.T, strict=True)]  # fmt: skip
    about = {
        "classes": classes, "features": network.features, "shape": list(shown.shape[1:]),
        "data": settings.data.name, "epochs": settings.epochs, "batch": settings.batch,
        "training_pictures": len(shown), "held_out_pictures": len(held_out),
        "held_out_accuracy": dict(zip(PLACES, named, strict=True)), "machine": machine(),
    }  # fmt: skip
    checkpoint.save(settings.out, params, about=about)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    (settings.out / "README.md").write_text(written_card(about, size))
    told = "; ".join(f"{place} {share:.3f}" for place, share in about["held_out_accuracy"].items())
    print(f"{size:,} parameters; told right among the held-out pictures: {told}")
    print(f"wrote {settings.out}")


def labels_of(data: Path) -> np.ndarray:
    """The classes of latitude and longitude [pictures, 2].

    Raises:
        ValueError: if the pictures come without their places.
    """
    arrays = read_arrays(data, "pictures with their places")
    if "corners" not in arrays or arrays["corners"].shape[1:] != (len(PLACES),):
        raise ValueError(f"expected `corners` [pictures, {len(PLACES)}], the row and column of "
                         "each picture in the map, as experiments.ladders.earth writes them, in "
                         f"{data}, got {sorted(arrays)}")  # fmt: skip
    return arrays["corners"].astype(np.int32) // np.array(list(PLACES.values()))


def trained(network: Places, train: np.ndarray, labels: np.ndarray, settings: Settings) -> Params:
    """Parameters after all epochs of Adam on the sum of the two cross entropies."""
    steps = len(train) * settings.epochs // settings.batch
    schedule = optax.cosine_decay_schedule(2e-3, steps)
    optimiser = optax.adam(schedule)
    params = jax.jit(network.init)(jax.random.key(settings.seed), to_unit(train[:1]))
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

    def turn(own: Any, rng: np.random.Generator) -> Any:
        return any_way(own[0], rng), own[1]

    shown = batches(len(train), lambda number: (train[number], labels[number]), turn,
                    settings.batch, settings.seed)  # fmt: skip
    counted = track(range(steps), "steps", console=Console(width=100))
    for own, _ in zip(shown, counted, strict=False):  # The batches have no end.
        params, state = step(params, state, *own)
    return params


def load_features(directory: Path = SHIPPED / "features") -> Features:
    """The trained features.

    Raises:
        FileNotFoundError: if there are none.
    """
    about = checkpoint.read_about(directory)
    network = Places(tuple(about["classes"]), about["features"])
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *about["shape"])))
    params = checkpoint.restore(directory, like)
    return jax.jit(lambda pictures: network.apply(params, pictures)[0])


def written_card(about: dict[str, Any], size: int) -> str:
    """The model card in Markdown."""
    named = about["held_out_accuracy"]
    return "\n".join([
        "# A classifier of places on Earth, for distances between sets of pictures",
        "",
        f"Four strided 3x3 convolutions (16, 32, 64, 64), {about['features']} features, one linear "
        f"layer for all classes: {size:,} parameters. Trained on {about['training_pictures']} "
        f"pictures of `{about['data']}` (NASA's Blue Marble, public domain), each in any of its "
        f"eight symmetries, for {about['epochs']} epochs of Adam, batch {about['batch']}; judged "
        f"on {about['held_out_pictures']} pictures of the bands of longitude that are held out of "
        "the ladder's training too. It is meant for comparing sets of such pictures "
        "with each other and for nothing else: its distances are not those of networks trained "
        "on photographs, and compare to none published.",
        "",
        "```sh",
        f"python -m experiments.ladders.features --data {about['data']}",
        "```",
        "",
        "| what it tells | classes | right, held out |",
        "|---|---|---|",
        *(f"| {place} | {count} | {named[place]:.3f} |"
          for place, count in zip(PLACES, about["classes"], strict=True)),
        "",
        f"{about['machine']}. Under the licence of this repository.",
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Settings))
