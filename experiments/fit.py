"""A fitted plan for a budget: which levels, steps and places, and the weights that go with them.

Candidates are fitted on a pilot batch and judged on pictures that the fit has not seen, the better
half of them on more pictures, until one is left; the top level alone with fitted weights is among
them. Killed at any moment, the same command goes on. Writes the plan, to be run with
`python -m experiments.sample --plan`, and beside it a .json that says what it is.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from experiments.common import runs, tiny
from experiments.common.machine import provenance
from experiments.common.samplers import SAMPLERS, Sampler, coarse_grids, fine_grid
from experiments.ladders.shipped import SHIPPED, Trained, load
from mlem_jax import Problem, brownian_path, draw_starts, save_plan
from mlem_jax.fitting import Candidate, Choice, choose_plan
from mlem_jax.grids import Grid

KINDS = (("uniform", 1), ("log-SNR", 1), ("log-SNR", 2))
"""Grids and orders of the step tables that are tried."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fit a plan for a budget."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    budget: float = 15.0
    """In evaluations of the top level."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """What draws the pictures."""
    images: int = 64
    """Pictures of the pilot batch; a quarter of them judges and is not fitted."""
    reference_steps: int = 1000
    """Steps of the fine solution, by the top level."""
    seed: int = 0
    """Of the starts and the Brownian paths of the pilot batch."""
    runs: Path = Path("runs/fit")
    """Errors of candidates as they come, resumed if they are there."""
    out: Path = Path("runs/plan.npz")
    """The plan; beside it a .json."""
    tiny: bool = False
    """Random small networks, in seconds: to see that it works."""


def main(settings: Settings) -> None:
    """Choose, write, say what came out."""
    console = Console(width=110)
    with tiny.settings_of(settings, shrink) as given:
        trained = load(given.ladder)
        cache = Errors(given.runs / f"{content(trained, given)}.json")
        done = [0]

        def tell(stage: str, candidate: Candidate, error: float) -> None:
            done[0] += 1
            console.print(f"{done[0]:4}  round {stage}  {candidate.name:<58} mse {error:.2e}")

        choice, times = choose(trained, given, cache, tell)
        write(given.out, choice, times, given)
    candidate = choice.candidate
    console.print(
        f"chosen: {candidate.name}, cost {choice.cost:.1f}; mse {float(choice.fit.error):.2e} on "
        f"the pictures fitted, {float(choice.fit.held_out_error):.2e} on others; wrote {given.out}"
    )


def choose(trained: Trained, given: Settings, cache: "Errors", tell: Any) -> tuple[Choice, Grid]:
    """The best candidate for the budget, and its times."""
    sampler, fine = SAMPLERS[given.sampler], fine_grid(given.reference_steps)
    table = sampler.table(fine)
    start_key, path_key, pilot_key = jax.random.split(
        jax.random.fold_in(jax.random.key(given.seed), 2), 3
    )  # Not the keys that starts to be judged are drawn with.
    samples = jnp.arange(given.images)
    x = draw_starts(start_key, samples, trained.shape)
    noise = brownian_path(path_key, table, samples=samples) if sampler.noisy else None
    grids = {each.name: times for each, times in candidates(trained, sampler, fine, given.budget)}
    every = [each for each, _ in candidates(trained, sampler, fine, given.budget)]
    pilot = sampler.table(coarse_grids(fine, min(50, len(fine) // 2))["uniform"])
    sizes = (given.images * 3 // 8, given.images)
    choice = choose_plan(trained.ladder, Problem(x, noise), table, every, given.budget, pilot_key,
                         pilot=pilot, samples=sizes, cache=cache, report=tell)  # fmt: skip
    return choice, grids[choice.candidate.name]


def candidates(
    trained: Trained, sampler: Sampler, fine: Grid, budget: float
) -> Iterator[tuple[Candidate, Grid]]:
    """The top alone at as many steps as the budget pays; lower levels with it at two to six times.

    Each with the times that it steps through.
    """
    top = len(trained.ladder)
    alone, most = round(budget), len(fine) // 2
    lower = [(level,) for level in range(1, top)] + ([(1, top - 1)] if top > 2 else [])
    for kind, order in KINDS:
        named = f"{kind}, order {order}"
        if 4 <= alone <= most:
            times = coarse_grids(fine, alone)[kind]
            table = sampler.table(times, order)
            name = f"top level, {alone} steps, {named}"
            yield Candidate((top,), table, 0.0, (2,), name), times
        for factor in (2, 3, 5):
            count = min(round(factor * budget), most)
            times = coarse_grids(fine, count)[kind]
            table = sampler.table(times, order)
            for below in lower:
                levels = (*below, top)
                name = f"levels {' '.join(map(str, levels))}, {count} steps, {named}"
                yield Candidate(levels, table, 1 / 3, (1,) * len(below) + (2,), name), times


class Errors(dict[str, float]):
    """Errors by name, in a file that is whole after each of them."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(json.loads(file.read_text()) if file.exists() else {})
        self.file = file

    def __setitem__(self, name: str, error: float) -> None:
        super().__setitem__(name, error)
        runs.write_whole(self.file, json.dumps(self, indent=1) + "\n")


def content(trained: Trained, given: Settings) -> str:
    """A name for all that the errors depend on: networks, costs, settings."""
    digest = hashlib.sha256(json.dumps(runs.recorded(given, ("ladder",))).encode())
    for leaf in jax.tree.leaves((trained.ladder.params, trained.ladder.costs)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def write(file: Path, choice: Choice, times: Grid, given: Settings) -> None:
    """The plan, and what it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_plan(file, choice.fit.plan)
    candidate = choice.candidate
    about = {
        **provenance("experiments.fit"),
        "settings": runs.recorded(given),
        "sampler": given.sampler,
        "levels": list(candidate.levels),
        "order": 2 if candidate.steps.push.shape[1] else 1,
        "times": times.tolist(),
        "name": candidate.name,
        "cost": choice.cost,
        "mse": float(choice.fit.error),
        "held_out_mse": float(choice.fit.held_out_error),
    }
    runs.write_whole(file.with_suffix(".json"), json.dumps(about, indent=1) + "\n")


def shrink(settings: Settings, folder: Path) -> Settings:
    """What `--tiny` makes of the settings."""
    return dataclasses.replace(
        settings, ladder=tiny.random_ladder(folder / "ladder"), budget=6.0, images=16,
        reference_steps=48, runs=folder / "runs",
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Settings))
