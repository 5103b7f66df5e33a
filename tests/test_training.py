"""Training a ladder, shipping it and reading it again, as a user does, with small networks."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.common import tiny
from experiments.ladders import recipes, shipped
from experiments.ladders import ship as ship_ladder
from experiments.ladders import train as train_levels
from experiments.ladders.resume import named, steps_kept

pytestmark = pytest.mark.usefixtures("others_promote")

ROOT = Path(__file__).parent.parent


@pytest.fixture
def pictures(tmp_path):
    return tiny.random_pictures(tmp_path / "pictures.npz")


@pytest.fixture
def two_levels(tmp_path):
    file = tmp_path / "two.toml"
    file.write_text(tiny.LEVEL.format(4, 30) + tiny.LEVEL.format(8, 30))
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
    with jax.enable_x64(False):
        train_levels.main(settings)
    with pytest.raises(ValueError, match="begun with other settings: seed 0, now 1"):
        train_levels.main(dataclasses.replace(settings, seed=1))
    with pytest.raises(ValueError, match="expected levels from 1 to 2, got 3"):
        train_levels.main(dataclasses.replace(settings, levels=(3,)))


def test_a_trained_ladder_is_shipped_with_its_card(pictures, tmp_path):
    trained, out = tmp_path / "runs", tmp_path / "shipped"
    ladder = tiny.recipes(tmp_path / "two.toml")  # As the scripts with --tiny: compiled once.
    settings = train_levels.Settings(data=pictures, ladder=ladder, size=8, out=trained)
    shipping = ship_ladder.Settings(data=pictures, licence="ours", runs=trained, out=out, size=8,
                                    ladder=ladder)  # fmt: skip
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


@pytest.mark.parametrize("time", [jnp.float32(0.4), jnp.array([0.2, 0.9], jnp.float32)])
@pytest.mark.parametrize("given", recipes.PREDICTIONS)
def test_a_network_that_predicts_one_thing_predicts_the_others(given, time):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 3)), jnp.float32)
    at = jnp.reshape(time, (-1, 1, 1, 1))
    alpha, sigma = shipped.PROCESS.alpha(at), shipped.PROCESS.sigma(at)
    data = jnp.sin(3 * x)
    noise = (x - alpha * data) / sigma
    said = {"data": data, "noise": noise, "v": alpha * noise - sigma * data}
    for wanted, expected in said.items():
        network = shipped.predicting(wanted, lambda params, x, t: params * said[given], given)
        np.testing.assert_allclose(network(1.0, x, time), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("prediction", "steps"), [("v", 60), ("data", 1500)])
def test_a_level_that_follows_another_is_trained_after_it(prediction, steps, pictures, tmp_path):
    following, alone = tmp_path / "following.toml", tmp_path / "alone.toml"
    level = tiny.LEVEL.format(4, steps) + f"learning_rate = 3e-3\nprediction = '{prediction}'\n"
    following.write_text(level + "teacher = 2\n" + tiny.LEVEL.format(4, 2))
    alone.write_text(level)
    settings = train_levels.Settings(data=pictures, ladder=following, size=8, out=tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint .* at .*level_2/average"):
        train_levels.main(dataclasses.replace(settings, levels=(1,)))
    train_levels.main(settings)
    follower, teacher = (
        shipped.restore_average(settings.out / f"level_{level}" / "average") for level in (1, 2)
    )
    assert follower[0]["teacher"] == 2
    # A network that was hardly trained says v = 0; the follower says the same, not the data.
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8, 8, 3)))
    follows, leads = (
        shipped.data_level(recipes.recipe_of(about)) for about, _ in (follower, teacher)
    )
    train_levels.main(dataclasses.replace(settings, ladder=alone, out=tmp_path / "b"))
    untaught = shipped.restore_average(tmp_path / "b" / "level_1" / "average")
    said, taught, own = (
        drift(params, x, jnp.float32(0.5))
        for drift, (_, params) in ((follows, follower), (leads, teacher), (follows, untaught))
    )
    assert jnp.mean((said - taught) ** 2) < 0.1 * jnp.mean((own - taught) ** 2)


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
