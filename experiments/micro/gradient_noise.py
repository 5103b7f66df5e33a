"""How noisy is the gradient of the gates, and which part of it?

At the gates that learning begins with, takes both estimates from many groups with all directions of
the forward gradient, so that what is left is the noise of the draws and of the samples: of the path
term, of the score term with and without a baseline, and of the leading-order estimate. One random
direction instead of all adds (d + 1) E|path|^2. Writes results/gradient_noise.json.
"""

import dataclasses
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

from experiments.common import runs, tiny
from experiments.common.samplers import SAMPLERS, fine_grid, path_of
from experiments.ladders.shipped import SHIPPED, load
from experiments.paper.gates import theory_start
from mlem_jax import Ladder, Problem, draw_starts, draws, gates, learn
from mlem_jax.evaluate import Batch, make_reference

ESTIMATES = {"both": learn.score_function_terms, "leading order": learn.leading_order_terms}


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
    tiny: bool = False
    """Two random networks and a few steps, to see that it runs."""
    out: Path = Path("results")
    """Where gradient_noise.json goes."""


def main(settings: Settings) -> None:
    """Estimate group by group, then print and write means and noise."""
    console = Console(width=100)
    with tiny.settings_of(settings, made_tiny) as asked:
        rows = [row_of(part, each) for part, each in parts_of(asked, console).items()]
        console.print(shown(rows))
        runs.finish("gradient_noise", asked, {"rows": rows}, console=console)


def made_tiny(settings: Settings, folder: Path) -> Settings:
    """Two groups, a few steps."""
    ladder = tiny.random_ladder(folder)
    return dataclasses.replace(settings, ladder=ladder, groups=2, base_steps=8, budget=4.0)


def parts_of(settings: Settings, console: Console) -> dict[str, np.ndarray]:
    """Each part of the gradient, [groups, parameters]."""
    errors, path, score, leading = gradients_of_groups(settings, console)
    baseline = np.asarray(learn.leave_one_out(jnp.asarray(errors)))
    centred = (errors - baseline)[:, None] * score
    return {
        "path": path,
        "score, no baseline": errors[:, None] * score,
        "score, leave-one-out": centred,
        "score function and path": path + centred,
        "leading order": leading,
    }


def gradients_of_groups(settings: Settings, console: Console) -> tuple[np.ndarray, ...]:
    """Errors [groups], and path, score and leading-order terms [groups, parameters]."""
    trained, sampler = load(settings.ladder), SAMPLERS[settings.sampler]
    times = fine_grid(settings.base_steps)
    steps = sampler.table(times)
    family = gates.log_linear(theory_start(trained, settings.base_steps, settings.budget))
    theta = family.init()
    flat, unravel = ravel_pytree(theta)
    basis = jax.vmap(unravel)(len(flat) ** 0.5 * jnp.eye(len(flat)))
    start_key, path_key, gate_key = jax.random.split(jax.random.key(settings.seed), 3)

    @jax.jit
    def terms_of(ladder: Ladder, batch: Batch, key: jax.Array) -> dict[str, learn.Terms]:
        openings = draws.independent.openings(key, family.logits(theta, steps.t))
        return {
            name: estimate(ladder, batch, steps, family, theta, openings, basis)
            for name, estimate in ESTIMATES.items()
        }

    rows = []
    for group in track(range(settings.groups), "groups", console=console):
        samples = group * settings.group + jnp.arange(settings.group)
        path = path_of(sampler, path_key, times, times, samples)
        problem = Problem(draw_starts(start_key, samples, trained.shape), path)
        batch = make_reference(trained.ladder, problem, steps)
        terms = terms_of(trained.ladder, batch, jax.random.fold_in(gate_key, group))
        both = terms["both"]
        parts = (both.error, both.path, both.score, terms["leading order"].path)
        rows.append([np.asarray(ravel_pytree(part)[0]) for part in parts])
    errors, *others = (np.stack(column) for column in zip(*rows, strict=True))
    return errors[:, 0], *others


def row_of(part: str, each: np.ndarray) -> dict[str, Any]:
    """Mean and noise of a part [groups, parameters]."""
    groups, size = each.shape
    forward = part in ("path", "leading order")
    return {
        "part": part,
        "mean": each.mean(axis=0).tolist(),
        "standard_error": (each.std(axis=0, ddof=1) / groups**0.5).tolist(),
        "noise": float(each.var(axis=0, ddof=1).sum()),
        "one_direction_adds": float((size + 1) * (each**2).sum(axis=1).mean()) if forward else None,
    }


def shown(rows: list[dict[str, Any]]) -> Table:
    """The rows as one reads them."""
    table = Table("part", "mean", "noise of a group", "one direction adds",
                  caption="noise: variance summed over parameters")  # fmt: skip
    for row in rows:
        added = row["one_direction_adds"]
        table.add_row(row["part"], " ".join(f"{value:.3f}" for value in row["mean"]),
                      f"{row['noise']:.1e}", "" if added is None else f"{added:.1e}")  # fmt: skip
    return table


if __name__ == "__main__":
    main(tyro.cli(Settings))
