"""The scripts, run as a user runs them, with networks small enough for a test."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from rich.console import Console

from experiments import quickstart, sample
from experiments.common import runs, tiny
from experiments.common.benchmark import measure_missing, timed_solve
from experiments.common.kept_plans import KeptPlan, read_plan, write_plan
from experiments.common.method import Method, Run, fields, label, method_of, select
from experiments.ladders import celeba, features, shipped
from experiments.ladders import ship as ship_ladder
from experiments.ladders import train as train_levels
from experiments.ladders.recipes import EARTH, Recipe, known_as, load_recipes
from experiments.ladders.resume import named, steps_kept
from experiments.ours import fitted
from mlem_jax import Ladder, Problem, brownian_path, grids, plans, process, solve
from mlem_jax import steps as tables
from mlem_jax.nets import Architecture

pytestmark = pytest.mark.usefixtures("others_promote")

ROOT = os.path.dirname(os.path.dirname(__file__))
SMALL = "[[level]]\nbase = {}\nmiddle = 0\nscales = 1\nsteps = {}\nbatch = 4\n"


@pytest.fixture
def pictures(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "pictures.npz", images=pixels)
    return tmp_path / "pictures.npz"


@pytest.fixture
def two_levels(tmp_path):
    file = tmp_path / "two.toml"
    file.write_text(SMALL.format(4, 30) + SMALL.format(8, 30))
    return file


def final_state(out, level):
    """The last step kept, and the leaves of the state by their places."""
    folder = out / f"level_{level}" / "checkpoints"
    last = steps_kept(folder)[-1]
    with ocp.StandardCheckpointer() as checkpointer:
        return last, checkpointer.restore((folder / str(last) / "tree").absolute())


@pytest.mark.slow
def test_a_run_cut_by_its_time_limit_ends_as_an_unbroken_one(pictures, two_levels, tmp_path):
    settings = train_levels.Settings(
        data=pictures, ladder=two_levels, size=8, levels=(2,), out=tmp_path / "whole", log_every=10
    )
    cut = dataclasses.replace(settings, out=tmp_path / "cut")
    with jax.enable_x64(False):
        train_levels.main(settings)
        train_levels.main(dataclasses.replace(cut, minutes=1e-9))  # One step, then time is up.
        assert final_state(cut.out, 2)[0] == 1
        train_levels.main(cut)
    whole, again = final_state(settings.out, 2), final_state(cut.out, 2)
    assert whole[0] == again[0] == 30
    assert jax.tree.all(jax.tree.map(np.array_equal, whole[1], again[1]))
    log = (cut.out / "level_2" / "log.jsonl").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 30]
    assert len(lines[-1]["held_out_by_band"]) == 10


def test_mirrored_pictures_are_half_of_them_and_the_same_ones_again(tmp_path):
    shown = np.arange(64, dtype=np.uint8)[:, None, None, None] + np.zeros((8, 8, 3), np.uint8)
    shown[:, :, 4:] += 100  # Bright on the right.
    settings = train_levels.Settings(data=tmp_path, symmetries="mirror")
    batches = train_levels.batches_of(shown, 16, settings)
    first = np.concatenate([batches[number] for number in range(4)])
    assert sorted(picture[0].min() for picture in first) == list(range(64))
    mirrored = np.array([picture[0, 0, 0] > picture[0, -1, 0] for picture in first])
    assert 12 <= mirrored.sum() <= 52  # 5 sigma.
    again = train_levels.batches_of(shown, 16, settings)
    np.testing.assert_array_equal(again[3], first[48:])
    plain = train_levels.batches_of(shown, 16, dataclasses.replace(settings, symmetries="none"))
    assert all(picture[0, 0, 0] < picture[0, -1, 0] for picture in plain[0])


@pytest.mark.slow  # tests/test_faults.py kills more often, on smaller networks.
def test_a_run_that_is_killed_ends_as_an_unbroken_one(pictures, two_levels, tmp_path):
    command = [
        sys.executable, "-m", "experiments.ladders.train", "--data", str(pictures), "--size", "8",
        "--ladder", str(two_levels), "--levels", "1", "--steps", "40", "--log-every", "5",
    ]  # fmt: skip
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = {"cwd": ROOT, "env": environment, "stdout": subprocess.DEVNULL}
    subprocess.run([*command, "--out", str(whole)], **run, check=True)
    # A checkpoint after every step, so that the kill falls among them.
    often = [*command, "--out", str(killed), "--checkpoint-minutes", "0"]
    process = subprocess.Popen(often, **run)
    log = killed / "level_1" / "log.jsonl"
    for _ in range(1200):
        if log.exists() and log.read_text().count("\n") >= 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < steps_kept(killed / "level_1" / "checkpoints")[-1] < 40
    subprocess.run(often, **run, check=True)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, final_state(whole, 1)[1], final_state(killed, 1)[1])
    )


def test_a_folder_begun_with_other_settings_is_not_gone_on_with(pictures, two_levels, tmp_path):
    settings = train_levels.Settings(
        data=pictures, ladder=two_levels, size=8, levels=(1,), out=tmp_path / "run", minutes=1e-9
    )
    train_levels.main(settings)
    with pytest.raises(ValueError, match="begun with other settings: seed 0, now 1"):
        train_levels.main(dataclasses.replace(settings, seed=1))
    with pytest.raises(ValueError, match="expected levels from 1 to 2, got 3"):
        train_levels.main(dataclasses.replace(settings, levels=(3,)))


def test_a_trained_ladder_is_shipped_with_its_card(pictures, two_levels, tmp_path):
    trained, out = tmp_path / "runs", tmp_path / "shipped"
    settings = train_levels.Settings(data=pictures, ladder=two_levels, size=8, out=trained)
    shipping = ship_ladder.Settings(data=pictures, licence="ours", runs=trained, out=out, size=8,
                                    ladder=two_levels)  # fmt: skip
    with jax.enable_x64(False):
        train_levels.main(settings)
        ship_ladder.main(shipping)
        found = shipped.load(out)
    assert found.shape == (8, 8, 3)
    last = final_state(trained, 2)[1]
    for name, leaf in named(found.ladder.params[1]).items():
        np.testing.assert_array_equal(leaf, last[f"average.{name}"])
    card = json.loads((out / "card.json").read_text())
    assert found.losses == tuple(row["held_out_loss"] for row in card["levels"])
    written = (out / "README.md").read_text()
    assert written.count("| base ") == 2
    assert "--ladder two.toml" in written
    shutil.rmtree(trained / "level_2" / "average")  # As of a level that is still being trained.
    with (
        jax.enable_x64(False),
        pytest.raises(FileNotFoundError, match=r"expected a checkpoint .* at .*level_2/average"),
    ):
        ship_ladder.main(shipping)


@pytest.mark.slow
def test_a_level_that_follows_another_is_trained_after_it(pictures, tmp_path):
    following, alone = tmp_path / "following.toml", tmp_path / "alone.toml"
    level = SMALL.format(4, 60) + "learning_rate = 3e-3\n"
    following.write_text(level + "teacher = 2\n" + SMALL.format(4, 2))
    alone.write_text(level)
    settings = train_levels.Settings(data=pictures, ladder=following, size=8, out=tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint .* at .*level_2/average"):
        train_levels.main(dataclasses.replace(settings, levels=(1,)))
    train_levels.main(settings)
    follower, teacher = (
        shipped.restore_average(settings.out / f"level_{level}" / "average") for level in (1, 2)
    )
    assert follower[0]["teacher"] == 2
    # A network that was hardly trained says nothing; the follower says the same, not the data.
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8, 8, 3)))
    drift = shipped.data_level(Architecture(**follower[0]["architecture"]))
    train_levels.main(dataclasses.replace(settings, ladder=alone, out=tmp_path / "b"))
    untaught = shipped.restore_average(tmp_path / "b" / "level_1" / "average")
    said, taught, own = (
        drift(params, x, jnp.float32(0.5)) for _, params in (follower, teacher, untaught)
    )
    assert jnp.mean((said - taught) ** 2) < 0.1 * jnp.mean((own - taught) ** 2)


def test_a_file_of_architectures_is_a_ladder(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[[level]]\nbase = 32\npatch = 4\nsteps = 500\nteacher = 2\n"
                    "[[level]]\nbase = 64\nlearning_rate = 2e-3\n")  # fmt: skip
    assert load_recipes(file) == (
        Recipe(Architecture(base=32, patch=4), steps=500, teacher=2),
        Recipe(Architecture(base=64), learning_rate=2e-3),
    )
    ours = load_recipes(EARTH), load_recipes(EARTH.with_name("faces.toml"))
    assert [[recipe.architecture.base for recipe in each] for each in ours] == [
        [48, 48, 64, 64], [48, 48, 64, 64]]  # fmt: skip
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


def test_the_quickstart_compares_every_method_at_equal_cost_along_one_path(tmp_path, capsys):
    with jax.enable_x64(False):
        settings = quickstart.shrink(quickstart.Settings(out=tmp_path / "results"), tmp_path)
        quickstart.main(settings)
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "results" / "quickstart.json").read_text())
    rows = result["rows"]
    assert rows[0]["mse"] == 0
    assert rows[0]["evaluations"] == [0, 24]
    for row in rows:
        cost = np.dot(row["evaluations"], result["costs"])
        assert row["cost"] == pytest.approx(cost, rel=1e-5)
    shown = {row["name"]: row["mse"] for row in rows if row["shown"]}
    assert list(shown) == [
        "top level, reference", "top level, 8 steps, Euler-Maruyama",
        "top level, 8 steps, DPM-Solver++ 2M", "top level, 8 steps, fitted",
        "ML-EM, budget 8, of the paper", "ML-EM, budget 8, fitted plan",
    ]  # fmt: skip
    for name, error in shown.items():
        assert f"{error:.1e}" in printed
        assert error == min(row["mse"] for row in rows if row["name"] == name)
    # The plans that stand for fitted ones are the top's own steps on the uniform grid.
    (plain,) = (row["mse"] for row in rows
                if row["name"] == "top level, 8 steps, Euler-Maruyama"
                and row["grid"] == "uniform")  # fmt: skip
    assert shown["top level, 8 steps, fitted"] == pytest.approx(plain, rel=1e-5)
    assert shown["ML-EM, budget 8, fitted plan"] == pytest.approx(plain, rel=1e-5)
    picture = np.asarray(Image.open(tmp_path / "results" / "quickstart.png").convert("L"))
    assert np.median(picture.std(axis=1)) > 10  # Pictures, not white paper.


def test_a_ladder_without_fitted_plans_is_told_how_to_make_them(tmp_path):
    with jax.enable_x64(False):
        settings = quickstart.shrink(quickstart.Settings(), tmp_path)
    with pytest.raises(FileNotFoundError, match="fit one for this ladder and budget"):
        quickstart.kept_run(tmp_path / "plans" / "ddpm_9.npz", "ML-EM, budget 9", settings)


def test_what_ml_em_of_the_paper_expects_to_pay_is_its_budget():
    costs = (0.02, 0.1, 1.0)
    ladder = Ladder((jnp.multiply,) * 3, ((),) * 3, costs)
    trained = shipped.Trained(ladder, (3.0, 2.0, 1.0), (1, 1, 1))
    paid = []
    for seed in range(20):
        fine, key = grids.uniform_grid(1.0, 0.0, 400), jax.random.key(seed)
        (run,) = quickstart.papers(quickstart.Settings(), trained, fine, 30.0, key)
        paid.append(float(plans.price(run.plans[0], costs).costs.sum()))
    assert np.mean(paid) == pytest.approx(30.0, abs=5 * np.std(paid) / 20**0.5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Where PyTorch is installed.
def test_a_fitted_plan_is_compared_with_single_networks_on_pictures_it_has_not_seen(tmp_path):
    settings = fitted.Settings(runs=tmp_path / "runs", out=tmp_path / "results", samplers=("ddim",),
                               plans=tmp_path / "plans")  # fmt: skip
    with jax.enable_x64(False):
        small = fitted.shrink(settings, tmp_path)
        fitted.main(small)
    result = json.loads((tmp_path / "results" / "fitted.json").read_text())
    rows = result["rows"]
    assert {row["family"] for row in rows} == {"single", "paper", "multilevel"}
    (ours,) = (row for row in rows if row["chosen"])
    assert ours["weights"] == "fitted"
    assert ours["cost"] <= 7
    assert ours["mse"] == pytest.approx(np.mean(ours["picture_errors"]), rel=1e-3)
    kept = read_plan(tmp_path / "plans" / "ddim_6.npz")
    assert list(kept.levels) == ours["levels"]
    assert kept.cost == pytest.approx(ours["cost"], rel=1e-5)
    assert read_plan(tmp_path / "plans" / "ddim_6_top.npz").levels == (2,)
    named = {line["rival"]: line["mean"] for line in result["summary"]["ddim"]}
    assert named["best single network"]["points"] == 1
    # The same command finds its rows and changes nothing.
    log = (tmp_path / "runs" / "ddim.jsonl").read_text()
    with jax.enable_x64(False):
        fitted.main(small)
    assert (tmp_path / "runs" / "ddim.jsonl").read_text() == log


def test_gamma_is_the_slope_of_cost_against_error():
    costs = np.array([1.0, 4.0, 16.0, 64.0])
    errors = costs ** (-1 / 2.5)
    losses = np.append(0.1 + errors[:-1] ** 2, 0.1)
    assert shipped.measured_gamma(tuple(costs), tuple(losses)) == pytest.approx(2.5, rel=1e-6)


def test_a_folder_without_levels_is_said_to_have_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected checkpoints level_1, level_2, \.\.\."):
        shipped.load(tmp_path)


def test_some_levels_of_a_ladder_keep_their_costs(tmp_path):
    trained = shipped.load(tiny.random_ladder(tmp_path))
    assert trained.ladder.costs == (0.1, 1.0)
    lower = shipped.pick(trained, (1,))
    assert (lower.ladder.costs, lower.losses) == ((0.1,), (1.0,))
    assert shipped.load(tmp_path, (1,)).ladder.costs == (1.0,)
    assert shipped.pick(trained, ()) is trained


METHOD = Method("ML-EM", (2, 4), "log-SNR", 2, "pilot", "midpoint", "trapezoid")


def test_a_method_is_told_by_its_fields_and_found_by_them():
    told = "ML-EM, levels 2 4, pilot, midpoint, trapezoid, second order, log-SNR"
    assert label(METHOD) == told
    assert label(Method("top level", (4,))) == "top level, uniform"
    assert label(Method("level", (2,))) == "level 2, uniform"
    row = json.loads(json.dumps(fields(METHOD)))
    assert method_of(row) == METHOD
    assert select([row], levels=(2, 4), order=2) == [row]
    assert select([row], levels=(2, 3)) == []


def test_rows_that_are_in_the_log_are_not_measured_again(tmp_path):
    measured = []

    def judge():
        def rows(run):
            measured.append(run.parameters["budget"])
            each = fields(run.method) | {"parameters": run.parameters}
            return [each | {"number": number} for number in range(2)]

        return rows

    wanted = [Run(METHOD, {"budget": budget}, np.arange(2.0), []) for budget in (3.0, 1.0, 2.0)]
    console, log = Console(quiet=True), tmp_path / "rows.jsonl"
    measure_missing(log, wanted[:2], judge, console)
    rows = measure_missing(log, wanted[1:], judge, console)
    assert measured == [3.0, 1.0, 2.0]
    told = [(row["parameters"]["budget"], row["number"]) for row in rows]
    assert told == [(1.0, 0), (1.0, 1), (2.0, 0), (2.0, 1)]


def test_a_timed_solve_ends_where_a_solve_does():
    table = tables.ddpm(process.cosine(), grids.uniform_grid(1.0, 0.0, 5))
    problem = Problem(
        jnp.ones((2, 3)), brownian_path(jax.random.key(0), table, samples=np.arange(2))
    )
    ladder = Ladder((lambda _, x, t: x * t,), ((),), (1.0,))
    end, seconds = timed_solve(ladder, problem, table, plans.full(5, 1, 1))
    np.testing.assert_array_equal(end, solve(ladder, problem, table, plans.full(5, 1, 1)))
    assert seconds > 0


def test_a_result_says_what_made_it(tmp_path, capsys):
    settings = sample.Settings(out=tmp_path)
    runs.finish("found", settings, {"rows": [1]}, lambda file: file.write_text("picture"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == ["machine", "commit", "command", "settings", "rows"]
    assert found["command"].startswith("python -m experiments.sample")
    assert found["settings"]["ladder"] == "earth64"
    assert not {"out", "tiny"} & set(found["settings"])
    assert {file.name for file in tmp_path.iterdir()} == {"found.json", "found.png"}
    assert "found.json and .png" in capsys.readouterr().out.replace("\n", "")
    again = runs.measured_before(tmp_path / "found.json", settings)
    assert again["rows"] == [1]
    assert again["summarised"]["command"] == found["command"]


@pytest.mark.parametrize(("script", "given"), [
    (celeba, {"data": None}), (features, {"data": None}),
    (ship_ladder, {"data": None, "licence": "ours"}), (sample, {}),
])  # fmt: skip
def test_every_script_of_ladders_runs_on_tiny_networks(script, given, tmp_path):
    settings = script.Settings(**given, tiny=True, out=tmp_path / "tiny" / "out.png")
    with jax.enable_x64(False):
        script.main(settings)
    assert (tmp_path / "tiny").exists()


def test_a_tiny_run_leaves_the_results_of_the_repository_alone(tmp_path):
    small = tiny.settings_of(quickstart.Settings(tiny=True), quickstart.shrink)
    with jax.enable_x64(False), small as own:
        assert own.out == tiny.OUT / "quickstart"
    whole = quickstart.Settings()
    with tiny.settings_of(whole, quickstart.shrink) as own:
        assert own is whole


def test_a_plan_draws_what_its_level_draws(tmp_path):
    count, out = 3, tmp_path / "by_plan.png"
    times = grids.uniform_grid(1.0, 0.0, count)
    kept = KeptPlan(plans.full(count, 2, 2), (1, 2), "ddpm", times, "uniform", 1, 3.0)
    write_plan(tmp_path / "plan.npz", kept, {})
    with jax.enable_x64(False):
        ladder = tiny.random_ladder(tmp_path / "ladder")
        level = sample.Settings(ladder=ladder, level=2, images=3, steps=count, columns=3,
                                out=tmp_path / "by_level.png")  # fmt: skip
        sample.main(level)
        sample.main(dataclasses.replace(level, plan=tmp_path / "plan.npz", out=out))
    by_level, by_plan = (np.asarray(Image.open(file)) for file in (level.out, out))
    np.testing.assert_array_equal(by_plan, by_level)


@pytest.mark.parametrize("script", [quickstart, sample])
def test_what_a_newcomer_runs_does_not_write_over_the_results_of_the_repository(script):
    out = str(script.Settings().out)
    assert out.startswith("runs/")
    ignored = ["git", "check-ignore", "--quiet", out]
    assert subprocess.run(ignored, cwd=ROOT, check=False).returncode == 0
