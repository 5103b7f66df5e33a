"""Several devices and processes: the claims of `on_devices` on eight, one problem on two hosts."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent


def with_devices(count):
    """The environment of a process of so many devices, which is settled when JAX begins."""
    flags = f"--xla_force_host_platform_device_count={count}"  # Optimised, as users compile.
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_what_is_claimed_of_several_devices_holds_on_eight(which):
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", which, str(HERE / "on_devices.py")],
        capture_output=True, text=True, cwd=HERE.parent, env=with_devices(8),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]


@pytest.mark.slow
def test_two_processes_draw_the_same_gates_and_solve_one_problem_to_the_bits_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])

    def start(devices, *given):
        command = [sys.executable, str(HERE / "in_two_processes.py"), *given]
        return subprocess.Popen(command, env=with_devices(devices), cwd=HERE.parent)

    files = [tmp_path / f"{name}.npz" for name in ("first", "second", "one")]
    two = [start(2, str(file), port, str(process)) for process, file in enumerate(files[:2])]
    assert [process.wait() for process in two] == [0, 0]
    assert start(4, str(files[2]), "none", "0").wait() == 0
    first, second, one = ({**np.load(file)} for file in files)
    np.testing.assert_array_equal(first["needed"], second["needed"])
    both = first | second
    assert len(first) == len(second) == 1 + 3 * 2
    assert both.keys() == one.keys()
    for name, part in one.items():
        np.testing.assert_array_equal(both[name], part)
