"""How much of each difference between the networks is worth drawing?

Fits the shares of the stacked ladder on one half of the pictures held out of training and judges
them on the other half, at other times: the loss of every rung before and after, the size of the
differences, which the variance of ML-EM hangs on, and how far it is from the drop in loss that it
buys (they are one on the fitted half). All in units of the v-loss, |error of x_0|^2 / sigma^2.
Writes results/stack.json and .png, and with --ship the shares beside the ladder.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments import images, runs
from experiments.ladder import PROCESS, SHIPPED, Ladder, load
from experiments.machine import provenance
from experiments.train_levels import split, to_unit
from mlem_jax import shares, stack
from mlem_jax.shares import StackErrors
from mlem_jax.stack import Stack

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HEADING = "## Shares of a stacked ladder"
BANDS = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fit the shares of the stacked ladder and judge them on fresh pictures."""

    data: Path
    """The pictures the levels were trained on; the part held out then is used here."""
    ladder: Path = SHIPPED
    """Folder of trained levels."""
    size: int = 32
    """Side of the pictures in pixels."""
    held_out: int = 1000
    """As in training; the first half fits, the second judges."""
    times: int = 12
    """Noise levels at which the shares are fitted."""
    judged: int = 4
    """Noise levels in each tenth of the time at which they are judged."""
    chunk: int = 50
    """Pictures at a time."""
    seed: int = 5
    """Of the noise."""
    ship: bool = False
    """Write the shares beside the ladder, as stack.npz, and name them in its card."""
    out: Path = Path("results")
    """Where stack.json and stack.png go."""


def main(settings: Settings) -> None:
    """Fit, judge, write."""
    console = Console(width=110)
    ladder = load(settings.ladder)
    held_out = split(images.load(settings.data, settings.size).images, settings.held_out)[1]
    half = len(held_out) // 2
    fit_key, judge_key = jax.random.split(jax.random.key(settings.seed))
    with console.status(f"fitting on {half} pictures at {settings.times} noise levels"):
        times = shares.spread_times(PROCESS, settings.times)
        fitted = shares.fit_stack(
            ladder.levels, ladder.params, PROCESS, to_unit(held_out[:half]), fit_key,
            times=times, chunk=settings.chunk,
        )  # fmt: skip
        fitted = jax.block_until_ready(fitted)
    rows = judge(ladder, fitted, to_unit(held_out[half:]), judge_key, settings, console)
    for table in (shown_shares(fitted), shown_total(rows)):
        console.print(table)
    result = {
        **provenance("experiments.stack"), "settings": runs.recorded(settings),
        "pictures_fitted": half, "pictures_judged": len(held_out) - half,
        "times": np.asarray(fitted.times).tolist(), "shares": np.asarray(fitted.shares).tolist(),
        "rows": rows,
    }  # fmt: skip
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "stack.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_stack(str(settings.out / "stack.png"), fitted, rows)
    console.print(f"wrote {settings.out}/stack.json and .png")
    if settings.ship:
        stack.save_stack(settings.ladder / "stack.npz", fitted)
        name_in_card(settings.ladder / "README.md", fitted, rows, half)


def judge(
    ladder: Ladder,
    fitted: Stack,
    pictures: jax.Array,
    key: jax.Array,
    settings: Settings,
    console: Console,
) -> list[dict[str, Any]]:
    """Rows of `compared`, by band of t and level; the last are those of all t."""
    plain, stacked = [], []
    for band in track(range(BANDS), "judging", console=console):
        times = PROCESS.end * (band + (np.arange(settings.judged) + 0.5) / settings.judged) / BANDS
        products = shares.data_products(
            ladder.levels, ladder.params, PROCESS, pictures, jax.random.fold_in(key, band), times,
            chunk=settings.chunk,
        )  # fmt: skip
        weigh = 1 / PROCESS.sigma(jnp.asarray(times)) ** 2
        table = stack.stack_shares(fitted, jnp.asarray(times, products.dtype))[:, None]
        for kept, own in ((plain, jnp.ones_like(table)), (stacked, table)):
            errors = shares.stack_errors(products * weigh[:, None, None, None], own)
            kept.append(jax.tree.map(lambda part: np.asarray(part.mean(axis=0)), errors))
    before, after = (jax.tree.map(lambda *parts: np.stack(parts), *kept)
                     for kept in (plain, stacked))  # fmt: skip
    bands = [
        row
        for band in range(BANDS)
        for row in compared(f"{band / BANDS:.1f}-{(band + 1) / BANDS:.1f}", *(
            jax.tree.map(lambda part, band=band: part[band], errors) for errors in (before, after)
        ))
    ]  # fmt: skip
    whole = (jax.tree.map(lambda part: part.mean(axis=0), errors) for errors in (before, after))
    return bands + compared("all", *whole)


def compared(band: str, before: StackErrors, after: StackErrors) -> list[dict[str, Any]]:
    """One row a level, from errors [pictures, levels]; standard errors over the pictures."""

    def told(name: str, values: jax.Array) -> dict[str, float]:
        error = values.std(ddof=1) / len(values) ** 0.5
        return {name: float(values.mean()), f"{name}_standard_error": float(error)}

    return [
        {
            "t": band,
            "level": k + 1,
            **told("loss", before.losses[:, k]),
            **told("stacked_loss", after.losses[:, k]),
            **told("gain", before.losses[:, k] - after.losses[:, k]),
            **told("difference", before.moves[:, k]),
            **told("stacked_difference", after.moves[:, k]),
            **told("drop", before.drops[:, k]),
            **told("stacked_drop", after.drops[:, k]),
            **told("excess", before.moves[:, k] - before.drops[:, k]),
            **told("stacked_excess", after.moves[:, k] - after.drops[:, k]),
        }
        for k in range(before.losses.shape[1])
    ]


def shown_shares(fitted: Stack) -> Table:
    """w_k(t) as one reads it."""
    levels = range(1, fitted.shares.shape[1] + 1)
    table = Table("t", *(f"w_{k}" for k in levels), title="fitted shares")
    for t, row in zip(fitted.times, fitted.shares, strict=True):
        table.add_row(f"{t:.3f}", *(f"{share:.3f}" for share in row))
    return table


def shown_total(rows: list[dict[str, Any]]) -> Table:
    """The rows of all times as one reads them."""
    table = Table("level", "loss", "stacked", "gain", "difference", "stacked", "drop in loss",
                  "difference - drop", title="on fresh pictures")  # fmt: skip
    for row in total(rows):
        table.add_row(
            str(row["level"]), f"{row['loss']:.4f}", f"{row['stacked_loss']:.4f}",
            f"{row['gain']:.4f} ± {row['gain_standard_error']:.4f}",
            f"{row['difference']:.4f}", f"{row['stacked_difference']:.4f}",
            f"{row['stacked_drop']:.4f}",
            f"{row['stacked_excess']:.4f} ± {row['stacked_excess_standard_error']:.4f}",
        )  # fmt: skip
    return table


def total(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all times."""
    return [row for row in rows if row["t"] == "all"]


def draw_stack(file: str, fitted: Stack, rows: list[dict[str, Any]]) -> None:
    """Shares, differences and losses over time, one colour a level."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6))
    places = (np.arange(BANDS) + 0.5) / BANDS
    for k in range(fitted.shares.shape[1]):
        own = [row for row in rows if row["level"] == k + 1 and row["t"] != "all"]
        left.plot(fitted.times, fitted.shares[:, k], f"C{k}.-", label=f"level {k + 1}")
        right.plot(places, [row["gain"] / row["loss"] for row in own], f"C{k}.-")
        if k == 0:
            continue  # The first difference is the level itself, far larger than the others.
        middle.semilogy(places, [row["difference"] for row in own], f"C{k}--", alpha=0.7)
        middle.semilogy(places, [row["stacked_difference"] for row in own], f"C{k}-")
        middle.semilogy(places, [row["stacked_drop"] for row in own], f"C{k}x")
    left.set_title("fitted share w_k(t)")
    left.legend(fontsize=8)
    middle.set_title("difference: plain (dashed), stacked;\ncrosses: the drop in loss", fontsize=10)
    right.set_title("part of the loss that stacking takes off", fontsize=10)
    for axis in (left, middle, right):
        axis.set_xlabel("t, from the data to the noise")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def name_in_card(card: Path, fitted: Stack, rows: list[dict[str, Any]], count: int) -> None:
    """A last section of the ladder's card, in the place of an older one."""
    text = card.read_text().split(HEADING)[0].rstrip() if card.exists() else "# A ladder"
    first, last = fitted.shares[0], fitted.shares[-1]
    lines = [
        text, "", HEADING, "",
        f"`stack.npz` holds w_k(t) of F^k = F^(k-1) + w_k (f^k - F^(k-1)), fitted on {count} of "
        f"the pictures held out (`python -m experiments.stack --ship`), from t = "
        f"{fitted.times[0]:.2f} to {fitted.times[-1]:.2f}. Losses and squared differences on the "
        "other half, in units of the v-loss:", "",
        "| level | share, clean to noisy | loss | stacked | difference | stacked |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['level']} | {low:.2f} to {high:.2f} | {row['loss']:.4f} "
            f"| {row['stacked_loss']:.4f} "
            f"| {row['difference']:.4f} | {row['stacked_difference']:.4f} |"
            for row, low, high in zip(total(rows), first, last, strict=True)
        ),
    ]  # fmt: skip
    card.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings))
