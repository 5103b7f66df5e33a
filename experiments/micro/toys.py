"""Training, learning, fitting and sampling as the scripts do them, on networks of one parameter.

Each writes into a folder, goes on where it was killed, and leaves there the file `end`, which says
to the bit what came out.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import fit, sample
from experiments.common import runs, shards
from experiments.common.processes import Share
from experiments.common.samplers import SAMPLERS, fine_grid
from experiments.ladders.resume import named, pace_of, run_steps
from experiments.ladders.shipped import PREDICTION, PROCESS, Trained, pick
from experiments.paper import learn_gates
from experiments.paper.gates import theory_start
from mlem_jax import Ladder, checkpoint, plans
from mlem_jax.nets import denoising_trainer
from mlem_jax.types import Params

STEPS = 4
"""Of training, of learning and of the sampler."""


def network(params: Params, x: jax.Array, t: jax.Array) -> jax.Array:
    """A network of one parameter; its level is the nearer to the top, the nearer that is to 1."""
    return jnp.tanh(params * x) - 0.1 * t.reshape(t.shape + (1,) * (x.ndim - t.ndim)) * x


def ladder() -> Trained:
    """Two levels."""
    levels = Ladder((network, network), (jnp.float32(0.7), jnp.float32(1.0)), (0.1, 1.0))
    return Trained(levels, (0.5, 0.1), (2, 2, 3))


def training(folder: Path) -> None:
    """Steps with a checkpoint after each, then the average, as `experiments.ladders.train`."""
    optimiser = optax.adam(0.1)
    trainer = denoising_trainer(PROCESS, PREDICTION, network, optimiser)
    pictures = np.random.default_rng(0).uniform(-1, 1, (STEPS, 4, 2, 2, 3)).astype(np.float32)
    key = jax.random.key(0)
    step = jax.jit(lambda state, own: trainer.step(state, own, key, None))
    runs.check_settings(folder, {"steps": STEPS})
    state = run_steps(folder, trainer.init(jnp.float32(0.5)), step, pictures, STEPS, 4,
                      pace_of(None, 0.0, 1))  # fmt: skip
    assert state is not None
    checkpoint.save(folder / "average", state.average, about={"steps": STEPS})
    runs.append(folder / "log.jsonl", step=STEPS, held_out=float(state.average))
    end(folder, state, runs.read_log(folder / "log.jsonl"))


def learning(folder: Path) -> None:
    """Gates, as `experiments.paper.learn_gates`."""
    settings = learn_gates.Settings(
        samplers=("ddpm",), steps=STEPS, batch=4, group=2, base_steps=4, knots=(),
        start_budget=2.0, runs=folder / "runs",
    )  # fmt: skip
    trained = ladder()
    start = {"delta": settings.delta, "knots": [], "start": theory_start(trained, 4, 2.0)}
    state = learn_gates.learn("ddpm", start, trained, settings)
    checkpoint.save(folder / "learned", state.theta, about=start)
    end(folder, state, runs.read_log(folder / "runs" / "ddpm" / "log.jsonl"))


def fitting(folder: Path) -> None:
    """A plan, as `experiments.fit`."""
    given = fit.Settings(ladder=Path("toy"), budget=4.0, images=9, reference_steps=20,
                         runs=folder / "runs", out=folder / "plan.npz")  # fmt: skip
    fit.fit(ladder(), given, factors=(3,), powers=(0.5,), memories=((0, 1), (1, 2)))
    runs.write_whole(folder / "end", (folder / "plan.json").read_text())


def sampling(folder: Path) -> None:
    """Pictures in several files, as `experiments.sample`."""
    given = sample.Settings(images=14, shard=2, chunk=2, out=folder / "pictures")
    steps = SAMPLERS["ddpm"].table(fine_grid(STEPS))
    top = pick(ladder(), (2,))
    source = sample.Source(top, plans.full(STEPS, 1, 1), steps, True, {"level": 2, "steps": STEPS})
    sample.draw_folder(given, source, Share(0, 1))
    # Its sums are of all other files.
    runs.write_whole(folder / "end", (given.out / shards.MANIFEST).read_text())


def end(folder: Path, state: Params, log: list[dict[str, object]]) -> None:
    """A state to the bit, and a log without what a clock has told."""
    leaves = {name: np.asarray(leaf).tobytes().hex() for name, leaf in named(state).items()}
    lines = [{name: value for name, value in line.items() if name not in ("rate", "seconds")}
             for line in log]  # fmt: skip
    runs.write_whole(folder / "end", json.dumps({"state": leaves, "log": lines}))
