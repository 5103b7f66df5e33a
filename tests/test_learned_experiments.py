"""Learning gates and judging them, as a user runs them, with networks small enough for a test."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from experiments.common import curves, runs, samplers, tiny
from experiments.common.method import Method, fields, label, method_of, select
from experiments.ours import pilot
from experiments.paper import error_against_cost, figure_error, figures, learn_gates
from tests.pictures import is_drawn

pytestmark = pytest.mark.usefixtures("others_promote")


@pytest.fixture
def pilot_run(small_ladder, tmp_path):
    piloted = pilot.Settings(
        ladder=small_ladder, samplers=("ddpm",), images=2, base_steps=4, bins=4, checks=2,
        budgets=(3.0,), draws=2, out=tmp_path / "results",
    )  # fmt: skip
    with jax.enable_x64(False):
        pilot.run(piloted)
    return piloted.out


@pytest.fixture
def settings(small_ladder, pilot_run, tmp_path):
    return learn_gates.Settings(
        ladder=small_ladder, samplers=("ddpm",), steps=3, batch=4, group=2, base_steps=4,
        knots=(0.0, 1.0), start_budget=3.0, pilot=pilot_run / "pilot", runs=tmp_path / "runs",
        out=tmp_path / "results",
    )  # fmt: skip


def logged(settings):
    return [
        {name: value for name, value in line.items() if name != "seconds"}
        for line in runs.read_log(settings.runs / "ddpm" / "log.jsonl")
    ]


@pytest.mark.slow
def test_learning_goes_on_where_it_was_cut_and_ends_as_unbroken(settings, tmp_path):
    with jax.enable_x64(False):
        learn_gates.run(settings)
        whole = logged(settings)
        # As if killed after the second step, before the files were written.
        shutil.rmtree(settings.runs / "ddpm" / "states" / "3")
        shutil.rmtree(settings.out / "learned_gates")
        learn_gates.run(settings)
    assert logged(settings) == whole
    assert [line["step"] for line in whole] == [1, 2, 3]
    assert len({json.dumps(line["theta"]) for line in whole}) == 3  # Each step moved the gates.
    result = json.loads((settings.out / "learned_gates.json").read_text())
    learned = result["samplers"]["ddpm"]
    assert learned["theta"] == whole[-1]["theta"]
    table = np.array(learned["probabilities"])
    assert table.shape == (101, 2)
    assert (table[:, 0] == 1).all()
    assert is_drawn(settings.out / "learned_gates.png")
    with pytest.raises(ValueError, match=r"begun with other settings: penalty 0\.001, now 0\.1"):
        learn_gates.run(dataclasses.replace(settings, penalty=0.1))


@pytest.mark.slow
def test_error_against_cost_has_every_method_and_goes_on_after_a_kill(settings, tmp_path):
    compared = error_against_cost.Settings(
        ladder=settings.ladder, gates=settings.out / "learned_gates", pilot=settings.pilot,
        samplers=("ddpm",),
        images=2, reference_steps=24, base_steps=4, budgets=(2.5, 3.5), draws=2, others=2,
        runs=tmp_path / "compared", out=settings.out,
    )  # fmt: skip
    with jax.enable_x64(False):
        learn_gates.run(settings)
        error_against_cost.run(compared)
        file = compared.out / "error_against_cost.json"
        first = json.loads(file.read_text())
        log = compared.runs / "ddpm.jsonl"
        lines = log.read_text().splitlines()
        log.write_text("\n".join(lines[:-2]) + "\n")  # The last method, in two draws.
        error_against_cost.run(compared)
    again = json.loads(file.read_text())
    for row, same in zip(first["rows"], again["rows"], strict=True):
        assert row | {"seconds": 0} == same | {"seconds": 0}
    methods = [method_of(row) for row in first["rows"]]
    drawn = {(own.gates, own.draw) for own in methods if own.family == "ML-EM"}
    fixed = {(gates, draw) for gates in ("inverse cost", "theory", "pilot", "learned")
             for draw in ("independent", "midpoint")}  # fmt: skip
    assert drawn == fixed | {("learned", "systematic")}
    assert {label(own) for own in methods if own.family != "ML-EM"} == {
        "level 1, uniform", "top level, uniform", "top level, log-SNR",
    }  # fmt: skip
    for row in first["rows"]:
        assert row["cost"] == pytest.approx(np.dot(row["evaluations"], first["costs"]), rel=1e-5)
    for draw, chosen in {"independent": 2, "systematic": 0}.items():
        own = select(first["rows"], gates="learned", draw=draw)
        assert len(own) == 4
        assert sum(row["best"] for row in own) == chosen
    check_figures(settings, tmp_path / "figures")


def check_figures(settings, out):
    """The figures of the paper, from the rows above."""
    card = {"levels": [
        {"megaflops_per_image": 10.0**level, "milliseconds_per_image": float(level),
         "held_out_loss": 1 / level, "held_out_standard_error": 0.01} for level in (1, 2)
    ]}  # fmt: skip
    (settings.ladder / "card.json").write_text(json.dumps(card))
    drawn = figures.Settings(
        ladder=settings.ladder, results=settings.out, samplers=("ddpm",), out=out, images=2,
        base_steps=20, reference_steps=60, counts=(5,), cost=14.0, compared=2,
        plans=tiny.random_plans(out / "plans", samplers.fine_grid(4), 14.0),
    )  # fmt: skip
    compared = json.loads((settings.out / "error_against_cost.json").read_text())
    with (
        jax.enable_x64(False),
        pytest.raises(FileNotFoundError, match=r"expected .*learned_gates/ddim; make them with"),
    ):
        figures.run(dataclasses.replace(drawn, samplers=("ddpm", "ddim")))
    with jax.enable_x64(False):
        figures.run(drawn)
        whole = {file.name: file.read_bytes() for file in out.glob("*.json")}
        (out / "error_ddpm.json").unlink()
        figures.run(drawn)
    assert {file.name: file.read_bytes() for file in out.glob("*.json")} == whole
    for name in ("pictures_ddpm", "gamma", "error_ddpm"):
        assert is_drawn(out / f"{name}.png")
        told = json.loads(whole[f"{name}.json"])
        assert told.keys() >= {"machine", "commit", "command", "settings"}
    rows = json.loads(whole["pictures_ddpm.json"])["rows"]
    assert [row["mse"] for row in rows if row["parameters"] == {"steps": 60}] == [0]
    for own in ({"gates": "inverse cost"}, {"gates": "theory"}, {"gates": "learned"},
                {"weights": "trapezoid"}, {"weights": "fitted"}):  # fmt: skip
        (row,) = select(rows, **own)
        assert row["mse"] > 0
    drawn_errors = json.loads(whole["error_ddpm.json"])
    shown = {method_of(own) for own in drawn_errors["curves"]}
    assert shown == {method_of(row) for row in compared["rows"]}
    assert drawn_errors["measured"]["command"] == compared["command"]
    assert len(drawn_errors["runs"]) == len(compared["rows"])
    for own in drawn_errors["curves"]:
        assert all(point.keys() == {"cost", "seconds", "mse", "GFLOP"} for point in own["points"])


def test_no_two_curves_look_the_same():
    alone = [Method("top level", (4,), grid) for grid in ("uniform", "log-SNR")]
    gated = [Method("ML-EM", (1, 2, 3, 4), "uniform", 1, gates, draw, "impulse")
             for gates in figure_error.GATES for draw in figure_error.DRAWS]  # fmt: skip
    shown = {(each, False) for each in [Method("level", (3,)), *alone, *gated]}
    shown |= {(each, True) for each in gated if each.draw != "midpoint"}
    styles = {tuple(sorted(figure_error.style_of(*each).items())) for each in shown}
    assert len(styles) == len(shown)


@pytest.mark.slow
def test_the_papers_gates_are_learned_without_knots(settings):
    papers = dataclasses.replace(settings, knots=(), steps=1)
    with jax.enable_x64(False):
        learn_gates.run(papers)
    learned = json.loads((settings.out / "learned_gates.json").read_text())["samplers"]["ddpm"]
    assert set(learned["theta"]) == {"slope", "offset"}


def test_learning_says_which_pilot_run_it_misses(settings, tmp_path):
    with pytest.raises(FileNotFoundError, match="measure it with python"):
        learn_gates.run(dataclasses.replace(settings, pilot=tmp_path / "none"))


def test_a_pilot_run_is_kept_with_what_it_predicts(pilot_run):
    result = json.loads((pilot_run / "pilot.json").read_text())
    rows = result["samplers"]["ddpm"]["rows"]
    assert [row["gates"] for row in rows] == ["inverse cost", "theory", "pilot"]
    for row in rows:
        assert row["cost"] == pytest.approx(3.0, rel=0.01)
        assert row["predicted"] > 0
    best = min(rows, key=lambda row: row["predicted"])
    assert best["gates"] == "pilot"
    assert is_drawn(pilot_run / "pilot.png")


def test_the_check_of_a_pilot_leaves_out_one_difference_at_one_step():
    for difference, row in ((2, [1, -1, 1]), (3, [0, 1, 0])):
        weights = np.asarray(pilot.leave_out(5, 3, 2, difference).weights)
        np.testing.assert_array_equal(weights[2], row)
        np.testing.assert_array_equal(np.delete(weights, 2, axis=0), np.tile([0, 0, 1], (4, 1)))


GATED = Method("ML-EM", (1, 2), "uniform", 1, "inverse cost", "independent", "impulse")


def test_an_interval_of_ratios_comes_from_the_pictures():
    # Three times the cost for the same errors, whichever pictures are asked.
    rng = np.random.default_rng(0)
    rows = []
    for cost, error in ((10.0, 1e-2), (20.0, 3e-3), (40.0, 1e-3)):
        pictures = (error * rng.uniform(0.5, 1.5, 6)).tolist()
        own = {"picture_errors": pictures, "mse": float(np.mean(pictures)), "best": False}
        rows += [
            own | fields(Method("top level", (10,))) | {"cost": 3 * cost,
                   "parameters": {"steps": int(3 * cost)}},
            own | fields(Method("level", (9,))) | {"cost": cost,
                   "parameters": {"steps": int(cost)}},
            own | fields(GATED) | {"cost": cost,
                   "parameters": {"budget": cost}},
        ]  # fmt: skip
    (line,) = curves.summarise(rows, resamples=50)
    found = line["ratios"]["Euler-Maruyama"]
    assert (found["bound"], found["measured"], found["points"]) == ("measured", 3, 3)
    assert [found["low"], found["high"], *found["interval"]] == pytest.approx([3] * 4)
    assert found["told"] == "3.00 (3.00), 3 of 3"
    assert line["ratios"]["Euler-Maruyama, 250 steps or more"] is None
    # Ten times as good at a tenth of the cost: how much less it needs nobody measured.
    for row in rows:
        if row["family"] == "top level":
            row["cost"] /= 30
            row["picture_errors"] = [error / 100 for error in row["picture_errors"]]
    (line,) = curves.summarise(rows, resamples=50)
    found = line["ratios"]["Euler-Maruyama"]
    assert (found["bound"], found["low"], found["measured"]) == ("at most", 0, 0)
    assert found["high"] == pytest.approx(1 / 20)
    assert found["told"] == "<= 0.05 (<= 0.05), 0 of 3"


def test_no_run_of_a_method_is_left_out_in_hindsight():
    def row(method, cost, error, **parameters):
        return {**fields(method), "parameters": parameters, "cost": cost, "best": False,
                "picture_errors": [error] * 4}  # fmt: skip

    alone = [row(Method("top level", (2,)), cost, 1 / cost, steps=cost)
             for cost in (10, 20, 40, 80)]  # fmt: skip
    good = [row(GATED, cost, 1 / (2 * cost), budget=cost, base=50)
            for cost in (10, 20)]  # fmt: skip
    bad = [row(GATED, cost, 2 / cost, budget=cost, base=100) for cost in (25, 30)]
    (line,) = curves.summarise([*alone, *good, *bad], resamples=5)
    found = line["ratios"]["Euler-Maruyama"]
    assert (found["low"], found["high"]) == pytest.approx((1.25, 1.25))
    assert (found["measured"], found["points"]) == (4, 4)
