"""What do rounds gain where every sample has a plan of its own?

The same plans, one a sample, drawn independently or systematically with the gates of theory, run
one after the other (`solve_groups`) and in rounds (`solve_each`), which call a level for all that
need it. Counts calls and the mean batch of each level, compares the samples, and times both in
turns with the whole batch under one plan, which no rounds can beat. Writes results/rounds.json.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.common import machine, runs, tiny
from experiments.common.samplers import SAMPLERS, fine_grid, path_of
from experiments.common.timing import in_turns, paired, told
from experiments.ladders.shipped import SHIPPED, Trained, load, measured_gamma
from mlem_jax import (
    Plan,
    Problem,
    Steps,
    draw_starts,
    draws,
    fit_budget,
    gates,
    plans,
    solve,
    solve_each,
    solve_groups,
)
from mlem_jax.solver import make_rounds

DRAWS = {"independent": draws.independent, "systematic": draws.systematic}


@dataclasses.dataclass(frozen=True)
class Settings:
    """One plan a sample: in rounds against one after the other."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    images: int = 32
    """Samples, each with a plan of its own."""
    pool: int = 256
    """Samples of which a round of `images` is made, in the last row, which is counted, not run."""
    budget: float = 8.0
    """Expected cost of a sample, in evaluations of the top level."""
    base_steps: int = 50
    """Steps of DDPM."""
    repeats: int = 5
    """Timed runs of each kind, in turns."""
    seed: int = 0
    """Of the starts, the path and the gates."""
    tiny: bool = False
    """Two random networks and a few steps, to see that it runs."""
    out: Path = Path("results")
    """Where rounds.json goes."""


def main(settings: Settings) -> None:
    """Count, compare, time; print and write."""
    console = Console(width=110)
    with tiny.settings_of(settings, made_tiny) as asked:
        trained, before = load(asked.ladder), machine.load()
        with console.status("running"):
            rows = [row_of(draw, trained, asked) for draw in DRAWS]
        console.print(shown(rows, asked))
        result = {"costs": trained.ladder.costs, "load": [before, machine.load()], "rows": rows}
        runs.finish("rounds", asked, result, console=console)


def made_tiny(settings: Settings, folder: Path) -> Settings:
    """A few steps, few pictures."""
    return dataclasses.replace(settings, ladder=tiny.random_ladder(folder), images=4, pool=8,
                               budget=4.0, base_steps=8, repeats=1)  # fmt: skip


def row_of(draw: str, trained: Trained, settings: Settings) -> dict[str, Any]:
    """Calls, distance and seconds of one draw."""
    keys = jax.random.split(jax.random.key(settings.seed), 3)
    times, sampler = fine_grid(settings.base_steps), SAMPLERS["ddpm"]
    steps, samples = sampler.table(times), jnp.arange(settings.images)
    path = path_of(sampler, keys[1], times, times, samples)
    problem = Problem(draw_starts(keys[0], samples, trained.shape), path)
    made = drawn(draw, trained, steps, settings.pool, settings.budget, keys[2])
    own: Plan = jax.tree.map(lambda table: table[: settings.images], made)
    first: Plan = jax.tree.map(lambda table: table[0], made)
    ladder = trained.ladder
    ends = [run(ladder, problem, steps, own) for run in (solve_groups, solve_each)]
    seconds = in_turns({
        "in rounds": lambda: solve_each(ladder, problem, steps, own),
        "one after the other": lambda: solve_groups(ladder, problem, steps, own),
        "all under one plan": lambda: solve(ladder, problem, steps, first),
    }, settings.repeats)  # fmt: skip
    return {
        "draw": draw,
        "evaluations": np.asarray(own.needed.sum(axis=(0, 1))).tolist(),
        "calls": {
            "in rounds": calls_of(own.needed, None),
            f"in rounds, {settings.images} of {settings.pool}": calls_of(
                made.needed, settings.images
            ),
        },
        # Networks round a batch of one otherwise than a larger one.
        "largest_distance": float(jnp.abs(ends[0] - ends[1]).max()),
        "mean_square_distance": float(jnp.mean((ends[0] - ends[1]) ** 2)),
        "seconds": seconds,
        "ratio_to_rounds": paired(seconds, "in rounds"),
    }


def drawn(
    draw: str, trained: Trained, steps: Steps, count: int, budget: float, key: jax.Array
) -> Plan:
    """Plans of the gates of theory, the bottom at every step."""
    costs = trained.ladder.costs
    theory = gates.keep_open(gates.theory(costs, gamma=measured_gamma(costs, trained.losses)))
    logits = fit_budget(theory, steps.t, costs, budget, draw=DRAWS[draw])
    return plans.draw_plans(DRAWS[draw], logits, key, count)


def calls_of(needed: jax.Array, batch: int | None) -> dict[str, list[float]]:
    """How often each level is called in rounds, and for how many samples in the mean."""
    levels = range(1, needed.shape[-1] + 1)
    sizes = [(each.level, len(each.samples)) for each in make_rounds(needed, batch=batch)]
    by_level = [[size for level, size in sizes if level == own] for own in levels]
    return {"calls": [len(own) for own in by_level],
            "mean_batch": [round(float(np.mean(own or [0])), 2) for own in by_level]}  # fmt: skip


def shown(rows: list[dict[str, Any]], settings: Settings) -> Table:
    """The rows as one reads them."""
    table = Table("draw", "", "calls of each level", "mean batch", "seconds", "x rounds",
                  caption=f"{settings.images} samples, a plan for each; one after the other every "
                          "evaluation is a call of batch 1")  # fmt: skip
    for row in rows:
        calls = dict(row["calls"])
        calls["one after the other"] = {"calls": row["evaluations"],
                                        "mean_batch": [1] * len(row["evaluations"])}  # fmt: skip
        for name in dict.fromkeys([*row["seconds"], *calls]):
            own, taken = calls.get(name), row["seconds"].get(name)
            table.add_row(
                row["draw"], name,
                *([" ".join(map(str, own[part])) for part in ("calls", "mean_batch")]
                  if own else ["", ""]),
                *([f"{np.median(taken):.2f}", told(row["ratio_to_rounds"][name])]
                  if taken else ["", ""]),
            )  # fmt: skip
    return table


if __name__ == "__main__":
    main(tyro.cli(Settings))
