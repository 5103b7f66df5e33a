"""Is my ladder any good? Differences, gamma, which levels to keep, gates, and a check of them.

One call of `mlem_jax.diagnose` a sampler, on any ladder that `experiments.ladders.ship` wrote, with
the top level alone on coarser grids along the same paths beside it. Prints tables and sentences
after the manner of multilevel Monte Carlo; writes results/diagnose.json and results/diagnose.png.
"""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.common import runs
from experiments.ladders.shipped import PROCESS, SHIPPED, Ladder, load, relative_costs
from experiments.common.machine import provenance
from experiments.common.samplers import SAMPLERS, path_of
from mlem_jax import steps
from mlem_jax.diagnose import Diagnosis, diagnose
from mlem_jax.gates import probabilities
from mlem_jax.levels import Levels, measure_costs
from mlem_jax.noise import draw_starts
from mlem_jax.problem import Noise
from mlem_jax.report import alone_rows, ladder_rows, level_rows, sentences
from mlem_jax.steps import Grid, Steps

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter


@dataclasses.dataclass(frozen=True)
class Settings:
    """Diagnose a ladder: what its levels are worth, and what multilevel sampling gains with it."""

    checkpoint: Path = SHIPPED
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
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
    """Of these steps, at which the top level alone is judged."""
    stretches: int = 16
    """Of steps with one effect each."""
    draws: int = 16
    """Plans that are run to check the prediction."""
    measure: bool = False
    """Costs measured here instead of those stored with the ladder."""
    tiny: bool = False
    """Two pictures and few steps, to see in seconds that it runs."""
    seed: int = 11
    """Of the starts, the paths, the disturbed steps and the gates."""
    out: Path = Path("results")
    """Where diagnose.json and diagnose.png go."""


def main(settings: Settings) -> None:
    """Diagnose with every sampler, print, write."""
    if settings.tiny:
        settings = dataclasses.replace(
            settings, images=2, base_steps=8, shares=(0.5,), stretches=2, draws=2
        )
    console = Console(width=120)
    ladder = load(settings.checkpoint)
    if settings.measure:
        ladder = measured(ladder, settings)
    result: dict[str, Any] = {
        **provenance("experiments.ours.diagnose"), "settings": runs.recorded(settings),
        "costs": ladder.levels.costs, "samplers": {},
    }  # fmt: skip
    found: dict[str, Diagnosis] = {}
    for name in settings.samplers:
        begun = time.monotonic()
        with console.status(
            f"{name}: a pilot run, {settings.draws} draws, and the top level alone"
        ):
            found[name] = run(name, ladder, settings)
        seconds = time.monotonic() - begun
        show(name, found[name], seconds, console)
        result["samplers"][name] = recorded(found[name]) | {"seconds": seconds}
    settings.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, allow_nan=False)
    (settings.out / "diagnose.json").write_text(text + "\n")
    draw(str(settings.out / "diagnose.png"), found)
    console.print(f"wrote {settings.out}/diagnose.json and .png")


def measured(ladder: Ladder, settings: Settings) -> Ladder:
    """The same ladder with costs of this machine."""
    drifts = ladder.levels.drifts
    x = draw_starts(jax.random.key(settings.seed), jnp.arange(settings.images), ladder.shape)
    costs = relative_costs(measure_costs(drifts, ladder.params, x, jnp.float32(0.5)))
    return ladder._replace(levels=Levels(drifts, costs))


def run(name: str, ladder: Ladder, settings: Settings) -> Diagnosis:
    """The diagnosis of a ladder with one sampler."""
    sampler, count = SAMPLERS[name], settings.base_steps
    start_key, path_key, key = jax.random.split(jax.random.key(settings.seed), 3)
    samples = jnp.arange(settings.images)
    x = draw_starts(start_key, samples, ladder.shape)
    base = steps.uniform_grid(PROCESS.end, 0.0, count)

    def along(grid: Grid) -> tuple[Steps, Noise]:
        return sampler.table(grid), path_of(sampler, path_key, base, grid, samples)

    coarse = [steps.uniform_grid(PROCESS.end, 0.0, max(1, round(share * count)))
              for share in settings.shares]  # fmt: skip
    table, noise = along(base)
    return diagnose(
        ladder.levels, ladder.params, x, table, key, noise, budget=settings.budget,
        coarser=[along(steps.subgrid(base, grid)) for grid in coarse],
        stretches=settings.stretches, draws=settings.draws,
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
        "probabilities": plain(probabilities(found.advice.logits)),
        "probabilities for even draws": plain(probabilities(found.advice.even)),
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


def draw(file: str, found: dict[str, Diagnosis]) -> None:
    """Four panels a sampler, one row each."""
    figure, axes = plt.subplots(len(found), 4, figsize=(16, 3.5 * len(found)), squeeze=False)
    for row, (name, own) in zip(axes, found.items(), strict=True):
        draw_over_time(row[0], own, own.sizes, "rms of the difference")
        draw_over_time(row[1], own, own.effects, "effect v on the end, a step")
        draw_gamma(row[2], own)
        draw_gates(row[3], own)
        row[0].set_title(f"{name.upper()}: differences")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_over_time(axis: Axes, found: Diagnosis, table: jax.Array, what: str) -> None:
    """One line a level that has finite values."""
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
    for level, column in zip(advice.kept, np.asarray(probabilities(advice.logits)).T, strict=True):
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
