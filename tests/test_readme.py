"""What README shows is what happens."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_runs_and_prints_its_price():
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    code += "\nassert samples.shape == x.shape and jnp.isfinite(samples).all()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.startswith("Price(evaluations=")


def test_the_first_two_commands_are_the_quickstart_and_the_tests():
    first, second = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert first.strip().endswith("-m experiments.quickstart")
    assert second.strip().endswith("pytest")


def test_every_script_is_in_the_table_of_experiments():
    folder = Path(__file__).parent.parent / "experiments"
    scripts = {f.stem for f in folder.glob("*.py") if '__name__ == "__main__"' in f.read_text()}
    assert scripts == set(re.findall(r"`python -m experiments\.(\w+)", README))
