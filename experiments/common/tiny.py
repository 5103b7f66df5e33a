"""What `--tiny` runs on: random networks and pictures, so that a script is seen to work in seconds.

Nothing measured on them means anything.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.common.kept_plans import KeptPlan, write_plan
from mlem_jax import checkpoint, plans
from mlem_jax.grids import Grid
from mlem_jax.nets import Architecture, UNet, default_depthwise
from mlem_jax.types import Params

SHAPE = (8, 8, 3)
OUT = Path("runs/tiny")
"""Where the files go, unless another folder than the default is asked for."""
LEVEL = "[[level]]\nbase = {}\nmiddle = 0\nscales = 1\nsteps = {}\nbatch = 4\n"
"""A network that is trained for some steps, as the file of a ladder has it."""
S = TypeVar("S", bound=Any)


@contextmanager
def settings_of(settings: S, shrink: Callable[[S, Path], S]) -> Iterator[S]:
    """The settings; with `--tiny`, what `shrink` makes of them and of a temporary folder."""
    if not settings.tiny:
        yield settings
        return
    with tempfile.TemporaryDirectory() as folder:
        small = shrink(settings, Path(folder))
        if small.out == type(settings).out:
            out = OUT if small.out.name == "results" else OUT / small.out.name
            small = dataclasses.replace(small, out=out)
        yield small


def random_ladder(folder: Path) -> Path:
    """Two random networks in the form of a shipped ladder."""
    for level, base in ((1, 4), (2, 8)):
        architecture = Architecture(base=base, middle=0, scales=1)
        network = UNet(architecture, default_depthwise())
        like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *SHAPE)), jnp.zeros(1))
        about = {
            "architecture": architecture._asdict(), "shape": list(SHAPE),
            "milliseconds_per_image": float(10**level), "held_out_loss": 1 / level,
        }  # fmt: skip
        checkpoint.save(folder / f"level_{level}", _random(like, level), about=about)
    return folder


def recipes(file: Path) -> Path:
    """Two networks to be trained for a moment; the lower follows the upper, in the data."""
    lower = LEVEL.format(4, 4) + 'prediction = "data"\nteacher = 2\n'
    file.write_text(lower + LEVEL.format(8, 4))
    return file


def random_picture(file: Path, width: int, height: int) -> None:
    """A file of noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(file.stem.encode())).integers(
        0, 256, (height, width, 3), np.uint8
    )
    Image.fromarray(noise).save(file)


def random_pictures(file: Path, count: int = 60) -> Path:
    """An npz of noise, with places."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *SHAPE), np.uint8)
    np.savez(file, images=images, corners=rng.integers(0, 360, (count, 2)))
    return file


def random_plans(folder: Path, times: Grid, cost: float) -> Path:
    """The top at every step, of each sampler, as plans of both networks and of the top alone.

    They stand for fitted ones, and are said to be of a cost.
    """
    for sampler in ("ddpm", "ddim"):
        for name, levels in {"": (1, 2), "_top": (2,), "_top_ahead": (2,)}.items():
            plan = plans.full(len(times) - 1, len(levels), len(levels))
            kept = KeptPlan(plan, levels, sampler, times, "uniform", 1, cost)
            write_plan(folder / f"{sampler}_{cost:g}{name}.npz", kept, {})
    return folder


def random_features(folder: Path) -> Path:
    """A classifier as it was before its training."""
    from experiments.ladders.features import PLACES, Places

    about = {"classes": [2] * len(PLACES), "features": 4, "shape": list(SHAPE)}
    network = Places(tuple(about["classes"]), 4)
    like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    checkpoint.save(folder, _random(like, 3), about=about)
    return folder


def _random(like: Params, seed: int) -> Params:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) / 9).astype(np.float32), like)
