"""How close must the levels lie for the ladder to win against a second-order solver?

A ladder of two, whose lower level is moved towards the top, F + s (f - F): s = 1 is the network as
trained, s = 0 the top itself, always at the lower network's price. For every s, midpoint plans and
trapezoid plans on a second-order base stand against the top level alone by Euler-Maruyama and by
the two-step solver, along the same starts and paths. Killed at any moment, the same command goes
on; `--rows` takes rows that were measured before, to summarise and draw them anew. Writes
results/closeness.json and .png.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import matplotlib
import tyro
from rich.console import Console
from rich.table import Table

from experiments.common import benchmark, runs, tiny
from experiments.common.benchmark import Benchmark
from experiments.common.curves import Rows, by_method, curve, recorded, told_recorded
from experiments.common.method import Method, Run, fields, method_of, select
from experiments.common.samplers import SAMPLERS, coarse_grids, fine_grid
from experiments.ladders.shipped import NOUNS, Trained, load
from experiments.ours.compare_draws import ALONE
from mlem_jax import Ladder, draws, gates, grids, plans
from mlem_jax.frontier import ratio
from mlem_jax.grids import Grid
from mlem_jax.types import Params, Scalar, State

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OTHERS = ("Euler-Maruyama", "second order")
"""How the top level runs alone."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Cost at equal error as the levels of a ladder come closer."""

    ladder: Path = NOUNS
    """Folder of trained levels."""
    lower: int = 2
    """The lower level, 1 the cheapest; the other is the top."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    left: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    """s: how much of the distance to the top is left."""
    images: int = 16
    """Pictures that judge."""
    reference_steps: int = 1000
    """Steps of the fine grid."""
    base_steps: tuple[int, ...] = (30, 50, 100)
    """Steps of the multilevel plans."""
    openings: tuple[int, ...] = (5, 10, 20, 40)
    """Evaluations of the top level in them."""
    seed: int = 0
    """Of the starts and the Brownian paths."""
    tiny: bool = False
    """On a random ladder, to see in a minute that it runs."""
    runs: Path = Path("runs/closeness")
    """Rows as they come, resumed if they are there."""
    rows: Path | None = None
    """A result of this script: its rows are taken as they are, and nothing is run."""
    out: Path = Path("results")
    """Where closeness.json and .png go."""


def main(settings: Settings) -> None:
    """Run all that is not in the log yet; then summarise, write and draw."""
    with tiny.settings_of(settings, small) as own:
        run(own)


def small(settings: Settings, folder: Path) -> Settings:
    """What `--tiny` runs."""
    return dataclasses.replace(
        settings, ladder=tiny.random_ladder(folder / "ladder"), lower=1, samplers=("ddim",),
        left=(1.0, 0.0), images=2, reference_steps=24, base_steps=(12,), openings=(2, 6),
        runs=folder / "runs",
    )  # fmt: skip


def run(settings: Settings) -> None:
    """As `main`, of settings that are meant."""
    console = Console(width=110)
    if settings.rows:
        result = runs.measured_before(settings.rows, settings)
    else:
        result = measure(settings, console)
    for name, own in result["samplers"].items():
        own["ratios"] = ratios_of(own["rows"])
        console.print(shown(name, own["ratios"]))
    runs.finish("closeness", settings, result,
                partial(draw_ratios, samplers=result["samplers"]), console=console)  # fmt: skip


def measure(settings: Settings, console: Console) -> dict[str, Any]:
    """The rows of all samplers."""
    trained = load(settings.ladder)
    runs.check_settings(settings.runs, runs.recorded(settings) | {"costs": trained.ladder.costs})
    return {"samplers": {name: {"ratios": [], "rows": compare(name, trained, settings, console)}
                         for name in settings.samplers}}  # fmt: skip


def compare(name: str, trained: Trained, settings: Settings, console: Console) -> Rows:
    """The rows of one sampler; those of a ladder tell what is left of its distance."""
    fine = fine_grid(settings.reference_steps)

    @cache
    def judged() -> Benchmark:
        samples = benchmark.part_of(0, settings.images)
        return benchmark.make_benchmark(name, trained, fine, samples, settings.seed)

    def judge(own: Trained) -> Callable[[Run], Rows]:
        return partial(benchmark.rows_of, trained=own, judged=judged())

    counts = [count for count in ALONE if count < settings.reference_steps]
    alone = [
        own
        for order in (1, 2)
        for own in benchmark.alone(trained, counts, partial(coarse_grids, fine), order=order)
    ]
    log = settings.runs / f"{name}_alone.jsonl"
    rows = benchmark.measure_missing(log, alone, partial(judge, trained), console)
    for left in settings.left:
        log = settings.runs / f"{name}_{left:g}.jsonl"
        wanted = multilevel(name, len(trained.ladder), settings, fine)
        moved = closer(trained, settings.lower, left)
        own = benchmark.measure_missing(log, wanted, partial(judge, moved), console)
        rows += [row | {"left": left} for row in own]
    return rows


def ratios_of(rows: Rows) -> list[dict[str, Any]]:
    """What others cost at equal error over every method, for every distance that is left."""
    alone = [row for row in rows if "left" not in row]
    ladders = [row for row in rows if "left" in row]
    others = {kind: curve(select(alone, order=order), "median")
              for order, kind in enumerate(OTHERS, 1)}  # fmt: skip
    found = []
    for left in dict.fromkeys(row["left"] for row in ladders):
        for method, own in by_method(select(ladders, left=left)).items():
            points = curve(own, "median")
            told = {other: recorded(ratio(points, theirs)) for other, theirs in others.items()}
            found.append({"left": left, **fields(method), **told})
    return found


def closer(trained: Trained, lower: int, left: float) -> Trained:
    """The same ladder with one level moved to F + s (f - F), at its old price."""
    ladder, place = trained.ladder, lower - 1
    low, top = ladder.drifts[place], ladder.drifts[-1]

    def moved(params: Params, x: State, t: Scalar) -> State:
        own, above, kept = params
        near = top(above, x, t)
        return near + kept.astype(x.dtype) * (low(own, x, t) - near)

    drifts, params = list(ladder.drifts), list(ladder.params)
    drifts[place] = moved
    params[place] = (params[place], params[-1], jnp.asarray(left))
    return trained._replace(ladder=Ladder(tuple(drifts), tuple(params), ladder.costs))


def multilevel(name: str, top: int, settings: Settings, fine: Grid) -> Iterator[Run]:
    """The lower level at every step, the top now and then: impulses, and straight lines."""
    impulse = Method(
        "ML-EM", (settings.lower, top), "uniform", 1, "constant", "midpoint", "impulse"
    )
    for count in settings.base_steps:
        times = grids.subgrid(fine, fine_grid(count))
        for openings in settings.openings:
            if openings > 0.7 * count:
                continue
            steps = SAMPLERS[name].table(times)
            logits = gates.constant((1.0, openings / count)).logits((), steps.t)
            opened = plans.open_first(draws.midpoint.openings(None, logits))
            parameters = {"openings": openings, "base": count}
            middle = plans.draw_plan(draws.midpoint, logits, None)
            yield Run(impulse, parameters, times, [middle])
            for order in (1, 2):
                method = impulse._replace(order=order, weights="trapezoid")
                held = plans.trapezoid(opened, SAMPLERS[name].table(times, order))
                yield Run(method, parameters, times, [held])


def short(method: Method) -> str:
    """How a plan uses the evaluations of the top level."""
    return method.weights + ", second order" * (method.order == 2)


def shown(name: str, ratios: list[dict[str, Any]]) -> Table:
    """The ratios as one reads them."""
    table = Table(
        "distance left",
        "method",
        *OTHERS,
        title=name.upper(),
        caption="cost of the top level alone at equal error over that of the ladder",
    )
    for line in ratios:
        told = [told_recorded(line[other]) for other in OTHERS]
        table.add_row(f"{line['left']:g}", short(method_of(line)), *told)
    return table


def draw_ratios(file: Path, samplers: dict[str, Any]) -> None:
    """Ratios against the share of the distance left, one panel per sampler; bounds as triangles."""
    figure, axes = plt.subplots(
        1, len(samplers), figsize=(6 * len(samplers), 4), sharey=True, squeeze=False
    )
    for axis, (name, own) in zip(axes[0], samplers.items(), strict=True):
        for number, (method, lines) in enumerate(by_method(own["ratios"]).items()):
            for other, style in zip(OTHERS, ("-", ":"), strict=True):
                told = [(line["left"], line[other]) for line in lines if line[other]]
                shown, name = [number_of(each) for _, each in told], f"{short(method)}; {other}"
                axis.loglog(
                    [left for left, _ in told], shown, style, color=f"C{number}", label=name
                )
                for left, each in told:
                    marker = {"at most": "v", "at least": "^"}.get(each["bound"], "o")
                    axis.loglog(left, number_of(each), marker, color=f"C{number}", markersize=5)
        axis.axhline(1, color="k", linewidth=0.8)
        shares = list(dict.fromkeys(line["left"] for line in own["ratios"]))
        costs = (0.5, 1, 2, 4, 8)
        axis.set_xticks(shares, [f"{share:g}" for share in shares], minor=False)
        axis.set_yticks(costs, [f"{cost:g}" for cost in costs], minor=False)
        axis.minorticks_off()
        axis.set_title(name.upper())
        axis.set_xlabel("share of the distance to the top that is left")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("the top's cost over the ladder's, at equal error")
    title = "ladder; top alone by\n(triangles: bounds)"
    axes[0][-1].legend(
        fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left", title=title, title_fontsize=7
    )
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def number_of(own: dict[str, Any]) -> float:
    """Where a ratio is drawn: the end that is known, between two the middle of their logarithms."""
    low, high = own["low"], own["high"]
    if high is None:
        return low
    return high if low == 0 else (low * high) ** 0.5


if __name__ == "__main__":
    main(tyro.cli(Settings))
