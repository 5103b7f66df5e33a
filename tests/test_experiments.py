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

from experiments.ladders import shipped as ladder
from experiments import quickstart
from experiments import sample
from experiments.ladders import ship as ship_ladder
from experiments.ladders import train as train_levels
from mlem_jax import plan, steps
from mlem_jax.unet import Architecture

ROOT = os.path.dirname(os.path.dirname(__file__))
SMALL = Architecture(base=8, middle=0, scales=1)


@pytest.fixture
def pictures(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "pictures.npz", images=pixels)
    return tmp_path / "pictures.npz"


@pytest.fixture
def small_rungs(monkeypatch):
    recipes = (
        ladder.Recipe(SMALL._replace(base=4), 30, 4, 1e-3),
        ladder.Recipe(SMALL, 30, 4, 1e-3),
    )
    monkeypatch.setitem(ladder.LADDERS, "characters", recipes)
    return recipes


def final_state(out, level):
    with ocp.CheckpointManager((out / f"level_{level}" / "checkpoints").absolute()) as manager:
        return manager.latest_step(), manager.restore(
            manager.latest_step(), args=ocp.args.StandardRestore()
        )


def test_a_run_cut_by_its_time_limit_ends_as_an_unbroken_one(pictures, small_rungs, tmp_path):
    settings = train_levels.Settings(
        data=pictures, size=8, levels=(2,), out=tmp_path / "whole", log_every=10
    )
    train_levels.main(settings)
    cut = dataclasses.replace(settings, out=tmp_path / "cut")
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
    settings = train_levels.Settings(data=tmp_path, mirror=True)
    batches = train_levels.batches_of(shown, 16, settings)
    first = np.concatenate([batches[number] for number in range(4)])
    assert sorted(picture[0].min() for picture in first) == list(range(64))
    mirrored = np.array([picture[0, 0, 0] > picture[0, -1, 0] for picture in first])
    assert 12 <= mirrored.sum() <= 52  # 5 sigma.
    again = train_levels.batches_of(shown, 16, settings)
    np.testing.assert_array_equal(again[3], first[48:])
    plain = train_levels.batches_of(shown, 16, dataclasses.replace(settings, mirror=False))
    assert all(picture[0, 0, 0] < picture[0, -1, 0] for picture in plain[0])


def test_a_run_that_is_killed_ends_as_an_unbroken_one(pictures, tmp_path):
    command = [
        sys.executable, "-m", "experiments.ladders.train", "--data", str(pictures), "--size", "8",
        "--levels", "1", "--steps", "40", "--log-every", "5",
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
    with ocp.CheckpointManager((killed / "level_1" / "checkpoints").absolute()) as manager:
        assert 0 < manager.latest_step() < 40
    subprocess.run(often, **run, check=True)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, final_state(whole, 1)[1], final_state(killed, 1)[1])
    )


def test_a_folder_begun_with_other_settings_is_not_gone_on_with(pictures, small_rungs, tmp_path):
    settings = train_levels.Settings(
        data=pictures, size=8, levels=(1,), out=tmp_path / "run", minutes=1e-9
    )
    train_levels.main(settings)
    with pytest.raises(ValueError, match="begun with other settings: seed 0, now 1"):
        train_levels.main(dataclasses.replace(settings, seed=1))
    with pytest.raises(ValueError, match="expected levels from 1 to 2, got 3"):
        train_levels.main(dataclasses.replace(settings, levels=(3,)))


def test_a_trained_ladder_is_shipped_with_its_card(pictures, small_rungs, tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "shipped"
    with jax.enable_x64(False):
        train_levels.main(train_levels.Settings(data=pictures, size=8, out=runs, levels=(1, 2)))
        ship_ladder.main(
            ship_ladder.Settings(data=pictures, licence="ours", runs=runs, out=out, size=8)
        )
        found = ladder.load(out)
    assert found.shape == (8, 8, 3)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, found.params[1], final_state(runs, 2)[1]["average"])
    )
    card = json.loads((out / "card.json").read_text())
    assert found.losses == tuple(row["held_out_loss"] for row in card["levels"])
    assert (out / "README.md").read_text().count("| base ") == 2
    shutil.rmtree(runs / "level_2" / "average")  # As of a level that is still being trained.
    with (
        jax.enable_x64(False),
        pytest.raises(FileNotFoundError, match=r"expected a checkpoint .* at .*level_2/average"),
    ):
        ship_ladder.main(
            ship_ladder.Settings(data=pictures, licence="ours", runs=runs, out=out, size=8)
        )


def test_a_level_that_follows_another_is_trained_after_it(pictures, monkeypatch, tmp_path):
    recipes = (
        ladder.Recipe(SMALL._replace(base=4), 60, 4, 3e-3, teacher=2),
        ladder.Recipe(SMALL._replace(base=4), 2, 4, 1e-3),
    )
    monkeypatch.setitem(ladder.LADDERS, "characters", recipes)
    settings = train_levels.Settings(data=pictures, size=8, out=tmp_path, levels=(1, 2))
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint .* at .*level_2/average"):
        train_levels.main(dataclasses.replace(settings, levels=(1,)))
    train_levels.main(settings)
    follower, teacher = (ladder.restore_average(tmp_path / f"level_{k}/average") for k in (1, 2))
    assert follower[0]["teacher"] == 2
    # A network that was hardly trained says nothing; the follower says the same, not the data.
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8, 8, 3)))
    said, taught = (
        ladder.data_level(Architecture(**about["architecture"]))(params, x, 0.5)
        for about, params in (follower, teacher)
    )
    alone = train_levels.Settings(data=pictures, size=8, out=tmp_path / "alone", levels=(1,))
    monkeypatch.setitem(ladder.LADDERS, "characters", (recipes[0]._replace(teacher=None),))
    train_levels.main(alone)
    params = ladder.restore_average(tmp_path / "alone" / "level_1" / "average")[1]
    untaught = ladder.data_level(recipes[0].architecture)(params, x, 0.5)
    assert jnp.mean((said - taught) ** 2) < 0.1 * jnp.mean((untaught - taught) ** 2)


def test_the_quickstart_compares_every_method_along_one_path(small_ladder, tmp_path, capsys):
    with jax.enable_x64(False):
        quickstart.main(
            quickstart.Settings(
                ladder=small_ladder, images=2, reference_steps=210, base_steps=20,
                budgets=(11.0, 12.0, 13.0), out=tmp_path / "results",
            )
        )  # fmt: skip
    printed = capsys.readouterr().out
    assert "ML-EM, budget 12" in printed
    result = json.loads((tmp_path / "results" / "quickstart.json").read_text())
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["top level, reference"]["mse"] == 0
    assert rows["top level, reference"]["evaluations"] == [0, 210]
    assert rows["level 1, 20 steps"]["evaluations"] == [20, 0]
    errors = [rows[f"top level, {count} steps, uniform"]["mse"] for count in (10, 50, 200)]
    assert errors[0] > errors[1] > errors[2] > 0
    for row in result["rows"]:
        cost = np.dot(row["evaluations"], result["costs"])
        assert row["cost"] == pytest.approx(cost, rel=1e-5)
    assert (tmp_path / "results" / "quickstart.png").stat().st_size > 10_000


def test_every_rival_and_every_multilevel_plan_spends_its_budget():
    costs, budgets = (0.02, 0.1, 1.0), (12.0, 30.0)
    base = steps.uniform_grid(1.0, 0.0, 100)
    switches = [m for m in quickstart.rivals(budgets, costs, base) if "switch" in m.group]
    assert len(switches) == 4
    for method in switches:
        cost = float(plan.price(method.plan, costs).costs.sum())
        assert cost == pytest.approx(float(method.group.split()[-1]), abs=1.0)
    for method in quickstart.multilevel(budgets, costs, 2.0, base, jax.random.key(0)):
        cost = float(plan.price(method.plan, costs).costs.sum())
        wanted = float(method.name.split(", ")[1].split()[-1])
        assert method.expected_cost == pytest.approx(wanted, rel=1e-6)
        if "systematic" in method.name:
            assert cost == pytest.approx(wanted, rel=0.1)


def test_gamma_is_the_slope_of_cost_against_error():
    costs = np.array([1.0, 4.0, 16.0, 64.0])
    errors = costs ** (-1 / 2.5)
    losses = np.append(0.1 + errors[:-1] ** 2, 0.1)
    assert ladder.measured_gamma(tuple(costs), tuple(losses)) == pytest.approx(2.5, rel=1e-6)


def test_a_folder_without_levels_is_said_to_have_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected checkpoints level_1, level_2, \.\.\."):
        ladder.load(tmp_path)


@pytest.mark.parametrize("script", [quickstart, sample])
def test_what_a_newcomer_runs_does_not_write_over_the_results_of_the_repository(script):
    out = str(script.Settings().out)
    assert out.startswith("runs/")
    ignored = ["git", "check-ignore", "--quiet", out]
    assert subprocess.run(ignored, cwd=ROOT, check=False).returncode == 0
