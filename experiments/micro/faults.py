"""What is lost when a run is killed, the disk is full, a folder is locked, or a file is damaged?

Training, learning, sampling and fitting, on networks of one parameter, are killed again and again
at random moments, go on, and are compared to the bit with unbroken runs; every kind of file is
damaged at many places, one after the other, and written anew where it cannot be. Prints a table,
writes results/faults.json.
"""

import dataclasses
import logging
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.common import runs
from experiments.micro import damage, kills
from experiments.micro.kept_files import Kind, files_of, kinds

KINDS = ("file", "write", "second")
"""Of moments."""
CHAIN = 4
"""Kills of one run, before it is left alone."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Try what can go wrong with files, and count what is lost."""

    kills: int = 20
    """Of training, of learning, of sampling and of fitting; 0 to leave them out."""
    places: int = 100
    """At which each kind of file is damaged."""
    seed: int = 0
    """Of moments and damage."""
    tiny: bool = False
    """Few of each, in a minute: does it run here?"""
    out: Path = Path("results")
    """Where faults.json goes."""


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        fault: what was done.
        to: what.
        tried: how often.
        held: how often what was written could be had again, or an error said what was wrong.
        right: of these, how often it was had again.
        lost: how often something was lost, or wrong without a word.
        told: what was lost.
    """

    fault: str
    to: str
    tried: int
    held: int
    right: int
    lost: int
    told: str = ""


def main(settings: Settings) -> None:
    """Kill, damage, fill, lock; then the table."""
    given = dataclasses.replace(settings, kills=2, places=8) if settings.tiny else settings
    if settings.tiny and settings.out == Settings.out:
        given = dataclasses.replace(given, out=Path("runs/tiny"))
    logging.disable(logging.CRITICAL)  # Orbax tells of a full disk in every thread.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # So that it can be locked for nobody but its owner.
        rows = [*(killed(Path(folder), given) if given.kills else ()),
                *damaged(Path(folder), given)]  # fmt: skip
    console = Console(width=110)
    console.print(table_of(rows))
    runs.finish("faults", given, {"rows": [row._asdict() for row in rows]}, console=console)


def killed(folder: Path, settings: Settings) -> Iterator[Row]:
    """Kill each activity, in runs of a few kills each."""
    rng = np.random.default_rng(settings.seed)
    with kills.serving() as server:
        for activity in kills.ACTIVITIES:
            # The first one compiles; the second tells how long a run takes.
            for name in ("compiled", "whole"):
                whole = server(activity, folder / f"{activity}_{name}", kills.Moment())
            moments = kills.draw_moments(rng, whole.counts, settings.kills, KINDS)
            chains = [moments[at : at + CHAIN] for at in range(0, len(moments), CHAIN)]
            ended = [kills.killed_at(server, activity, folder / f"{activity}_{number}", chain)
                     for number, chain in enumerate(track(chains, activity))]  # fmt: skip
            tried, held = sum(own.killed for own in ended), sum(own.killed for own in ended
                                                                if own.same)  # fmt: skip
            told = "; ".join(own.told for own in ended if not own.same)
            yield Row("SIGKILL", activity, tried, held, held, tried - held, told)


def damaged(folder: Path, settings: Settings) -> Iterator[Row]:
    """Damage every kind of file, then write it anew where it cannot be."""
    found = list(kinds(folder))
    for kind in track(found, "damage"):
        verdicts = damage.damage(kind, settings.places, settings.seed)
        held, right = verdicts["error"] + verdicts["right"], verdicts["right"]
        told = "; ".join(sorted(set(verdicts) - {"error", "right"}))
        tried = verdicts.total()
        yield Row("damaged bytes", kind.name, tried, held, right, tried - held, told)
    for kind in (kind for kind in found if kind.replaced):
        yield troubled(
            kind, "full disk", [partial(damage.full_after, size) for size in sizes(kind)]
        )
        yield troubled(kind, "read-only folder", [partial(damage.locked, folder)])


def sizes(kind: Kind) -> tuple[int, ...]:
    """At which the disk is full: less than the largest of the files needs."""
    largest = max(file.stat().st_size for file in files_of(kind))
    return 0, 1, largest // 4, largest // 2


def troubled(kind: Kind, fault: str, troubles: list[damage.Trouble]) -> Row:
    """Write a file anew in each trouble."""
    ends = [damage.kept_through(kind, trouble) for trouble in troubles]
    held = ends.count(damage.WHOLE)
    told = "; ".join(sorted({*ends} - {damage.WHOLE}))
    return Row(fault, kind.name, len(ends), held, held, len(ends) - held, told)


def table_of(rows: list[Row]) -> Table:
    """The rows as one reads them."""
    table = Table("fault", "to", "tried", "held", "of these right", "lost", "what was lost",
                  caption="held: what was written is had again, or an error says what is wrong and "
                          "nothing is lost")  # fmt: skip
    for row in rows:
        table.add_row(*map(str, row))
    return table


if __name__ == "__main__":
    main(tyro.cli(Settings))
