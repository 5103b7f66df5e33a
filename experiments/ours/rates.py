"""At what rate does the cost grow as the error shrinks, and what has the draw to do with it?

A ladder of known error, f^k = f + 2^-k g_k(x, t), one dimension, level k at the cost 2^(gamma k).
The number of levels K grows as the error eps = 2^-K shrinks, and the gates with it, each draw with
those that are the cheapest for it: p_k ~ (2^-2k / c_k)^(1/2) if the squared error of n openings is
2^-2k / n (`gates.theory`), (2^-2k / c_k)^(1/3) if it is 2^-2k / n^2 (`gates.even`). The error is
that of the end against the exact drift f on the same path and the same grid, which is fine enough
for small probabilities: no error of the step size is in it. Theory: cost ~ eps^-max(gamma, 2) for
independent draws, eps^-gamma for evenly spread ones where gamma > 1, both in the limit of many
levels and more steeply in these few. Then counts evaluations while the step size shrinks. Writes
results/rates.json and .png.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from experiments.common import runs, tiny
from experiments.ours.rates_figure import draw_rates, fit, shown_counts, shown_fits
from experiments.ours.rates_ladder import (
    METHODS,
    Method,
    best_openings,
    costs_of,
    errors_of,
    evaluations_of,
    grid_of,
    scaled_gates,
)
from mlem_jax import Steps
from mlem_jax.types import Logits

NOISE = {"SDE": 0.5, "ODE": 0.0}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost on a ladder of known error, by draw."""

    gammas: tuple[float, ...] = (1.5, 2.5, 4.0)
    """Exponents of cost against error of the ladder."""
    fewest: int = 2
    """Levels where the error is largest."""
    most: int = 8
    """Levels where it is smallest: each level halves it."""
    gate_error: float = 1.0
    """Error that the gates may add, by the bounds of the theory, as a multiple of 2^-K."""
    finest: int = 2**17
    """Steps at the most; a level that wants to open oftener runs at every step."""
    repetitions: int = 128
    """Starts, paths and draws of the gates, all anew, that a point is averaged over where it takes
    the most steps; up to 16 times as many where it takes few."""
    seed: int = 3
    """Of all of them."""
    tiny: bool = False
    """Few levels, steps and repetitions, to see in seconds that it runs."""
    out: Path = Path("results")
    """Where rates.json and rates.png go."""


def main(settings: Settings) -> None:
    """Measure, fit, count, write."""
    with tiny.settings_of(settings, small) as own:
        run(own)


def small(settings: Settings, folder: Path) -> Settings:
    """What `--tiny` runs."""
    del folder
    return dataclasses.replace(settings, gammas=(1.5,), most=3, finest=128, repetitions=4)


def run(settings: Settings) -> None:
    """As `main`, of settings that are meant."""
    console = Console(width=110)
    # Many small impulses are summed, and long sums of probabilities taken.
    with jax.enable_x64(True):
        points = measure(settings, console)
        counts = count_evaluations(settings)
    fits = fit(points)
    console.print(shown_fits(fits), shown_counts(counts))
    result = {"fits": fits, "points": points, "counts": counts}
    runs.finish("rates", settings, result, partial(draw_rates, points=points, fits=fits),
                console=console)  # fmt: skip


class Setting(NamedTuple):
    """What a point is measured with: steps from 0 to 1, and gates for them."""

    costs: tuple[float, ...]
    logits: Logits
    table: Steps


def setting(gamma: float, levels: int, method: Method, noise: float, settings: Settings) -> Setting:
    """The cheapest gates for the error, on a grid of 4 to 8 steps to an opening of the first level.

    Powers of two, so that few programs are compiled.
    """
    costs = costs_of(gamma, levels)
    scale, often = best_openings(gamma, levels, method, settings.gate_error)
    count = int(np.clip(2 ** math.ceil(math.log2(4 * often)), 64, settings.finest))
    return Setting(costs, scaled_gates(gamma, costs, method, scale, count), grid_of(count, noise))


def measure(settings: Settings, console: Console) -> list[dict[str, Any]]:
    """One row per ladder, equation, draw and number of levels."""
    cases = [
        (gamma, kind, name, levels)
        for gamma in settings.gammas
        for kind in NOISE
        for name in METHODS
        for levels in range(settings.fewest, settings.most + 1)
    ]
    rows = []
    for number, (gamma, kind, name, levels) in enumerate(track(cases, "points", console=console)):
        method = METHODS[name]
        costs, logits, table = setting(gamma, levels, method, NOISE[kind], settings)
        repetitions = settings.repetitions * min(16, settings.finest // len(table.t))
        key = jax.random.fold_in(jax.random.key(settings.seed), number)
        keys = jax.random.split(key, repetitions)
        # As many at a time as keep the tables in a few hundred MB.
        lanes = min(repetitions, 2 ** max(0, int(math.log2(2**23 / logits.size))))
        errors, evaluations = map(np.asarray, errors_of(method.draw, logits, table, keys, lanes))
        prices = evaluations @ np.array(costs)
        squared = errors**2
        mean = squared.mean()
        rows.append({
            "gamma": gamma, "equation": kind, "draw": name, "levels": levels,
            "steps": len(table.t), "repetitions": repetitions, "error": float(mean**0.5),
            "standard_error": float(squared.std(ddof=1) / len(errors) ** 0.5 / (2 * mean**0.5)),
            "cost": float(prices.mean()),
            "evaluations": evaluations.mean(axis=0).tolist(),
            "cost_times_error_to_gamma": float(prices.mean() * mean ** (gamma / 2)),
        })  # fmt: skip
    return rows


def count_evaluations(settings: Settings) -> list[dict[str, Any]]:
    """Evaluations in some steps, and in 16 times as many."""
    gamma, levels = settings.gammas[0], (settings.fewest + settings.most) // 2
    costs = costs_of(gamma, levels)
    keys = jax.random.split(jax.random.key(settings.seed), 64)
    rows = []
    for name, method in METHODS.items():
        scale, _ = best_openings(gamma, levels, method, settings.gate_error)
        base = len(setting(gamma, levels, method, 0.0, settings).table.t)
        row: dict[str, Any] = {"draw": name, "gamma": gamma, "levels": levels, "steps": base}
        for times in (1, 16):
            logits = scaled_gates(gamma, costs, method, scale, times * base)
            counted = evaluations_of(method.draw, logits, keys)
            row[f"evaluations_{times}"] = np.mean(counted, axis=0).tolist()
        rows.append(row)
    return rows


if __name__ == "__main__":
    main(tyro.cli(Settings))
