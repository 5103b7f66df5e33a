"""Turn trained levels into a ladder to ship: averaged parameters, measured costs, a model card."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.common import tiny
from experiments.common.machine import machine
from experiments.ladders import images, train
from experiments.ladders.recipes import EARTH, Recipe, known_as, recipe_of, shared_times
from experiments.ladders.shipped import data_level, restore_average
from experiments.ladders.shown import split
from experiments.ladders.train import held_out_losses, trained
from mlem_jax import Ladder, checkpoint, measure_costs
from mlem_jax.costs import count_flops
from mlem_jax.nets.times import density_by_band
from mlem_jax.types import Params

BATCH = 16
"""Pictures in a batch whose time is measured."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure trained levels and write them as a ladder with a model card."""

    data: Path
    """The pictures the levels were trained on; the same held-out part is used again."""
    licence: str
    """What the model card says of the pictures: whose they are, and what may be done with them."""
    runs: Path = Path("runs/levels")
    """What experiments.ladders.train wrote with --out."""
    out: Path = Path("runs/ladder")
    """Where the ladder goes; replaced if it is there."""
    size: int = 64
    """Side of the pictures in pixels."""
    ladder: Path = EARTH
    """As in training; named in the card."""
    held_out: int = 1000
    """As in training."""
    judging: int = 200
    """Held-out pictures on which the distances to the top are measured."""
    tiny: bool = False
    """Two small networks trained on noise, in seconds: does it run here?"""


def main(settings: Settings) -> None:
    """Restore, measure, save, and write the card."""
    with tiny.settings_of(settings, shrink) as own:
        ship(own)


def shrink(settings: Settings, folder: Path) -> Settings:
    """Levels trained for a moment."""
    training = train.shrink(train.Settings(settings.data), folder)
    train.train_levels(training)
    return dataclasses.replace(settings, data=training.data, runs=training.out, size=8,
                               ladder=training.ladder)  # fmt: skip


def ship(settings: Settings) -> None:
    """Everything, level by level."""
    pictures = images.load(settings.data, settings.size)
    shown, held_out = split(pictures.images, settings.held_out, pictures.held_out)
    folders = sorted(settings.runs.glob("level_*"))
    if not folders:
        raise FileNotFoundError(f"expected runs level_1, level_2, ... in {settings.runs}")
    found = [restore_average(folder / "average") for folder in folders]
    recipes = [recipe_of(about) for about, _ in found]
    params = [averaged for _, averaged in found]
    rows = measure(recipes, params, held_out)
    density, top = shared_times(settings.ladder), trained(folders[-1])
    for row, recipe, own in zip(rows, recipes, params, strict=True):
        judging = held_out[: settings.judging]
        row.update(distances(held_out_losses(recipe, own, judging, top), density))
    for old in settings.out.glob("level_*"):
        shutil.rmtree(old)
    for row, own in zip(rows, params, strict=True):
        about = {**row, "shape": list(held_out.shape[1:]), "data": settings.data.name}
        checkpoint.save(settings.out / f"level_{row['level']}", own, about=about)
    card = {
        "data": settings.data.name,
        "size": settings.size,
        "ladder": known_as(settings.ladder),
        "symmetries": found[-1][0].get("symmetries", "none"),
        "followed": any("answers" in about for about, _ in found),
        "licence": settings.licence,
        "training_pictures": len(shown),
        "held_out_pictures": len(held_out),
        "machine": machine(),
        "batch": BATCH,
        "levels": rows,
    }
    (settings.out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (settings.out / "README.md").write_text(written_card(card))
    print(f"wrote {settings.out}")


def measure(
    recipes: list[Recipe], params: list[Params], held_out: np.ndarray
) -> list[dict[str, Any]]:
    """What the card says of each level: its training, size, time, FLOPs and held-out losses."""
    drifts = [data_level(recipe) for recipe in recipes]
    x, t = jnp.zeros((BATCH, *held_out.shape[1:])), jnp.float32(0.5)
    ladder = measure_costs(Ladder(tuple(drifts), tuple(params)), x, t)
    flops = count_flops(ladder, x, t)
    rows = []
    for recipe, own, time, work in zip(recipes, params, ladder.costs, flops, strict=True):
        losses = held_out_losses(recipe, own, held_out)
        row = {
            "level": len(rows) + 1,
            **recipe._asdict(),
            "architecture": recipe.architecture._asdict(),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(own)),
            "milliseconds_per_image": 1e3 * time / BATCH,
            "megaflops_per_image": work / BATCH / 1e6,
            "held_out_loss": float(losses.mean()),
            "held_out_standard_error": float(losses.mean(0).std() / len(held_out) ** 0.5),
            "held_out_loss_by_band": [float(loss) for loss in losses.mean(1)],
        }
        print(f"level {row['level']}: held-out loss {row['held_out_loss']:.4f}, "
              f"{row['milliseconds_per_image']:.3f} ms an image")  # fmt: skip
        rows.append(row)
    return rows


def distances(by_band: jax.Array, density: tuple[float, ...]) -> dict[str, Any]:
    """How far a level is from the top, in squares of the prediction, by squares [bands, pictures].

    Evenly over t, and where it counts.
    """
    means = by_band.mean(axis=1)
    weighted = (means * density_by_band(len(means), density)).mean()
    return {
        "distance_to_top": float(f"{means.mean():.4g}"),
        "weighted_distance_to_top": float(f"{weighted:.4g}"),
        "distance_to_top_by_band": [float(f"{distance:.4g}") for distance in means],
    }


SYMMETRIES = {
    "none": "",
    "mirror": " Half of the pictures were shown mirrored, left for right.",
    "eight": " The pictures were shown turned and mirrored, in all eight ways of a square.",
}


def commands(card: dict[str, Any]) -> list[str]:
    """What made the ladder, a line per command."""
    flags = f"--data {card['data']} --size {card['size']} --ladder {card['ladder']}"
    turned = f" --symmetries {card['symmetries']}" * (card["symmetries"] != "none")
    training = f"python -m experiments.ladders.train {flags}{turned}"
    shipping = (f"python -m experiments.ladders.ship {flags} --licence LICENCE --runs RUNS "
                "--out LADDER")  # fmt: skip
    if not card["followed"]:
        return [f"{training} --out RUNS", shipping]
    top = len(card["levels"])
    following = f"python -m experiments.ladders.follow {flags} --top RUNS/level_{top} --runs RUNS"
    return [f"{training} --levels {top} --out RUNS", following, shipping]


def written_card(card: dict[str, Any]) -> str:
    """The model card in Markdown."""
    side = card["size"]
    lines = [
        f"# A ladder of denoisers for {side}x{side} pictures",
        "",
        f"Data: `{card['data']}`, {card['training_pictures']} pictures for training and "
        f"{card['held_out_pictures']} held out. Licence of the pictures: {card['licence']}. "
        "The networks are under the licence of this repository.",
        "",
        "Process: cosine (Nichol & Dhariwal); each network trained on the mean squared "
        "error of what it predicts, or on how its movement along paths differs from that of the "
        "level it follows, and averaged." + SYMMETRIES[card["symmetries"]],
        "",
        "```sh",
        *commands(card),
        "```",
        "",
        f"Times: {card['machine']}, batches of {card['batch']}.",
        "",
        "| level | architecture | predicts | follows | parameters | steps x batch | ms an image "
        "| top over it | MFLOP an image | held-out loss | distance to the top | where it counts |",
        "|" + "---|" * 12,
    ]
    top = card["levels"][-1]["milliseconds_per_image"]
    for row in card["levels"]:
        shape = row["architecture"]
        lines.append(
            f"| {row['level']} | base {shape['base']}, middle {shape['middle']}, bottom "
            f"{shape['bottom']}, {shape['scales']} scales, patch {shape['patch']} "
            f"| {'the ' * (row['prediction'] != 'v')}{row['prediction']} "
            f"| {'the data' if row['teacher'] is None else 'level ' + str(row['teacher'])} "
            f"| {row['parameters']:,} | {row['steps']:,} x {row['batch']} "
            f"| {row['milliseconds_per_image']:.3f} | {top / row['milliseconds_per_image']:.1f} "
            f"| {row['megaflops_per_image']:.1f} "
            f"| {row['held_out_loss']:.4f} ± {row['held_out_standard_error']:.4f} "
            f"| {row['distance_to_top']:.4f} | {row['weighted_distance_to_top']:.4f} |"
        )
    lines += [
        "",
        "Losses and distances are of v, whatever a network predicts. Distances are mean squares "
        "of its v less the top's, on held-out pictures: evenly over t, and weighted by how much "
        "each t counts (`times` of the ladder's file, where it has them).",
    ]
    for title, column in (("loss", "held_out_loss_by_band"),
                          ("distance to the top", "distance_to_top_by_band")):  # fmt: skip
        lines += [
            "",
            f"Held-out {title} by band of t, from the data (left) to the noise (right):",
            "",
            "| level | " + " | ".join(f"{b / 10:.1f}-{(b + 1) / 10:.1f}" for b in range(10)) + " |",
            "|---" * 11 + "|",
        ]
        for row in card["levels"]:
            bands = " | ".join(f"{value:.3f}" for value in row[column])
            lines.append(f"| {row['level']} | {bands} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Settings))
