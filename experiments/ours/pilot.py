"""What does each difference do to the end, and which gates does that ask for?

One pilot run in forward mode (`mlem_jax.diagnosis`) measures v_k(t); from it come gates for any
budget, and the error that any independent gates will have, before they are run. Compares at several
budgets the gates of inverse cost, of theory and of the pilot, each as predicted and as measured,
and checks v at a few steps against leaving the difference out there and running to the end. Writes
results/pilot.json, results/pilot.png, and the v themselves in results/pilot/.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import jax
import matplotlib
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.common import runs, tiny
from experiments.ladders.shipped import SHIPPED, Trained, load
from experiments.ours import sensitivities
from experiments.ours.sensitivities import Piloted, problem_of
from experiments.paper.gates import families
from mlem_jax import Plan, draws, fit_budget, plans
from mlem_jax.diagnosis import Sensitivities, predict_error
from mlem_jax.evaluate import judge, make_reference

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure what each difference does to the end, over time, and set gates from it."""

    ladder: Path = SHIPPED
    """Folder of trained levels."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """What draws the pictures."""
    images: int = 16
    """Pictures of the pilot run, and as many others that the predictions are checked on."""
    base_steps: int = 100
    """Steps of the sampler; the reference takes them all with the top level."""
    bins: int = 20
    """Of time, with one sensitivity each."""
    checks: int = 8
    """Steps at which a sensitivity is checked by leaving a difference out; 0 for none."""
    budgets: tuple[float, ...] = (15.0, 30.0, 60.0)
    """Expected costs at which gates are compared, in evaluations of the top level."""
    draws: int = 10
    """Draws over which a measured error is averaged."""
    seed: int = 7
    """Of the starts, the paths, the disturbed steps and the gates."""
    tiny: bool = False
    """On a random ladder, to see in seconds that it runs."""
    out: Path = Path("results")
    """Where pilot.json, pilot.png and pilot/ go."""


def main(settings: Settings) -> None:
    """Measure, predict, check, write."""
    with tiny.settings_of(settings, small) as own:
        run(own)


def small(settings: Settings, folder: Path) -> Settings:
    """What `--tiny` runs."""
    return dataclasses.replace(
        settings, ladder=tiny.random_ladder(folder / "ladder"), samplers=("ddpm",), images=2,
        base_steps=4, bins=4, checks=2, budgets=(3.0,), draws=2,
    )  # fmt: skip


def run(settings: Settings) -> None:
    """As `main`, of settings that are meant."""
    console = Console(width=100)
    trained = load(settings.ladder)
    found = {name: pilot(name, trained, settings, console) for name in settings.samplers}
    result = {"costs": trained.ladder.costs, "samplers": found}
    runs.finish("pilot", settings, result, lambda file: draw_sensitivities(file, found),
                console=console)  # fmt: skip


def pilot(name: str, trained: Trained, settings: Settings, console: Console) -> dict[str, Any]:
    """The sensitivities of one sampler, also kept in a file, and what was made of them."""
    piloted = Piloted(settings.out / "pilot", settings.images, settings.base_steps, settings.bins,
                      settings.seed)  # fmt: skip
    steps, _ = problem_of(name, trained, piloted)
    begun = time.monotonic()
    with console.status(f"{name}: pilot run"):
        density = sensitivities.measure(name, trained, piloted)
    seconds = time.monotonic() - begun
    file = piloted.runs / f"{name}.npz"
    sensitivities.write(file, density)
    found = sensitivities.read(file, steps)
    checked = check(name, trained, piloted, settings.checks, console)
    rows = compare(name, trained, found, piloted, settings, console)
    console.print(shown(name, rows, seconds))
    return {"t": steps.t.tolist(), "sensitivities": found[:, 1:].tolist(), "checked": checked,
            "rows": rows, "seconds": seconds}  # fmt: skip


def leave_out(count: int, levels: int, step: int, difference: int) -> Plan:
    """The top level everywhere, less F^k - F^{k-1} at one step; k = `difference`, from 2."""
    weights = np.zeros((count, levels))
    weights[:, -1] = 1.0
    weights[step, difference - 1] -= 1.0
    weights[step, difference - 2] += 1.0
    return plans.by_hand(weights)


def check(
    name: str, trained: Trained, piloted: Piloted, checks: int, console: Console
) -> list[dict[str, Any]]:
    """The error of leaving each difference out at one step, at a few steps."""
    count, levels = piloted.steps, len(trained.ladder)
    steps, problem = problem_of(name, trained, piloted)
    batch = make_reference(trained.ladder, problem, steps)
    places = ((np.arange(checks) + 0.5) / max(checks, 1) * count).astype(int).tolist()
    rows = []
    for step in track(places, f"{name}: check", console=console):
        each = [leave_out(count, levels, step, k) for k in range(2, levels + 1)]
        errors = judge(trained.ladder, batch, steps, plans.stack_plans(each)).mean(axis=1)
        rows.append({"t": float(steps.t[step]), "errors": errors.tolist()})
    return rows


def compare(
    name: str,
    trained: Trained,
    found: Sensitivities,
    piloted: Piloted,
    settings: Settings,
    console: Console,
) -> list[dict[str, Any]]:
    """Predicted and measured errors of gates of every kind and budget, on other pictures."""
    ladder = trained.ladder
    steps, problem = problem_of(name, trained, piloted, part=1)
    batch, every, rows = make_reference(ladder, problem, steps), families(trained, found), []
    keys = jax.random.split(jax.random.key(settings.seed + 2), settings.draws)
    asked = [(budget, kind) for budget in settings.budgets for kind in every]
    for budget, kind in track(asked, f"{name}: gates", console=console):
        draw = draws.independent
        logits = fit_budget(every[kind], steps.t, ladder.costs, budget, draw=draw)
        drawn = plans.stack_plans([plans.draw_plan(draw, logits, key) for key in keys])
        errors = judge(ladder, batch, steps, drawn).mean(axis=1)
        rows.append({
            "gates": kind,
            "cost": float(plans.expected_price(draw, logits, ladder.costs).costs.sum()),
            "predicted": float(predict_error(found, logits)),
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


def draw_sensitivities(file: Path, samplers: dict[str, Any]) -> None:
    """v_k(t), one panel per sampler; dots where a difference was left out in a run to the end."""
    figure, axes = plt.subplots(
        1, len(samplers), figsize=(4.6 * len(samplers), 3.4), sharey=True, squeeze=False
    )
    for axis, (name, own) in zip(axes[0], samplers.items(), strict=True):
        for column, found in enumerate(np.array(own["sensitivities"]).T):
            color = f"C{column + 1}"
            axis.semilogy(own["t"], found, color, drawstyle="steps-mid",
                          label=f"level {column + 2}")  # fmt: skip
            left_out = [row["errors"][column] for row in own["checked"]]
            axis.plot([row["t"] for row in own["checked"]], left_out, ".", color=color)
        axis.set_title(name.upper())
        axis.set_xlabel("t, from the data to the noise")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("v_k(t), squared sensitivity of the end")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Settings))
