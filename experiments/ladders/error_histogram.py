"""Are a ladder's errors small deviations of every picture, or traits that switched in a few?

Draws pictures by the top level alone and by a multilevel plan, along the same Brownian path as the
top level's fine solution, and shows the mean squared error of every picture. Where errors are small
deviations the histogram has one hump and no picture stands far out; where traits switch, a few
pictures hold most of the error, and in them pixels that are wholly different. The same rows tell
what limits a multilevel plan: the top level at every one of its base steps is what the base steps
alone cost, and what the plan errs beyond that is the price of the levels' distance. Writes
results/error_histogram.json and .png.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.common import runs, tiny
from experiments.common.benchmark import alone, ends_of, make_benchmark, paid_for
from experiments.common.method import Method, Run, fields, label, method_of
from experiments.common.samplers import coarse_grids, reference_grid
from experiments.ladders.shipped import SHIPPED, Trained, load
from mlem_jax import draw_plan, draws, gates
from mlem_jax.grids import Grid

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WHOLLY = 0.5
"""A number of a picture, from -1 to 1, that is off by this has switched."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Errors picture by picture, one row of panels per ladder."""

    ladders: tuple[Path, ...] = (SHIPPED,)
    """Folders of trained levels."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """What draws the pictures."""
    images: int = 64
    """Pictures."""
    chunk: int = 16
    """Pictures drawn at a time."""
    reference_steps: int = 250
    """Steps even in time of the top level's fine solution, which cuts those at both ends finer."""
    alone: tuple[int, ...] = (15, 30, 50)
    """Steps of the top level alone."""
    base_steps: tuple[int, ...] = (30, 50)
    """Steps of the multilevel plans; the lower level runs at each."""
    openings: int = 10
    """Steps of them at which the top level runs too."""
    lower: int = 1
    """The lower level, 1 the cheapest."""
    seed: int = 0
    """Of the starts and the Brownian paths."""
    tiny: bool = False
    """On random ladders, to see in seconds that it runs."""
    out: Path = Path("results")
    """Where error_histogram.json and .png go."""


def main(settings: Settings) -> None:
    """Draw with every ladder, tell, draw the histograms."""
    with tiny.settings_of(settings, shrink) as own:
        run(own)


def shrink(settings: Settings, folder: Path) -> Settings:
    """A random ladder, a few steps."""
    return dataclasses.replace(settings, ladders=(tiny.random_ladder(folder / "random"),),
                               images=4, chunk=2, reference_steps=20, alone=(5,), base_steps=(6,),
                               openings=2)  # fmt: skip


def run(settings: Settings) -> None:
    """As `main`, of settings that are meant."""
    console = Console(width=120)
    found = {each.name: rows_of(each, settings) for each in settings.ladders}
    for name, rows in found.items():
        console.print(table_of(name, rows))
    named = {"ladders": {name: {"rows": rows} for name, rows in found.items()}}
    runs.finish("error_histogram", settings, named, lambda file: draw(file, found),
                apart=("ladders",), console=console)  # fmt: skip


def rows_of(directory: Path, settings: Settings) -> list[dict[str, Any]]:
    """A row per method: its cost, the error of every picture, and how uneven they are."""
    trained = load(directory)
    fine = reference_grid(settings.reference_steps)
    methods = list(methods_of(settings, trained, fine))
    deviations: list[list[np.ndarray]] = [[] for _ in methods]
    for first in range(0, settings.images, settings.chunk):
        samples = jnp.arange(first, min(first + settings.chunk, settings.images))
        judged = make_benchmark(settings.sampler, trained, fine, samples, settings.seed)
        for each, kept in zip(methods, deviations, strict=True):
            kept.append(np.asarray(ends_of(each, trained, judged)[0][0] - judged.reference))
    return [
        {**fields(each.method), "parameters": each.parameters,
         **paid_for(each.plans[0], each.method, trained), **told(np.concatenate(kept))}
        for each, kept in zip(methods, deviations, strict=True)
    ]  # fmt: skip


def methods_of(settings: Settings, trained: Trained, fine: Grid) -> Iterator[Run]:
    """The top level alone and multilevel plans, second order all, even in the log-SNR."""

    def log_snr(count: int) -> dict[str, Grid]:
        return {"log-SNR": coarse_grids(fine, count)["log-SNR"]}

    yield from alone(trained, settings.alone, log_snr, order=2)
    method = Method("ML-EM", (settings.lower, len(trained.ladder)), "log-SNR", 2, "even",
                    "midpoint", "impulse")  # fmt: skip
    for count in settings.base_steps:
        logits = gates.to_logits([[1.0, settings.openings / count]] * count)
        plan = draw_plan(draws.midpoint, logits, None)
        parameters = {"steps": count, "openings": settings.openings}
        yield Run(method, parameters, log_snr(count)["log-SNR"], [plan])


def told(deviations: np.ndarray) -> dict[str, Any]:
    """Errors by picture, and what part of their sum is in a few pictures and in wholly off pixels.

    Evenly spread, the worst tenth of the pictures would hold a tenth.
    """
    squares = deviations**2
    errors = squares.mean(axis=(1, 2, 3))
    worst = np.sort(errors)[-max(1, len(errors) // 10) :]
    return {
        "mse": float(errors.mean()),
        "median": float(np.median(errors)),
        "worst_tenth_share": float(worst.sum() / errors.sum()),
        "switched_share": float(squares[np.abs(deviations) > WHOLLY].sum() / squares.sum()),
        "picture_errors": [float(f"{error:.4g}") for error in errors],
    }


def called(row: dict[str, Any]) -> str:
    """The label of a row's method, with its steps."""
    return f"{label(method_of(row))}, {row['parameters']['steps']} steps"


def table_of(name: str, rows: list[dict[str, Any]]) -> Table:
    """The rows as one reads them."""
    table = Table("method", "cost", "mse", "median", "worst tenth", "switched", title=name,
                  caption="shares of the squared error")  # fmt: skip
    for row in rows:
        table.add_row(called(row), f"{row['cost']:.1f}", f"{row['mse']:.2e}",
                      f"{row['median']:.2e}", f"{row['worst_tenth_share']:.2f}",
                      f"{row['switched_share']:.2f}")  # fmt: skip
    return table


def draw(file: Path, ladders: dict[str, list[dict[str, Any]]]) -> None:
    """Histograms of the logarithm of the errors, one row per ladder."""
    columns = len(next(iter(ladders.values())))
    figure, axes = plt.subplots(len(ladders), columns, figsize=(2.6 * columns, 2.4 * len(ladders)),
                                sharex=True, squeeze=False)  # fmt: skip
    bins = np.linspace(-5, 0, 31)
    for line, (name, rows) in zip(axes, ladders.items(), strict=True):
        for axis, row in zip(line, rows, strict=True):
            axis.hist(np.log10(np.maximum(row["picture_errors"], 1e-12)), bins=bins)
            steps = row["parameters"]["steps"]
            axis.set_title(f"{row['family']}, {steps} steps,\ncost {row['cost']:.1f}", fontsize=8)
        line[0].set_ylabel(f"{name}\npictures")
    for axis in axes[-1]:
        axis.set_xlabel("log10 of a picture's error", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Settings))
