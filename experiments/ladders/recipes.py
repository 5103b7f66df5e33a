"""Which networks a ladder has and how each is trained, read from a file in TOML.

A table `[[level]]` per network, cheapest first, with the names of `Recipe` and of the library's
`Architecture`; only `base` has no default. The files beside this one are those of the repository's
own ladders:

    [[level]]
    base = 32       # channels
    patch = 4       # sees squares of 4x4 pixels
    steps = 5000

    [[level]]
    base = 64

`times` above the tables holds for every level that follows another and has none of its own.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlem_jax import process
from mlem_jax.nets import Architecture
from mlem_jax.nets.times import EVEN

EARTH = Path(__file__).parent / "earth.toml"
PREDICTIONS: dict[str, process.Prediction] = {
    "data": process.predict_data,
    "noise": process.predict_noise,
    "v": process.predict_v,
}
"""What a network may predict, by the name that recipes have for it."""


class Recipe(NamedTuple):
    """One network and its training.

    Attributes:
        architecture: the network.
        steps: optimiser steps.
        batch: images per step.
        learning_rate: at its highest, after the warm-up.
        prediction: what the network predicts, one of `PREDICTIONS`.
        teacher: the level it is trained to follow, trained before it; None to follow the data.
        times: how much each t counts, a density as `mlem_jax.nets.times` has them.
        name: what reports and folders call it; by default by its number.
    """

    architecture: Architecture
    steps: int = 10_000
    batch: int = 64
    learning_rate: float = 1e-3
    prediction: str = "v"
    teacher: int | None = None
    times: tuple[float, ...] = EVEN
    name: str = ""


def load_recipes(file: Path) -> tuple[Recipe, ...]:
    """The networks of a ladder, cheapest first.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not as described above, or a level follows one that is not there, or,
            in the end, itself.
    """
    read = _read(file)
    tables, times = read.get("level"), shared_times(file)
    if not set(read) <= {"level", "times"} or not isinstance(tables, list) or not tables:
        raise ValueError(f"expected tables [[level]] and nothing else but perhaps times in {file}, "
                         f"got {list(read)}")  # fmt: skip
    recipes = tuple(_recipe_of(table, times, f"level {number} in {file}")
                    for number, table in enumerate(tables, 1))  # fmt: skip
    for level in range(1, len(recipes) + 1):
        teachers_before(recipes, level)
    return recipes


def shared_times(file: Path) -> tuple[float, ...]:
    """How much each t counts in a ladder, whatever a level was trained with; even by default.

    Raises:
        ValueError: if it is no density.
    """
    return _checked_times(_read(file).get("times", EVEN), str(file))


def teachers_before(recipes: Sequence[Recipe], level: int) -> int:
    """How many levels have to be trained before this one: its teacher, that one's teacher, ...

    Raises:
        ValueError: if one of them is not there, or they go round in a ring.
    """
    followed = [level]
    while (teacher := recipes[followed[-1] - 1].teacher) is not None:
        if not 1 <= teacher <= len(recipes) or teacher in followed:
            raise ValueError(f"expected level {followed[-1]} to follow one of {len(recipes)} "
                             f"levels that does not follow it, got teacher {teacher}")  # fmt: skip
        followed.append(teacher)
    return len(followed) - 1


def known_as(file: Path) -> str:
    """A ladder's file as a card names it: those that come with the repository by their place."""
    ours = file.resolve().parent == EARTH.parent
    return f"experiments/ladders/{file.name}" if ours else file.name


def recipe_of(about: dict[str, Any]) -> Recipe:
    """What a level was trained with, of what its checkpoint says."""
    fields = {name: about[name] for name in Recipe._fields if name in about}
    fields["times"] = tuple(about.get("times") or EVEN)
    return Recipe(**{**fields, "architecture": Architecture(**about["architecture"])})


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"expected a ladder, a file with tables [[level]], no such {file}")
    try:
        return tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a ladder in TOML in {file}: {error}") from error


def _recipe_of(table: Any, shared: tuple[float, ...], where: str) -> Recipe:
    names = {*Architecture._fields, *Recipe._fields} - {"architecture"}
    if not isinstance(table, dict) or "base" not in table or not set(table) <= names:
        raise ValueError(f"expected {where} to have base and any of {sorted(names - {'base'})}, "
                         f"got {table}")  # fmt: skip
    if not isinstance(table.get("name", ""), str):
        raise ValueError(f"expected words for name of {where}, got {table['name']!r}")
    if table.get("prediction", "v") not in PREDICTIONS:
        raise ValueError(f"expected one of {list(PREDICTIONS)} for prediction of {where}, got "
                         f"{table['prediction']!r}")  # fmt: skip
    for name, value in table.items():
        if name in ("name", "times", "prediction"):
            continue
        kind = float if name == "learning_rate" else int
        least = 0 if name in ("middle", "bottom") else 1e-12
        if (
            isinstance(value, bool)
            or not isinstance(value, kind)
            or not least <= value < float("inf")
        ):
            raise ValueError(f"expected a number for {name} of {where}, "
                             f"{kind.__name__}, not below {least:g}, got {value!r}")  # fmt: skip
    architecture = {name: table[name] for name in table if name in Architecture._fields}
    training = {name: table[name] for name in table if name in Recipe._fields}
    training["times"] = _checked_times(
        table.get("times", shared if "teacher" in table else EVEN), where
    )
    return Recipe(Architecture(**architecture), **training)


def _checked_times(given: Any, where: str) -> tuple[float, ...]:
    density = isinstance(given, Sequence) and len(given) > 1 and all(
        isinstance(value, (int, float)) and 0 <= value < float("inf") for value in given
    ) and any(given)  # fmt: skip
    if not density:
        raise ValueError(f"expected times of {where} to be two or more numbers, none below 0 and "
                         f"not all 0, got {given!r}")  # fmt: skip
    return tuple(map(float, given))
