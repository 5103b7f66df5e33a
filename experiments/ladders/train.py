"""Train the networks of a ladder on the denoising loss, or to follow another of its networks.

Killed at any moment, the same command goes on where the last checkpoint was, and on a CPU ends
with the parameters of an unbroken run, bit for bit: every random number depends on the seed and
the step alone.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import tyro
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.common import runs, tiny
from experiments.ladders import images
from experiments.ladders.recipes import CHARACTERS, Recipe, load_recipes, teachers_before
from experiments.ladders.shipped import PREDICTION, PROCESS, restore_average
from mlem_jax import checkpoint
from mlem_jax.levels import linen
from mlem_jax.nets import (
    Architecture,
    Trainer,
    TrainState,
    UNet,
    default_depthwise,
    denoising_trainer,
    depthwise_trained,
    loss_by_band,
)
from mlem_jax.nets.denoise import Network
from mlem_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train the networks of a ladder on pictures."""

    data: Path
    """A folder of images, a .zip of images, or an .npz with uint8 `images`."""
    out: Path = Path("runs/levels")
    """Checkpoints and logs: one folder per level. Give the same folder to resume."""
    ladder: Path = CHARACTERS
    """Which networks: a file as experiments/ladders/recipes.py describes it, such as
    characters.toml, for 32x32 pixels, and faces.toml, for 64x64, beside that."""
    levels: tuple[int, ...] = ()
    """Which levels to train, 1 the cheapest; default: all."""
    size: int = 32
    """Side of the pictures in pixels; others are cropped to a square and scaled."""
    mirror: bool = False
    """Show each picture mirrored half of the time, left for right; for faces, not for letters."""
    steps: int | None = None
    """Steps of every level; default: those in the file."""
    minutes: float | None = None
    """Stop after this time, with a checkpoint; the same command then goes on."""
    held_out: int = 1000
    """Pictures kept aside to measure the loss on; at most a tenth of all."""
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
    deadline = time.monotonic() + 60 * settings.minutes if settings.minutes else float("inf")
    pictures = images.load(settings.data, settings.size)
    print(f"{len(pictures.images)} pictures of {settings.size}x{settings.size}")
    if pictures.skipped:
        print(f"skipped {len(pictures.skipped)} files: {'; '.join(pictures.skipped)}")
    train, held_out = split(pictures.images, settings.held_out)
    recipes = load_recipes(settings.ladder)
    chosen = settings.levels or tuple(range(1, len(recipes) + 1))
    for level in chosen:
        if not 1 <= level <= len(recipes):
            raise ValueError(f"expected levels from 1 to {len(recipes)}, got {level}")
    for level in sorted(chosen, key=lambda level: teachers_before(recipes, level)):
        recipe = recipes[level - 1]
        recipe = recipe._replace(steps=settings.steps or recipe.steps)
        directory = settings.out / f"level_{level}"
        if not train_level(recipe, directory, train, held_out, settings, deadline):
            print("time is up; the same command goes on from here")
            return


def split(pictures: np.ndarray, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """(training, held-out), the same for the same pictures whatever else changes."""
    order = np.random.default_rng(0).permutation(len(pictures))
    count = min(held_out, len(pictures) // 10)
    return pictures[order[count:]], pictures[order[:count]]


def to_unit(pictures: Any) -> jax.Array:
    """0..255 to [-1, 1]."""
    return jnp.asarray(pictures, jnp.float32) / 127.5 - 1


def train_level(
    recipe: Recipe,
    directory: Path,
    train: np.ndarray,
    held_out: np.ndarray,
    settings: Settings,
    deadline: float,
) -> bool:
    """Train one level from its last checkpoint; False if the deadline came first."""
    runs.check_settings(directory, determining(recipe, settings))
    manager = ocp.CheckpointManager(
        directory.absolute() / "checkpoints", options=ocp.CheckpointManagerOptions(max_to_keep=2)
    )
    teacher, taught = None, None
    if recipe.teacher is not None:
        teacher, taught = trained(settings.out / f"level_{recipe.teacher}")
    trainer, state = make_trainer(recipe, train.shape[1:], settings.seed, teacher)
    if (latest := manager.latest_step()) is not None:
        restored = manager.restore(
            latest, args=ocp.args.StandardRestore(checkpoint.abstract(state))
        )
        state = cast(TrainState, restored)
    key = jax.random.key(settings.seed)
    # The state is given up to the step, so that the parameters are not held twice.
    step = jax.jit(
        lambda state, pictures, taught: trainer.step(state, to_unit(pictures), key, taught),
        donate_argnums=0,
    )
    log = directory / "log.jsonl"
    runs.cut_log(log, int(state.step))
    batches = batches_of(train, recipe.batch, settings)
    saved = time.monotonic()
    with progress(directory.name, recipe, int(state.step)) as advance:
        for number in range(int(state.step), recipe.steps):
            state, loss = step(state, batches[number], taught)
            done, now = number + 1, time.monotonic()
            if done % settings.log_every == 0 or done == recipe.steps:
                runs.append(log, step=done, loss=float(loss), rate=advance(done, float(loss)))
            if now - saved > 60 * settings.checkpoint_minutes or now > deadline:
                manager.save(done, args=ocp.args.StandardSave(state))
                saved = now
            if now > deadline:
                advance(done, float(loss))
                manager.wait_until_finished()
                return False
    if manager.latest_step() != recipe.steps:
        manager.save(recipe.steps, args=ocp.args.StandardSave(state))
    manager.wait_until_finished()
    about = {**determining(recipe, settings), "shape": list(train.shape[1:])}
    checkpoint.save(directory / "average", state.average, about=about)
    losses = held_out_losses(recipe.architecture, state.average, held_out)
    by_band = [round(float(loss), 5) for loss in losses.mean(axis=1)]
    runs.append(
        log, step=recipe.steps, held_out=round(float(losses.mean()), 5), held_out_by_band=by_band
    )
    print(f"held-out loss {losses.mean():.4f}, from clean to noisy {by_band}")
    return True


def either_way(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture or its mirror image, with even chances; the rng is that of its place."""
    return picture[:, ::-1] if rng.random() < 0.5 else picture


def batches_of(train: np.ndarray, batch: int, settings: Settings) -> grain.MapDataset:
    """Batches without end, each decided by the seed and its number alone."""
    shown = grain.MapDataset.source(cast(Any, train)).seed(settings.seed).shuffle().repeat()
    return (shown.random_map(either_way) if settings.mirror else shown).batch(batch)


def trained(directory: Path) -> tuple[Network, Params]:
    """A level at the end of its training, to be followed, and its parameters.

    Raises:
        FileNotFoundError: if it is not there yet.
    """
    about, params = restore_average(directory / "average")
    return linen(UNet(Architecture(**about["architecture"]), default_depthwise())), params


def make_trainer(
    recipe: Recipe, shape: tuple[int, ...], seed: int, teacher: Network | None
) -> tuple[Trainer, TrainState]:
    """The trainer of one network and its state before the first step."""
    on_cpu = jax.default_backend() == "cpu"
    network = UNet(recipe.architecture, depthwise_trained if on_cpu else default_depthwise())
    warm_up = min(500, recipe.steps // 10 + 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, warm_up, recipe.steps, end_value=recipe.learning_rate / 100
    )
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    level = linen(network)
    trainer = denoising_trainer(PROCESS, PREDICTION, level, optimiser, teacher=teacher)
    params = jax.jit(network.init)(
        jax.random.key(seed), jnp.zeros((1, *shape), jnp.float32), jnp.zeros(1)
    )
    return trainer, trainer.init(params)


def determining(recipe: Recipe, settings: Settings) -> dict[str, Any]:
    """All that the trained parameters depend on, but for a teacher's own."""
    return {
        **recipe._asdict(),
        "architecture": recipe.architecture._asdict(),
        "data": settings.data.name,
        "size": settings.size,
        "mirror": settings.mirror,
        "held_out": settings.held_out,
        "seed": settings.seed,
    }


@contextmanager
def progress(name: str, recipe: Recipe, begun: int) -> Iterator[Callable[[int, float], float]]:
    """A bar with loss, images/s and time left; yields `(steps done, loss) -> images/s`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  {task.fields[state]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(name, total=recipe.steps, completed=begun, state="compiling")
        last = [time.monotonic(), begun]

        def advance(done: int, loss: float) -> float:
            now = time.monotonic()
            rate = (done - last[1]) * recipe.batch / (now - last[0])
            last[:] = [now, done]
            bar.update(task, completed=done, state=f"loss {loss:.4f}  {rate:.0f} images/s")
            return round(rate, 1)

        yield advance


def held_out_losses(architecture: Architecture, params: Params, held_out: np.ndarray) -> jax.Array:
    """Losses [bands, pictures] by band of t, with the same times and noise for every network."""
    network = linen(UNet(architecture, default_depthwise()))

    def run(params: Params, pictures: jax.Array) -> jax.Array:
        key = jax.random.key(17)  # Not the training's: these times and this noise are never met.
        return loss_by_band(PROCESS, PREDICTION, network, params, pictures, key)

    return jax.jit(run)(params, to_unit(held_out))


if __name__ == "__main__":
    main(tyro.cli(Settings))
