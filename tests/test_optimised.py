"""What hangs on how XLA fuses holds with its optimisations too, which the other tests leave out."""

import os
import subprocess
import sys
from pathlib import Path

CLAIM = "tests/test_executors.py::test_networks_give_the_same_bits_with_and_without_predicates"


def test_executors_give_the_same_bits_as_users_compile(tmp_path):
    command = [sys.executable, "-m", "pytest", CLAIM, "-n", "0", "-q",
               "-o", f"cache_dir={tmp_path}"]  # fmt: skip
    ran = subprocess.run(command, env={**os.environ, "XLA_FLAGS": ""}, text=True,
                         capture_output=True, cwd=Path(__file__).parent.parent)  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert "6 passed" in ran.stdout
