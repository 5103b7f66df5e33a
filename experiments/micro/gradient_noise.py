"""How noisy is the gradient of the gates, and which part of it?

At the gates that learning begins with, takes both estimates from many groups with all directions of
the forward gradient, so that what is left is the noise of the draws and of the samples: of the path
term, of the score term with and without a baseline, and of the leading-order estimate. One random
direction instead of all adds (d + 1) E|path|^2. Writes results/gradient_noise.json.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.common import runs
from experiments.paper.gates import theory_start
from experiments.ladders.shipped import PROCESS, SHIPPED, load
from experiments.paper.learn_gates import ESTIMATES
from experiments.common.machine import provenance
from experiments.common.samplers import SAMPLERS, path_of
from mlem_jax import gates, gradients, steps
from mlem_jax.draws import independent
from mlem_jax.evaluate import Batch, couple
from mlem_jax.noise import draw_starts


@dataclasses.dataclass(frozen=True)
class Settings:
    """Noise of the two estimates of the gradient."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """What draws the pictures."""
    groups: int = 32
    """Draws of the gates."""
    group: int = 4
    """Pictures that share one."""
    base_steps: int = 100
    """Steps of the sampler."""
    budget: float = 40.0
    """Expected cost of a run, in evaluations of the top level."""
    seed: int = 11
    """Of the starts, the paths and the gates."""
    out: Path = Path("results")
    """Where gradient_noise.json goes."""


def main(settings: Settings) -> None:
    """Estimate group by group, then print and write means and noise."""
    console = Console(width=100)
    errors, path, score, leading = gradients_of_groups(settings, console)
    baseline = np.asarray(gradients.leave_one_out(jnp.asarray(errors)))
    size = path.shape[1]
    parts = {
        "path": path,
        "score, no baseline": errors[:, None] * score,
        "score, leave-one-out": (errors - baseline)[:, None] * score,
        "score function and path": path + (errors - baseline)[:, None] * score,
        "leading order": leading,
    }
    rows = [
        {
            "part": name,
            "mean": own.mean(axis=0).tolist(),
            "standard_error": (own.std(axis=0, ddof=1) / len(own) ** 0.5).tolist(),
            "noise": float(own.var(axis=0, ddof=1).sum()),
            "one_direction_adds": float((size + 1) * (own**2).sum(axis=1).mean())
            if name in ("path", "leading order")
            else None,
        }
        for name, own in parts.items()
    ]
    table = Table("part", "mean", "noise of a group", "one direction adds",
                  caption="noise: variance summed over parameters")  # fmt: skip
    for row in rows:
        added = row["one_direction_adds"]
        table.add_row(row["part"], " ".join(f"{value:.3f}" for value in row["mean"]),
                      f"{row['noise']:.1e}", "" if added is None else f"{added:.1e}")  # fmt: skip
    console.print(table)
    settings.out.mkdir(parents=True, exist_ok=True)
    result = {
        **provenance("experiments.micro.gradient_noise"),
        "settings": runs.recorded(settings),
        "rows": rows,
    }
    (settings.out / "gradient_noise.json").write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"wrote {settings.out}/gradient_noise.json")


def gradients_of_groups(settings: Settings, console: Console) -> tuple[np.ndarray, ...]:
    """Errors [groups], and path, score and leading-order terms [groups, parameters]."""
    ladder, sampler = load(settings.ladder), SAMPLERS[settings.sampler]
    family = gates.log_linear_gates(theory_start(ladder, settings.base_steps, settings.budget))
    theta = family.init()
    grid = steps.uniform_grid(PROCESS.end, 0.0, settings.base_steps)
    table = sampler.table(grid)
    start_key, path_key, gate_key = jax.random.split(jax.random.key(settings.seed), 3)
    flat, unravel = ravel_pytree(theta)
    basis = jax.vmap(unravel)(len(flat) ** 0.5 * jnp.eye(len(flat)))

    @jax.jit
    def terms_of(params: Any, batch: Batch, key: jax.Array) -> dict[str, Any]:
        fires = independent(key, family.logits(theta, table.t))
        return {
            name: estimate(ladder.levels, params, batch, table, family, theta, fires, basis)
            for name, estimate in ESTIMATES.items()
        }

    rows = []
    for group in track(range(settings.groups), "groups", console=console):
        samples = group * settings.group + jnp.arange(settings.group)
        x = draw_starts(start_key, samples, ladder.shape)
        path = path_of(sampler, path_key, grid, grid, samples)
        batch = couple(ladder.levels, ladder.params, x, table, path)
        terms = terms_of(ladder.params, batch, jax.random.fold_in(gate_key, group))
        both, leading = terms["score-function"], terms["leading-order"]
        parts = (both.error, both.path, both.score, leading.path)
        rows.append([np.asarray(ravel_pytree(part)[0]) for part in parts])
    errors, *others = (np.stack(column) for column in zip(*rows, strict=True))
    return errors[:, 0], *others


if __name__ == "__main__":
    main(tyro.cli(Settings))
