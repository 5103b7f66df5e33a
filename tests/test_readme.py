"""What README shows is what happens."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme_rows import (
    ALONE,
    BEST,
    FIXED,
    MANY,
    OURS,
    ROOT,
    SECOND,
    TABLES,
    cells_of,
    line_of,
    summed_up,
)

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_examples_run_one_after_the_other(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    first, held, judged, learned = blocks
    first += "\nassert samples.shape == x.shape and jnp.isfinite(samples).all()\n"
    held += "\nsamples = mlem.solve(levels, params, x, steps, plan, path)\n"
    held += "\nassert jnp.isfinite(samples).all() and plan.held is not None\n"
    judged += "\nassert len(kept.drifts) == len(own) == len(found.advice.kept)\n"
    learned += "\nassert state.step == 3 and best.error == best.errors.min() > 0\n"
    command = [sys.executable, "-c", first + held + judged + learned]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.startswith("Price(evaluations=")
    assert (tmp_path / "best.npz").exists()


def test_the_first_two_commands_are_the_quickstart_and_the_tests():
    first, second = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert first.strip().endswith("-m experiments.quickstart")
    assert "It writes to `runs/quickstart`" in README
    assert second.strip().endswith("pytest")


def test_every_script_is_in_the_table_of_experiments():
    folder = Path(__file__).parent.parent / "experiments"
    scripts = {f.stem for f in folder.glob("*.py") if '__name__ == "__main__"' in f.read_text()}
    assert scripts == set(re.findall(r"`python -m experiments\.(\w+)", README))


def test_every_ratio_in_a_table_is_that_of_the_results():
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")]
            for line in README.splitlines() if line.startswith("| DD")]  # fmt: skip
    expected = [[label, *cells_of(table, label)] for table in TABLES for label in table.rows]
    summed = [row for row in rows if row[0] in OURS]
    assert [row for row in rows if row[0] not in OURS] == expected
    assert [[row[0], *row[2:]] for row in summed] == [[name, *summed_up(name)] for name in OURS]


FACES = "celeba64/compare_draws.json"
LOG_SNR = "levels 2 4, log-SNR"
CLAIMS = {
    "is at least 1.55 (DDPM) and 1.80 times (DDIM) as cheap": [
        ("error_against_cost.json", "ddpm", "learned, systematic", FIXED, 1.08, None),
        ("error_against_cost.json", "ddim", "learned, systematic", FIXED, 1.79, None),
    ],
    "order at least 2.4 times": [
        ("compare_draws.json", "ddim", "pilot, trapezoid, second-order base, levels 2 4", ALONE,
         2.4, None),
    ],
    "1.8 times as cheap as Euler-Maruyama (1.05 to": [
        ("compare_draws.json", "ddpm", f"pilot, midpoint, {LOG_SNR}", ALONE, 1.05, 1.9),
        ("compare_draws.json", "ddpm", f"pilot, systematic, {LOG_SNR}", ALONE, 1.04, 1.9),
    ],
    "sure (1.2, by other pictures 0.7 to 1.7)": [
        ("compare_draws.json", "ddpm", f"pilot, midpoint, {LOG_SNR}", SECOND, 0.65, 1.7),
        ("compare_draws.json", "ddpm", f"pilot, systematic, {LOG_SNR}", SECOND, 0.65, 1.7),
    ],
    "less than a half. A part of that is the base": [
        *(("compare_draws.json", "ddpm", f"pilot, {kind}, {LOG_SNR}", BEST, 2, None)
          for kind in ("systematic", "midpoint", "midpoint, second-order base")),
        *(("compare_draws.json", "ddim", f"pilot, {kind}", BEST, 2, None) for kind in
          ("midpoint, levels 2 4", "trapezoid, second-order base, levels 2 4",
           f"midpoint, second-order base, {LOG_SNR}")),
    ],
    "1.8 to 2.3 times as cheap": [
        (FACES, "ddpm", "pilot, midpoint, second-order base, levels 3 4, log-SNR", ALONE, 1.75,
         2.35),
        (FACES, "ddpm", "pilot, trapezoid, second-order base, levels 3 4, log-SNR", ALONE, 1.75,
         2.35),
    ],
    "(1.02 to 1.36), for the best": [
        (FACES, "ddpm", "pilot, midpoint, second-order base, levels 3 4, log-SNR", SECOND, 1.01,
         1.37),
    ],
    "2.4 to 2.7 times as cheap": [
        (FACES, "ddim", "pilot, trapezoid, second-order base, levels 3 4, log-SNR", ALONE, 2.35,
         2.75),
    ],
    "costs less than two fifths": [
        *((FACES, sampler, f"pilot, {kind}, second-order base, levels 3 4, log-SNR", BEST, 2.5,
           None) for sampler in ("ddpm", "ddim") for kind in ("midpoint", "trapezoid")),
    ],
    "2.3 to 9.2 times as cheap": [
        (FACES, "ddim", "pilot, trapezoid, second-order base, levels 3 4, log-SNR", MANY, 2.3,
         9.2),
    ],
}  # fmt: skip
"""Sentences, and between which ratios they say that the interval lies."""


@pytest.mark.parametrize("sentence", CLAIMS)
def test_no_sentence_says_more_than_its_interval(sentence):
    assert sentence in " ".join(README.split())
    for result, sampler, method, other, least, most in CLAIMS[sentence]:
        low, high = line_of(result, sampler, method)["ratios"][other]["interval"]
        assert low >= least
        assert most is None or (high is not None and high <= most)


def test_no_row_beats_the_second_order_solver_for_sure_where_readme_says_so():
    summary = json.loads((ROOT / "results" / "compare_draws.json").read_text())["summary"]
    for line in (*summary["ddpm"], *summary["ddim"]):
        if line["of draws"] == "median":
            assert line["ratios"][SECOND]["interval"][0] < 1, line["method"]
    assert README.count("no row is cheaper for sure") == 1
    assert "no row is cheaper for\n  sure" in README


def test_what_is_said_first_is_no_promise():
    opening = README.split("```")[0]
    assert "as good as" not in opening
    assert "the largest network alone at fewer steps" in " ".join(opening.split())


def test_what_is_said_of_closer_levels_is_measured():
    samplers = json.loads((ROOT / "results" / "closeness.json").read_text())["samplers"]
    told = {}
    for sampler, own in samplers.items():
        for line in own["ratios"]:
            if line["method"] == "trapezoid, second-order base":
                told[sampler, line["left"]] = line[ALONE]["told"].split(",")[0]
    assert (told["ddpm", 0.125], told["ddim", 0.125]) == ("2.97", "5.90 to 9.62")
    assert (told["ddpm", 1.0], told["ddim", 1.0]) == ("0.65 to 0.97", "1.27")
    said = "is 3.0 (DDPM) and 5.9 to 9.6 times (DDIM) as cheap as Euler-Maruyama, where with all"
    assert f"{said} of it it is 0.7 to 1.0 and 1.3 times" in " ".join(README.split())
