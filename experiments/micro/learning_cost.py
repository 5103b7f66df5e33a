"""What does a step of learning cost, in time and memory, beside a plain run of the same plans?

Times the gradient of every group (run, forward gradient, score) and the plain runs of the same
draws in turns, and compiles a step for 100 and for 1000 steps of the sampler to compare what memory
it asks for. Writes results/learning_cost_<cpu or gpu>.json.
"""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console

from experiments.common import runs, tiny
from experiments.common.samplers import SAMPLERS, fine_grid, path_of
from experiments.common.timing import in_turns
from experiments.ladders.shipped import SHIPPED, Trained, load
from experiments.paper.gates import theory_start
from mlem_jax import Ladder, Problem, Steps, draw_starts, draws, gates, learn, plans, solve_groups
from mlem_jax.evaluate import Batch
from mlem_jax.gates import Gates


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time and memory of a step of learning."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    batch: int = 16
    """Pictures a step."""
    groups: int = 4
    """Draws of the gates a step."""
    base_steps: int = 50
    """Steps of the sampler in what is timed."""
    budget: float = 20.0
    """Expected cost of a run, in evaluations of the top level."""
    tangents: tuple[int, ...] = (1, 2)
    """Directions of the forward gradient."""
    repeats: int = 7
    """Timed runs of each kind, in turns."""
    tiny: bool = False
    """Two random networks and a few steps, to see that it runs."""
    out: Path = Path("results")
    """Where the figures go."""


class Setting(NamedTuple):
    """What is measured for one number of steps of DDPM.

    Attributes:
        trained: the ladder.
        steps: of the sampler.
        gates: that are learned.
        batch: on which.
    """

    trained: Trained
    steps: Steps
    gates: Gates
    batch: Batch


def main(settings: Settings) -> None:
    """Measure, print, write."""
    console = Console(width=100)
    with tiny.settings_of(settings, made_tiny) as asked:
        trained = load(asked.ladder)
        with console.status("timing"):
            seconds = time_in_turns(setting_of(trained, asked, asked.base_steps), asked)
        ratios = {name: float(np.median(np.array(taken) / np.array(seconds["plain"])))
                  for name, taken in seconds.items()}  # fmt: skip
        for name, taken in seconds.items():
            console.print(f"{name:24} {np.median(taken):.3f} s, {ratios[name]:.2f} of a plain run")
        with console.status("compiling for 100 and 1000 steps"):
            memory = {str(count): temporary_bytes(setting_of(trained, asked, count), asked)
                      for count in (100, 1000)}  # fmt: skip
        told = (f"{size / 2**20:.2f} MiB at {count} steps" for count, size in memory.items())
        console.print("temporary memory: " + ", ".join(told))
        result = {
            "seconds": seconds,
            "ratio_to_plain": ratios,
            "temporary_bytes": memory,
            "memory_ratio": memory["1000"] / memory["100"],
        }
        runs.finish(f"learning_cost_{jax.default_backend()}", asked, result, console=console)


def made_tiny(settings: Settings, folder: Path) -> Settings:
    """A few steps, few pictures."""
    return dataclasses.replace(settings, ladder=tiny.random_ladder(folder), batch=4, groups=2,
                               base_steps=8, budget=4.0, tangents=(1,), repeats=1)  # fmt: skip


def setting_of(trained: Trained, settings: Settings, count: int) -> Setting:
    """DDPM on `count` steps, its gates and a batch."""
    times, sampler = fine_grid(count), SAMPLERS["ddpm"]
    start = theory_start(trained, count, settings.budget * count / settings.base_steps)
    samples = jnp.arange(settings.batch)
    x = draw_starts(jax.random.key(0), samples, trained.shape)
    problem = Problem(x, path_of(sampler, jax.random.key(1), times, times, samples))
    # Where the references lie has no bearing on time or memory.
    return Setting(trained, sampler.table(times), gates.log_linear(start), Batch(problem, x))


def learner_of(setting: Setting, settings: Settings, tangents: int) -> learn.Learner:
    """By the score function, the paper's."""
    return learn.gate_learner(setting.steps, setting.gates, optax.adam(0.1), penalty=1e-3,
                              groups=settings.groups, tangents=tangents)  # fmt: skip


def time_in_turns(setting: Setting, settings: Settings) -> dict[str, list[float]]:
    """Seconds of each repeat, the first (which compiles) left out."""

    def run_with(step: Callable[..., Any]) -> Callable[[], Any]:
        # Of every kind the same keys, a new one at each turn.
        keys = map(jax.random.key, itertools.count())
        return lambda: step(setting.trained.ladder, setting.batch, next(keys))

    kinds = {"plain": run_with(jax.jit(plain_of(setting, settings)))}
    for tangents in settings.tangents:
        learner = learner_of(setting, settings, tangents)
        name = f"learning, {tangents} tangent{'s' * (tangents > 1)}"
        kinds[name] = run_with(jax.jit(partial(learner.step, learner.init())))
    return in_turns(kinds, settings.repeats)


def plain_of(setting: Setting, settings: Settings) -> Callable[..., jax.Array]:
    """Runs of the same plans, and nothing else."""
    logits = setting.gates.logits(setting.gates.init(), setting.steps.t)

    def plain(ladder: Ladder, batch: Batch, key: jax.Array) -> jax.Array:
        def plan(key: jax.Array) -> plans.Plan:
            # The key is split as the learner splits it: the same draws, the same evaluations.
            own = jax.random.split(key)[0]
            return plans.weigh(draws.independent.openings(own, logits), logits)

        drawn = jax.vmap(plan)(jax.random.split(key, settings.groups))
        return solve_groups(ladder, batch.problem, setting.steps, drawn)

    return plain


def temporary_bytes(setting: Setting, settings: Settings) -> int:
    """What the compiler sets aside for one step of learning beside its arguments and results."""
    learner = learner_of(setting, settings, 1)
    given = learner.init(), setting.trained.ladder, setting.batch, jax.random.key(0)
    compiled = jax.jit(learner.step).lower(*given).compile()
    return int(cast(Any, compiled.memory_analysis()).temp_size_in_bytes)


if __name__ == "__main__":
    main(tyro.cli(Settings))
