"""Small measurements: what is made of their figures, and that they run."""

import json

import jax
import numpy as np
import pytest

from experiments.common import machine, samplers
from experiments.common.timing import in_turns, paired, told
from experiments.ladders import shipped
from experiments.micro import (
    accelerator,
    depthwise,
    floor,
    gradient_noise,
    learning_cost,
    references,
    rounds,
)
from mlem_jax import Ladder, grids, process
from mlem_jax.solver import Round
from tests.pictures import is_drawn

pytestmark = pytest.mark.usefixtures("others_promote")


def test_kinds_take_turns_and_the_run_that_compiles_is_left_out():
    ran = []
    seconds = in_turns({name: lambda name=name: ran.append(name) for name in "ab"}, 3)
    assert ran == ["a", "b"] * 4
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3}


def test_ratios_are_taken_turn_by_turn():
    # The machine was half as fast in the second turn: no ratio says so.
    seconds = {"floor": [1.0, 2.0, 1.0], "scan": [1.5, 3.0, 1.25]}
    found = paired(seconds, "floor")
    assert found["floor"] == {"median": 1.0, "least": 1.0, "most": 1.0}
    assert told(found["scan"]) == "1.50 (1.25-1.50)"


def test_calls_are_counted_by_level(monkeypatch):
    sizes = {1: [4, 2], 2: [1], 0: [4]}
    made = [Round(level, np.arange(size), np.arange(size))
            for level, each in sizes.items() for size in each]  # fmt: skip
    monkeypatch.setattr(rounds, "make_rounds", lambda needed, batch: made)
    found = rounds.calls_of(np.zeros((4, 5, 3), bool), None)
    assert found == {"calls": [2, 1, 0], "mean_batch": [3.0, 1.0, 0.0]}


def test_some_levels_are_put_in_half_precision_and_the_others_are_not():
    whole, half = (Ladder((f"{name}1", f"{name}2"), (name, name), (1, 2)) for name in "wh")
    assert accelerator.with_half(whole, half, (2,)) == Ladder(("w1", "h2"), ("w", "h"), (1, 2))


def test_a_device_is_named_as_a_file_is(monkeypatch):
    class Device:
        device_kind = "NVIDIA A100-SXM4 (40 GB)"

    assert machine.device() == "cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert machine.device() == "nvidia-a100-sxm4-40-gb"


@pytest.mark.parametrize("longest", [0.5, 2.0])
def test_a_grid_is_cut_where_the_log_snr_changes_fast_and_keeps_its_points(longest):
    times = samplers.fine_grid(20)
    cut = samplers.cut_grid(times, longest)
    moved = np.diff(grids.in_double(lambda t: process.log_snr(shipped.PROCESS, t), cut[1:-1]))
    assert moved.max() <= longest * (1 + 1e-9)
    np.testing.assert_array_equal(cut[np.isin(cut, times)], times)
    assert len(cut) < 2 * 17.5 / longest + 20


@pytest.mark.slow
@pytest.mark.parametrize("script", [accelerator, depthwise, floor, gradient_noise, learning_cost,
                                    references, rounds])  # fmt: skip
def test_they_run_on_tiny_networks(script, tmp_path):
    with jax.enable_x64(False):
        script.main(script.Settings(tiny=True, out=tmp_path))
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())
    assert found["command"].startswith(f"python -m {script.__name__}")
    if script in (accelerator, floor, rounds):
        assert len(np.ravel(found["load"])) >= 6
    if script in (depthwise, gradient_noise):
        assert found["rows"]
    if script is references:
        of_ode = {row["order"]: row["mse"] for row in found["rows"] if row["sampler"] == "ddim"}
        assert of_ode[2] < of_ode[1] / 10
    if script is learning_cost:
        assert found["ratio_to_plain"]["plain"] == 1
    if script is accelerator:
        assert {row["dtype"] for row in found["levels"]} == {"float32", "bfloat16"}
        assert all(row["of_half_precision"] > 0 for row in found["half_precision"]["evaluations"])
        assert is_drawn(file.with_suffix(".png"))
    if script is rounds:
        assert all(row["largest_distance"] < 1e-5 for row in found["rows"])


def test_a_shipped_ladder_in_half_precision_says_nearly_the_same(small_ladder):
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    with jax.enable_x64(False):
        said = []
        for dtype in (None, accelerator.HALF):
            ladder = shipped.load(small_ladder, dtype=dtype).ladder
            said.append(jax.jit(ladder.drifts[1])(ladder.params[1], x, np.float32(0.5)))
    assert said[1].dtype == np.float32
    assert 0 < np.abs(said[0] - said[1]).max() < 0.05
