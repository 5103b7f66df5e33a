"""What does a step of learning cost, in time and memory, beside a plain run of the same plans?

Times the gradient of every group (run, forward gradient, score) and the plain runs of the same
draws in turns, and compiles a step for 100 and for 1000 steps of the sampler to compare what memory
it asks for. Writes results/learning_cost_<cpu or gpu>.json.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console

from experiments.common import runs
from experiments.paper.gates import theory_start
from experiments.ladders.shipped import PROCESS, SHIPPED, Ladder, load
from experiments.common.machine import provenance
from experiments.common.samplers import SAMPLERS, path_of
from mlem_jax import gates, learn, steps
from mlem_jax.draws import independent
from mlem_jax.evaluate import Batch
from mlem_jax.noise import BrownianPath, draw_starts
from mlem_jax.plan import weigh
from mlem_jax.solve import run_unchecked


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
    out: Path = Path("results")
    """Where the figures go."""


def main(settings: Settings) -> None:
    """Measure, print, write."""
    console = Console(width=100)
    ladder = load(settings.ladder)
    with console.status("timing"):
        seconds = time_in_turns(ladder, settings)
    with console.status("compiling for 100 and 1000 steps"):
        memory = {str(count): temporary_bytes(ladder, settings, count) for count in (100, 1000)}
    plain = np.array(seconds["plain"])
    for name, taken in seconds.items():
        ratios = np.array(taken) / plain
        console.print(f"{name:24} {np.median(taken):.3f} s, {np.median(ratios):.2f} of a plain run")
    console.print("temporary memory: " + ", ".join(
        f"{size / 2**20:.2f} MiB at {count} steps" for count, size in memory.items()))  # fmt: skip
    settings.out.mkdir(parents=True, exist_ok=True)
    result = {
        **provenance("experiments.micro.learning_cost"),
        "settings": runs.recorded(settings),
        "seconds": seconds,
        "ratio_to_plain": {
            name: float(np.median(np.array(taken) / plain)) for name, taken in seconds.items()
        },
        "temporary_bytes": memory,
        "memory_ratio": memory["1000"] / memory["100"],
    }  # fmt: skip
    file = settings.out / f"learning_cost_{jax.default_backend()}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"wrote {file}")


def problem(ladder: Ladder, settings: Settings, count: int, tangents: int) -> tuple[Any, ...]:
    """A learner for DDPM on `count` steps, its gates and a batch."""
    grid = steps.uniform_grid(PROCESS.end, 0.0, count)
    table = SAMPLERS["ddpm"].table(grid)
    start = theory_start(ladder, count, settings.budget * count / settings.base_steps)
    family = gates.log_linear_gates(start)
    learner = learn.gate_learner(
        ladder.levels, table, family, optax.adam(0.1),
        penalty=1e-3, groups=settings.groups, tangents=tangents,
    )  # fmt: skip
    samples = jnp.arange(settings.batch)
    x = draw_starts(jax.random.key(0), samples, ladder.shape)
    path = path_of(SAMPLERS["ddpm"], jax.random.key(1), grid, grid, samples)
    # Where the references lie has no bearing on time or memory.
    return learner, family, table, Batch(x, path, x)


def time_in_turns(ladder: Ladder, settings: Settings) -> dict[str, list[float]]:
    """Seconds of each repeat, the first (which compiles) left out."""
    _, family, table, batch = problem(ladder, settings, settings.base_steps, 1)

    def plain(params: Any, batch: Batch, key: jax.Array) -> jax.Array:
        path = cast(BrownianPath, batch.noise)
        logits = family.logits(family.init(), table.t)

        def one_group(given: Any) -> jax.Array:
            own, x, samples = given
            # The key is split as the learner splits it: the same draws, the same evaluations.
            plan = weigh(independent(jax.random.split(own)[0], logits), logits)
            own_path = path._replace(samples=samples)
            return run_unchecked(ladder.levels, params, x, table, plan, own_path)

        parts = (
            jax.random.split(key, settings.groups),
            batch.x.reshape(settings.groups, -1, *ladder.shape),
            path.samples.reshape(settings.groups, -1),
        )
        return jax.lax.map(one_group, parts)

    def learning(tangents: int) -> Any:
        learner = problem(ladder, settings, settings.base_steps, tangents)[0]
        return lambda params, batch, key: learner.step(learner.init(), params, batch, key)

    kinds = {"plain": jax.jit(plain)} | {
        f"learning, {count} tangent{'s' * (count > 1)}": jax.jit(learning(count))
        for count in settings.tangents
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for repeat in range(settings.repeats + 1):
        for name, run in kinds.items():
            begun = time.perf_counter()
            jax.block_until_ready(run(ladder.params, batch, jax.random.key(repeat)))
            if repeat:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def temporary_bytes(ladder: Ladder, settings: Settings, count: int) -> int:
    """What the compiler sets aside for one step of learning beside its arguments and results."""
    learner, _, _, batch = problem(ladder, settings, count, 1)
    lowered = jax.jit(learner.step).lower(learner.init(), ladder.params, batch, jax.random.key(0))
    return int(cast(Any, lowered.compile().memory_analysis()).temp_size_in_bytes)


if __name__ == "__main__":
    main(tyro.cli(Settings))
