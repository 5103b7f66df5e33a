"""Is my ladder any good? Differences, gamma, which levels to keep, gates, and a check of them.

One call of `mlem_jax.diagnose` per sampler, on any ladder that `experiments.ladders.ship` wrote,
with the top level alone on coarser grids along the same paths beside it. Prints tables and
sentences after the manner of multilevel Monte Carlo; writes results/diagnose.json and .png.
"""

import dataclasses
import math
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.common import runs, tiny
from experiments.common.samplers import SAMPLERS, fine_grid, path_of
from experiments.ladders.shipped import SHIPPED, Trained, load, relative_costs
from mlem_jax import Problem, Steps, diagnose, draw_starts, grids, measure_costs
from mlem_jax.diagnosis import Diagnosis
from mlem_jax.diagnosis.report import alone_rows, ladder_rows, level_rows, sentences
from mlem_jax.gates import to_probabilities
from mlem_jax.grids import Grid
from mlem_jax.problem import Noise

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter


@dataclasses.dataclass(frozen=True)
class Settings:
    """Diagnose a ladder: what its levels are worth, and what multilevel sampling gains with it."""

    ladder: Path = SHIPPED
    """Folder of trained levels, as experiments.ladders.ship writes it."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    budget: float | None = None
    """Cost of one run, in evaluations of the top level; default: the geometric mean of the bottom
    and the top at every step."""
    images: int = 16
    """Pictures that are measured on."""
    base_steps: int = 100
    """Steps of the sampler; the reference takes them all with the top level."""
    fractions: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
    """Of these steps, at which the top level alone is judged."""
    bins: int = 16
    """Of time, with one sensitivity each."""
    draws: int = 16
    """Plans that are run to check the prediction."""
    measure: bool = False
    """Costs measured here instead of those stored with the ladder."""
    tiny: bool = False
    """On a random ladder, to see in a minute that it runs."""
    seed: int = 11
    """Of the starts, the paths, the disturbed steps and the gates."""
    out: Path = Path("results")
    """Where diagnose.json and diagnose.png go."""


def main(settings: Settings) -> None:
    """Diagnose with every sampler, print, write."""
    with tiny.settings_of(settings, small) as own:
        run(own)


def small(settings: Settings, folder: Path) -> Settings:
    """What `--tiny` runs."""
    return dataclasses.replace(
        settings, ladder=tiny.random_ladder(folder / "ladder"), samplers=settings.samplers[:1],
        images=2, base_steps=8, fractions=(0.5,), bins=2, draws=2,
    )  # fmt: skip


def run(settings: Settings) -> None:
    """As `main`, of settings that are meant."""
    console = Console(width=120)
    trained = load(settings.ladder)
    if settings.measure:
        x = draw_starts(jax.random.key(settings.seed), jnp.arange(settings.images), trained.shape)
        ladder = measure_costs(trained.ladder, x, jnp.float32(0.5))
        ladder = dataclasses.replace(ladder, costs=relative_costs(ladder.costs))
        trained = trained._replace(ladder=ladder)
    samplers: dict[str, Any] = {}
    found: dict[str, Diagnosis] = {}
    for name in settings.samplers:
        begun = time.monotonic()
        with console.status(
            f"{name}: a pilot run, {settings.draws} draws, and the top level alone"
        ):
            found[name] = diagnosed(name, trained, settings)
        seconds = time.monotonic() - begun
        show(name, found[name], seconds, console)
        samplers[name] = recorded(found[name]) | {"seconds": seconds}
    result = {"costs": trained.ladder.costs, "samplers": samplers}
    runs.finish("diagnose", settings, result, partial(draw, found=found), console=console)


def diagnosed(name: str, trained: Trained, settings: Settings) -> Diagnosis:
    """The diagnosis of a ladder with one sampler."""
    sampler, count = SAMPLERS[name], settings.base_steps
    start_key, path_key, key = jax.random.split(jax.random.key(settings.seed), 3)
    samples = jnp.arange(settings.images)
    base = fine_grid(count)

    def along(times: Grid) -> tuple[Steps, Noise]:
        return sampler.table(times), path_of(sampler, path_key, base, times, samples)

    coarse = [fine_grid(max(1, round(fraction * count))) for fraction in settings.fractions]
    steps, noise = along(base)
    problem = Problem(draw_starts(start_key, samples, trained.shape), noise)
    return diagnose(
        trained.ladder, problem, steps, key, budget=settings.budget,
        coarser=[along(grids.subgrid(base, times)) for times in coarse],
        bins=settings.bins, draws=settings.draws,
    )  # fmt: skip


def show(name: str, found: Diagnosis, seconds: float, console: Console) -> None:
    """The tables and sentences of a diagnosis."""
    for title, rows in (("the levels", level_rows(found)),
                        ("which of them to use", ladder_rows(found)),
                        ("the rival", alone_rows(found))):  # fmt: skip
        table = Table(*rows[0], title=f"{name.upper()}: {title}")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    for sentence in sentences(found):
        console.print("-", sentence)
    console.print(f"({seconds:.0f} s with compilation)\n")


def recorded(found: Diagnosis) -> dict[str, Any]:
    """A diagnosis as JSON keeps it: names of fields, and null for what is not finite."""
    return plain(found) | {
        "probabilities": plain(to_probabilities(found.advice.logits)),
        "probabilities for even draws": plain(to_probabilities(found.advice.even)),
        "report": sentences(found),
    }


def plain(value: Any) -> Any:
    """Dicts, lists and finite numbers."""
    if hasattr(value, "_asdict"):
        return {name: plain(own) for name, own in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [plain(own) for own in value]
    if isinstance(value, jax.Array | np.ndarray):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(file: Path, found: dict[str, Diagnosis]) -> None:
    """Four panels per sampler, one row each."""
    figure, axes = plt.subplots(len(found), 4, figsize=(16, 3.5 * len(found)), squeeze=False)
    for row, (name, own) in zip(axes, found.items(), strict=True):
        draw_over_time(row[0], own, own.sizes, "rms of the difference")
        draw_over_time(row[1], own, own.sensitivities, "squared sensitivity v, per step")
        draw_gamma(row[2], own)
        draw_gates(row[3], own)
        row[0].set_title(f"{name.upper()}: differences")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_over_time(axis: Axes, found: Diagnosis, table: jax.Array, what: str) -> None:
    """One line per level that has finite values."""
    for k, column in enumerate(np.asarray(table).T):
        if np.isfinite(column).all():
            label = f"{k + 1} - {k}" if k else "1"
            axis.semilogy(found.t, column, f"C{k}", drawstyle="steps-mid", label=label)
    axis.set_title(what)
    axis.set_xlabel("t, from the data to the noise")
    axis.set_ylabel(what)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def draw_gamma(axis: Axes, found: Diagnosis) -> None:
    """Distance of the levels to the top against their cost, with the line whose slope is gamma."""
    distances = np.asarray(found.distances)
    told = distances > 0
    costs, errors = np.array(found.costs)[told], distances[told]
    axis.loglog(costs, errors, "ko")
    for k in np.flatnonzero(told):
        axis.annotate(f" {k + 1}", (found.costs[k], distances[k]))
    gamma = found.gamma
    if math.isfinite(gamma.value):
        middle = np.exp(np.log(costs).mean()), np.exp(np.log(errors).mean())
        for value, style in ((gamma.value, "C3-"), (gamma.low, "C3:"), (gamma.high, "C3:")):
            if math.isfinite(value):
                axis.loglog(costs, middle[1] * (costs / middle[0]) ** (-1 / value), style)
        axis.set_title(f"gamma {gamma.value:.2f} ({gamma.low:.2f} to {gamma.high:.2f})")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("cost of a level")
    axis.set_ylabel("its rms distance to the top")
    axis.grid(alpha=0.3, which="both")


def draw_gates(axis: Axes, found: Diagnosis) -> None:
    """The advised p_k(t), with what was predicted and measured above it."""
    advice, check = found.advice, found.check
    for level, column in zip(
        advice.kept, np.asarray(to_probabilities(advice.logits)).T, strict=True
    ):
        axis.semilogy(found.t, column, f"C{level - 1}", drawstyle="steps-mid",
                      label=f"level {level}")  # fmt: skip
    axis.set_title(
        f"advised p at cost {advice.cost:.3g}: mse {check.predicted:.1e}\n"
        f"predicted, {check.measured:.1e} +- {check.standard_error:.0e} measured",
        fontsize=10,
    )
    axis.set_xlabel("t, from the data to the noise")
    axis.set_ylabel("probability")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


if __name__ == "__main__":
    main(tyro.cli(Settings))
