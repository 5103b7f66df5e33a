"""How fast is everything on this device? One script for a laptop and for a GPU, in five minutes.

Time per level by batch, in single and in half precision, with the error that half precision causes;
`solve` by scan and by segments against the sum of its parts; the rows of the quickstart, a step of
learning, a step of training. What takes turns is compared turn by turn. Writes
results/accelerator_<device>.json and .png.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from experiments import quickstart
from experiments.common import machine, runs, tiny
from experiments.common.benchmark import Benchmark, ends_of
from experiments.common.kept_plans import read_plan
from experiments.common.samplers import reference_grid
from experiments.common.timing import in_turns, paired, told
from experiments.ladders import train
from experiments.ladders.recipes import Recipe
from experiments.ladders.shipped import PREDICTION, PROCESS, SHIPPED, Trained, load, pick
from experiments.micro import accelerator_figure, floor, learning_cost
from mlem_jax import Ladder, checkpoint, draw_starts, solve, solve_path
from mlem_jax.evaluate import square_errors
from mlem_jax.levels import linen
from mlem_jax.nets import Architecture, denoising_trainer

HALF = jnp.bfloat16
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time levels, executors, the quickstart, learning and training on the device that is found."""

    ladder: Path = SHIPPED
    """Folder of trained levels, with fitted plans in its folder `plans`."""
    batches: tuple[int, ...] = (1, 8, 64, 256)
    """Pictures in one evaluation of a level."""
    half_batches: tuple[int, ...] = (64,)
    """The same, in half precision."""
    images: int = 16
    """Pictures drawn, and learned from."""
    budget: float = 15.0
    """Of the fitted plan and of the quickstart, in evaluations of the top level."""
    repeats: int = 5
    """Timed runs of each kind, in turns."""
    most_seconds: float = 1.5
    """A level is not tried at batches where a timed run would take longer."""
    tiny: bool = False
    """Two random networks and a few steps, to see that it runs."""
    out: Path = Path("results")
    """Where the figures go."""


def main(settings: Settings) -> None:
    """Measure part by part, print, write."""
    console = Console(width=110)
    with tiny.settings_of(settings, made_tiny) as asked:
        trained, half = load(asked.ladder), load(asked.ladder, dtype=HALF)
        parts: dict[str, Callable[[], Any]] = {
            "levels": lambda: time_levels(trained, half, asked),
            "half_precision": lambda: errors_of_half(trained, half, asked),
            "executors": lambda: executors(trained, asked),
            "quickstart": lambda: quickstart_rows(trained, asked),
            "learning": lambda: learning(asked),
            "training": lambda: training(asked),
        }
        result: dict[str, Any] = {"device": machine.device(), "load": [machine.load()], "took": {}}
        for name, run in parts.items():
            begun = time.perf_counter()
            with console.status(name):
                result[name] = run()
            result["took"][name] = round(time.perf_counter() - begun, 1)
            result["load"].append(machine.load())
            console.print(f"{name}: {result['took'][name]:.0f} s")
        say(result, console)
        name = f"accelerator_{machine.device()}"
        runs.finish(name, asked, result, lambda file: accelerator_figure.draw(file, result),
                    console=console)  # fmt: skip


def made_tiny(settings: Settings, folder: Path) -> Settings:
    """As little as there can be of everything."""
    small = quickstart.shrink(quickstart.Settings(), folder)
    return dataclasses.replace(settings, ladder=small.ladder, batches=(1, 2), half_batches=(2,),
                               images=2, budget=small.budgets[0], repeats=1)  # fmt: skip


def time_levels(trained: Trained, half: Trained, settings: Settings) -> list[Row]:
    """Seconds of an evaluation of each level, inside a scan, at each batch and precision."""
    rows: list[Row] = []
    given = {("float32", k): (trained.ladder.drifts[k], own)
             for k, own in enumerate(trained.ladder.params)}  # fmt: skip
    given |= {(HALF.__name__, k): (half.ladder.drifts[k], own)
              for k, own in enumerate(half.ladder.params)}  # fmt: skip
    slow: set[tuple[str, int]] = set()
    for batch in sorted({*settings.batches, *settings.half_batches}):
        x = draw_starts(jax.random.key(0), np.arange(batch), trained.shape)
        t, count = jnp.asarray(PROCESS.end / 2, x.dtype), max(2, 64 // batch)
        asked = {"float32": settings.batches, HALF.__name__: settings.half_batches}
        kinds = {kind: lambda own=own: floor.evaluated(own[0], own[1], x, t, count)  # noqa: B023
                 for kind, own in given.items()
                 if kind not in slow and batch in asked[kind[0]]}  # fmt: skip
        for (dtype, k), taken in in_turns(kinds, settings.repeats).items():
            each = [seconds / count for seconds in taken]
            rows.append({"level": k + 1, "dtype": dtype, "batch": batch, "seconds": each})
            larger = [other for other in asked[dtype] if other > batch]
            if larger and np.median(each) * max(2, 64 // larger[0]) * larger[0] / batch > (
                settings.most_seconds
            ):
                slow.add((dtype, k))
    return rows


def errors_of_half(trained: Trained, half: Trained, settings: Settings) -> Row:
    """Mean squares of what half precision changes: in one evaluation, and at the end of a plan."""
    kept = read_plan(floor.plan_file(settings.ladder, settings.budget))
    setting = floor.setting_of(trained, kept, settings.images, seed=1)
    count = len(setting.steps.t)
    keep = np.unique(np.linspace(0, count - 1, 5).astype(int))
    states = solve_path(*setting, keep=keep).states
    rows = []
    for k, (drift, halved) in enumerate(zip(trained.ladder.drifts, half.ladder.drifts,
                                            strict=True)):  # fmt: skip
        run, run_half, top = jax.jit(drift), jax.jit(halved), jax.jit(trained.ladder.drifts[-1])
        own, to_top = [], []
        for n, x in zip(keep, states, strict=True):
            t = setting.steps.t[n]
            whole = run(trained.ladder.params[k], x, t)
            own.append(run_half(half.ladder.params[k], x, t) - whole)
            to_top.append(top(trained.ladder.params[-1], x, t) - whole)
        means = [float(np.mean(np.square(each))) for each in (own, to_top)]
        rows.append({"level": k + 1, "of_half_precision": means[0], "distance_to_top": means[1]})
    ends = {"float32": solve(*setting)}
    for level in kept.levels:
        mixed = with_half(trained.ladder, half.ladder, (level,))
        ends[f"level {level} in {HALF.__name__}"] = solve(
            pick(trained._replace(ladder=mixed), kept.levels).ladder, *setting[1:]
        )
    changed = {name: float(square_errors(end, ends["float32"]).mean())
               for name, end in ends.items() if name != "float32"}  # fmt: skip
    return {"t": np.asarray(setting.steps.t)[keep].tolist(), "evaluations": rows,
            "ends_of_the_plan": changed}  # fmt: skip


def with_half(whole: Ladder, half: Ladder, numbers: tuple[int, ...]) -> Ladder:
    """Some levels in half precision."""
    drifts, params = (
        tuple(given[1] if k + 1 in numbers else given[0]
              for k, given in enumerate(zip(*each, strict=True)))
        for each in ((whole.drifts, half.drifts), (whole.params, half.params))
    )  # fmt: skip
    return Ladder(drifts, params, whole.costs)


def executors(trained: Trained, settings: Settings) -> Row:
    """`solve` by scan and by segments, and the sum of the parts."""
    kept = read_plan(floor.plan_file(settings.ladder, settings.budget))
    setting = floor.setting_of(trained, kept, settings.images, seed=0)
    seconds = in_turns(floor.kinds_of(setting), settings.repeats)
    return {"seconds": seconds, "ratio_to_floor": paired(seconds, floor.FLOOR)}


def quickstart_rows(trained: Trained, settings: Settings) -> list[Row]:
    """The rivals of one budget, as the quickstart runs them, and their seconds."""
    asked = quickstart.Settings(ladder=settings.ladder, budgets=(settings.budget,))
    if settings.tiny:
        asked = dataclasses.replace(asked, images=2, reference_steps=24, base_steps=16)
    keys = jax.random.split(jax.random.key(asked.seed), 3)
    samples, fine = jnp.arange(asked.images), reference_grid(asked.reference_steps)
    x = draw_starts(keys[0], samples, trained.shape)
    benchmark = Benchmark(asked.sampler, x, samples, keys[1], fine, x)
    rows = []
    for run in quickstart.rivals(asked, trained, fine, keys[2]):
        _, seconds = ends_of(run, trained, benchmark)
        rows.append({"name": run.parameters["name"], "grid": run.method.grid, "seconds": seconds})
    return rows


def learning(settings: Settings) -> Row:
    """A step of learning the gates, and a plain run of the same plans."""
    asked = learning_cost.Settings(ladder=settings.ladder, batch=settings.images, base_steps=20,
                                   budget=10.0, groups=2, tangents=(1,),
                                   repeats=min(3, settings.repeats))  # fmt: skip
    if settings.tiny:
        asked = dataclasses.replace(asked, base_steps=8, budget=4.0)
    setting = learning_cost.setting_of(load(asked.ladder), asked, asked.base_steps)
    seconds = learning_cost.time_in_turns(setting, asked)
    return {"seconds": seconds, "ratio_to_plain": paired(seconds, "plain")}


def training(settings: Settings) -> Row:
    """Pictures a second in steps of training the top level."""
    level = len(list(settings.ladder.glob("level_*")))
    about = checkpoint.read_about(settings.ladder / f"level_{level}")
    recipe, shape = Recipe(Architecture(**about["architecture"])), tuple(about["shape"])
    network, key = train.network_of(recipe.architecture), jax.random.key(0)
    trainer = denoising_trainer(PROCESS, PREDICTION, linen(network), train.optimiser_of(recipe))
    state, step = trainer.init(train.initial(network, shape, 0)), jax.jit(trainer.step)
    pictures = jnp.clip(draw_starts(key, np.arange(settings.images), shape), -1, 1)
    seconds = in_turns({"step": lambda: step(state, pictures, key, None)}, settings.repeats)
    return {"batch": settings.images, "seconds": seconds["step"],
            "images_per_second": settings.images / float(np.median(seconds["step"]))}  # fmt: skip


def say(result: dict[str, Any], console: Console) -> None:
    """The figures as one reads them."""
    for row in result["levels"]:
        each = 1e3 * np.median(row["seconds"]) / row["batch"]
        console.print(f"level {row['level']}, {row['dtype']}, batch {row['batch']}: {each:.3f} ms "
                      "an image")  # fmt: skip
    for row in result["half_precision"]["evaluations"]:
        console.print(f"level {row['level']}: half precision changes {row['of_half_precision']:.1e}"
                      f", the top {row['distance_to_top']:.1e}")  # fmt: skip
    for name, error in result["half_precision"]["ends_of_the_plan"].items():
        console.print(f"the plan's end, {name}: off by {error:.1e}")
    for name, ratio in result["executors"]["ratio_to_floor"].items():
        console.print(f"{name}: {told(ratio)} of the sum of the parts")
    for row in result["quickstart"]:
        console.print(f"{row['name']}, {row['grid']}: {np.median(row['seconds']):.2f} s")
    for name, ratio in result["learning"]["ratio_to_plain"].items():
        console.print(f"{name}: {np.median(result['learning']['seconds'][name]):.2f} s, "
                      f"{told(ratio)} of a plain run")  # fmt: skip
    console.print(
        f"training the top: {result['training']['images_per_second']:.1f} images a second"
    )


if __name__ == "__main__":
    main(tyro.cli(Settings))
