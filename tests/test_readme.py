"""What README shows is what happens."""

import re
import subprocess
import sys
from pathlib import Path

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
    assert second.strip().endswith("pytest")


def test_every_script_is_in_the_table_of_experiments():
    folder = Path(__file__).parent.parent / "experiments"
    scripts = {f.stem for f in folder.glob("*.py") if '__name__ == "__main__"' in f.read_text()}
    assert scripts == set(re.findall(r"`python -m experiments\.(\w+)", README))
