"""The scripts, run as a user runs them, with networks small enough for a test."""

import dataclasses
import json
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from experiments import fit, quickstart, sample
from experiments.common import runs, samplers, tiny
from experiments.common.benchmark import (
    Benchmark,
    kept_noise,
    measure_missing,
    noise_of,
    timed_solve,
)
from experiments.common.kept_plans import KeptPlan, read_plan, write_plan
from experiments.common.method import Method, Run, fields, label, method_of, select
from experiments.ladders import celeba, features, shipped
from experiments.ladders import ship as ship_ladder
from experiments.ours import fitted
from mlem_jax import Ladder, Problem, brownian_path, draw_starts, grids, plans, process, solve
from mlem_jax import steps as tables
from tests.pictures import is_drawn

pytestmark = pytest.mark.usefixtures("others_promote")

ROOT = Path(__file__).parent.parent


def test_the_quickstart_compares_every_method_at_equal_cost_along_one_path(tmp_path, capsys):
    with jax.enable_x64(False):
        settings = quickstart.shrink(quickstart.Settings(out=tmp_path / "results"), tmp_path)
        quickstart.main(settings)
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "results" / "quickstart.json").read_text())
    rows = result["rows"]
    assert rows[0]["mse"] == 0
    assert rows[0]["evaluations"] == [0, len(samplers.reference_grid(24)) - 1]
    for row in rows:
        cost = np.dot(row["evaluations"], result["costs"])
        assert row["cost"] == pytest.approx(cost, rel=1e-5)
    shown = {row["name"]: row["mse"] for row in rows if row["shown"]}
    assert list(shown) == [
        "top level, reference", "top level, 8 steps, Euler-Maruyama",
        "top level, 8 steps, DPM-Solver++ 2M", "top level, 8 steps, fitted",
        "top level, 8 steps, fitted, look-ahead",
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


def test_what_ml_em_of_the_paper_expects_to_pay_is_its_budget(monkeypatch):
    costs = (0.02, 0.1, 1.0)
    ladder = Ladder((jnp.multiply,) * 3, ((),) * 3, costs)
    trained = shipped.Trained(ladder, (3.0, 2.0, 1.0), (1, 1, 1))
    paid, fitted = [], []

    def fit_once(*given, **options):
        if not fitted:
            fitted.append(plans.fit_budget(*given, **options))
        return fitted[0]

    monkeypatch.setattr(quickstart, "fit_budget", fit_once)  # No key is in it.
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


@pytest.mark.slow
def test_a_plan_is_fitted_kept_and_drawn_with(tmp_path, capsys):
    given = {"tiny": True, "out": tmp_path / "plan.npz", "runs": tmp_path / "runs"}
    with jax.enable_x64(False):
        fit.main(fit.Settings(**given))
    told = json.loads((tmp_path / "plan.json").read_text())
    assert told["name"] in " ".join(capsys.readouterr().out.split())
    kept = read_plan(tmp_path / "plan.npz")
    assert kept.cost <= 6.006  # The top level alone may round up by a thousandth.
    assert told["mse"] > 0


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


def test_empty_axes_are_not_taken_for_a_figure(tmp_path):
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots()
    axis.set_title("nothing")
    figure.savefig(tmp_path / "empty.png")
    assert not is_drawn(tmp_path / "empty.png")
    axis.plot([0, 1], [0, 1])
    figure.savefig(tmp_path / "drawn.png")
    assert is_drawn(tmp_path / "drawn.png")
    plt.close(figure)


@pytest.mark.parametrize("order", [1, 2, "look-ahead"])
def test_noise_that_is_kept_is_the_noise_drawn_along_any_grid(order):
    fine, samples = samplers.reference_grid(24), np.arange(3)
    x = draw_starts(jax.random.key(1), samples, (2, 2, 1))
    own = Benchmark("ddpm", x, samples, jax.random.key(2), fine, x)
    noise_along = kept_noise(own)
    for times in samplers.coarse_grids(fine, 8).values():
        drawn = noise_of(own, times, order)
        np.testing.assert_allclose(noise_along(own, times, order), drawn, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="benchmark that the noise was drawn for"):
        noise_along(own._replace(samples=samples + 1), fine, 1)


def test_the_reference_cuts_even_steps_where_the_log_snr_changes_fast():
    even, cut = samplers.fine_grid(40), samplers.reference_grid(40)
    assert len(even) < len(cut) < 2 * len(even)
    assert np.isin(even, cut).all()
    values = np.asarray(process.log_snr(process.cosine(), jnp.asarray(cut[1:-1])))
    assert np.diff(values).max() < 1.001 * 20 / 40
    middle = (even > 0.3) & (even < 0.7)
    np.testing.assert_array_equal(even[middle], cut[(cut > 0.3) & (cut < 0.7)])
