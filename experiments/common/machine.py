"""What the figures in results/ were measured on."""

import os
import platform
import re
import shlex
import subprocess
import sys
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


def device() -> str:
    """`cpu`, or the kind of the accelerator, fit for the name of a file: `nvidia-a100-sxm4`."""
    if jax.default_backend() == "cpu":
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")


def load() -> list[float]:
    """How many processes wanted to run in the last 1, 5 and 15 minutes: beside any timing."""
    return [round(each, 2) for each in os.getloadavg()]


def provenance(module: str) -> dict[str, str]:
    """Machine, versions, commit and command: what it takes to make a figure again."""
    commit = asked_of_git("rev-parse", "HEAD") or "unknown"
    if asked_of_git("status", "--porcelain", "--", ".", "../mlem_jax"):
        commit += ", with changes"
    command = shlex.join(["python", "-m", module, *map(as_typed, sys.argv[1:])])
    return {"machine": machine(), "commit": commit, "command": command}


def asked_of_git(*words: str) -> str:
    """What git says in the folder of the experiments; nothing where there is no git."""
    try:
        asked = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True,
                               text=True, check=False)  # fmt: skip
    except FileNotFoundError:
        return ""
    return asked.stdout.strip()


def as_typed(argument: str) -> str:
    """A folder by its name: where it lies is nobody's business."""
    return Path(argument).name if Path(argument).is_absolute() else argument
