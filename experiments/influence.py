"""How much can gates over time gain at all on this ladder?

The influence I_k(t) of a difference is the error that comes of leaving it out at one step and
nowhere else. To leading order in the differences, independent gates then have the error

    sum_n sum_k I_k(t_n) (1/p_k(t_n) - 1) ,

smallest for its cost at about p_k(t) = min(1, C sqrt(I_k(t) / (T_k + T_{k-1}))), where a gate that
opens pays both its levels (less, where the one below would have run anyway). Compares at one cost
the gates of inverse cost, of theory, the learned ones, the best that are constant in time and the
best over time, each as predicted and as measured. Writes results/influence.json and .png.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments import runs
from experiments.ladder import PROCESS, SHIPPED, Ladder, load
from experiments.learn_gates import learned_logits, scaled_families
from experiments.machine import machine
from experiments.samplers import SAMPLERS, path_of
from mlem_jax import draws, gates, plan, steps
from mlem_jax.evaluate import Batch, couple, judge, stack_plans
from mlem_jax.noise import draw_starts, store_path
from mlem_jax.plan import Plan
from mlem_jax.steps import Steps
from mlem_jax.types import Logits

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclasses.dataclass(frozen=True)
class Settings:
    """Influence of each difference over time, and what gates can make of it."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    gates: Path = Path("results/learned_gates")
    """Folder of learned gates, one a sampler."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    images: int = 16
    """Pictures the influence is averaged over."""
    base_steps: int = 100
    """Steps of the sampler; the reference takes them all with the top level."""
    every: int = 4
    """Steps between those at which the influence is measured; between them it is interpolated."""
    budget: float = 60.0
    """Expected cost at which gates are compared, in evaluations of the top level."""
    draws: int = 15
    """Draws over which the measured error is averaged."""
    seed: int = 7
    """Of the starts, the paths and the gates."""
    out: Path = Path("results")
    """Where influence.json and influence.png go."""


def main(settings: Settings) -> None:
    """Measure, predict, check, write."""
    console = Console(width=100)
    ladder = load(settings.ladder)
    result: dict[str, Any] = {
        "machine": machine(),
        "settings": runs.recorded(settings),
        "costs": ladder.levels.costs,
        "samplers": {},
    }  # fmt: skip
    for name in settings.samplers:
        table, batch = problem(name, ladder, settings)
        influence = measure(name, ladder, table, batch, settings, console)
        rows = []
        for family, logits in families(name, ladder, table, influence, settings).items():
            keys = jax.random.split(jax.random.key(settings.seed + 1), settings.draws)
            plans = [plan.draw_plan(draws.independent, logits, key) for key in keys]
            errors = judge(ladder.levels, ladder.params, batch, table, stack_plans(plans))
            rows.append({
                "gates": family,
                "cost": float(plan.expected_price(logits, ladder.levels.costs).costs.sum()),
                "predicted": predicted_error(influence, np.asarray(gates.probabilities(logits))),
                "measured": float(errors.mean()),
                "standard_error": float(errors.mean(axis=1).std(ddof=1) / settings.draws**0.5),
            })  # fmt: skip
        console.print(shown(name, rows))
        result["samplers"][name] = {
            "t": np.asarray(table.t).tolist(), "influence": influence.tolist(), "rows": rows,
        }  # fmt: skip
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "influence.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_influence(str(settings.out / "influence.png"), result["samplers"])
    console.print(f"wrote {settings.out}/influence.json and .png")


def problem(name: str, ladder: Ladder, settings: Settings) -> tuple[Steps, Batch]:
    """The steps of a sampler, and a batch with the top level's ends as references."""
    sampler = SAMPLERS[name]
    grid = steps.uniform_grid(PROCESS.end, 0.0, settings.base_steps)
    start_key, path_key = jax.random.split(jax.random.key(settings.seed))
    samples = jnp.arange(settings.images)
    x = draw_starts(start_key, samples, ladder.shape)
    path = path_of(sampler, path_key, grid, grid, samples)
    noise = None if path is None else jax.jit(store_path)(path, x)
    table = sampler.table(grid)
    return table, couple(ladder.levels, ladder.params, x, table, noise)


def leave_out(count: int, levels: int, step: int, difference: int) -> Plan:
    """The top level everywhere, less F^k - F^{k-1} at one step; k = `difference`, from 2."""
    weights = np.zeros((count, levels))
    weights[:, -1] = 1.0
    weights[step, difference - 1] -= 1.0
    weights[step, difference - 2] += 1.0
    return plan.hand_plan(weights)


def measure(
    name: str, ladder: Ladder, table: Steps, batch: Batch, settings: Settings, console: Console
) -> np.ndarray:
    """I [steps, differences from 2 on], interpolated in log between the steps measured."""
    count, levels = settings.base_steps, len(ladder.levels.drifts)
    measured = sorted({*range(0, count, settings.every), *range(max(0, count - 3), count)})
    found = []
    for step in track(measured, f"{name}: influence", console=console):
        plans = [leave_out(count, levels, step, k) for k in range(2, levels + 1)]
        errors = judge(ladder.levels, ladder.params, batch, table, stack_plans(plans))
        found.append(np.asarray(errors.mean(axis=1)))
    logs = np.log(np.maximum(np.stack(found), 1e-12))
    columns = [np.interp(np.arange(count), measured, column) for column in logs.T]
    return np.exp(np.stack(columns, axis=1))


def predicted_error(influence: np.ndarray, p: np.ndarray) -> float:
    """sum_n sum_k I_k(t_n) (1/p_k(t_n) - 1), with a certain bottom."""
    return float((influence * (1 / p[:, 1:] - 1)).sum())


def families(
    name: str, ladder: Ladder, table: Steps, influence: np.ndarray, settings: Settings
) -> dict[str, Logits]:
    """Gates of every kind for the budget."""
    costs, count = ladder.levels.costs, settings.base_steps
    # A gate pays both its levels; the bottom runs anyway.
    paid = np.array(costs[1:]) + np.array([0.0, *costs[1:-1]])

    def best(of: np.ndarray) -> Callable[[float], Logits]:
        p = np.sqrt(of / paid)
        return lambda scale: gates.table_gates(
            np.concatenate([np.ones((count, 1)), np.minimum(1.0, scale * p)], axis=1)
        )

    every = scaled_families(ladder, count, learned_logits(settings.gates / name, table.t)) | {
        "best constant": best(np.tile(influence.mean(axis=0), (count, 1))),
        "best over time": best(influence),
    }
    return {kind: plan.fit_budget(own, costs, settings.budget) for kind, own in every.items()}


def shown(name: str, rows: list[dict[str, Any]]) -> Table:
    """The rows as one reads them."""
    table = Table("gates", "cost", "mse, predicted", "mse, measured", title=name.upper())
    for row in rows:
        table.add_row(row["gates"], f"{row['cost']:.1f}", f"{row['predicted']:.1e}",
                      f"{row['measured']:.1e} ± {row['standard_error']:.0e}")  # fmt: skip
    return table


def draw_influence(file: str, samplers: dict[str, Any]) -> None:
    """I_k(t), one panel a sampler."""
    figure, axes = plt.subplots(
        1, len(samplers), figsize=(4.6 * len(samplers), 3.4), sharey=True, squeeze=False
    )
    for axis, (name, own) in zip(axes[0], samplers.items(), strict=True):
        for number, column in enumerate(np.array(own["influence"]).T, start=2):
            axis.semilogy(own["t"], column, f"C{number - 1}", label=f"level {number}")
        axis.set_title(name.upper())
        axis.set_xlabel("t, from the data to the noise")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("mse of leaving out F^k - F^(k-1) once")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Settings))
