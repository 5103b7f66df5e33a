"""What does multilevel Euler-Maruyama gain on a real ladder? One start and one path for all.

The reference is the top level at every step of a fine grid. Against it stand the top level at few
steps (Euler-Maruyama), each smaller level, a switch from small to large, and multilevel plans of
three budgets with the independent draws of the paper and with systematic ones. Prints a table,
writes runs/quickstart/quickstart.json with all rows and quickstart.png with the pictures. What is
in results/ was made with `--out results`.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from experiments.common import runs
from experiments.common.pictures import Method, Result, best_of_groups, picture_rows, run, table
from experiments.ladders.shipped import PROCESS, SHIPPED, load, measured_gamma, relative_costs
from experiments.common.machine import provenance
from mlem_jax import draws, gates, plan, process, steps
from mlem_jax.levels import Levels, measure_costs
from mlem_jax.noise import draw_starts
from mlem_jax.steps import Grid
from mlem_jax.types import Key, Logits

FEW = (10, 20, 50, 100, 200)
"""Steps at which the top level runs alone."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw pictures by multilevel Euler-Maruyama and by its rivals; compare error and cost."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    levels: tuple[int, ...] = ()
    """Which of them to use, 1 the cheapest; default: all."""
    images: int = 16
    """Pictures drawn by every method."""
    reference_steps: int = 1000
    """Steps of the fine grid; the reference takes them all with the top level."""
    base_steps: int = 100
    """Steps of the multilevel plans, the switch and the smaller levels; at most the fine grid's."""
    budgets: tuple[float, ...] = (25.0, 40.0, 60.0)
    """Expected cost of the multilevel plans, in evaluations of the top level."""
    gamma: float | None = None
    """Exponent of cost against error, for the gates p_k = min(1, C T_k^-(1/gamma + 1/2)); default:
    fitted to the costs and held-out losses of the ladder."""
    measure: bool = False
    """Plan with costs measured here instead of those stored with the ladder: better plans for this
    machine, but not the same from run to run."""
    seed: int = 0
    """Of the starts, the Brownian path and the gates."""
    out: Path = Path("runs/quickstart")
    """Where quickstart.json and quickstart.png go."""


def main(settings: Settings) -> None:
    """Run every method, print the table, write the files."""
    start_key, path_key, gate_key = jax.random.split(jax.random.key(settings.seed), 3)
    console = Console(width=110)
    with console.status("loading the levels"):
        ladder = load(settings.ladder, settings.levels)
        x = draw_starts(start_key, jnp.arange(settings.images), ladder.shape)
        drifts, costs = ladder.levels
        if settings.measure:
            costs = relative_costs(measure_costs(drifts, ladder.params, x, jnp.float32(0.5)))
            ladder = ladder._replace(levels=Levels(drifts, costs))
    gamma = settings.gamma or measured_gamma(costs, ladder.losses)
    console.print(f"one evaluation costs {', '.join(f'{c:.3f}' for c in costs)}; gamma {gamma:.2f}")

    fine = steps.uniform_grid(PROCESS.end, 0.0, settings.reference_steps)
    top = plan.full_plan(settings.reference_steps, len(costs), len(costs))
    results: list[Result] = []

    def run_all(methods: Iterable[Method], title: str) -> None:
        for method in track(list(methods), title, console=console):
            reference = results[0] if results else None
            results.append(run(method, ladder, x, path_key, fine, reference))

    run_all([Method("reference", "top level, reference", fine, top)], "the reference          ")
    run_all(few_steps(len(costs), fine), "the top level alone    ")
    # All others step through the kind of grid that served the top level best at its most steps.
    kind = best_of_groups(results)[-1].row["method"].split(", ")[-1]
    base = coarse_grids(fine, settings.base_steps)[kind]
    run_all(rivals(settings.budgets, costs, base), "smaller levels, switch ")
    run_all(multilevel(settings.budgets, costs, gamma, base, gate_key), "multilevel             ")

    shown = best_of_groups(results)
    console.print(table(shown, len(costs)))
    settings.out.mkdir(parents=True, exist_ok=True)
    result = {
        **provenance("experiments.quickstart"),
        "settings": runs.recorded(settings),
        "costs": costs,
        "gamma": gamma,
        "rows": [{**each.row, "shown": any(each is one for one in shown)} for each in results],
    }  # fmt: skip
    (settings.out / "quickstart.json").write_text(json.dumps(result, indent=1) + "\n")
    picture_rows(str(settings.out / "quickstart.png"), shown)
    console.print(f"wrote {settings.out}/quickstart.json and {settings.out}/quickstart.png")


def coarse_grids(fine: Grid, count: int) -> dict[str, Grid]:
    """Grids of `count` steps on points of the fine one, with its ends."""
    # The log-SNR is infinite at both ends: it is spread over the range of Karras et al. (sigma
    # from 80 to 0.002) as far as the fine grid has it, and the ends are one step more each.
    log_snr = np.array(process.log_snr(PROCESS, jnp.asarray(fine[1:-1])))
    within = (log_snr >= -2 * np.log(80.0)) & (log_snr <= -2 * np.log(0.002))
    first, last = fine[1:-1][within][[0, -1]]
    inner = steps.log_snr_grid(PROCESS, first, last, count - 2)
    return {
        "uniform": steps.subgrid(fine, steps.uniform_grid(fine[0], fine[-1], count)),
        "log-SNR": steps.subgrid(fine, np.concatenate([fine[:1], inner, fine[-1:]])),
    }


def few_steps(levels: int, fine: Grid) -> Iterator[Method]:
    """The top level alone, Euler-Maruyama, on both kinds of grid."""
    for count in FEW:
        if count < len(fine):
            for kind, grid in coarse_grids(fine, count).items():
                name = f"top level, {count} steps"
                yield Method(name, f"{name}, {kind}", grid, plan.full_plan(count, levels, levels))


def rivals(budgets: tuple[float, ...], costs: tuple[float, ...], base: Grid) -> Iterator[Method]:
    """Each smaller level; and for each budget the switch, from every level that can be paid."""
    count, top = len(base) - 1, len(costs)
    for level in range(1, top):
        name = f"level {level}, {count} steps"
        yield Method(name, name, base, plan.full_plan(count, top, level))
    for budget in budgets:
        for early, cost in enumerate(costs[:-1], start=1):
            at = round((count - budget) / (1 - cost))
            if 0 < at < count:
                name = f"switch at step {at}, level {early} to {top}"
                switch = plan.switch_plan(count, top, at, early=early, late=top)
                yield Method(f"switch, budget {budget:g}", name, base, switch)


def multilevel(
    budgets: tuple[float, ...], costs: tuple[float, ...], gamma: float, base: Grid, key: Key
) -> Iterator[Method]:
    """Plans of every budget, with independent and with systematic draws of the same gates."""

    def family(scale: float) -> Logits:
        logits = gates.theory_gates(costs, len(base) - 1, scale=scale, gamma=gamma)
        # The bottom at every step: where nothing runs, the predicted data would be 0.
        return logits.at[:, 0].set(jnp.inf)

    for number, budget in enumerate(budgets):
        logits = plan.fit_budget(family, costs, budget)
        expected = float(plan.expected_price(logits, costs).costs.sum())
        own_key = jax.random.fold_in(key, number)
        for kind, draw in (("independent", draws.independent), ("systematic", draws.systematic)):
            name = f"ML-EM, budget {budget:g}, {kind}"
            yield Method(name, name, base, plan.draw_plan(draw, logits, own_key), expected)


if __name__ == "__main__":
    main(tyro.cli(Settings))
