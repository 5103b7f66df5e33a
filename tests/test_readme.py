"""What README shows is what happens."""

import json
import re
import subprocess
import sys

import pytest

from experiments.common.rival_tables import brief
from experiments.readme import PAGES, filled

ROOT = PAGES[0].parent
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "results" / "README.md").read_text()
OWN = (ROOT / "docs" / "own_networks.md").read_text()


def python_in(page):
    return re.findall(r"^```(?:python|\{code-cell\})\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_the_example_runs():
    (first,) = python_in(README)
    assert python_in(OWN)[0] == first
    first += "\nassert samples.shape == x.shape and jnp.isfinite(samples).all()\n"
    ran = subprocess.run([sys.executable, "-c", first], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.startswith("Price(evaluations=")


@pytest.mark.slow
def test_the_examples_run_one_after_the_other(tmp_path):
    (first,) = python_in(README)
    _, held, fitted, judged, learned, *_ = python_in(OWN)
    held += "\nsamples = mlem.solve(ladder, problem, steps, plan)\n"
    held += "\nassert jnp.isfinite(samples).all() and plan.memory.read.shape == (200, 5)\n"
    fitted += "\nassert fitted.shape == x.shape and choice.cost <= budget\n"
    judged += "\nassert len(kept) == len(diagnosis.advice.kept)\n"
    learned += "\nassert state.step == 3 and best.error == best.errors.min() > 0\n"
    command = [sys.executable, "-c", first + held + fitted + judged + learned]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert (tmp_path / "best.npz").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_filled_table_is_that_of_its_result(page):
    text = page.read_text()
    assert "<!-- end -->" in text
    assert filled(text) == text, "run python -m experiments.readme"


def test_every_link_of_a_page_leads_to_a_file():
    pages = [ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md"),
             *ROOT.glob("experiments/*/README.md")]  # fmt: skip
    for page in pages:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), (page, link)


def test_the_first_two_commands_are_the_quickstart_and_the_tests():
    first, second = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert first.strip().endswith("-m experiments.quickstart")
    assert "first command writes to `runs/quickstart`" in " ".join(README.split())
    assert second.strip().endswith("pytest")


def test_every_script_is_in_the_table_of_experiments():
    folder = ROOT / "experiments"
    scripts = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in folder.rglob("*.py") if '__name__ == "__main__"' in file.read_text()
    }  # fmt: skip
    told = re.findall(r"\| `python -m (experiments[\w.]+)", (folder / "README.md").read_text())
    assert sorted(told) == sorted(scripts)


ALONE, SECOND = "Euler-Maruyama", "second-order, top alone"
MANY, BEST = "Euler-Maruyama, 250 steps or more", "best of 15 of the paper's"
IMPULSE, HELD = {"weights": "impulse"}, {"weights": "trapezoid"}
CLAIMS = {
    "1.8 to 2.3 times as cheap": [
        ("ddpm", IMPULSE, ALONE, 1.75, 2.35), ("ddpm", HELD, ALONE, 1.75, 2.35)],
    "(1.02 to 1.36), for the best": [("ddpm", IMPULSE, SECOND, 1.01, 1.37)],
    "2.1 to 2.7 times as cheap": [
        ("ddim", IMPULSE, ALONE, 2.05, 2.75), ("ddim", HELD, ALONE, 2.05, 2.75)],
    "costs less than two fifths": [
        (sampler, own, BEST, 2.5, None) for sampler in ("ddpm", "ddim") for own in (IMPULSE, HELD)],
    "2.3 to 9.2 times as cheap": [("ddim", HELD, MANY, 2.3, 9.2)],
}  # fmt: skip
"""Sentences on faces, and between which ratios they say that an interval lies."""


@pytest.mark.parametrize("sentence", CLAIMS)
def test_no_sentence_says_more_than_its_interval(sentence):
    assert sentence in " ".join(RESULTS.split())
    summary = json.loads((ROOT / "results" / "celeba64" / "compare_draws.json").read_text())
    upper = {"levels": [3, 4], "grid": "log-SNR", "order": 2, "draw": "midpoint",
             "gates": "pilot", "of draws": "median"}  # fmt: skip
    for sampler, own, other, least, most in CLAIMS[sentence]:
        (line,) = (line for line in summary["summary"][sampler]
                   if (upper | own).items() <= line.items())  # fmt: skip
        low, high = line["ratios"][other]["interval"]
        assert low >= least
        assert most is None or (high is not None and high <= most)


def test_what_is_said_of_the_papers_gates_is_what_was_measured():
    result = json.loads((ROOT / "results" / "error_against_cost.json").read_text())

    def ratios(gates, draw, which, other):
        for sampler in ("ddpm", "ddim"):
            (line,) = (line for line in result["summary"][sampler] if line["gates"] == gates
                       and (line["draw"], line["of draws"]) == (draw, which))  # fmt: skip
            found = line["ratios"][other]
            yield found["low"], *found["interval"]

    same = "Euler-Maruyama, same grid"
    (sde, *around), (ode, *others) = ratios("learned", "independent", "best", same)
    told = (
        f"costs {sde:.1f} times (SDE; {around[0]:.1f} to {around[1]:.1f} by other pictures) and "
        f"{ode:.1f} times (ODE; {others[0]:.1f} to {others[1]:.1f}) what learned gates do"
    )
    assert told in " ".join(RESULTS.split())
    (sde, *_), (ode, *_) = ratios("pilot", "midpoint", "median", same)
    assert f"is {sde:.1f} and {ode:.1f} times as cheap" in " ".join(RESULTS.split())
    pilot = json.loads((ROOT / "results" / "pilot.json").read_text())["samplers"]
    rows = [row for own in pilot.values() for row in own["rows"]
            if row["gates"] == "pilot" and row["cost"] > 59]  # fmt: skip
    first, second = (brief(row["predicted"]) for row in rows)
    assert f"are predicted {first} (SDE) and {second} (ODE)" in " ".join(RESULTS.split())
    first, second = (f"{brief(row['measured'])} ± {brief(row['standard_error'])}" for row in rows)
    assert f"and measured {first} and {second}" in " ".join(RESULTS.split())
