"""Ladders: where their pictures come from, how they are shown, levels that follow together."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from experiments.common import tiny
from experiments.ladders import (
    amplification,
    earth,
    error_histogram,
    follow,
    images,
    shipped,
    shown,
    train,
)

pytestmark = pytest.mark.usefixtures("others_promote")


@pytest.fixture
def composed(tmp_path):
    def compose(name):
        (tmp_path / name).mkdir()
        given = earth.Settings(out=tmp_path / name / "earth.npz", north=72, south=-45)
        settings = earth.shrink(given, tmp_path / name)
        earth.main(settings)
        return settings

    return compose


def test_no_held_out_pixel_nor_its_jpeg_block_is_in_a_training_picture(composed):
    with np.load(composed("one").out) as made:
        held_out, corners = made["held_out"], made["corners"]
    columns = [
        corners[marked, 1][:, None] + np.arange(earth.SIDE) for marked in (held_out, ~held_out)
    ]
    kept, learned = (set(own.ravel().tolist()) for own in columns)
    assert min(abs(a - b) for a in kept for b in learned) > earth.JPEG_BLOCK
    assert held_out.sum() == 40
    assert len(np.unique(corners, axis=0)) == 340


def test_every_crop_has_land_and_contrast_and_lies_between_the_latitudes(composed):
    settings = composed("one")
    with np.load(settings.out) as made:
        crops, corners = made["images"].astype(int), made["corners"]
    land = (crops[..., 2] <= crops[..., 0] + 12).mean(axis=(1, 2))
    assert land.min() >= settings.least_land
    assert crops.mean(axis=3).std(axis=(1, 2)).min() > settings.least_contrast
    assert corners[:, 0].min() >= 30  # 300 pixels for 180 degrees.
    assert corners[:, 0].max() <= 225 - earth.SIDE
    row, column = corners[7]
    world = earth.read_map(settings.map)
    np.testing.assert_array_equal(
        crops[7], world[row : row + earth.SIDE, column : column + earth.SIDE]
    )


def test_the_pictures_are_the_same_to_the_bit_each_time(composed):
    assert composed("one").out.read_bytes() == composed("two").out.read_bytes()


def test_box_sums_are_sums_over_squares():
    values = np.random.default_rng(1).integers(0, 9, (70, 80))
    expected = sliding_window_view(values, (earth.SIDE, earth.SIDE)).sum(axis=(2, 3))
    np.testing.assert_array_equal(earth.box_sums(values), expected)


def test_more_crops_than_there_are_places_are_refused(composed):
    settings = composed("one")
    with pytest.raises(ValueError, match="expected 40000 crops with land and contrast, found"):
        earth.main(dataclasses.replace(settings, training=40_000, least_land=0.99))


def test_without_the_map_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(earth, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install -e "\.\[data\]"'):
        earth.read_map()


def test_what_an_npz_marks_as_held_out_is_never_trained_on(composed):
    pictures = images.load(composed("one").out, 64)
    learned, held_out = shown.split(pictures.images, 10, pictures.held_out)
    assert (len(learned), len(held_out)) == (300, 10)
    np.testing.assert_array_equal(learned, pictures.images[~pictures.held_out])


def test_marks_that_are_not_one_a_picture_are_refused(tmp_path):
    pixels = np.zeros((5, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, held_out=np.zeros(4, bool))
    with pytest.raises(ValueError, match=r"expected `held_out` .* bool \[5\].* got bool \[4\]"):
        images.load(tmp_path / "set.npz", 4)


def test_the_eight_symmetries_are_eight_and_equally_likely():
    rng, picture = np.random.default_rng(2), np.arange(48).reshape(4, 4, 3)
    seen = [shown.any_way(picture, rng).tobytes() for _ in range(800)]
    counts = [seen.count(each) for each in set(seen)]
    assert len(counts) == 8
    assert min(counts) > 50  # 5 standard errors.


@pytest.fixture
def small_top(tmp_path):
    level = tiny.LEVEL.format(4, 4)
    (tmp_path / "own.toml").write_text(
        "times = [1.0, 3.0, 1.0]\n" + level + 'name = "plain"\nteacher = 3\ntimes = [1, 1]\n'
        + level + 'name = "weighted, too"\nprediction = "data"\nteacher = 3\n' + level
    )  # fmt: skip
    train.main(train.Settings(
        data=tiny.random_pictures(tmp_path / "pictures.npz"), size=8, out=tmp_path / "top",
        levels=(3,), ladder=tmp_path / "own.toml", symmetries="eight",
    ))  # fmt: skip
    return tmp_path


@pytest.mark.slow
def test_levels_that_follow_together_can_be_stopped_and_told_apart(small_top):
    settings = follow.Settings(
        data=small_top / "pictures.npz", size=8, top=small_top / "top" / "level_3",
        ladder=small_top / "own.toml", answers=32, judging=16, log_every=2,
        runs=small_top / "whole", out=small_top,
    )  # fmt: skip
    follow.main(settings)
    cut = dataclasses.replace(settings, runs=small_top / "cut", out=small_top / "again")
    follow.main(dataclasses.replace(cut, minutes=1e-9))  # One step, then time is up.
    assert not (cut.runs / "plain").exists()
    follow.main(cut)
    for name in ("plain", "weighted, too"):
        whole, again = (
            shipped.restore_average(each.runs / name / "average") for each in (settings, cut)
        )
        assert whole[0]["answers"] == 32
        assert jax.tree.all(jax.tree.map(np.array_equal, whole[1], again[1]))
    result = json.loads((small_top / "follow_own.json").read_text())
    rows = result["rows"]
    assert [(row["name"], row["weighted"]) for row in rows] == [
        ("plain", False),
        ("weighted, too", True),
    ]
    assert rows[0]["distance_to_top"] != rows[1]["distance_to_top"]
    assert len(rows[0]["distance_to_top_by_band"]) == 10
    assert rows[0]["recovered"] < 1
    assert len(rows[0]["recovered_by_band"]) == follow.BANDS
    assert result["times"] == [1, 3, 1]


@pytest.mark.parametrize(("script", "given", "made"), [
    (amplification, {"rough": None, "top": None}, "amplification.json"),
    (error_histogram, {}, "error_histogram.png"),
])  # fmt: skip
def test_every_script_runs_on_tiny_networks(script, given, made, tmp_path):
    with jax.enable_x64(False):
        script.main(script.Settings(**given, tiny=True, out=tmp_path))
    assert (tmp_path / made).exists()
