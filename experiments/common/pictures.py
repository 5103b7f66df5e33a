"""Methods compared along one path: run one, tabulate many, show their pictures."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from rich.table import Table

from experiments.ladders import images
from experiments.ladders.shipped import PROCESS, Ladder
from mlem_jax import plan, steps
from mlem_jax.noise import brownian_path, snr_clock, store_path
from mlem_jax.plan import Plan
from mlem_jax.solve import solve
from mlem_jax.steps import Grid, Steps
from mlem_jax.types import Key

matplotlib.use("Agg")
from matplotlib import pyplot as plt


class Method(NamedTuple):
    """A way to draw pictures, and what it should cost.

    Attributes:
        group: what it is a variant of; of the variants the one with the least error is shown.
        name: of the variant.
        grid: the times it steps through.
        plan: which levels run at each step.
        expected_cost: of plans that are drawn, over all draws; None where nothing is random.
    """

    group: str
    name: str
    grid: Grid
    plan: Plan
    expected_cost: float | None = None


class Result(NamedTuple):
    """A row of the table, and the pictures it speaks of."""

    row: dict[str, Any]
    pictures: np.ndarray


def run(
    method: Method, ladder: Ladder, x: jax.Array, key: Key, fine: Grid, reference: Result | None
) -> Result:
    """Draw by one method, along the path of `key` on the grid `fine`.

    The seconds are those of the solver: neither compilation nor the drawing of the path counts, for
    here every method draws all fine increments, which alone it would not.
    """
    clocks = snr_clock(PROCESS, fine), snr_clock(PROCESS, method.grid)
    path = brownian_path(key, *clocks, samples=jnp.arange(len(x)))
    noise = jax.jit(store_path)(path, x)
    end, seconds = timed_solve(ladder, x, steps.ddpm(PROCESS, method.grid), method.plan, noise)
    pictures = np.asarray(end)
    paid = plan.price(method.plan, ladder.levels.costs)
    cost = float(paid.costs.sum())
    row = {
        "method": method.name,
        "group": method.group,
        "steps": len(method.grid) - 1,
        "evaluations": [int(count) for count in paid.evaluations],
        "expected_cost": cost if method.expected_cost is None else method.expected_cost,
        "cost": cost,
        "mse": float(np.mean((pictures - reference.pictures) ** 2)) if reference else 0.0,
        "seconds": seconds,
    }
    return Result(row, pictures)


def timed_solve(
    ladder: Ladder, x: jax.Array, table: Steps, plan: Plan, noise: jax.Array | None
) -> tuple[jax.Array, float]:
    """The end of a solve, and its seconds without compilation."""
    # The same program with nothing to evaluate: compiled, but hardly run.
    idle = plan._replace(needed=jnp.zeros_like(plan.needed))
    jax.block_until_ready(solve(ladder.levels, ladder.params, x, table, idle, noise))
    begun = time.perf_counter()
    end = jax.block_until_ready(solve(ladder.levels, ladder.params, x, table, plan, noise))
    return end, time.perf_counter() - begun


def best_of_groups(results: list[Result]) -> list[Result]:
    """Of each group the result with the least error, in the order of the groups."""
    best: dict[str, Result] = {}
    for result in results:
        held = best.get(result.row["group"])
        if held is None or result.row["mse"] < held.row["mse"]:
            best[result.row["group"]] = result
    return list(best.values())


def table(results: list[Result], levels: int) -> Table:
    """The rows as one reads them."""
    shown = Table(
        "method",
        f"evaluations of levels 1-{levels}",
        "cost, expected",
        "cost",
        "mse",
        "seconds",
        caption="cost in evaluations of the top level; mse to the reference; seconds of the solver",
    )
    for row, _ in results:
        shown.add_row(
            row["method"],
            " ".join(str(count) for count in row["evaluations"]),
            f"{row['expected_cost']:.1f}",
            f"{row['cost']:.1f}",
            f"{row['mse']:.1e}",
            f"{row['seconds']:.2f}",
        )
    return shown


def picture_rows(file: str, results: list[Result], columns: int = 12) -> None:
    """One row of pictures a method, its name, cost and error beside it."""
    figure, axes = plt.subplots(len(results), 1, figsize=(9.4, 0.78 * len(results)))
    for axis, (row, pictures) in zip(axes, results, strict=True):
        strip = images.to_uint8(pictures[:columns])
        axis.imshow(np.concatenate(list(strip), axis=1), interpolation="nearest")
        label = f"{row['method']}\ncost {row['cost']:.1f}, mse {row['mse']:.1e}"
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, hspace=0.06)
    figure.savefig(file, dpi=110, bbox_inches="tight")  # Makes room for the labels.
    plt.close(figure)
