"""Learning gates and judging them, as a user runs them, with networks small enough for a test."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from experiments.common import curves
from experiments.paper import error_against_cost
from experiments.paper import figure_error
from experiments.paper import figures
from experiments.paper import learn_gates
from experiments.ours import pilot


@pytest.fixture
def pilot_run(small_ladder, tmp_path):
    piloted = pilot.Settings(
        ladder=small_ladder, samplers=("ddpm",), images=2, base_steps=4, stretches=4, checks=2,
        budgets=(3.0,), draws=2, out=tmp_path / "results",
    )  # fmt: skip
    with jax.enable_x64(False):
        pilot.main(piloted)
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
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in (settings.runs / "ddpm" / "log.jsonl").read_text().splitlines()
    ]


def test_learning_goes_on_where_it_was_cut_and_ends_as_unbroken(settings, tmp_path):
    with jax.enable_x64(False):
        learn_gates.main(settings)
        whole = logged(settings)
        # As if killed after the second step, before the files were written.
        shutil.rmtree(settings.runs / "ddpm" / "states" / "3")
        shutil.rmtree(settings.out / "learned_gates")
        learn_gates.main(settings)
    assert logged(settings) == whole
    assert [line["step"] for line in whole] == [1, 2, 3]
    assert len({json.dumps(line["theta"]) for line in whole}) == 3  # Each step moved the gates.
    result = json.loads((settings.out / "learned_gates.json").read_text())
    learned = result["samplers"]["ddpm"]
    assert learned["theta"] == whole[-1]["theta"]
    table = np.array(learned["probabilities"])
    assert table.shape == (101, 2)
    assert (table[:, 0] == 1).all()
    assert (settings.out / "learned_gates.png").stat().st_size > 5000
    with pytest.raises(ValueError, match=r"begun with other settings: penalty 0\.001, now 0\.1"):
        learn_gates.main(dataclasses.replace(settings, penalty=0.1))


def test_error_against_cost_has_every_method_and_goes_on_after_a_kill(settings, tmp_path):
    compared = error_against_cost.Settings(
        ladder=settings.ladder, gates=settings.out / "learned_gates", pilot=settings.pilot,
        samplers=("ddpm",),
        images=2, reference_steps=24, base_steps=4, budgets=(2.5, 3.5), draws=2,
        runs=tmp_path / "compared", out=settings.out,
    )  # fmt: skip
    with jax.enable_x64(False):
        learn_gates.main(settings)
        error_against_cost.main(compared)
        file = compared.out / "error_against_cost.json"
        first = json.loads(file.read_text())
        log = compared.runs / "ddpm.jsonl"
        lines = log.read_text().splitlines()
        log.write_text("\n".join(lines[:-2]) + "\n")  # The last method, in two draws.
        error_against_cost.main(compared)
    again = json.loads(file.read_text())
    for row, same in zip(first["rows"], again["rows"], strict=True):
        assert row | {"seconds": 0} == same | {"seconds": 0}
    methods = {row["method"] for row in first["rows"]}
    assert methods == {
        "Euler-Maruyama, level 1, uniform", "Euler-Maruyama, level 2, uniform",
        "Euler-Maruyama, level 2, log-SNR", "inverse cost, independent", "inverse cost, midpoint",
        "theory, independent", "theory, midpoint", "pilot, independent", "pilot, midpoint",
        "learned, independent", "learned, midpoint",
        "learned, systematic",
    }  # fmt: skip
    for row in first["rows"]:
        assert row["cost"] == pytest.approx(np.dot(row["evaluations"], first["costs"]), rel=1e-5)
    for method in ("learned, independent", "learned, systematic"):
        own = [row for row in first["rows"] if row["method"] == method]
        assert len(own) == 4
        assert sum(row["best"] for row in own) == 2
    check_figures(settings, tmp_path / "figures")


def check_figures(settings, out):
    """The figures of the paper, from the rows above."""
    card = {"levels": [
        {"megaflops_per_image": 10.0**level, "milliseconds_per_image": float(level),
         "held_out_loss": 1 / level, "held_out_standard_error": 0.01} for level in (1, 2)
    ]}  # fmt: skip
    (settings.ladder / "card.json").write_text(json.dumps(card))
    drawn = figures.Settings(
        ladder=settings.ladder, results=settings.out, samplers=("ddpm",), tiny=True, out=out,
        runs=out / "effects",
    )  # fmt: skip
    measured = settings.out / "error_against_cost.json"
    compared = json.loads(measured.read_text())
    middle = [row for row in compared["rows"] if row["method"] == "pilot, midpoint"]
    ours = [name.replace("two levels", "levels 1 2") for name in figure_error.OURS]
    rows = [{**row, "method": name} for row in middle for name in [*ours, "pilot, trapezoid"]]
    (settings.out / "compare_draws.json").write_text(json.dumps({**compared, "rows": rows}))
    with (
        jax.enable_x64(False),
        pytest.raises(FileNotFoundError, match=r"expected .*learned_gates/ddim; make them with"),
    ):
        figures.main(dataclasses.replace(drawn, samplers=("ddpm", "ddim")))
    with jax.enable_x64(False):
        figures.main(drawn)
        whole = {file.name: file.read_bytes() for file in out.glob("*.json")}
        (out / "error_ddpm.json").unlink()
        figures.main(drawn)
    assert {file.name: file.read_bytes() for file in out.glob("*.json")} == whole
    for name in ("pictures_ddpm", "gamma", "error_ddpm"):
        assert (out / f"{name}.png").stat().st_size > 5000
        told = json.loads(whole[f"{name}.json"])
        assert told.keys() >= {"machine", "commit", "command", "settings"}
    rows = {row["method"]: row for row in json.loads(whole["pictures_ddpm.json"])["rows"]}
    assert rows["Euler-Maruyama, 60 steps"]["mse"] == 0
    for kind in ("inverse cost, independent", "theory, independent", "learned, independent"):
        assert rows[f"ML-EM, {kind}"]["mse"] > 0
    drawn_errors = json.loads(whole["error_ddpm.json"])
    assert set(figure_error.OURS) < set(drawn_errors["curves"])
    assert "pilot, trapezoid" not in drawn_errors["curves"]
    assert len(drawn_errors["measured"]) == 2
    assert all(each["command"] for each in drawn_errors["measured"])
    assert len(drawn_errors["runs"]) == len(compared["rows"]) + len(middle) * len(ours)
    for points in drawn_errors["curves"].values():
        assert all(point.keys() == {"method", "cost", "seconds", "mse", "GFLOP"}
                   for point in points)  # fmt: skip


def test_no_two_curves_look_the_same():
    alone = [f"Euler-Maruyama, level 4, {grid}" for grid in ("uniform", "log-SNR")]
    alone += [f"second-order, level 4, {grid}" for grid in ("uniform", "log-SNR")]
    gated = [f"{gates}, {draw}" for gates in figure_error.GATES for draw in figure_error.DRAWS]
    chosen = [f"{each}, best of 15" for each in gated if "midpoint" not in each]
    names = ["Euler-Maruyama, level 3, uniform", *alone, *figure_error.OURS, *gated, *chosen]
    names.remove("pilot, systematic")  # In `OURS`.
    styles = [tuple(sorted(figure_error.style_of(name, 4).items())) for name in names]
    assert len(set(styles)) == len(names)


def test_the_papers_gates_are_learned_without_knots(settings):
    papers = dataclasses.replace(settings, knots=(), steps=1)
    with jax.enable_x64(False):
        learn_gates.main(papers)
    learned = json.loads((settings.out / "learned_gates.json").read_text())["samplers"]["ddpm"]
    assert set(learned["theta"]) == {"slope", "offset"}


def test_learning_says_which_pilot_run_it_misses(settings, tmp_path):
    with pytest.raises(FileNotFoundError, match="measure them with python"):
        learn_gates.main(dataclasses.replace(settings, pilot=tmp_path / "none"))


def test_a_pilot_run_is_kept_with_what_it_predicts(pilot_run):
    result = json.loads((pilot_run / "pilot.json").read_text())
    rows = result["samplers"]["ddpm"]["rows"]
    assert [row["gates"] for row in rows] == ["inverse cost", "theory", "pilot"]
    for row in rows:
        assert row["cost"] == pytest.approx(3.0, rel=0.01)
        assert row["predicted"] > 0
    best = min(rows, key=lambda row: row["predicted"])
    assert best["gates"] == "pilot"
    assert (pilot_run / "pilot.png").stat().st_size > 5000


def test_the_check_of_a_pilot_leaves_out_one_difference_at_one_step():
    for difference, row in ((2, [1, -1, 1]), (3, [0, 1, 0])):
        weights = np.asarray(pilot.leave_out(5, 3, 2, difference).weights)
        np.testing.assert_array_equal(weights[2], row)
        np.testing.assert_array_equal(np.delete(weights, 2, axis=0), np.tile([0, 0, 1], (4, 1)))


def test_an_interval_of_ratios_comes_from_the_pictures():
    # Three times the cost for the same errors, whichever pictures are asked.
    rng = np.random.default_rng(0)
    rows = []
    for cost, error in ((10.0, 1e-2), (20.0, 3e-3), (40.0, 1e-3)):
        pictures = (error * rng.uniform(0.5, 1.5, 6)).tolist()
        own = {"picture_errors": pictures, "mse": float(np.mean(pictures)), "best": False}
        rows += [
            own | {"method": "Euler-Maruyama, level 10, uniform", "cost": 3 * cost,
                   "parameters": {"steps": int(3 * cost)}},
            own | {"method": "Euler-Maruyama, level 9, uniform", "cost": cost,
                   "parameters": {"steps": int(cost)}},
            own | {"method": "inverse cost, independent", "cost": cost,
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
        if row["method"] == "Euler-Maruyama, level 10, uniform":
            row["cost"] /= 30
            row["picture_errors"] = [error / 100 for error in row["picture_errors"]]
    (line,) = curves.summarise(rows, resamples=50)
    found = line["ratios"]["Euler-Maruyama"]
    assert (found["bound"], found["low"], found["measured"]) == ("at most", 0, 0)
    assert found["high"] == pytest.approx(1 / 20)
    assert found["told"] == "<= 0.05 (<= 0.05), 0 of 3"


def test_no_run_of_a_method_is_left_out_in_hindsight():
    def row(method, cost, error, **parameters):
        return {"method": method, "parameters": parameters, "cost": cost, "best": False,
                "picture_errors": [error] * 4}  # fmt: skip

    alone = [row("Euler-Maruyama, level 2, uniform", cost, 1 / cost, steps=cost)
             for cost in (10, 20, 40, 80)]  # fmt: skip
    good = [row("pilot, midpoint", cost, 1 / (2 * cost), budget=cost, base=50)
            for cost in (10, 20)]  # fmt: skip
    bad = [row("pilot, midpoint", cost, 2 / cost, budget=cost, base=100) for cost in (25, 30)]
    (line,) = curves.summarise([*alone, *good, *bad], resamples=5)
    found = line["ratios"]["Euler-Maruyama"]
    assert (found["low"], found["high"]) == pytest.approx((1.25, 1.25))
    assert (found["measured"], found["points"]) == (4, 4)
