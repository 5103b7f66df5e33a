"""Train the cheap levels of a ladder together, on stored answers of the top along paths.

One answer of the top costs more than training a cheap level on it. So the top is asked once at
both ends of some pieces of paths, its answers are stored, and all cheap levels learn from the same
batches of them, each shown in one of the eight symmetries of a square. What each minimises is
`mlem_jax.nets.following_loss`, the distance to how the top's prediction moves along the path,
weighted over t by its recipe's `times`. At the end a table says what share of these movements each
level recovers on held-out pictures, and the distances to the top, by band of t and weighted by the
ladder's own `times`, whatever a level was trained with: so designs of a level can be compared.
Killed at any moment, the same command goes on where the last checkpoint was. Writes
results/follow_LADDER.json.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.common import runs, tiny
from experiments.ladders import images, train
from experiments.ladders.answers import CHUNK, asked, batches_of
from experiments.ladders.recipes import Recipe, load_recipes, shared_times
from experiments.ladders.resume import pace_of, run_steps
from experiments.ladders.ship import distances
from experiments.ladders.shipped import (
    PREDICTION,
    PROCESS,
    data_level,
    predicting,
    restore_average,
)
from experiments.ladders.shown import split
from experiments.ladders.train import (
    average_in,
    held_out_losses,
    initial,
    network_of,
    optimiser_of,
    trained,
)
from mlem_jax import Ladder, checkpoint, measure_costs
from mlem_jax.costs import count_flops
from mlem_jax.ladder import known_costs
from mlem_jax.levels import linen
from mlem_jax.nets import Answers
from mlem_jax.nets.denoise import Network, TrainState, begin, descend
from mlem_jax.nets.following import following_loss, recovered
from mlem_jax.nets.times import EVEN, density_at
from mlem_jax.types import Params

HELD_OUT = 1000
"""Pictures that are not trained on, as in `train` and `ship`, which have to agree."""
JUDGING = 200
"""Of these, the pictures on which distances are measured, as in `ship`."""
BANDS = 5
"""Of the log-SNR, in which it is told how much of the innovations is recovered."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train cheap levels together to follow the top."""

    data: Path
    """Pictures, as for experiments.ladders.train."""
    top: Path
    """The trained top: the folder of its level."""
    ladder: Path = Path("experiments/ladders/earth.toml")
    """Recipes; those with a teacher are trained here, and follow the top, whichever it is."""
    runs: Path = Path("runs/follow")
    """Answers, checkpoints, and a folder per level. Give the same folder to resume."""
    levels: tuple[int, ...] = ()
    """Which of them, 1 the cheapest; by default all that have a teacher."""
    answers: int = 20_000
    """Pieces of paths of training pictures the top is asked at the ends of."""
    judging: int = 800
    """Those of held-out pictures."""
    begin: Path | None = None
    """A run of this program, or a ladder, whose levels of the same name one begins with."""
    size: int = 64
    """Side of the pictures in pixels."""
    steps: int | None = None
    """Of all levels; default: the recipes' own, which have to agree."""
    minutes: float | None = None
    """Stop after this time, with a checkpoint; the same command then goes on."""
    checkpoint_minutes: float = 3.0
    """Time between checkpoints."""
    log_every: int = 50
    """Steps between lines in the log."""
    seed: int = 0
    """Of the pictures asked of, the noise, the initial parameters and the order."""
    tiny: bool = False
    """Two small networks on noise, in seconds: does it run here?"""
    out: Path = Path("results")
    """Where the JSON goes."""


def main(settings: Settings) -> None:
    """Ask the top, train, measure, write."""
    with tiny.settings_of(settings, shrink) as own:
        follow(own)


def shrink(settings: Settings, folder: Path) -> Settings:
    """A top trained for a moment, and a level that follows it as shortly."""
    training = train.shrink(train.Settings(settings.data), folder)
    train.train_levels(dataclasses.replace(training, levels=(2,)))
    return dataclasses.replace(
        settings, data=training.data, top=training.out / "level_2", ladder=training.ladder,
        runs=folder / "follow", answers=CHUNK, judging=CHUNK, size=8, log_every=2,
    )  # fmt: skip


def follow(settings: Settings) -> None:
    """As `main`, of settings that are meant."""
    pictures = images.load(settings.data, settings.size)
    shown, held_out = split(pictures.images, HELD_OUT, pictures.held_out)
    recipes = followers(settings)
    top, params = trained(settings.top)
    learned = asked(settings.runs / "answers.npz", top, params, shown, settings.answers,
                    settings.seed)  # fmt: skip
    judging = asked(settings.runs / "judging.npz", top, params, held_out, settings.judging,
                    settings.seed + 1)  # fmt: skip
    states = train_together(recipes, learned, settings)
    if states is None:
        return
    for recipe, state in zip(recipes, states, strict=True):
        about = {**recipe._asdict(), "architecture": recipe.architecture._asdict(),
                 "data": settings.data.name, "size": settings.size, "symmetries": "eight",
                 "answers": len(learned.t), "shape": list(shown.shape[1:])}  # fmt: skip
        checkpoint.save(settings.runs / recipe.name / "average", state.average, about=about)
    times = shared_times(settings.ladder)
    averages = [state.average for state in states]
    rows = rows_of(recipes, averages, judging)
    for row, recipe, own in zip(rows, recipes, averages, strict=True):
        by_band = held_out_losses(recipe, own, held_out[:JUDGING], (top, params))
        row.update(distances(by_band, times))
    Console(width=110).print(table_of(rows))
    runs.finish(f"follow_{settings.ladder.stem}", settings, {"times": times, "rows": rows},
                apart=("minutes", "checkpoint_minutes", "log_every"))  # fmt: skip


def followers(settings: Settings) -> tuple[Recipe, ...]:
    """The recipes to train, each with a name, which is its folder's.

    Raises:
        ValueError: if there are none, or they are not for the same number of steps and pictures.
    """
    recipes = tuple(
        recipe._replace(steps=settings.steps or recipe.steps, name=recipe.name or f"level_{number}")
        for number, recipe in enumerate(load_recipes(settings.ladder), 1)
        if recipe.teacher is not None and (not settings.levels or number in settings.levels)
    )
    if not recipes:
        raise ValueError(f"expected levels with a teacher in {settings.ladder}, found none")
    if len({(recipe.steps, recipe.batch) for recipe in recipes}) > 1:
        raise ValueError("expected levels trained together to have the same steps and batch")
    return recipes


def train_together(
    recipes: tuple[Recipe, ...], answers: Answers, settings: Settings
) -> list[TrainState] | None:
    """All levels at the end of their training; None if the time was up first."""
    runs.check_settings(settings.runs, {
        "recipes": [{**recipe._asdict(), "architecture": recipe.architecture._asdict()}
                    for recipe in recipes],
        "data": settings.data.name, "size": settings.size, "answers": settings.answers,
        "begin": None if settings.begin is None else settings.begin.name, "seed": settings.seed,
    })  # fmt: skip
    states = [begin(optimiser_of(recipe), first(recipe, settings)) for recipe in recipes]
    step = jax.jit(partial(step_all, recipes), donate_argnums=0)
    pace = pace_of(settings.minutes, settings.checkpoint_minutes, settings.log_every)
    batch, steps = recipes[0].batch, recipes[0].steps
    batches = batches_of(answers, batch, settings.seed)
    return run_steps(settings.runs, states, step, batches, steps, batch, pace)


def first(recipe: Recipe, settings: Settings) -> Params:
    """Parameters of a level before its first step here."""
    if settings.begin is not None:
        return restore_average(average_in(settings.begin / recipe.name))[1]
    shape = (settings.size, settings.size, 3)
    return initial(network_of(recipe.architecture), shape, settings.seed)


def step_all(
    recipes: tuple[Recipe, ...], states: list[TrainState], batch: Answers
) -> tuple[list[TrainState], jax.Array]:
    """One step of every level on the same batch."""

    def moved(recipe: Recipe, state: TrainState) -> tuple[TrainState, jax.Array]:
        network = in_training(recipe)
        weights = density_at(batch.t[:, 1] / PROCESS.end, recipe.times)

        def objective(params: Params) -> jax.Array:
            losses = following_loss(PROCESS, PREDICTION, network, params, batch)
            return jnp.mean(weights * losses)

        return descend(optimiser_of(recipe), state, objective)

    pairs = [moved(recipe, state) for recipe, state in zip(recipes, states, strict=True)]
    return [state for state, _ in pairs], jnp.stack([loss for _, loss in pairs])


def in_training(recipe: Recipe) -> Network:
    """The v of a level, in the form that trains fastest here."""
    return predicting("v", linen(network_of(recipe.architecture)), recipe.prediction)


def rows_of(
    recipes: tuple[Recipe, ...], params: list[Params], judging: Answers
) -> list[dict[str, Any]]:
    """Cost of every level, and the share of the innovations it recovers."""
    x, t = jnp.zeros((CHUNK, *judging.x.shape[2:])), jnp.float32(0.5)
    order = np.argsort(judging.t[:, 1])
    rows = []
    for recipe, own in zip(recipes, params, strict=True):
        # Each a ladder of its own: in one ladder none costs more than the next, and designs may.
        alone = Ladder((data_level(recipe),), (own,))
        (taken,), (work,) = known_costs(measure_costs(alone, x, t)), count_flops(alone, x, t)
        missed, whole = recovered_by(recipe, own, judging)
        rows.append({
            "name": recipe.name,
            "architecture": recipe.architecture._asdict(),
            "prediction": recipe.prediction,
            "weighted": recipe.times != EVEN,
            "steps": recipe.steps,
            "batch": recipe.batch,
            "milliseconds_per_image": 1e3 * taken / CHUNK,
            "megaflops_per_image": work / CHUNK / 1e6,
            "recovered": float(1 - missed.mean() / whole.mean()),
            "recovered_by_band": [float(1 - missed[band].mean() / whole[band].mean())
                                  for band in np.array_split(order, BANDS)],
        })  # fmt: skip
    return rows


def recovered_by(recipe: Recipe, params: Params, judging: Answers) -> tuple[np.ndarray, np.ndarray]:
    """What a level misses of the innovations of every judging pair, and what there is, squared."""
    compared = jax.jit(partial(recovered, PROCESS, PREDICTION, in_training(recipe)))
    parts = [
        compared(params, Answers(*(values[at : at + CHUNK].astype(np.float32)
                                   for values in judging)))
        for at in range(0, len(judging.t), CHUNK)
    ]  # fmt: skip
    missed, whole = (np.concatenate(column) for column in zip(*parts, strict=True))
    return missed, whole


def table_of(rows: list[dict[str, Any]]) -> Table:
    """The rows as one reads them."""
    table = Table("level", "weighted", "ms an image", "MFLOP", "recovered", "data ... noise",
                  "distance", "where it counts")  # fmt: skip
    for row in rows:
        table.add_row(
            row["name"], "yes" if row["weighted"] else "no", f"{row['milliseconds_per_image']:.3f}",
            f"{row['megaflops_per_image']:.1f}", f"{row['recovered']:.3f}",
            " ".join(f"{share:.2f}" for share in row["recovered_by_band"]),
            f"{row['distance_to_top']:.4f}", f"{row['weighted_distance_to_top']:.4f}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main(tyro.cli(Settings))
