"""When should which level run? Learns p_k(t) on a trained ladder, for DDPM and for DDIM.

Forward gradients, no backpropagation: by the leading-order estimate, or as in the paper
(arXiv:2603.24594, section 4) with the score function. Each step draws new starts, takes the top
level along the same paths as reference, and lets every group of pictures draw its own gates. Killed
at any moment, the same command goes on where it was. Writes the gates and
results/learned_gates.json and .png.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import orbax.checkpoint as ocp
import tyro
from jax.flatten_util import ravel_pytree
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.common import runs
from experiments.paper.gates import effects_at, families, family_of, free_start, theory_start
from experiments.ladders.shipped import PROCESS, SHIPPED, Ladder, load
from experiments.common.machine import provenance
from experiments.common.samplers import SAMPLERS, path_of
from mlem_jax import checkpoint, gates, steps
from mlem_jax.evaluate import Batch, couple
from mlem_jax.gradients import orthogonal_directions
from mlem_jax.learn import (
    LearnInfo,
    LearnState,
    gate_learner,
    leading_order_terms,
    score_function_terms,
)
from mlem_jax.noise import draw_starts

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ESTIMATES = {"leading-order": leading_order_terms, "score-function": score_function_terms}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Learn gates on a trained ladder."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    levels: tuple[int, ...] = ()
    """Which of them to use, 1 the cheapest; default: all."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures; each has gates of its own."""
    steps: int = 50
    """Steps of learning."""
    batch: int | None = None
    """Pictures a step; default: 300 as in the paper on a GPU, 48 on a CPU."""
    group: int = 2
    """Pictures that share a draw of the gates: 1 in the paper, more where a device wants it."""
    penalty: float = 1e-3
    """lambda: square error (mean over pixels) worth one evaluation of the top level."""
    base_steps: int = 100
    """Steps of the sampler."""
    start_budget: float = 50.0
    """Expected cost of the gates one begins with, in evaluations of the top level."""
    knots: tuple[float, ...] = (0.0, 0.1, 0.25, 0.4, 0.55, 0.65, 0.72, 0.79, 0.86, 0.93, 1.0)
    """Times between which logits are linear; learning begins at the gates of a pilot run. With none
    the gates are the paper's, sigmoid(alpha_k log(t + delta) + beta_k), and begin at those of
    theory, p_k = min(1, C T_k^-(1/gamma + 1/2))."""
    pilot: Path = Path("results/pilot")
    """What experiments.ours.pilot measured, one file a sampler."""
    delta: float = 0.1
    """Of the paper's gates."""
    learning_rate: float = 0.05
    """Of Adam, at the beginning; it falls to 0 like a cosine."""
    estimate: Literal["score-function", "leading-order"] = "score-function"
    """Of the gradient: the first is the paper's and has no bias, the second is far less noisy."""
    tangents: int = 2
    """Directions of the forward gradient a group; with one for each parameter it is exact."""
    seed: int = 0
    """Of the starts, the paths, the gates and the directions."""
    runs: Path = Path("runs/gates")
    """Checkpoints and logs, one folder a sampler; resumed if it is there."""
    out: Path = Path("results")
    """Where learned_gates.json, learned_gates.png and the gates themselves go."""


def main(settings: Settings) -> None:
    """Learn for every sampler, then write gates, figures and picture."""
    ladder = load(settings.ladder, settings.levels)
    if settings.batch is None:
        on_cpu = jax.default_backend() == "cpu"
        settings = dataclasses.replace(settings, batch=48 if on_cpu else 300)
    if cast(int, settings.batch) % settings.group:
        raise ValueError(f"expected a batch that is a multiple of the group of {settings.group}, "
                         f"got {settings.batch}")  # fmt: skip
    begun = {name: gates_begun(name, ladder, settings) for name in settings.samplers}
    learned = {name: learn(name, about, ladder, settings) for name, about in begun.items()}
    times = np.linspace(0.0, PROCESS.end, 101)

    def table(name: str, theta: Any) -> np.ndarray:
        logits = family_of(begun[name]).logits(theta, jnp.asarray(times))
        return np.asarray(gates.probabilities(logits))

    tables = {name: table(name, state.theta) for name, state in learned.items()}
    starts = {name: table(name, family_of(about).init()) for name, about in begun.items()}
    result = {
        **provenance("experiments.paper.learn_gates"),
        "settings": determining(settings),
        "costs": ladder.levels.costs,
        "t": times.tolist(),
        "samplers": {
            name: {
                "gates": begun[name],
                "theta": as_lists(state.theta),
                "probabilities": tables[name].tolist(),
                "log": [json.loads(line) for line in
                        (settings.runs / name / "log.jsonl").read_text().splitlines()],
            }
            for name, state in learned.items()
        },
    }  # fmt: skip
    settings.out.mkdir(parents=True, exist_ok=True)
    for name, state in learned.items():
        about = {**begun[name], "sampler": name, "settings": result["settings"]}
        checkpoint.save(settings.out / "learned_gates" / name, state.theta, about=about)
    (settings.out / "learned_gates.json").write_text(json.dumps(result) + "\n")
    draw_gates(str(settings.out / "learned_gates.png"), times, tables, starts)
    print(f"wrote {settings.out}/learned_gates.json, .png, and the gates in learned_gates/")


def gates_begun(name: str, ladder: Ladder, settings: Settings) -> dict[str, Any]:
    """What `family_of` makes the gates of a sampler from; kept with what is learned."""
    about = {"delta": settings.delta, "knots": list(settings.knots)}
    if settings.knots:
        # The budget is that of the steps, which are uniform in time; the knots need not be.
        grid = steps.uniform_grid(PROCESS.end, 0.0, settings.base_steps)[:-1]
        effects = effects_at(settings.pilot / f"{name}.npz", grid)
        own = families(ladder, settings.base_steps, effects)["pilot"]
        table = free_start(ladder, own, settings.start_budget)
        at_knots = [np.interp(settings.knots, grid[::-1], column[::-1]) for column in table.T]
        return {"start": np.stack(at_knots, axis=1).tolist(), **about}
    return {"start": theory_start(ladder, settings.base_steps, settings.start_budget), **about}


def learn(name: str, start: dict[str, Any], ladder: Ladder, settings: Settings) -> LearnState:
    """Learn the gates of one sampler from its last checkpoint on."""
    directory, family = settings.runs / name, family_of(start)
    about = {"sampler": name, "costs": ladder.levels.costs, "losses": ladder.losses, **start}
    runs.check_settings(directory, determining(settings) | about)
    grid = steps.uniform_grid(PROCESS.end, 0.0, settings.base_steps)
    sampler = SAMPLERS[name]
    table, batch = sampler.table(grid), cast(int, settings.batch)
    learner = gate_learner(
        ladder.levels,
        table,
        family,
        optax.adam(optax.cosine_decay_schedule(settings.learning_rate, settings.steps)),
        penalty=settings.penalty,
        groups=batch // settings.group,
        estimate=ESTIMATES[settings.estimate],
        tangents=min(settings.tangents, len(ravel_pytree(family.init())[0])),
        directions=orthogonal_directions,
    )
    start_key, path_key, learn_key = jax.random.split(jax.random.key(settings.seed), 3)

    def batch_of(number: int) -> Batch:
        samples = number * batch + jnp.arange(batch)
        x = draw_starts(start_key, samples, ladder.shape)
        path = path_of(sampler, path_key, grid, grid, samples)
        return couple(ladder.levels, ladder.params, x, table, path)

    step = jax.jit(learner.step)
    state, log = learner.init(), directory / "log.jsonl"
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(directory.absolute() / "states", options=options) as manager:
        if (latest := manager.latest_step()) is not None:
            restored = manager.restore(
                latest, args=ocp.args.StandardRestore(checkpoint.abstract(state))
            )
            state = cast(LearnState, restored)
        runs.cut_log(log, int(state.step))
        with progress() as bar:
            task = bar.add_task(name, total=settings.steps, completed=int(state.step), told="")
            for number in range(int(state.step), settings.steps):
                begun = time.monotonic()
                key = jax.random.fold_in(learn_key, number)
                state, info = step(state, ladder.params, batch_of(number), key)
                told = line_of(info, state)
                runs.append(log, step=number + 1, **told, seconds=time.monotonic() - begun)
                manager.save(number + 1, args=ocp.args.StandardSave(state))
                bar.update(
                    task,
                    completed=number + 1,
                    told=f"loss {told['loss']:.3f} error {told['error']:.3f} "
                    f"cost {told['cost']:.0f} gradient {told['gradient']:.2f}",
                )
    return state


def determining(settings: Settings) -> dict[str, Any]:
    """All that the learned gates depend on."""
    given = runs.recorded(settings)
    return {name: given[name] for name in given if name not in ("runs", "out", "samplers", "pilot")}


def line_of(info: LearnInfo, state: LearnState) -> dict[str, Any]:
    """A line of the log."""
    numbers = {name: float(value) for name, value in info._asdict().items()}
    return numbers | {"theta": as_lists(state.theta)}


def as_lists(theta: Any) -> Any:
    """Parameters of gates as JSON holds them."""
    lists = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), theta)
    return lists._asdict() if hasattr(lists, "_asdict") else lists


def progress() -> Progress:
    """A bar with what one wants to see while it learns."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TextColumn("{task.completed}/{task.total}  {task.fields[told]}"),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )


def draw_gates(
    file: str, times: np.ndarray, tables: dict[str, np.ndarray], starts: dict[str, np.ndarray]
) -> None:
    """p_k(t) of every level, one panel a sampler; dashed where learning began."""
    figure, axes = plt.subplots(
        1, len(tables), figsize=(4.6 * len(tables), 3.4), sharey=True, squeeze=False
    )
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        for level in range(table.shape[1]):
            color = f"C{level}"
            axis.semilogy(times, table[:, level], color, label=f"level {level + 1}")
            axis.semilogy(times, starts[name][:, level], color, linestyle="--", linewidth=0.8)
        axis.set_title(name.upper())
        axis.set_xlabel("t, from the data to the noise")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("probability p_k(t)")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Settings))
