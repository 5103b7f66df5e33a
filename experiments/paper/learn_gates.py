"""When should which level run? Learns p_k(t) on a trained ladder, for DDPM and for DDIM.

Forward gradients, no backpropagation: by the leading-order estimate, or as in the paper
(arXiv:2603.24594, section 4) with the score function. Each step draws new starts, takes the top
level along the same paths as reference, and lets every group of pictures draw its own gates. Killed
at any moment, the same command goes on where it was. Writes the gates and
results/learned_gates.json and .png.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import tyro
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.common import runs, tiny
from experiments.common.samplers import SAMPLERS, fine_grid, path_of
from experiments.ladders.resume import keep_state, last_state
from experiments.ladders.shipped import PROCESS, SHIPPED, Trained, load
from experiments.ours import sensitivities
from experiments.paper.gates import families, family_of, free_start, theory_start
from mlem_jax import Problem, checkpoint, draw_starts, gates
from mlem_jax.evaluate import Batch, make_reference
from mlem_jax.learn import (
    LearnState,
    gate_learner,
    leading_order_terms,
    orthogonal_directions,
    score_function_terms,
)

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
    """What draws the pictures; each has its own gates."""
    steps: int = 20
    """Steps of learning."""
    batch: int | None = None
    """Pictures per step; default: 300 as in the paper on a GPU, 48 on a CPU."""
    group: int = 2
    """Pictures that share a draw of the gates: 1 in the paper, more where a device wants it."""
    penalty: float = 1e-3
    """lambda: square error (mean over pixels) worth one evaluation of the top level."""
    base_steps: int = 100
    """Steps of the sampler."""
    start_budget: float = 30.0
    """Expected cost of the gates one begins with, in evaluations of the top level."""
    knots: tuple[float, ...] = (0.0, 0.1, 0.25, 0.4, 0.55, 0.65, 0.72, 0.79, 0.86, 0.93, 1.0)
    """Times between which logits are linear; learning begins at the gates of a pilot run. With none
    the gates are the paper's, sigmoid(alpha_k log(t + delta) + beta_k), and begin at those of
    theory, p_k = min(1, C T_k^-(1/gamma + 1/2))."""
    pilot: Path = Path("results/pilot")
    """What experiments.ours.pilot measured, one file per sampler."""
    delta: float = 0.1
    """Of the paper's gates."""
    learning_rate: float = 0.05
    """Of Adam, at the beginning; it falls to 0 like a cosine."""
    estimate: Literal["score-function", "leading-order"] = "score-function"
    """Of the gradient: the first is the paper's and has no bias, the second is far less noisy."""
    tangents: int = 2
    """Directions of the forward gradient per group; with one for each parameter it is exact."""
    seed: int = 0
    """Of the starts, the paths, the gates and the directions."""
    tiny: bool = False
    """On a random ladder, with the paper's gates, to see in seconds that it runs."""
    runs: Path = Path("runs/gates")
    """Checkpoints and logs, one folder per sampler; resumed if it is there."""
    out: Path = Path("results")
    """Where learned_gates.json, learned_gates.png and the gates themselves go."""


def main(settings: Settings) -> None:
    """Learn for every sampler, then write gates, figures and picture."""
    with tiny.settings_of(settings, small) as own:
        run(own)


def small(settings: Settings, folder: Path) -> Settings:
    """What `--tiny` runs."""
    return dataclasses.replace(
        settings, ladder=tiny.random_ladder(folder / "ladder"), samplers=("ddpm",), steps=3,
        batch=4, group=2, base_steps=4, knots=(), start_budget=3.0, runs=folder / "runs",
    )  # fmt: skip


def run(settings: Settings) -> None:
    """As `main`, of settings that are meant.

    Raises:
        ValueError: if the batch cannot be cut into the groups.
    """
    trained = load(settings.ladder, settings.levels)
    if settings.batch is None:
        on_cpu = jax.default_backend() == "cpu"
        settings = dataclasses.replace(settings, batch=48 if on_cpu else 300)
    if cast(int, settings.batch) % settings.group:
        raise ValueError(f"expected a batch that is a multiple of the group of {settings.group}, "
                         f"got {settings.batch}")  # fmt: skip
    begun = {name: gates_begun(name, trained, settings) for name in settings.samplers}
    learned = {name: learn(name, about, trained, settings) for name, about in begun.items()}
    times = np.linspace(0.0, PROCESS.end, 101)

    def table(name: str, theta: Any) -> np.ndarray:
        logits = family_of(begun[name]).logits(theta, jnp.asarray(times))
        return np.asarray(gates.to_probabilities(logits))

    starts = {name: table(name, family_of(about).init()) for name, about in begun.items()}
    tables = {name: table(name, state.theta) for name, state in learned.items()}
    samplers = {
        name: {
            "gates": begun[name],
            "theta": as_lists(state.theta),
            "probabilities": tables[name].tolist(),
            "log": runs.read_log(settings.runs / name / "log.jsonl"),
        }
        for name, state in learned.items()
    }
    for name, state in learned.items():
        about = {**begun[name], "sampler": name, "settings": determining(settings)}
        checkpoint.save(settings.out / "learned_gates" / name, state.theta, about=about)
    result = {"costs": trained.ladder.costs, "t": times.tolist(), "samplers": samplers}
    runs.finish("learned_gates", settings, result,
                lambda file: draw_gates(file, times, tables, starts), apart=("pilot",))  # fmt: skip
    Console().print(f"and the gates in {settings.out}/learned_gates/")


def gates_begun(name: str, trained: Trained, settings: Settings) -> dict[str, Any]:
    """What `family_of` makes the gates of a sampler from; kept with what is learned."""
    about = {"delta": settings.delta, "knots": list(settings.knots)}
    if settings.knots:
        # The budget is that of the steps, which are uniform in time; the knots need not be.
        steps = SAMPLERS[name].table(times := fine_grid(settings.base_steps))
        found = sensitivities.read(settings.pilot / f"{name}.npz", steps)
        own, costs = families(trained, found)["pilot"], trained.ladder.costs
        table = free_start(own, steps.t, costs, settings.start_budget)
        at_knots = [np.interp(settings.knots, times[-2::-1], column[::-1]) for column in table.T]
        return {"start": np.stack(at_knots, axis=1).tolist(), **about}
    return {"start": theory_start(trained, settings.base_steps, settings.start_budget), **about}


def learn(name: str, start: dict[str, Any], trained: Trained, settings: Settings) -> LearnState:
    """Learn the gates of one sampler from its last checkpoint on."""
    directory, family, ladder = settings.runs / name, family_of(start), trained.ladder
    about = {"sampler": name, "costs": ladder.costs, "losses": trained.losses, **start}
    runs.check_settings(directory, determining(settings) | about)
    times = fine_grid(settings.base_steps)
    steps, batch = SAMPLERS[name].table(times), cast(int, settings.batch)
    learner = gate_learner(
        steps,
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
        x = draw_starts(start_key, samples, trained.shape)
        path = path_of(SAMPLERS[name], path_key, times, times, samples)
        return make_reference(ladder, Problem(x, path), steps)

    step = jax.jit(learner.step)
    state, log = learner.init(), directory / "log.jsonl"
    _, state = last_state(directory / "states", state)
    runs.cut_log(log, int(state.step))
    with progress() as bar:
        task = bar.add_task(name, total=settings.steps, completed=int(state.step), told="")
        for number in range(int(state.step), settings.steps):
            begun = time.monotonic()
            key = jax.random.fold_in(learn_key, number)
            state, info = step(state, ladder, batch_of(number), key)
            told = {what: float(value) for what, value in info._asdict().items()}
            runs.append(log, step=number + 1, **told, theta=as_lists(state.theta),
                        seconds=time.monotonic() - begun)  # fmt: skip
            keep_state(directory / "states", number + 1, state)
            bar.update(
                task,
                completed=number + 1,
                told=f"loss {told['loss']:.3f} error {told['error']:.3f} "
                f"cost {told['cost']:.0f} gradient {told['gradient']:.2f}",
            )
    return state


def determining(settings: Settings) -> dict[str, Any]:
    """All that the learned gates depend on."""
    return runs.recorded(settings, apart=("pilot",))


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
    file: Path, times: np.ndarray, tables: dict[str, np.ndarray], starts: dict[str, np.ndarray]
) -> None:
    """p_k(t) of every level, one panel per sampler; dashed where learning began."""
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
