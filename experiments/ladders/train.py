"""Train the networks of a ladder on the denoising loss, or to follow another of its networks.

Killed at any moment, the same command goes on where the last checkpoint was, and on a CPU ends
with the parameters of an unbroken run, bit for bit: every random number depends on the seed and
the step alone. Each batch is spread over the devices that are there, as far as their number divides
it, and the losses are those of one device, but for rounding.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from optax.contrib import muon

from experiments.common import runs, tiny
from experiments.common.processes import on_each, over_devices
from experiments.ladders import images, shown
from experiments.ladders.recipes import (
    EARTH,
    PREDICTIONS,
    Recipe,
    load_recipes,
    recipe_of,
    teachers_before,
)
from experiments.ladders.resume import Pace, pace_of, run_steps
from experiments.ladders.shipped import (
    PREDICTION,
    PROCESS,
    predicting,
    restore_average,
    trained_network,
)
from experiments.ladders.shown import split, to_unit
from mlem_jax import checkpoint
from mlem_jax.levels import linen
from mlem_jax.nets import (
    Architecture,
    UNet,
    default_depthwise,
    denoising_trainer,
    depthwise_trained,
    loss_by_band,
)
from mlem_jax.nets.denoise import Network, Teacher, TrainState
from mlem_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train the networks of a ladder on pictures."""

    data: Path
    """A folder of images, a .zip of images, or an .npz with uint8 `images`."""
    out: Path = Path("runs/levels")
    """Checkpoints and logs: one folder per level. Give the same folder to resume."""
    ladder: Path = EARTH
    """Which networks: a file as experiments/ladders/recipes.py describes it, such as
    faces.toml and earth.toml, for 64x64 pixels, beside that."""
    levels: tuple[int, ...] = ()
    """Which levels to train, 1 the cheapest; default: all."""
    size: int = 64
    """Side of the pictures in pixels; others are cropped to a square and scaled."""
    symmetries: shown.Symmetries = "none"
    """How each picture is shown: as it is, mirrored half of the time, left for right (faces, not
    letters), or turned and mirrored in one of the eight ways of a square (seen from above)."""
    begin: Path | None = None
    """A trained ladder or a run of this program to go on from: the level of the same number there
    lends its averaged parameters; default: begin at random."""
    steps: int | None = None
    """Steps of every level; default: those in the file."""
    minutes: float | None = None
    """Stop after this time, with a checkpoint; the same command then goes on."""
    held_out: int = 1000
    """Pictures kept aside to measure the loss on; at most a tenth of all, or as many of those that
    an .npz marks with bool `held_out`, of which none is trained on."""
    seed: int = 0
    """Of the initial parameters, the order of pictures, the times and the noise."""
    checkpoint_minutes: float = 3.0
    """Time between checkpoints."""
    log_every: int = 100
    """Steps between lines in the log."""
    tiny: bool = False
    """Two small networks on noise, in seconds: does it run here?"""


def main(settings: Settings) -> None:
    """Train every level asked for, cheapest first, within the time allowed."""
    with tiny.settings_of(settings, shrink) as own:
        train_levels(own)


def shrink(settings: Settings, folder: Path) -> Settings:
    """As little as there can be of everything."""
    return dataclasses.replace(
        settings, data=tiny.random_pictures(folder / "pictures.npz"), out=folder / "levels",
        ladder=tiny.recipes(folder / "tiny.toml"), levels=(), size=8, log_every=2,
    )  # fmt: skip


def train_levels(settings: Settings) -> None:
    """Level by level."""
    pace = pace_of(settings.minutes, settings.checkpoint_minutes, settings.log_every)
    pictures = images.load(settings.data, settings.size)
    print(f"{len(pictures.images)} pictures of {settings.size}x{settings.size}")
    if pictures.skipped:
        print(f"skipped {len(pictures.skipped)} files: {'; '.join(pictures.skipped)}")
    train, held_out = split(pictures.images, settings.held_out, pictures.held_out)
    recipes = load_recipes(settings.ladder)
    chosen = settings.levels or tuple(range(1, len(recipes) + 1))
    for level in chosen:
        if not 1 <= level <= len(recipes):
            raise ValueError(f"expected levels from 1 to {len(recipes)}, got {level}")
    for level in sorted(chosen, key=lambda level: teachers_before(recipes, level)):
        recipe = recipes[level - 1]
        recipe = recipe._replace(steps=settings.steps or recipe.steps)
        directory = settings.out / f"level_{level}"
        if not train_level(recipe, directory, train, held_out, settings, pace):
            return


def train_level(
    recipe: Recipe,
    directory: Path,
    train: np.ndarray,
    held_out: np.ndarray,
    settings: Settings,
    pace: Pace,
) -> bool:
    """Train one level from its last checkpoint; False if the deadline came first."""
    runs.check_settings(directory, determining(recipe, settings))
    network, optimiser = network_of(recipe.architecture), optimiser_of(recipe)
    teacher, taught = None, None
    if recipe.teacher is not None:
        teacher, taught = trained(settings.out / f"level_{recipe.teacher}", recipe.prediction)
    devices = over_devices(recipe.batch)
    trainer = denoising_trainer(PROCESS, PREDICTIONS[recipe.prediction], linen(network), optimiser,
                                teacher=teacher, density=recipe.times)  # fmt: skip
    key = jax.random.key(settings.seed)

    # The state is given up to the step, so that the parameters are not held twice.
    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, pictures: jax.Array, taught: Params) -> tuple[TrainState, Any]:
        return trainer.step(state, to_unit(pictures), key, taught)

    begun = trainer.init(first(network, directory.name, train.shape[1:], settings))
    begun, taught = jax.device_put((begun, taught), on_each(devices))
    state = run_steps(
        directory, begun,
        lambda state, pictures: step(state, jax.device_put(pictures, devices), taught),
        batches_of(train, recipe.batch, settings), recipe.steps, recipe.batch, pace,
    )  # fmt: skip
    if state is None:
        return False
    about = {**determining(recipe, settings), "shape": list(train.shape[1:])}
    checkpoint.save(directory / "average", state.average, about=about)
    losses = held_out_losses(recipe, state.average, held_out)
    by_band = [round(float(loss), 5) for loss in losses.mean(axis=1)]
    told = {"held_out": round(float(losses.mean()), 5), "held_out_by_band": by_band}
    runs.append(directory / "log.jsonl", step=recipe.steps, **told)
    print(f"held-out loss {losses.mean():.4f}, from clean to noisy {by_band}")
    return True


def batches_of(train: np.ndarray, batch: int, settings: Settings) -> grain.MapDataset:
    """The pictures of every step."""
    turn = shown.TURNS[settings.symmetries]
    return shown.batches(len(train), lambda number: train[number], turn, batch, settings.seed)


def trained(directory: Path, prediction: str = "v") -> tuple[Network, Params]:
    """A level at the end of its training, to be followed in a prediction, and its parameters.

    Raises:
        FileNotFoundError: if it is not there yet.
    """
    about, params = restore_average(average_in(directory))
    recipe = recipe_of(about)
    return predicting(prediction, trained_network(recipe), recipe.prediction), params


def average_in(level: Path) -> Path:
    """Where the averaged parameters of a level lie: of one in training, or of a shipped ladder."""
    return level if (level / "about").is_dir() else level / "average"


def network_of(architecture: Architecture) -> UNet:
    """The network in the form that trains fastest here."""
    on_cpu = jax.default_backend() == "cpu"
    return UNet(architecture, depthwise_trained if on_cpu else default_depthwise())


def first(network: UNet, level: str, shape: tuple[int, ...], settings: Settings) -> Params:
    """Parameters of a level before its first step here."""
    if settings.begin is None:
        return initial(network, shape, settings.seed)
    return restore_average(average_in(settings.begin / level))[1]


def initial(network: UNet, shape: tuple[int, ...], seed: int) -> Params:
    """Parameters before the first step, for pictures of this shape."""
    picture = jnp.zeros((1, *shape), jnp.float32)
    return jax.jit(network.init)(jax.random.key(seed), picture, jnp.zeros(1))


def optimiser_of(recipe: Recipe) -> optax.GradientTransformation:
    """Muon on clipped gradients, its rate rising for a while and then falling like a cosine.

    Adam for all that is no matrix; updates of matrices are made as large as Adam's.
    """
    warm_up = min(500, recipe.steps // 10 + 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, warm_up, recipe.steps, end_value=recipe.learning_rate / 100
    )
    return optax.chain(optax.clip_by_global_norm(1.0), muon(schedule, consistent_rms=0.2))


def determining(recipe: Recipe, settings: Settings) -> dict[str, Any]:
    """All that the trained parameters depend on, but for a teacher's own."""
    return {
        **recipe._asdict(),
        "architecture": recipe.architecture._asdict(),
        "data": settings.data.name,
        "size": settings.size,
        "symmetries": settings.symmetries,
        "held_out": settings.held_out,
        "begin": None if settings.begin is None else settings.begin.name,
        "seed": settings.seed,
    }


def held_out_losses(
    recipe: Recipe,
    params: Params,
    held_out: np.ndarray,
    top: tuple[Network, Params] | None = None,
) -> jax.Array:
    """Losses [bands, pictures] by band of t, with the same times and noise for every network.

    Of v, whatever the network predicts: to the data, or, with the top level, squared distances to
    what that predicts.
    """
    network = predicting("v", trained_network(recipe), recipe.prediction)

    def run(params: Params, top_params: Params, pictures: jax.Array) -> jax.Array:
        key = jax.random.key(17)  # Not the training's: these times and this noise are never met.
        teacher: Teacher | None = None if top is None else partial(top[0], top_params)
        return loss_by_band(PROCESS, PREDICTION, network, params, pictures, key, teacher=teacher)

    return jax.jit(run)(params, None if top is None else top[1], to_unit(held_out))


if __name__ == "__main__":
    main(tyro.cli(Settings))
