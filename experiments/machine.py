"""What the figures in results/ were measured on."""

import os
import platform
from pathlib import Path

import jax


def machine() -> str:
    """Processor and cores, accelerator if there is one, versions."""
    cpu_information = Path("/proc/cpuinfo")
    lines = cpu_information.read_text().splitlines() if cpu_information.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor() or platform.machine()
    kind = "" if jax.default_backend() == "cpu" else f", {jax.devices()[0].device_kind}"
    python = platform.python_version()
    return f"{processor}, {os.cpu_count()} cores{kind}, Python {python}, jax {jax.__version__}"
