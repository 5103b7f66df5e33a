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
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.common import runs, tiny
from mlem_jax import Drift, Ladder, Problem, Steps, draws, gates, grids, plans, solve, steps
from mlem_jax.draws import Draw
from mlem_jax.types import Logits

matplotlib.use("Agg")
from matplotlib import pyplot as plt


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


class Method(NamedTuple):
    """A draw, with gates for its rate."""

    draw: Draw
    even: bool


METHODS = {
    "independent": Method(draws.independent, even=False),
    "systematic": Method(draws.systematic, even=True),
}
NOISE = {"SDE": 0.5, "ODE": 0.0}


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


@cache
def drift(k: int) -> Drift:
    """f + 2^-k sin(a x + b t + c), f alone for k = 0; made once, as they are compared by name."""

    def level(_: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        exact = 0.5 * jnp.sin(2 * x + 3 * t) - 0.3 * x
        error = jnp.sin((1 + 0.3 * math.sin(k)) * x + (2 + math.cos(3 * k)) * t + 2 * k)
        return exact if k == 0 else exact + 2.0**-k * error

    return level


def costs_of(gamma: float, levels: int) -> tuple[float, ...]:
    """c_k = 2^(gamma k)."""
    return tuple(2.0 ** (gamma * k) for k in range(1, levels + 1))


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


def best_openings(
    gamma: float, levels: int, method: Method, gate_error: float
) -> tuple[float, float]:
    """C and n_1 of the cheapest n_k = C T_k^-rho with sum_k 2^-2k / n_k^(2 if even) = error^2.

    By Lagrange: C = sqrt(sum_k (2^-k c_k)^(2/3)) / error if even, sum_k 2^-k c_k^(1/2) / error^2
    if not.
    """
    costs, size = np.array(costs_of(gamma, levels)), 2.0 ** -np.arange(1, levels + 1)
    error = gate_error * size[-1]
    if method.even:
        scale = math.sqrt(((size * costs) ** (2 / 3)).sum()) / error
        return scale, scale * costs[0] ** (-(1 + 2 / gamma) / 3)
    scale = (size * costs**0.5).sum() / error**2
    return scale, scale * costs[0] ** -(0.5 + 1 / gamma)


def scaled_gates(
    gamma: float, costs: tuple[float, ...], method: Method, scale: float, count: int
) -> Logits:
    """Gates of the method's family with n_k = scale T_k^-rho openings in any number of steps."""
    family = gates.even if method.even else gates.theory
    return family(costs, gamma=gamma).logits((), jnp.zeros(count), scale / count)


def grid_of(count: int, noise: float) -> Steps:
    """Euler-Maruyama from 0 to 1 with additive noise."""
    return steps.euler_maruyama(grids.uniform_grid(0.0, 1.0, count), lambda t: noise + 0 * t)


@partial(jax.jit, static_argnums=(0, 4))
def errors_of(
    draw: Draw, logits: Logits, table: Steps, keys: jax.Array, lanes: int
) -> tuple[jax.Array, jax.Array]:
    """End less the exact drift's on the same path, and evaluations of each level, for each key.

    A plan per lane, so that every level is evaluated at every step here; what is counted is what a
    single run would evaluate.
    """
    count, levels = logits.shape
    ladder = Ladder(tuple(drift(k + 1) for k in range(levels)), ((),) * levels)
    exact, alone = Ladder((drift(0),), ((),)), plans.full(count, 1, 1)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        start_key, path_key, gate_key = jax.random.split(key, 3)
        x = jax.random.normal(start_key)
        noise = jax.random.normal(path_key, (count,))
        problem = Problem(x, noise)
        drawn = plans.draw_plan(draw, logits, gate_key)
        end = solve(ladder, problem, table, drawn)
        return end - solve(exact, problem, table, alone), drawn.needed.sum(axis=0)

    return jax.lax.map(one, keys, batch_size=lanes)


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


def fit(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponents of cost against error, and cost as a multiple of the independent draws'."""
    rows = []
    groups = {(point["gamma"], point["equation"], point["draw"]): None for point in points}
    for gamma, kind, name in groups:
        error, cost, deviation, levels = columns(points, gamma, kind, name)
        x = np.log(cost) - np.log(cost).mean()
        slope = float(x @ np.log(error) / (x @ x))
        noise = float(np.sqrt((x * deviation / error) @ (x * deviation / error)) / (x @ x))
        flat = cost * error**gamma
        # At the least error that both reach.
        other, price, *_ = columns(points, gamma, kind, "independent")
        least = np.log(max(error.min(), other.min()))
        ours, theirs = (
            np.interp(least, np.log(e[::-1]), np.log(c[::-1]))
            for e, c in ((error, cost), (other, price))
        )
        rows.append({
            "gamma": gamma, "equation": kind, "draw": name,
            "exponent": -1 / slope, "standard_error": noise / slope**2,
            "theory_here": predicted_exponent(gamma, METHODS[name], levels),
            "theory": gamma if METHODS[name].even else max(gamma, 2.0),
            "cost_times_error_to_gamma_grows": float(flat[-1] / flat[0]),
            "cost_times_error_to_gamma_spreads": float(flat.max() / flat.min()),
            "independent_costs_times": float(np.exp(theirs - ours)),
        })  # fmt: skip
    return rows


def predicted_exponent(gamma: float, method: Method, levels: np.ndarray) -> float:
    """As it is fitted, of sum_k n_k c_k against 2^-K: the sums are far from their limits here."""
    prices = []
    for count in levels:
        scale, often = best_openings(gamma, int(count), method, 1.0)
        costs = np.array(costs_of(gamma, int(count)))
        exponent = math.log(scale / often) / math.log(costs[0])
        prices.append(float((scale * costs ** (1 - exponent)).sum()))
    x = np.log(prices) - np.log(prices).mean()
    return float((x @ x) / (x @ (levels * math.log(2))))


def columns(
    points: list[dict[str, Any]], gamma: float, kind: str, name: str
) -> tuple[np.ndarray, ...]:
    """Error, cost, standard error and levels along one curve."""
    wanted = (gamma, kind, name)
    own = [p for p in points if (p["gamma"], p["equation"], p["draw"]) == wanted]
    fields = ("error", "cost", "standard_error", "levels")
    return tuple(np.array([point[field] for point in own]) for field in fields)


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


@partial(jax.jit, static_argnums=0)
def evaluations_of(draw: Draw, logits: Logits, keys: jax.Array) -> jax.Array:
    """Of each level, in the plan of each key."""
    return jax.vmap(lambda key: plans.draw_plan(draw, logits, key).needed.sum(axis=0))(keys)


def shown_fits(fits: list[dict[str, Any]]) -> Table:
    """The fits as one reads them."""
    table = Table("gamma", "equation", "draw", "cost ~ error^-", "theory, these levels", "limit",
                  "cost x error^gamma, last / first", "independent costs, times")  # fmt: skip
    for row in fits:
        table.add_row(
            f"{row['gamma']:g}", row["equation"], row["draw"],
            f"{row['exponent']:.2f} ± {row['standard_error']:.2f}",
            f"{row['theory_here']:.2f}", f"{row['theory']:g}",
            f"{row['cost_times_error_to_gamma_grows']:.2f}",
            f"{row['independent_costs_times']:.1f}",
        )  # fmt: skip
    return table


def shown_counts(counts: list[dict[str, Any]]) -> Table:
    """Evaluations of each level, as one reads them."""
    table = Table("draw", "steps", "evaluations", "in 16 times the steps")
    for row in counts:
        cells = [
            " ".join(f"{value:.1f}" for value in row.get(f"evaluations_{way}", ()))
            for way in ("1", "16")
        ]
        table.add_row(row["draw"], str(row["steps"]), *cells)
    return table


def draw_rates(file: Path, points: list[dict[str, Any]], fits: list[dict[str, Any]]) -> None:
    """Cost against error, one panel per equation and gamma."""
    gammas, kinds = ({point[field]: None for point in points} for field in ("gamma", "equation"))
    figure, axes = plt.subplots(
        len(kinds), len(gammas), figsize=(4.2 * len(gammas), 3.6 * len(kinds)), squeeze=False
    )
    for row, kind in zip(axes, kinds, strict=True):
        for axis, gamma in zip(row, gammas, strict=True):
            own = [f for f in fits if (f["gamma"], f["equation"]) == (gamma, kind)]
            for place, fitted in enumerate(own):
                error, cost, *_ = columns(points, gamma, kind, fitted["draw"])
                label = f"{fitted['draw']}: {fitted['exponent']:.2f} ({fitted['theory_here']:.2f})"
                axis.loglog(error, cost, f"C{place}o-",
                            markersize=3, label=label)  # fmt: skip
            axis.set_title(f"{kind}, gamma {gamma:g}; exponent (theory)", fontsize=9)
            axis.legend(fontsize=7)
            axis.grid(alpha=0.3)
        row[0].set_ylabel("cost of a path")
    for axis in axes[-1]:
        axis.set_xlabel("root mean square error")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Settings))
