"""Several devices: the claims of `on_devices`, in a process that has eight."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CLAIMS = Path(__file__).with_name("on_devices.py")


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_what_is_claimed_of_several_devices_holds_on_eight(which):
    # In a process of its own: how many devices there are is settled when JAX begins.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", which, str(CLAIMS)],
        capture_output=True, text=True, cwd=CLAIMS.parent.parent,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
