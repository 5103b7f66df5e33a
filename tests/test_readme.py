"""What README shows is what happens."""

import json
import re
import subprocess
import sys

import pytest

from experiments.readme import PAGES, filled
from tests.readme_rows import (
    ALONE,
    BEST,
    FIXED,
    HELD,
    MANY,
    OURS,
    ROOT,
    SECOND,
    SNR,
    TABLES,
    TWO,
    UPPER,
    cells_of,
    line_of,
    ours,
    summed_up,
)

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
    fitted += "\nassert fitted.shape == x.shape and choice.cost <= budget + 40\n"
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


def test_every_ratio_in_a_table_is_that_of_the_results():
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")]
            for line in RESULTS.splitlines() if line.startswith("| DD")]  # fmt: skip
    expected = [[label, *cells_of(table, label)] for table in TABLES for label in table.rows]
    summed = [row for row in rows if row[0] in OURS]
    assert [row for row in rows if row[0] not in OURS] == expected
    assert [[row[0], *row[2:]] for row in summed] == [[name, *summed_up(name)] for name in OURS]


FACES = "celeba64/compare_draws.json"
CLAIMS = {
    "is at least 1.55 (DDPM) and 1.80 times (DDIM) as cheap": [
        ("error_against_cost.json", "ddpm", ours("systematic", "learned"), FIXED, 1.08, None),
        ("error_against_cost.json", "ddim", ours("systematic", "learned"), FIXED, 1.79, None),
    ],
    "order at least 2.4 times": [
        ("compare_draws.json", "ddim", ours("midpoint", **TWO, **HELD), ALONE,
         2.4, None),
    ],
    "1.8 times as cheap as Euler-Maruyama (1.05 to": [
        ("compare_draws.json", "ddpm", ours("midpoint", **TWO, **SNR), ALONE, 1.05, 1.9),
        ("compare_draws.json", "ddpm", ours("systematic", **TWO, **SNR), ALONE, 1.04, 1.9),
    ],
    "sure (1.2, by other pictures 0.7 to 1.7)": [
        ("compare_draws.json", "ddpm", ours("midpoint", **TWO, **SNR), SECOND, 0.65, 1.7),
        ("compare_draws.json", "ddpm", ours("systematic", **TWO, **SNR), SECOND, 0.65, 1.7),
    ],
    "less than a half. A part of that is the base": [
        *(("compare_draws.json", "ddpm", ours(**TWO, **SNR, **own), BEST, 2, None)
          for own in ({"draw": "systematic"}, {"draw": "midpoint"},
                      {"draw": "midpoint", "order": 2})),
        *(("compare_draws.json", "ddim", ours("midpoint", **TWO, **own), BEST, 2, None)
          for own in ({}, HELD, SNR | {"order": 2})),
    ],
    "1.8 to 2.3 times as cheap": [
        (FACES, "ddpm", ours("midpoint", **UPPER, **SNR, order=2), ALONE, 1.75,
         2.35),
        (FACES, "ddpm", ours("midpoint", **UPPER, **SNR, **HELD), ALONE, 1.75,
         2.35),
    ],
    "(1.02 to 1.36), for the best": [
        (FACES, "ddpm", ours("midpoint", **UPPER, **SNR, order=2), SECOND, 1.01,
         1.37),
    ],
    "2.4 to 2.7 times as cheap": [
        (FACES, "ddim", ours("midpoint", **UPPER, **SNR, **HELD), ALONE, 2.35,
         2.75),
    ],
    "costs less than two fifths": [
        *((FACES, sampler, ours("midpoint", **UPPER, **SNR, **own), BEST, 2.5, None)
          for sampler in ("ddpm", "ddim") for own in ({"order": 2}, HELD)),
    ],
    "2.3 to 9.2 times as cheap": [
        (FACES, "ddim", ours("midpoint", **UPPER, **SNR, **HELD), MANY, 2.3,
         9.2),
    ],
}  # fmt: skip
"""Sentences, and between which ratios they say that the interval lies."""


@pytest.mark.parametrize("sentence", CLAIMS)
def test_no_sentence_says_more_than_its_interval(sentence):
    assert sentence in " ".join(RESULTS.split())
    for result, sampler, method, other, least, most in CLAIMS[sentence]:
        low, high = line_of(result, sampler, method)["ratios"][other]["interval"]
        assert low >= least
        assert most is None or (high is not None and high <= most)


def test_no_row_beats_the_second_order_solver_for_sure_where_readme_says_so():
    summary = json.loads((ROOT / "results" / "compare_draws.json").read_text())["summary"]
    for line in (*summary["ddpm"], *summary["ddim"]):
        if line["of draws"] == "median":
            assert line["ratios"][SECOND]["interval"][0] < 1
    assert " ".join(RESULTS.split()).count("no row is cheaper for sure") == 2


def test_what_is_said_of_closer_levels_is_measured():
    samplers = json.loads((ROOT / "results" / "closeness.json").read_text())["samplers"]
    told = {}
    for sampler, own in samplers.items():
        for line in own["ratios"]:
            if (line["weights"], line["order"]) == ("trapezoid", 2):
                told[sampler, line["left"]] = line[ALONE]["told"].split(",")[0]
    assert (told["ddpm", 0.125], told["ddim", 0.125]) == ("2.97", "5.90 to 9.62")
    assert (told["ddpm", 1.0], told["ddim", 1.0]) == ("0.65 to 0.97", "1.27")
    said = "is 3.0 (DDPM) and 5.9 to 9.6 times (DDIM) as cheap as Euler-Maruyama, where with all"
    assert f"{said} of it it is 0.7 to 1.0 and 1.3 times" in " ".join(RESULTS.split())
