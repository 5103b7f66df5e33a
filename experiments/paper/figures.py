"""The figures of the paper (arXiv:2603.24594), from our own runs on any ladder.

1. Pictures of every method at matched cost.  2. gamma.  3. and 4. Error against time and against
FLOPs for DDPM and DDIM, from the rows that experiments.paper.error_against_cost has measured. Each
has a .json beside it that says of what, on what and by which command it was made. What is there of
the same settings is not made again.
"""

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from experiments.common import benchmark, runs, tiny
from experiments.common.curves import Rows
from experiments.common.kept_plans import read_plan
from experiments.common.method import Method, Run, fields, label
from experiments.common.pictures import Strip, picture_rows
from experiments.common.samplers import REFERENCE, SAMPLERS, coarse_grids, fine_grid, reference_grid
from experiments.ladders.shipped import SHIPPED, Trained, load
from experiments.ours import sensitivities
from experiments.paper import error_against_cost, figure_error, figure_gamma
from experiments.paper.gates import families, learned_gates
from mlem_jax import Plan, draws, fit_budget, grids, plans
from mlem_jax.grids import Grid
from mlem_jax.types import Logits


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw the figures of the paper for a ladder."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    results: Path = Path("results")
    """Where error_against_cost.json, learned_gates/ and pilot/ of this ladder lie."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    images: int = 10
    """Pictures in a row."""
    cost: float = 30.0
    """Expected cost of the multilevel rows, in evaluations of the top level."""
    base_steps: int = 100
    """Steps of the multilevel rows, and of the path on which levels are compared."""
    plans: Path | None = SHIPPED / "plans"
    """Folder of plans fitted to the ladder, `ddpm_30.npz` and so on; none: no row of them."""
    reference_steps: int = 400
    """Steps even in time, as the plans are fitted for; the reference cuts those at both ends."""
    counts: tuple[int, ...] = (15, 30, 60, 200)
    """Steps of Euler-Maruyama with the top level alone."""
    compared: int = 32
    """Pictures on whose paths levels are compared."""
    seed: int = 3
    """Of the starts, the paths and the gates."""
    tiny: bool = False
    """On a random ladder, to see in minutes that it runs."""
    out: Path = Path("results/figures")
    """Where the figures go."""


def main(settings: Settings) -> None:
    """Draw what is not there yet of these settings, and what costs nothing anew."""
    with tiny.settings_of(settings, small) as own:
        run(own)


def small(settings: Settings, folder: Path) -> Settings:
    """What `--tiny` runs, after all that the figures are drawn from."""
    before = error_against_cost.Settings(out=folder / "results")
    error_against_cost.run(before := error_against_cost.small(before, folder))
    levels = [
        {"megaflops_per_image": 10.0**level, "milliseconds_per_image": float(level),
         "held_out_loss": 1 / level, "held_out_standard_error": 0.01} for level in (1, 2)
    ]  # fmt: skip
    (before.ladder / "card.json").write_text(json.dumps({"levels": levels}))
    return dataclasses.replace(
        settings, ladder=before.ladder, results=before.out, samplers=("ddpm",), images=2,
        base_steps=20, reference_steps=60, counts=(5,), cost=14.0, compared=2,
        plans=tiny.random_plans(folder / "plans", fine_grid(4), 14.0),
    )  # fmt: skip


def run(settings: Settings) -> None:
    """As `main`, of settings that are meant."""
    console = Console(width=110)
    trained = load(settings.ladder)
    check_measured(settings)
    about = {"costs": trained.ladder.costs, "fine": len(reference_grid(settings.reference_steps))}
    runs.check_settings(settings.out, runs.recorded(settings) | about)
    finish = partial(runs.finish, settings=settings, console=console)
    for name in settings.samplers:
        if not (settings.out / f"pictures_{name}.json").exists():
            rows, strips = pictures(name, trained, settings, console)
            finish(f"pictures_{name}", result={"sampler": name, "rows": rows},
                   draw=partial(picture_rows, strips=strips, columns=settings.images))  # fmt: skip
    if not (settings.out / "gamma.json").exists():
        with console.status("levels along the path of the top"):
            found = {
                name: figure_gamma.measured(
                    trained, settings.ladder, name, settings.compared, settings.base_steps,
                    settings.seed,
                )
                for name in settings.samplers
            }  # fmt: skip
        finish("gamma", result={"samplers": found}, draw=partial(figure_gamma.draw, samplers=found))
    for name in settings.samplers:
        finish(f"error_{name}", **errors(name, settings))


def errors(name: str, settings: Settings) -> dict[str, Any]:
    """Error against time and FLOPs of one sampler: the result, and what draws it."""
    rows, measured = figure_error.rows_of(name, settings.results)
    curves, threshold = figure_error.curves_of(rows, settings.ladder)
    # The errors of single pictures stand where they were measured.
    kept = [{key: row[key] for key in row if key != "picture_errors"} for row in rows]
    told = [figure_error.recorded(own) for own in curves]
    return {
        "result": {"sampler": name, "threshold": threshold, "curves": told, "measured": measured,
                   "runs": kept},
        "draw": partial(figure_error.draw, sampler=name, curves=curves, threshold=threshold),
    }  # fmt: skip


def check_measured(settings: Settings) -> None:
    """Whether what the figures are drawn from is there.

    Raises:
        FileNotFoundError: which is missing, and the commands that make it.
    """
    own = [settings.results / "error_against_cost.json"]
    own += [settings.results / "pilot" / f"{name}.npz" for name in settings.samplers]
    own += [settings.results / "learned_gates" / name for name in settings.samplers]
    if absent := [str(file) for file in own if not file.exists()]:
        raise FileNotFoundError(
            f"expected {', '.join(absent)}; make them with experiments.ours.pilot, experiments."
            "paper.learn_gates and experiments.paper.error_against_cost, each with the same "
            f"--ladder and --out {settings.results}"
        )


def pictures(
    name: str, trained: Trained, settings: Settings, console: Console
) -> tuple[Rows, list[Strip]]:
    """A row of pictures per method, along the same starts and paths."""
    fine = reference_grid(settings.reference_steps)
    with console.status(f"{name}: the reference"):
        samples = benchmark.part_of(0, settings.images)
        judged = benchmark.make_benchmark(name, trained, fine, samples, settings.seed)
    count, top = len(fine) - 1, len(trained.ladder)
    rows: Rows = [{
        **fields(Method("top level", (top,), REFERENCE, 2)), "parameters": {"steps": count},
        "evaluations": [0] * (top - 1) + [count], "cost": float(count), "mse": 0.0,
    }]  # fmt: skip
    strips = [Strip(f"reference, {count} steps", float(count), 0.0, np.asarray(judged.reference))]
    wanted = list(shown_runs(name, trained, fine, settings))
    for own in track(wanted, name, console=console):
        (end,), (seconds,) = benchmark.ends_of(own, trained, judged)
        mse = benchmark.errors_of(end, judged)["mse"]
        paid = benchmark.paid_for(own.plans[0], own.method, trained)
        rows.append({**fields(own.method), "parameters": own.parameters, **paid, "mse": mse,
                     "seconds": seconds})  # fmt: skip
        title = label(own.method)
        if "steps" in own.parameters:
            title += f", {own.parameters['steps']} steps"
        strips.append(Strip(title, paid["cost"], mse, np.asarray(end)))
    return rows, strips


def shown_runs(name: str, trained: Trained, fine: Grid, settings: Settings) -> Iterator[Run]:
    """Few steps of the top level; the paper's gates; even draws and a fitted plan, at one cost."""
    for count in settings.counts:
        method = Method("top level", (len(trained.ladder),))
        times = coarse_grids(fine, count)["uniform"]
        yield Run(method, {"steps": count}, times, [plans.full(count, 1, 1)])
    costs, levels = trained.ladder.costs, tuple(range(1, len(trained.ladder) + 1))
    times = grids.subgrid(fine, fine_grid(settings.base_steps))
    steps, second = (SAMPLERS[name].table(times, order) for order in (1, 2))
    found = sensitivities.read(settings.results / "pilot" / f"{name}.npz", steps)
    every = families(trained, found)
    every["learned"] = learned_gates(settings.results / "learned_gates" / name)
    logits = {kind: fit_budget(own, steps.t, costs, settings.cost, draw=draws.independent)
              for kind, own in every.items()}  # fmt: skip
    keys = jax.random.split(jax.random.key(settings.seed), 15)

    def nearest(draw: draws.Draw, own: Logits) -> list[Plan]:
        """Of fifteen draws the one whose cost is nearest to what is expected."""
        drawn = [plans.draw_plan(draw, own, key) for key in keys]
        paid = [float(plans.price(each, costs).costs.sum()) for each in drawn]
        return [drawn[int(np.argmin(np.abs(np.array(paid) - settings.cost)))]]

    budget = {"budget": settings.cost}
    ours = Method("ML-EM", levels, "uniform", 1, "pilot", "systematic", "impulse")
    for kind in ("inverse cost", "theory", "learned"):
        papers = ours._replace(gates=kind, draw="independent")
        yield Run(papers, budget, times, nearest(draws.independent, logits[kind]))
    yield Run(ours, budget, times, nearest(draws.systematic, logits["pilot"]))
    openings = plans.open_first(draws.midpoint.openings(None, logits["pilot"]))
    held = ours._replace(order=2, draw="midpoint", weights="trapezoid")
    yield Run(held, budget, times, [plans.trapezoid(openings, second)])
    if settings.plans is not None:
        yield read_plan(settings.plans / f"{name}_{settings.cost:g}.npz").run(budget)


if __name__ == "__main__":
    main(tyro.cli(Settings))
