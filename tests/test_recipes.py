"""Files that say which networks a ladder has and how each is trained, right ones and wrong ones."""

import json

import pytest

from experiments.common import tiny
from experiments.ladders.recipes import (
    EARTH,
    Recipe,
    known_as,
    load_recipes,
    recipe_of,
    shared_times,
)
from mlem_jax.nets import Architecture
from mlem_jax.nets.times import EVEN


def test_a_file_of_architectures_is_a_ladder(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[[level]]\nbase = 32\npatch = 4\nsteps = 500\n"
                    "prediction = 'data'\nteacher = 2\n"
                    "[[level]]\nbase = 64\nlearning_rate = 2e-3\n")  # fmt: skip
    assert load_recipes(file) == (
        Recipe(Architecture(base=32, patch=4), steps=500, prediction="data", teacher=2),
        Recipe(Architecture(base=64), learning_rate=2e-3),
    )
    ours = load_recipes(EARTH), load_recipes(EARTH.with_name("faces.toml"))
    assert [[recipe.architecture.base for recipe in each] for each in ours] == [
        [32, 48, 64, 64], [48, 48, 64, 64]]  # fmt: skip
    assert [recipe.teacher for recipe in ours[0]] == [4, 4, 4, None]
    assert known_as(EARTH) == "experiments/ladders/earth.toml"


@pytest.mark.parametrize(("text", "told"), [
    ("", r"expected tables \[\[level\]\]"),
    ("base = 3", r"expected tables \[\[level\]\] and nothing else .* got \['base'\]"),
    ("level = 3", "expected tables"),
    ("[[level]]\nbase = ", "expected a ladder in TOML"),
    ("[[level]]\nwidth = 3", "expected level 1 .* to have base and any of"),
    ("[[level]]\nbase = 8\nwidth = 3", "expected level 1 .* to have base and any of"),
    ("[[level]]\nbase = 'wide'", "expected a number for base of level 1 .* got 'wide'"),
    ("[[level]]\nbase = 8.5", "expected a number for base"),
    ("[[level]]\nbase = 8\nsteps = 0", "expected a number for steps"),
    ("[[level]]\nbase = 8\nprediction = 'x0'", "expected one of .*'noise'.* for prediction .*'x0'"),
    ("[[level]]\nbase = 8\nteacher = 2", "expected level 1 to follow one of 1 .* teacher 2"),
    ("[[level]]\nbase = 8\nteacher = 1", "that does not follow it, got teacher 1"),
    ("[[level]]\nbase = 8\nteacher = 2\n[[level]]\nbase = 8\nteacher = 1", "got teacher 1"),
])  # fmt: skip
def test_a_file_that_is_no_ladder_is_told_what_is_wrong(text, told, tmp_path):
    file = tmp_path / "mine.toml"
    with pytest.raises(FileNotFoundError, match=r"expected a ladder, a file with tables"):
        load_recipes(file)
    file.write_text(text)
    with pytest.raises(ValueError, match=told):
        load_recipes(file)


def test_times_of_a_ladder_hold_for_what_follows_and_has_none_of_its_own(tmp_path):
    file = tmp_path / "own.toml"
    level = tiny.LEVEL.format(4, 4)
    file.write_text("times = [1, 2]\n" + level + 'name = "low"\nteacher = 3\n'
                    + level + 'name = "own"\nteacher = 3\ntimes = [3, 1]\n'
                    + level + 'name = "top"\n')  # fmt: skip
    found = load_recipes(file)
    told = [("low", 3, (1, 2)), ("own", 3, (3, 1)), ("top", None, EVEN)]
    assert [(recipe.name, recipe.teacher, recipe.times) for recipe in found] == told
    assert shared_times(file) == (1, 2)
    about = json.loads(json.dumps({**found[0]._asdict(),
                                   "architecture": found[0].architecture._asdict()}))  # fmt: skip
    assert recipe_of(about) == found[0]
    assert recipe_of(about | {"times": []}).times == EVEN  # Of a level without weights.


@pytest.mark.parametrize("name", ["earth", "designs"])
def test_the_ladders_of_earth_are_read(name):
    *followers, top = load_recipes(EARTH.with_name(f"{name}.toml"))
    assert all(recipe.teacher == len(followers) + 1 for recipe in followers)
    assert top.teacher is None


@pytest.mark.parametrize(("line", "told"), [
    ("times = [1]", r"expected times of .* two or more numbers"),
    ("times = [0, 0]", "not all 0"), ("times = [1, -1]", "none below 0"),
    ("times = 'late'", "expected times"), ("name = 3", "expected words for name of level 1"),
])  # fmt: skip
def test_times_and_names_that_are_none_are_refused(line, told, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[[level]]\nbase = 4\n" + line)
    with pytest.raises(ValueError, match=told):
        load_recipes(file)
