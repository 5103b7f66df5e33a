"""Comparing draws, as a user runs it, with networks small enough for a test."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.method import Method, fields, method_of, select
from experiments.ladders.shipped import load
from experiments.ours import closeness, compare_draws

pytestmark = pytest.mark.usefixtures("others_promote")


def paper_row(level, count, cost, error):
    method = Method("top level" if level == 2 else "level", (level,))
    return {"sampler": "ddpm", **fields(method), "parameters": {"steps": count}, "number": 0,
            "evaluations": [0, count], "cost": cost, "mse": error,
            "picture_errors": [error, error], "seconds": 1.0, "best": False}  # fmt: skip


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_draws, "ALONE", (10,))
    papers = {
        "settings": {"ladder": "ladder", "images": 2, "reference_steps": 24, "seed": 0},
        "costs": [0.1, 1.0],
        "rows": [paper_row(*row) for row in
                 [(2, 5, 5.0, 1e-9), (1, 250, 25.0, 1e-9), (2, 250, 250.0, 100.0),
                  (2, 500, 500.0, 1e-9)]],
    }  # fmt: skip
    (tmp_path / "papers.json").write_text(json.dumps(papers))
    own = compare_draws.small(compare_draws.Settings(out=tmp_path / "results"), tmp_path)
    return dataclasses.replace(own, papers=tmp_path / "papers.json", few=(2,))


@pytest.mark.slow
def test_every_kind_of_draw_is_compared_and_a_killed_run_goes_on(settings):
    with jax.enable_x64(False):
        compare_draws.run(settings)
        file = settings.out / "compare_draws.json"
        first = json.loads(file.read_text())
        log = settings.runs / "ddpm.jsonl"
        log.write_text("\n".join(log.read_text().splitlines()[:-1]) + "\n")
        compare_draws.run(settings)
    again = json.loads(file.read_text())
    for row, same in zip(first["rows"], again["rows"], strict=True):
        assert row | {"seconds": 0} == same | {"seconds": 0}
    methods = {method_of(row) for row in first["rows"]}
    pilots = {(own.draw, own.weights, own.order) for own in methods if own.gates == "pilot"}
    assert pilots == {
        ("independent", "impulse", 1), ("systematic", "impulse", 1), ("midpoint", "impulse", 1),
        ("midpoint", "impulse", 2), ("midpoint", "trapezoid", 1), ("midpoint", "trapezoid", 2),
    }  # fmt: skip
    assert {own.family for own in methods} == {"top level", "switch", "ML-EM"}
    # Of the rows that lie there, those of the top level at the paper's counts, and apart from few.
    many = [row["cost"] for row in first["rows"] if row["parameters"].get("steps", 0) > 24]
    assert many == [250, 500]
    middle = {"gates": "pilot", "draw": "midpoint", "weights": "impulse", "order": 1}
    (line,) = select(first["summary"]["ddpm"], **middle)
    ((cost, error),) = line["points"]
    between = 250 * 2 ** (np.log(error / 100) / np.log(1e-11))
    found = line["ratios"]["Euler-Maruyama, 250 steps or more"]
    assert found["bound"] == "measured"
    assert found["low"] == found["high"] == pytest.approx(between / cost)
    for row in first["rows"]:
        if row["parameters"].get("steps", 0) > 24:
            continue
        assert row["cost"] == pytest.approx(np.dot(row["evaluations"], first["costs"]), rel=1e-5)
        assert np.mean(row["picture_errors"]) == pytest.approx(row["mse"], rel=1e-3)
    check_again(compare_draws, settings, "compare_draws")


def check_again(script, settings, name):
    """From the rows of a result the same summary, and nothing is run."""
    first = json.loads((settings.out / f"{name}.json").read_text())
    again = dataclasses.replace(
        settings, rows=settings.out / f"{name}.json", out=settings.out / "again", ladder=None
    )
    script.run(again)
    found = json.loads((again.out / f"{name}.json").read_text())
    assert found.pop("summarised").keys() == {"machine", "commit", "command"}
    assert found == first
    assert (again.out / f"{name}.png").stat().st_size > 5000


def test_rows_of_other_paths_are_refused(settings):
    with pytest.raises(ValueError, match="to be of images 3, got 2"):
        compare_draws.run(dataclasses.replace(settings, images=3))
    with pytest.raises(
        FileNotFoundError, match=r"python -m experiments\.paper\.error_against_cost"
    ):
        compare_draws.run(dataclasses.replace(settings, papers=settings.out / "none.json"))


def test_closer_levels_are_between_the_lower_and_the_top(small_ladder):
    trained = load(small_ladder)
    x, t = 0.3 * jnp.ones((1, 8, 8, 3), jnp.float32), jnp.float32(0.4)
    ladder = trained.ladder
    ends = [level(own, x, t) for level, own in zip(ladder.drifts, ladder.params, strict=True)]
    for left in (0.0, 0.25, 1.0):
        moved = closeness.closer(trained, 1, left).ladder
        found = moved.drifts[0](moved.params[0], x, t)
        np.testing.assert_allclose(found, left * ends[0] + (1 - left) * ends[1], atol=1e-6)
        assert moved.costs == ladder.costs


@pytest.mark.slow
def test_closeness_is_compared_for_every_distance(tmp_path, monkeypatch):
    monkeypatch.setattr(closeness, "ALONE", (4, 10))
    settings = closeness.small(closeness.Settings(out=tmp_path / "results"), tmp_path)
    with jax.enable_x64(False):
        closeness.run(settings)
    own = json.loads((settings.out / "closeness.json").read_text())["samplers"]["ddim"]
    kinds = (("impulse", 1), ("trapezoid", 1), ("trapezoid", 2))
    told = [(line["left"], line["weights"], line["order"]) for line in own["ratios"]]
    assert told == [(left, *kind) for left in (1.0, 0.0) for kind in kinds]
    assert all(line["second order"]["points"] == 2 for line in own["ratios"])
    # Where nothing is left of the distance every plan is the top level at every base step.
    errors = {row["mse"] for row in own["rows"] if row.get("left") == 0.0
              and row["weights"] == "impulse"}  # fmt: skip
    assert max(errors) == pytest.approx(min(errors), rel=1e-3)
    check_again(closeness, settings, "closeness")
