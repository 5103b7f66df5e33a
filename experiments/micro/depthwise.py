"""Which form of the per-channel filter is fastest here? Forward and gradient, by width.

Prints a table and writes results/depthwise_PLATFORM.json. `unet.default_depthwise` follows it.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.common.machine import provenance
from mlem_jax import unet

FORMS = {
    "shifts": unet.depthwise_shifts,
    "shifts, own gradient": unet.depthwise_trained,
    "convolution": unet.depthwise_convolution,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time the forms of the per-channel 3x3 filter."""

    batch: int = 16
    """Images."""
    shapes: tuple[str, ...] = ("32x16", "32x64", "16x128", "8x256")
    """Side x channels."""
    repeats: int = 7
    """Timed runs of each; the median is shown, all are kept."""
    out: Path = Path("results")
    """Where the result goes."""


def main(settings: Settings) -> None:
    """Time every form on every shape."""
    rows = []
    for shape in track(settings.shapes, "timing"):
        side, channels = map(int, shape.split("x"))
        x = jnp.ones((settings.batch, side, side, channels))
        taps = jnp.ones((3, 3, channels))
        for name, form in FORMS.items():
            forward = milliseconds(jax.jit(form), x, taps, settings.repeats)
            gradient = milliseconds(gradient_of(form), x, taps, settings.repeats)
            rows.append({"shape": shape, "form": name, "forward": forward, "gradient": gradient})
    shown = Table("side x channels", "form", "forward, ms", "gradient, ms")
    for row in rows:
        forward, gradient = (sorted(row[part])[settings.repeats // 2] for part in
                             ("forward", "gradient"))  # fmt: skip
        shown.add_row(row["shape"], row["form"], f"{forward:.2f}", f"{gradient:.2f}")
    Console(width=90).print(shown)
    settings.out.mkdir(parents=True, exist_ok=True)
    file = settings.out / f"depthwise_{jax.default_backend()}.json"
    result = {**provenance("experiments.micro.depthwise"), "batch": settings.batch, "rows": rows}
    file.write_text(json.dumps(result, indent=1) + "\n")


def gradient_of(form: unet.DepthwiseFilter) -> Callable[..., Any]:
    """Gradient of a sum of squares in image and taps."""
    return jax.jit(jax.grad(lambda x, taps: jnp.sum(form(x, taps) ** 2), argnums=(0, 1)))


def milliseconds(run: Callable[..., Any], x: jax.Array, taps: jax.Array, repeats: int) -> list:
    """Times of single runs, after one that compiles."""
    jax.block_until_ready(run(x, taps))
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(run(x, taps))
        times.append(1e3 * (time.perf_counter() - begun))
    return times


if __name__ == "__main__":
    main(tyro.cli(Settings))
