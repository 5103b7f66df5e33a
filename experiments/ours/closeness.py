"""How close must the levels lie for the ladder to win against a second-order solver?

A ladder of two, whose lower level is moved towards the top, F + s (f - F): s = 1 is the network as
trained, s = 0 the top itself, always at the lower network's price. For every s, midpoint plans and
trapezoid plans on a second-order base stand against the top level alone by Euler-Maruyama and by
the two-step solver, along the same starts and paths. Killed at any moment, the same command goes
on; `--rows` takes rows that were measured before, to summarise and draw them anew. Writes
results/closeness.json and .png.
"""

import dataclasses
import json
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import matplotlib
import tyro
from rich.console import Console
from rich.table import Table

from experiments.common import benchmark as courses
from experiments.common import runs
from experiments.ours.compare_draws import ALONE
from experiments.common.benchmark import Course, Method
from experiments.common.curves import curve, recorded, told_recorded
from experiments.ours.draw_methods import second_order_alone
from experiments.ladders.shipped import SHIPPED, Ladder, load
from experiments.common.machine import provenance
from experiments.quickstart import coarse_grids
from experiments.common.samplers import SAMPLERS, two_step
from mlem_jax import draws, gates, plan, steps
from mlem_jax.frontier import ratio
from mlem_jax.hold import open_first, trapezoid_plan
from mlem_jax.levels import Levels
from mlem_jax.steps import Grid, Steps
from mlem_jax.types import Params, Scalar, State

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OTHERS = ("Euler-Maruyama", "second order")
"""How the top level runs alone."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Cost at equal error as the levels of a ladder come closer."""

    ladder: Path = SHIPPED
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
    runs: Path = Path("runs/closeness")
    """Rows as they come, resumed if they are there."""
    rows: Path | None = None
    """A result of this script: its rows are taken as they are, and nothing is run."""
    out: Path = Path("results")
    """Where closeness.json and .png go."""


def main(settings: Settings) -> None:
    """Run all that is not in the log yet; then summarise, write and draw."""
    console = Console(width=110)
    if settings.rows:
        result = runs.measured_before(settings.rows, "experiments.ours.closeness")
    else:
        result = measure(settings, console)
    for name, own in result["samplers"].items():
        own["ratios"] = ratios_of(own["rows"])
        console.print(shown(name, own["ratios"]))
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "closeness.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_ratios(str(settings.out / "closeness.png"), result["samplers"])
    console.print(f"wrote {settings.out}/closeness.json and .png")


def measure(settings: Settings, console: Console) -> dict[str, Any]:
    """The rows of all samplers, and what they hang on."""
    ladder = load(settings.ladder)
    determining = {name: value for name, value in runs.recorded(settings).items()
                   if name not in ("runs", "rows", "out", "samplers")}  # fmt: skip
    runs.check_settings(settings.runs, determining | {"costs": ladder.levels.costs})
    return {
        **provenance("experiments.ours.closeness"),
        "settings": determining,
        "samplers": {name: {"ratios": [], "rows": compare(name, ladder, settings, console)}
                     for name in settings.samplers},
    }  # fmt: skip


def compare(
    name: str, ladder: Ladder, settings: Settings, console: Console
) -> list[dict[str, Any]]:
    """The rows of one sampler; those of a ladder tell what is left of its distance."""
    fine = courses.fine_grid(settings.reference_steps)

    @cache
    def judged() -> tuple[Course, None]:
        def targets(table: Steps) -> dict[str, plan.Plan]:
            return {"top": courses.top_target(table, ladder)}

        samples = courses.part_of(0, settings.images)
        return courses.course_of(name, ladder, fine, samples, settings.seed, targets), None

    counts = [count for count in ALONE if count < settings.reference_steps]
    alone = [
        *courses.euler_maruyama(ladder, counts, partial(coarse_grids, fine), lower=False),
        *second_order_alone(name, ladder, counts, fine),
    ]
    rows = courses.run_missing(
        settings.runs / f"{name}_alone.jsonl", ladder, alone, judged, console
    )
    for left in settings.left:
        log = settings.runs / f"{name}_{left:g}.jsonl"
        moved = closer(ladder, settings.lower, left)
        methods = list(multilevel(name, settings, fine))
        own = courses.run_missing(log, moved, methods, judged, console)
        rows += [row | {"left": left} for row in own]
    return rows


def ratios_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What others cost at equal error over every method, for every distance that is left."""
    alone = [row for row in rows if "left" not in row]
    others = {
        kind: [point for each in names_of(alone) if each.startswith(start)
               for point in curve(alone, each, "median")]
        for kind, start in zip(OTHERS, ("Euler", "second"), strict=True)
    }  # fmt: skip
    found = []
    for left in dict.fromkeys(row["left"] for row in rows if "left" in row):
        own = [row for row in rows if row.get("left") == left]
        for method in names_of(own):
            points = curve(own, method, "median")
            told = {other: recorded(ratio(points, theirs)) for other, theirs in others.items()}
            found.append({"left": left, "method": method, **told})
    return found


def names_of(rows: list[dict[str, Any]]) -> list[str]:
    """Methods in the order in which they were run."""
    return list(dict.fromkeys(row["method"] for row in rows))


def closer(ladder: Ladder, lower: int, left: float) -> Ladder:
    """The lower level and the top, the lower one moved to F + s (f - F) at its old price."""
    low, top = ladder.levels.drifts[lower - 1], ladder.levels.drifts[-1]

    def moved(params: Params, x: State, t: Scalar) -> State:
        own, above, kept = params
        near = top(above, x, t)
        return near + kept.astype(x.dtype) * (low(own, x, t) - near)

    levels = Levels((moved, top), (ladder.levels.costs[lower - 1], ladder.levels.costs[-1]))
    own = (ladder.params[lower - 1], ladder.params[-1], jnp.asarray(left))
    losses = (ladder.losses[lower - 1], ladder.losses[-1])
    return Ladder(levels, (own, ladder.params[-1]), losses, ladder.shape)


def multilevel(name: str, settings: Settings, fine: Grid) -> Iterator[Method]:
    """The lower level at every step, the top now and then: impulses, and straight lines."""
    for count in settings.base_steps:
        base = steps.subgrid(fine, courses.fine_grid(count))
        two = two_step(name)
        for openings in settings.openings:
            if openings > 0.7 * count:
                continue
            logits = gates.constant_gates((1.0, openings / count), count)
            fires = draws.midpoint(None, logits)
            parameters = {"openings": openings, "base": count}
            middle = plan.draw_plan(draws.midpoint, logits, None)
            held = trapezoid_plan(open_first(fires), two(base))
            first = trapezoid_plan(open_first(fires), SAMPLERS[name].table(base))
            yield Method("midpoint", parameters, base, [middle])
            yield Method("trapezoid", parameters, base, [first])
            yield Method("trapezoid, second-order base", parameters, base, [held], (), two)


def shown(name: str, ratios: list[dict[str, Any]]) -> Table:
    """The ratios as one reads them."""
    table = Table(
        "distance left",
        "method",
        *OTHERS,
        title=name.upper(),
        caption="cost of the top level alone at equal error over the ladder's own",
    )
    for line in ratios:
        told = [told_recorded(line[other]) for other in OTHERS]
        table.add_row(f"{line['left']:g}", line["method"], *told)
    return table


def draw_ratios(file: str, samplers: dict[str, Any]) -> None:
    """Ratios against the share of the distance left, one panel a sampler; bounds as triangles."""
    figure, axes = plt.subplots(
        1, len(samplers), figsize=(6 * len(samplers), 4), sharey=True, squeeze=False
    )
    for axis, (name, own) in zip(axes[0], samplers.items(), strict=True):
        for number, method in enumerate(names_of(own["ratios"])):
            lines = [line for line in own["ratios"] if line["method"] == method]
            for other, style in zip(OTHERS, ("-", ":"), strict=True):
                told = [(line["left"], line[other]) for line in lines if line[other]]
                axis.loglog([left for left, _ in told], [number_of(each) for _, each in told],
                            style, color=f"C{number}", label=f"{method}; {other}")  # fmt: skip
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
