"""Which form of the per-channel filter is fastest here? Forward and gradient, by width.

Prints a table and writes results/depthwise_PLATFORM.json. `nets.default_depthwise` follows it.
"""

import dataclasses
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

from experiments.common import runs, tiny
from mlem_jax import nets

FORMS = {
    "shifts": nets.depthwise_shifts,
    "shifts, own gradient": nets.depthwise_trained,
    "convolution": nets.depthwise_convolution,
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
    tiny: bool = False
    """One small shape, to see that it runs."""
    out: Path = Path("results")
    """Where the result goes."""


def main(settings: Settings) -> None:
    """Time every form on every shape."""
    console = Console(width=90)
    with tiny.settings_of(settings, made_tiny) as asked:
        shapes = track(asked.shapes, "timing", console=console)
        rows = [row for shape in shapes for row in rows_of(shape, asked)]
        console.print(shown(rows))
        name = f"depthwise_{jax.default_backend()}"
        runs.finish(name, asked, {"rows": rows}, console=console)


def made_tiny(settings: Settings, _: Path) -> Settings:
    """One small shape."""
    return dataclasses.replace(settings, batch=2, shapes=("8x4",), repeats=1)


def rows_of(shape: str, settings: Settings) -> list[dict[str, Any]]:
    """A row per form."""
    side, channels = map(int, shape.split("x"))
    x, taps = jnp.ones((settings.batch, side, side, channels)), jnp.ones((3, 3, channels))
    return [
        {
            "shape": shape,
            "form": name,
            "forward": milliseconds(jax.jit(form), x, taps, settings.repeats),
            "gradient": milliseconds(gradient_of(form), x, taps, settings.repeats),
        }
        for name, form in FORMS.items()
    ]


def gradient_of(form: Callable[..., jax.Array]) -> Callable[..., Any]:
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


def shown(rows: list[dict[str, Any]]) -> Table:
    """Medians, as one reads them."""
    table = Table("side x channels", "form", "forward, ms", "gradient, ms")
    for row in rows:
        medians = (sorted(row[part])[len(row[part]) // 2] for part in ("forward", "gradient"))
        table.add_row(row["shape"], row["form"], *(f"{median:.2f}" for median in medians))
    return table


if __name__ == "__main__":
    main(tyro.cli(Settings))
