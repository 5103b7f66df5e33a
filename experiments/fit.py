"""A fitted plan for a budget: which levels, steps and places, and the weights that go with them.

Candidates are fitted on a part of a pilot batch and judged on all of it: every grid, then levels
and numbers of steps, places and memories, going on from the best. The best is chosen if it is
better, cross-validated, than the top level alone with fitted weights by more than one standard
error. Killed at any moment, the same command goes on. Writes the plan, to be run with
`python -m experiments.sample --plan`, and beside it a .json that says what it is.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments.common import runs, sums, tiny
from experiments.common.kept_plans import KeptPlan, write_plan
from experiments.common.machine import provenance
from experiments.common.pilots import grid_of, make_pilot, search_of
from experiments.common.samplers import reference_grid
from experiments.ladders.shipped import SHIPPED, Trained, load
from mlem_jax.fitting import Candidate, Choice, choose_plan
from mlem_jax.grids import Grid


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fit a plan for a budget."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    budget: float = 15.0
    """In evaluations of the top level."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """What draws the pictures."""
    images: int = 96
    """Pictures of the pilot batch; in the search two thirds are fitted and all judge."""
    reference_steps: int = 400
    """Steps even in time of the fine solution, which cuts those at both ends finer."""
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
    with tiny.settings_of(settings, shrink) as given:
        fit(load(given.ladder), given)


def fit(trained: Trained, given: Settings, **tried: Any) -> None:
    """As `main`, of a ladder; what `Search` tries may be given."""
    console = Console(width=110)

    def tell(candidate: Candidate, error: float) -> None:
        console.print(f"{told(candidate):<70} mse {error:.2e}")

    with console.status("the fine solution of the pilot batch"):
        fine = reference_grid(given.reference_steps)
        cache = Errors(given.runs / f"{content(trained, fine, given)}.json")
        search = search_of(given.sampler, fine, len(trained.ladder), **tried)
        pilot = make_pilot(given.sampler, trained, search, [given.budget], fine,
                           images=given.images, seed=given.seed)  # fmt: skip
    choice = choose_plan(trained.ladder, *pilot, search, given.budget, cache=cache, report=tell)
    keep(given.out, choice, given.sampler, fine, given)
    console.print(
        f"chosen: {told(choice.candidate)}, cost {choice.cost:.1f}; mse "
        f"{float(choice.fit.error):.2e} on the pilot batch, fitted on all of it; "
        f"{choice.cross_validated.mean():.2e} cross-validated; wrote {given.out}"
    )


def told(candidate: Candidate) -> str:
    """A candidate in words."""
    levels = " ".join(map(str, candidate.levels))
    memory = " ".join(map(str, candidate.memory)) + ", paired" * candidate.paired
    return (f"levels {levels}, {candidate.steps} steps, {candidate.grid}, places by power "
            f"{candidate.power:.2f}, memory {memory}")  # fmt: skip


class Errors(dict[str, float]):
    """Errors by name, in a file that is whole after each of them."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(sums.loads(file.read_bytes(), str(file)) if file.exists() else {})
        self.file = file

    def __setitem__(self, name: str, error: float) -> None:
        super().__setitem__(name, error)
        runs.write_whole(self.file, sums.dumps(self, indent=1) + "\n")


def content(trained: Trained, fine: Grid, given: Any) -> str:
    """A name for all that the errors depend on: networks, costs, fine grid, settings."""
    digest = hashlib.sha256(json.dumps(runs.recorded(given, ("ladder",))).encode())
    for leaf in jax.tree.leaves((trained.ladder.params, trained.ladder.costs, fine)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def keep(file: Path, choice: Choice, sampler: str, fine: Grid, given: Any) -> None:
    """The plan that was chosen, and what it is."""
    candidate = choice.candidate
    times, order = grid_of(candidate.grid, fine, candidate.steps)
    grid = candidate.grid.partition(",")[0]
    kept = KeptPlan(choice.fit.plan, candidate.levels, sampler, times, grid, order, choice.cost)
    about = {
        **provenance(runs.module_of(given)),
        "settings": runs.recorded(given),
        "name": told(candidate),
        "mse": float(choice.fit.error),
        "mse_cross_validated": float(choice.cross_validated.mean()),
    }
    write_plan(file, kept, about)


def shrink(settings: Settings, folder: Path) -> Settings:
    """What `--tiny` makes of the settings."""
    return dataclasses.replace(
        settings, ladder=tiny.random_ladder(folder / "ladder"), budget=6.0, images=16,
        reference_steps=48, runs=folder / "runs",
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Settings))
