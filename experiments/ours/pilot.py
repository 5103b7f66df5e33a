"""What does each difference do to the end, and which gates does that ask for?

One pilot run in forward mode (`mlem_jax.pilot`) measures v_k(t); from it come gates for any budget,
and the error that any independent gates will have, before they are run. Compares at several budgets
the gates of inverse cost, of theory and of the pilot, each as predicted and as measured, and checks
v at a few steps against leaving the difference out there and running to the end. Writes
results/pilot.json, results/pilot.png, and the v themselves in results/pilot/.
"""

import dataclasses
import json
import time
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

from experiments.common import runs
from experiments.paper.gates import families
from experiments.ladders.shipped import PROCESS, SHIPPED, Ladder, load
from experiments.common.machine import provenance
from experiments.common.samplers import SAMPLERS, path_of
from mlem_jax import draws, pilot, plan, steps
from mlem_jax.evaluate import Batch, couple, judge, stack_plans
from mlem_jax.noise import draw_starts, store_path
from mlem_jax.plan import Plan
from mlem_jax.steps import Steps

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure the effect of each difference over time, and set gates from it."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    images: int = 16
    """Pictures of the pilot run, and as many others that the predictions are checked on."""
    base_steps: int = 100
    """Steps of the sampler; the reference takes them all with the top level."""
    stretches: int = 20
    """Of steps with one effect each."""
    checks: int = 8
    """Steps at which the effect is checked by leaving a difference out; 0 for none."""
    budgets: tuple[float, ...] = (40.0, 60.0, 80.0)
    """Expected costs at which gates are compared, in evaluations of the top level."""
    draws: int = 10
    """Draws over which a measured error is averaged."""
    seed: int = 7
    """Of the starts, the paths, the disturbed steps and the gates."""
    out: Path = Path("results")
    """Where pilot.json, pilot.png and pilot/ go."""


def main(settings: Settings) -> None:
    """Measure, predict, check, write."""
    console = Console(width=100)
    ladder = load(settings.ladder)
    (settings.out / "pilot").mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        **provenance("experiments.ours.pilot"),
        "settings": runs.recorded(settings),
        "costs": ladder.levels.costs,
        "samplers": {},
    }  # fmt: skip
    for name in settings.samplers:
        table, batch = problem(name, ladder, settings, part=0)
        begun = time.monotonic()
        key = jax.random.key(settings.seed + 1)
        with console.status(f"{name}: pilot run"):
            effects = np.asarray(pilot.measure_effects(
                ladder.levels, ladder.params, batch.x, table, key, batch.noise,
                stretches=settings.stretches,
            ))  # fmt: skip
        seconds = time.monotonic() - begun
        save_effects(settings.out / "pilot" / f"{name}.npz", np.asarray(table.t), effects)
        checked = check(name, ladder, table, batch, settings, console)
        rows = compare(name, ladder, effects, settings, console)
        console.print(shown(name, rows, seconds))
        result["samplers"][name] = {
            "t": np.asarray(table.t).tolist(), "effects": effects[:, 1:].tolist(),
            "checked": checked, "rows": rows, "seconds": seconds,
        }  # fmt: skip
    (settings.out / "pilot.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_effects(str(settings.out / "pilot.png"), result["samplers"])
    console.print(f"wrote {settings.out}/pilot.json, .png, and the effects in pilot/")


def save_effects(file: Path, t: np.ndarray, effects: np.ndarray) -> None:
    """Effects and the times of their steps, for `experiments.paper.gates.effects_at`."""
    with file.open("wb") as stream:
        np.savez(stream, t=t, effects=effects)


def problem(name: str, ladder: Ladder, settings: Settings, part: int) -> tuple[Steps, Batch]:
    """The steps of a sampler, and a batch with the top level's ends as references."""
    sampler = SAMPLERS[name]
    grid = steps.uniform_grid(PROCESS.end, 0.0, settings.base_steps)
    start_key, path_key = jax.random.split(jax.random.key(settings.seed))
    samples = part * settings.images + jnp.arange(settings.images)
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


def check(
    name: str, ladder: Ladder, table: Steps, batch: Batch, settings: Settings, console: Console
) -> list[dict[str, Any]]:
    """The error of leaving each difference out at one step, at a few steps."""
    count, levels = settings.base_steps, len(ladder.levels.drifts)
    rows = []
    places = (np.arange(settings.checks) + 0.5) / max(settings.checks, 1) * count
    for step in track([int(place) for place in places], f"{name}: check", console=console):
        plans = [leave_out(count, levels, step, k) for k in range(2, levels + 1)]
        errors = judge(ladder.levels, ladder.params, batch, table, stack_plans(plans))
        rows.append({"t": float(table.t[step]), "errors": errors.mean(axis=1).tolist()})
    return rows


def compare(
    name: str, ladder: Ladder, effects: np.ndarray, settings: Settings, console: Console
) -> list[dict[str, Any]]:
    """Predicted and measured errors of gates of every kind and budget, on other pictures."""
    table, batch = problem(name, ladder, settings, part=1)
    costs, rows = ladder.levels.costs, []
    every = families(ladder, settings.base_steps, effects)
    asked = [(budget, kind) for budget in settings.budgets for kind in every]
    for budget, kind in track(asked, f"{name}: gates", console=console):
        logits = plan.fit_budget(every[kind], costs, budget)
        keys = jax.random.split(jax.random.key(settings.seed + 2), settings.draws)
        plans = [plan.draw_plan(draws.independent, logits, key) for key in keys]
        errors = judge(ladder.levels, ladder.params, batch, table, stack_plans(plans)).mean(axis=1)
        rows.append({
            "gates": kind,
            "cost": float(plan.expected_price(logits, costs).costs.sum()),
            "predicted": float(pilot.predict_error(jnp.asarray(effects), logits)),
            "measured": float(errors.mean()),
            "standard_error": float(errors.std(ddof=1) / settings.draws**0.5),
        })  # fmt: skip
    return rows


def shown(name: str, rows: list[dict[str, Any]], seconds: float) -> Table:
    """The rows as one reads them."""
    table = Table("gates", "cost", "mse, predicted", "mse, measured", title=name.upper(),
                  caption=f"the pilot run took {seconds:.0f} s with compilation")  # fmt: skip
    for row in rows:
        table.add_row(row["gates"], f"{row['cost']:.1f}", f"{row['predicted']:.1e}",
                      f"{row['measured']:.1e} ± {row['standard_error']:.0e}")  # fmt: skip
    return table


def draw_effects(file: str, samplers: dict[str, Any]) -> None:
    """v_k(t), one panel a sampler; dots where a difference was left out in a run to the end."""
    figure, axes = plt.subplots(
        1, len(samplers), figsize=(4.6 * len(samplers), 3.4), sharey=True, squeeze=False
    )
    for axis, (name, own) in zip(axes[0], samplers.items(), strict=True):
        for column, effects in enumerate(np.array(own["effects"]).T):
            color = f"C{column + 1}"
            axis.semilogy(own["t"], effects, color, drawstyle="steps-mid",
                          label=f"level {column + 2}")  # fmt: skip
            left_out = [row["errors"][column] for row in own["checked"]]
            axis.plot([row["t"] for row in own["checked"]], left_out, ".", color=color)
        axis.set_title(name.upper())
        axis.set_xlabel("t, from the data to the noise")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("v_k(t), squared effect on the end")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Settings))
