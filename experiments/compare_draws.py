"""What do even draws, held differences, a second-order base and a stacked ladder gain?

Everything along the same starts and Brownian paths as in experiments.error_against_cost, whose rows
of the paper's gates stand beside: Euler-Maruyama and the two-step solver with the top level alone,
the switch from small to large, and multilevel plans whose gates come from a pilot run, drawn
independently, systematically, at midpoints, nested, with cell weights, or held with the trapezoid
rule, on the plain and on the stacked ladder (each judged against its own fine solution). Killed at
any moment, the same command goes on. Writes results/compare_draws.json and .png.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments import courses, pilot, runs
from experiments.courses import Course, Method
from experiments.curves import Pictures, Points, curve, summarise, summary_table
from experiments.gates import effects_at, families
from experiments.ladder import PROCESS, SHIPPED, Ladder, load
from experiments.machine import machine
from experiments.panels import PAPERS, draw_panels
from experiments.quickstart import coarse_grids
from experiments.samplers import SAMPLERS, two_step
from mlem_jax import draws, plan, steps
from mlem_jax.hold import open_first, trapezoid_plan
from mlem_jax.pilot import measure_effects
from mlem_jax.plan import Plan
from mlem_jax.stack import draw_stack_plan, load_stack, stack_price, stack_shares, stack_top
from mlem_jax.steps import Grid, Steps
from mlem_jax.types import Logits, Weights

ALONE = (10, 15, 20, 30, 50, 75, 100, 150, 200)
"""Steps of the top level alone."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost of draws that cancel and of second-order corrections."""

    ladder: Path = SHIPPED
    """Folder of trained levels, with stack.npz of experiments.stack beside them."""
    papers: Path = Path("results/error_against_cost.json")
    """Rows of the paper's methods, of the same starts and paths."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    few: tuple[int, ...] = (2, 4)
    """Levels of a shorter ladder, compared beside the whole one."""
    images: int = 16
    """Pictures that judge."""
    reference_steps: int = 1000
    """Steps of the fine grid."""
    base_steps: tuple[int, ...] = (50, 100)
    """Steps of the multilevel plans."""
    budgets: tuple[float, ...] = (15.0, 25.0, 40.0, 60.0)
    """Expected cost of the multilevel plans, in evaluations of the top level."""
    draws: int = 5
    """Draws of each random plan."""
    seed: int = 0
    """Of the starts, the Brownian paths and the gates."""
    runs: Path = Path("runs/compare_draws")
    """Rows as they come, resumed if they are there, and the effects of pilot runs."""
    out: Path = Path("results")
    """Where compare_draws.json and .png go."""


def main(settings: Settings) -> None:
    """Run all that is not in the log yet; then summarise, write and draw."""
    console = Console(width=140)
    ladder = load(settings.ladder)
    papers = {name: papers_rows(name, settings) for name in settings.samplers}
    determining = {name: value for name, value in runs.recorded(settings).items()
                   if name not in ("runs", "out", "samplers", "papers")}  # fmt: skip
    about = {"costs": ladder.levels.costs, "losses": ladder.losses}
    runs.check_settings(settings.runs, determining | about)
    rows = []
    for name in settings.samplers:
        rows += [*papers[name], *compare(name, ladder, settings, console)]
    summary = {
        name: summarise([row for row in rows if row["sampler"] == name], alone_and_paper)
        for name in settings.samplers
    }
    for name in settings.samplers:
        console.print(summary_table(name, summary[name]))
    settings.out.mkdir(parents=True, exist_ok=True)
    result = {
        "machine": machine(),
        "settings": determining,
        "costs": ladder.levels.costs,
        "summary": summary,
        "rows": rows,
    }
    (settings.out / "compare_draws.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_panels(str(settings.out / "compare_draws.png"), rows)
    console.print(f"wrote {settings.out}/compare_draws.json and .png")


def papers_rows(name: str, settings: Settings) -> list[dict[str, Any]]:
    """The rows of the paper's gates, if they are of the same starts and paths.

    Raises:
        FileNotFoundError: if they were not measured.
        ValueError: if they are of others.
    """
    if not settings.papers.exists():
        raise FileNotFoundError(f"expected the paper's rows in {settings.papers}; measure them "
                                "with python -m experiments.error_against_cost")  # fmt: skip
    found = json.loads(settings.papers.read_text())
    for key in ("ladder", "images", "reference_steps", "seed"):
        own, theirs = runs.recorded(settings)[key], found["settings"][key]
        if own != theirs:
            raise ValueError(f"expected {settings.papers} to be of {key} {own}, got {theirs}; give "
                             "both experiments the same")  # fmt: skip
    return [row for row in found["rows"] if row["sampler"] == name and row["method"] in PAPERS]


def alone_and_paper(
    rows: list[dict[str, Any]], which: str, pictures: Pictures
) -> dict[str, Points]:
    """The top level alone, of first and of second order, on both grids; the paper's best draws."""
    del which  # A single draw is compared with the best of theirs.
    names = dict.fromkeys(row["method"] for row in rows)

    def points(start: str) -> Points:
        return [
            each
            for name in names
            if name.startswith(start)
            for each in curve(rows, name, "median", pictures)
        ]

    papers = [each for name in PAPERS for each in curve(rows, name, "best", pictures)]
    return {
        "Euler-Maruyama": points("Euler-Maruyama"),
        "second-order, top alone": points("second-order, level"),
        "best of 15 of the paper's": papers,
    }


def compare(
    name: str, ladder: Ladder, settings: Settings, console: Console
) -> list[dict[str, Any]]:
    """The rows of one sampler."""
    fine = courses.fine_grid(settings.reference_steps)
    stack = load_stack(settings.ladder / "stack.npz")
    counts = [count for count in ALONE if count < settings.reference_steps]
    methods = [
        *courses.euler_maruyama(ladder, counts, partial(coarse_grids, fine), lower=False),
        *second_order_alone(name, ladder, counts, fine),
    ]
    for count in settings.base_steps:
        grids = coarse_grids(fine, count)
        base = grids["uniform"]
        shares = stack_shares(stack, SAMPLERS[name].table(base).t)
        for chosen in ((), settings.few):
            own = courses.rungs_of(ladder, chosen)
            effects = effects_of(name, own, chosen, base, settings)
            for budget in settings.budgets:
                if budget < 0.8 * count:
                    methods += switches(own, chosen, budget, base)
                    methods += plain(name, own, chosen, effects, budget, base, settings)
                    if not chosen:
                        methods += stacked(name, own, effects, shares, budget, base, settings)
                        continue
                    # The grid on which the peers of diffusion sampling are at their best.
                    other = grids["log-SNR"]
                    moved = effects_on(name, own, chosen, other, settings)
                    methods += [
                        method._replace(name=f"{method.name}, log-SNR")
                        for method in plain(name, own, chosen, moved, budget, other, settings)
                    ]

    def judged() -> tuple[Course, None]:
        def targets(table: Steps) -> dict[str, Plan]:
            top = courses.top_target(table, ladder)
            return {"top": top, "stacked top": stack_top(stack_shares(stack, table.t))}

        samples = courses.part_of(0, settings.images)
        return courses.course_of(name, ladder, fine, samples, settings.seed, targets), None

    return courses.run_missing(settings.runs / f"{name}.jsonl", ladder, methods, judged, console)


def second_order_alone(
    name: str, ladder: Ladder, counts: list[int], fine: Grid
) -> Iterator[Method]:
    """The top level alone, by the two-step solver."""
    for method in courses.euler_maruyama(ladder, counts, partial(coarse_grids, fine), lower=False):
        other = method.name.replace("Euler-Maruyama", "second-order")
        yield method._replace(name=other, table=two_step(name))


def switches(own: Ladder, chosen: tuple[int, ...], budget: float, base: Grid) -> Iterator[Method]:
    """From the best level that can be paid at every step to the top, for a budget."""
    count, top, costs = len(base) - 1, len(own.losses), own.levels.costs
    payable = [level for level in range(1, top) if costs[level - 1] * count < budget]
    if payable:
        at = round((count - budget) / (1 - costs[payable[-1] - 1]))
        each = plan.switch_plan(count, top, at, early=payable[-1], late=top)
        name = f"switch{suffix(chosen)}"
        yield Method(name, {"budget": budget, "base": count}, base, [each], chosen)


def plain(
    name: str,
    own: Ladder,
    chosen: tuple[int, ...],
    effects: np.ndarray,
    budget: float,
    base: Grid,
    settings: Settings,
) -> Iterator[Method]:
    """Multilevel plans of the plain ladder."""
    costs, count = own.levels.costs, len(base) - 1
    table = SAMPLERS[name].table(base)
    every = families(own, count, effects)
    logits = plan.fit_budget(every["pilot"], costs, budget)
    by_cost = plan.fit_budget(every["inverse cost"], costs, budget)
    together = plan.fit_budget(every["pilot"], costs, budget, expected=plan.nested_price)
    keys = jax.random.split(jax.random.key(settings.seed + 1), settings.draws)
    fires, two = draws.midpoint(None, logits), two_step(name)
    cells = plan.drop_idle(plan.weigh_ratios(fires, plan.cell_ratios(fires)))

    def drawn(draw: draws.Draw, of: Logits) -> list[Plan]:
        return [plan.draw_plan(draw, of, key) for key in keys]

    middle = plan.draw_plan(draws.midpoint, logits, None)
    plans: dict[str, tuple[list[Plan], Callable[[Grid], Steps] | None]] = {
        "inverse cost, midpoint": ([plan.draw_plan(draws.midpoint, by_cost, None)], None),
        "pilot, independent": (drawn(draws.independent, logits), None),
        "pilot, nested independent": (drawn(draws.nested(draws.independent), together), None),
        "pilot, systematic": (drawn(draws.systematic, logits), None),
        "pilot, nested systematic": (drawn(draws.nested(draws.systematic), together), None),
        "pilot, midpoint": ([middle], None),
        "pilot, midpoint, cell weights": ([cells], None),
        "pilot, trapezoid": ([trapezoid_plan(open_first(fires), table)], None),
        "pilot, midpoint, second-order base": ([middle], two),
        "pilot, trapezoid, second-order base": (
            [trapezoid_plan(open_first(fires), two(base))], two,
        ),
    }  # fmt: skip
    for kind, (each, own_table) in plans.items():
        parameters = {"budget": budget, "base": count}
        yield Method(kind + suffix(chosen), parameters, base, each, chosen, own_table)


def stacked(
    name: str,
    own: Ladder,
    effects: np.ndarray,
    shares: Weights,
    budget: float,
    base: Grid,
    settings: Settings,
) -> Iterator[Method]:
    """Plans of the stacked ladder, judged against its own fine solution."""
    # A share w shrinks an effect by about w^2; what its gate pays is more, by the levels below.
    shrunk = effects * np.asarray(shares) ** 2
    shrunk[:, 0] = np.inf
    family = families(own, len(base) - 1, shrunk)["pilot"]
    expected = partial(stack_price, shares=shares)
    logits = plan.fit_budget(family, own.levels.costs, budget, expected=expected)
    fires, two = draws.midpoint(None, logits), two_step(name)
    keys = jax.random.split(jax.random.key(settings.seed + 1), settings.draws)
    random = [draw_stack_plan(draws.independent, logits, shares, key) for key in keys]
    held = trapezoid_plan(open_first(fires), SAMPLERS[name].table(base), shares)
    held_two = trapezoid_plan(open_first(fires), two(base), shares)
    plans: dict[str, tuple[list[Plan], Callable[[Grid], Steps] | None]] = {
        "pilot, independent, stacked": (random, None),
        "pilot, midpoint, stacked": (
            [draw_stack_plan(draws.midpoint, logits, shares, None)], None,
        ),
        "pilot, trapezoid, stacked": ([held], None),
        "pilot, trapezoid, second-order base, stacked": ([held_two], two),
    }  # fmt: skip
    for kind, (each, table) in plans.items():
        parameters = {"budget": budget, "base": len(base) - 1}
        yield Method(kind, parameters, base, each, (), table, "stacked top")


def suffix(chosen: tuple[int, ...]) -> str:
    """What the name of a method on a shorter ladder ends with."""
    return f", levels {' '.join(map(str, chosen))}" if chosen else ""


def effects_of(
    name: str, own: Ladder, chosen: tuple[int, ...], base: Grid, settings: Settings
) -> np.ndarray:
    """Effects of the differences of a ladder, measured once and kept."""
    file = settings.runs / f"effects_{name}{suffix(chosen).replace(' ', '_')}.npz"
    if not file.exists():
        asked = pilot.Settings(images=settings.images, base_steps=settings.base_steps[-1])
        stretches = min(asked.stretches, asked.base_steps)
        table, batch = pilot.problem(name, own, asked, part=0)
        effects = measure_effects(
            own.levels, own.params, batch.x, table, jax.random.key(asked.seed + 1), batch.noise,
            stretches=stretches,
        )  # fmt: skip
        pilot.save_effects(file, np.asarray(table.t), np.asarray(effects))
    return effects_at(file, np.asarray(SAMPLERS[name].table(base).t))


def effects_on(
    name: str, own: Ladder, chosen: tuple[int, ...], grid: Grid, settings: Settings
) -> np.ndarray:
    """Effects of a pilot run, which steps evenly, on a grid that need not: as the gains squared."""
    table = SAMPLERS[name].table(grid)
    even = SAMPLERS[name].table(steps.uniform_grid(PROCESS.end, 0.0, settings.base_steps[-1]))
    gain = np.interp(table.t, np.asarray(even.t)[::-1], np.asarray(even.gain)[::-1])
    found = effects_of(name, own, chosen, grid, settings)
    return found * (np.asarray(table.gain) / gain)[:, None] ** 2


if __name__ == "__main__":
    main(tyro.cli(Settings))
