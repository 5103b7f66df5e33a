"""At which t does a level's distance to the top count? Weights for the training of levels.

A pilot run of the top level measures what leaving a rough level's difference in at one step does
to the end, and how large that difference is there. Their ratio, in squares of the trained
prediction, is the amplification: the weight that the squared distance to the top should have at
that t. It differs between the SDE and the ODE; `times` is the mean of both, each of mean 1, and no
t counts less than `least`. Writes results/amplification.json.
"""

import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.common import runs, tiny
from experiments.common.samplers import SAMPLERS
from experiments.ladders.recipes import recipe_of
from experiments.ladders.shipped import (
    PREDICTION,
    PROCESS,
    Trained,
    data_level,
    restore_average,
)
from experiments.ours.sensitivities import Piloted, problem_of
from mlem_jax import Ladder, process
from mlem_jax.diagnosis import run_pilot
from mlem_jax.diagnosis.pilot import bin_numbers


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure how much an error of the prediction at each t changes the end."""

    rough: Path
    """A trained level below the top (a checkpoint with `architecture` in its `about`)."""
    top: Path
    """The top level, likewise."""
    images: int = 16
    """Pictures of the pilot runs."""
    base_steps: int = 40
    """Steps of the samplers."""
    bins: int = 20
    """Of time, with one amplification each."""
    least: float = 0.2
    """The least weight, where the mean is about 1."""
    places: int = 21
    """Evenly spaced t of the table, both ends among them."""
    seed: int = 11
    """Of the starts, the paths and the disturbed steps."""
    tiny: bool = False
    """On random networks, to see in seconds that it runs."""
    out: Path = Path("results")
    """Where the JSON goes."""


def main(settings: Settings) -> None:
    """Measure for both samplers, mix, write."""
    with tiny.settings_of(settings, shrink) as own:
        run(own)


def shrink(settings: Settings, folder: Path) -> Settings:
    """Two random networks, a few steps."""
    ladder = tiny.random_ladder(folder)
    return dataclasses.replace(settings, rough=ladder / "level_1", top=ladder / "level_2",
                               images=2, base_steps=4, bins=2, places=3)  # fmt: skip


def run(settings: Settings) -> None:
    """As `main`, of settings that are meant."""
    begun = time.monotonic()
    t = np.linspace(0, PROCESS.end, settings.places)
    found = {name: amplification(name, t, settings) for name in SAMPLERS}
    times = np.maximum(np.mean(list(found.values()), axis=0), settings.least)
    told = {name: [float(f"{weight:.3g}") for weight in own]
            for name, own in {"t": t, **found, "times": times}.items()}  # fmt: skip
    print(f"times = {told['times']}")
    runs.finish("amplification", settings, told | {"seconds": round(time.monotonic() - begun)})


def amplification(name: str, t: np.ndarray, settings: Settings) -> np.ndarray:
    """Of one sampler, at these t, with mean 1."""
    trained = pair(settings)
    piloted = Piloted(Path(), settings.images, settings.base_steps, settings.bins, settings.seed)
    steps, problem = problem_of(name, trained, piloted)
    key = jax.random.key(settings.seed + 1)
    pilot = run_pilot(trained.ladder, problem, steps, key, bins=settings.bins)
    at_end = np.asarray(pilot.products[:, :, 0, 0]).mean(axis=0)
    own = bin_numbers(len(steps.t), settings.bins)
    squares = np.asarray(pilot.distances[..., 0]).mean(axis=1) * per_square_of_data(steps.t)
    left_in = np.bincount(own, squares) / np.bincount(own)
    middles = np.bincount(own, np.asarray(steps.t)) / np.bincount(own)
    ratio = np.interp(t, middles[::-1], (at_end / left_in)[::-1])  # Steps go down in t.
    return ratio / ratio.mean()


def per_square_of_data(t: jax.Array) -> np.ndarray:
    """Square of the trained prediction's change for a change of 1 in the data, the state given."""
    ones = jnp.ones_like(t)
    change = process.convert(PROCESS, process.predict_data, PREDICTION, 0 * ones, ones, t)
    return np.asarray(change) ** 2


def pair(settings: Settings) -> Trained:
    """The rough level and the top, as a ladder."""
    told, params = zip(*map(restore_average, (settings.rough, settings.top)), strict=True)
    drifts = tuple(data_level(recipe_of(about)) for about in told)
    return Trained(Ladder(drifts, params, (0.1, 1.0)), (), tuple(told[1]["shape"]))


if __name__ == "__main__":
    main(tyro.cli(Settings))
