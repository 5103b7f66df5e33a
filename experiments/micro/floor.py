"""How far is `solve` from the sum of the evaluations it selects, and how long until a first sample?

The floor of a fitted plan is each of its levels, evaluated as often as the plan does in a scan of
nothing else, and the noise of all its steps. `solve`, by the executors scan and segments, and the
floor take turns, and so does the plan with its memory left out: what a plan remembers has to be
moved at every step, and its share is the difference. Then processes of their own are timed from
`import` to the first sample: without a compilation cache, with an empty one, and with the one that
this left. Writes results/floor_<device>.json.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from experiments import quickstart
from experiments.common import machine, runs, tiny
from experiments.common.kept_plans import KeptPlan, read_plan
from experiments.common.samplers import SAMPLERS, path_of
from experiments.common.timing import in_turns, paired, told
from experiments.ladders.shipped import SHIPPED, Trained, load, pick
from mlem_jax import Drift, Ladder, Plan, Problem, Steps, draw_starts, solve
from mlem_jax.plans import make_plan
from mlem_jax.problem import increment_at
from mlem_jax.solver import segments
from mlem_jax.types import Params

ROOT = Path(__file__).parent.parent.parent
FLOOR = "sum of the parts"


class Setting(NamedTuple):
    """What `solve` is given."""

    ladder: Ladder
    problem: Problem
    steps: Steps
    plan: Plan


@dataclasses.dataclass(frozen=True)
class Settings:
    """`solve` over its floor, and the time until a first sample."""

    ladder: Path = SHIPPED
    """Folder of trained levels, with fitted plans in its folder `plans`."""
    budgets: tuple[float, ...] = (8.0, 15.0, 30.0)
    """Of the fitted plans, in evaluations of the top level."""
    images: int = 16
    """Pictures in the batch."""
    repeats: int = 9
    """Timed runs of each kind, in turns."""
    starts: int = 3
    """Processes of each kind, in turns, of which the first sample is awaited."""
    seed: int = 0
    """Of the starts and the path."""
    tiny: bool = False
    """Two random networks and a few steps, to see that it runs."""
    out: Path = Path("results")
    """Where floor_<device>.json goes."""


def main(settings: Settings) -> None:
    """Time, print, write."""
    console = Console(width=100)
    with tiny.settings_of(settings, made_tiny) as asked:
        trained, before = load(asked.ladder), machine.load()
        rows = []
        for budget in asked.budgets:
            with console.status(f"budget {budget:g}"):
                setting = setting_of(trained, read_plan(plan_file(asked.ladder, budget)),
                                     asked.images, asked.seed)  # fmt: skip
                seconds = in_turns(kinds_of(setting), asked.repeats)
            ratios = paired(seconds, FLOOR)
            rows.append({"budget": budget, "seconds": seconds, "ratio_to_floor": ratios,
                         "evaluations": np.asarray(setting.plan.needed.sum(axis=0)).tolist(),
                         "steps": len(setting.steps.t), "load": machine.load()})  # fmt: skip
            for name in list(seconds)[1:]:
                console.print(f"budget {budget:g}: {name} {told(ratios[name])} of the floor, "
                              f"{np.median(seconds[FLOOR]):.2f} s")  # fmt: skip
        with console.status("first samples"):
            starts = first_samples(asked)
        for name, own in starts.items():
            parts = {part: float(np.median([each[part] for each in own])) for part in own[0]}
            listed = ", ".join(f"{part} {taken:.1f} s" for part, taken in parts.items())
            console.print(f"{name}: {listed}")
        result = {"load": [before, machine.load()], "rows": rows, "first_sample": starts}
        runs.finish(f"floor_{machine.device()}", asked, result, console=console)


def made_tiny(settings: Settings, folder: Path) -> Settings:
    """One small plan."""
    small = quickstart.shrink(quickstart.Settings(), folder)
    return dataclasses.replace(settings, ladder=small.ladder, budgets=small.budgets, images=2,
                               repeats=1, starts=1)  # fmt: skip


def plan_file(ladder: Path, budget: float) -> Path:
    """Where the fitted plan of a budget lies."""
    return ladder / quickstart.PLANS / f"ddpm_{budget:g}.npz"


def setting_of(trained: Trained, kept: KeptPlan, images: int, seed: int) -> Setting:
    """A kept plan with starts, and a path along its own steps."""
    start_key, path_key = jax.random.split(jax.random.key(seed))
    samples = jnp.arange(images)
    path = path_of(SAMPLERS[kept.sampler], path_key, kept.times, kept.times, samples, kept.order)
    problem = Problem(draw_starts(start_key, samples, trained.shape), path)
    return Setting(pick(trained, kept.levels).ladder, problem, kept.steps, kept.plan)


def kinds_of(setting: Setting) -> dict[str, Callable[[], Any]]:
    """`solve` by its executors, and the floor."""
    ladder, problem, steps, plan = setting
    counts = np.asarray(plan.needed.sum(axis=0)).tolist()
    forgetful = make_plan(plan.weights, plan.needed)

    def parts() -> list[jax.Array]:
        ends = [evaluated(drift, params, problem.x, steps.t[0], count)
                for drift, params, count in zip(ladder.drifts, ladder.params, counts, strict=True)
                if count]  # fmt: skip
        return [*ends, noise_alone(problem, steps)]

    return {
        FLOOR: parts,
        "scan": lambda: solve(*setting),
        "scan, nothing remembered": lambda: solve(ladder, problem, steps, forgetful),
        "segments": lambda: solve(*setting, executor=segments),
    }


@partial(jax.jit, static_argnums=(0, 4))
def evaluated(drift: Drift, params: Params, x: jax.Array, t: jax.Array, count: int) -> jax.Array:
    """One level so many times, each on what the last one left."""

    def body(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return 0.5 * x + 0.5 * drift(params, x, t), None

    return jax.lax.scan(body, x, None, length=count)[0]


@jax.jit
def noise_alone(problem: Problem, steps: Steps) -> jax.Array:
    """The steps without an estimate."""

    def body(x: jax.Array, n: jax.Array) -> tuple[jax.Array, None]:
        increment = increment_at(problem, n, x)
        moved = steps.scale[n] * x
        return moved if increment is None else moved + steps.noise[n] * increment, None

    return jax.lax.scan(body, problem.x, jnp.arange(len(steps.t)))[0]


def first_samples(settings: Settings) -> dict[str, list[dict[str, float]]]:
    """Seconds of each part until the first sample, in processes with and without a cache."""
    found: dict[str, list[dict[str, float]]] = {}
    command = [sys.executable, "-m", "experiments.micro.first_sample",
               str(settings.ladder.absolute()),
               str(plan_file(settings.ladder.absolute(), settings.budgets[0]))]  # fmt: skip
    for _ in range(settings.starts):
        with tempfile.TemporaryDirectory() as folder:
            # By default compilations of less than a second are not kept.
            cached = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": folder,
                      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}  # fmt: skip
            for name, given in {
                "no cache": {"JAX_ENABLE_COMPILATION_CACHE": "false"},
                "an empty cache": cached,
                "the cache of the last run": cached,
            }.items():
                ran = subprocess.run(command, cwd=ROOT, env={**os.environ, **given}, check=True,
                                     capture_output=True, text=True)  # fmt: skip
                found.setdefault(name, []).append(json.loads(ran.stdout.splitlines()[-1]))
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings))
