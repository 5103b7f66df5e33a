"""What is kept of a run: its settings, and for a long one a log that survives a kill."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from experiments.common.machine import provenance


def recorded(settings: Any) -> dict[str, Any]:
    """Settings as result files keep them: folders by name, wherever they lie."""
    given = dataclasses.asdict(settings)
    return {name: value.name if isinstance(value, Path) else value
            for name, value in given.items()}  # fmt: skip


def measured_before(file: Path, module: str) -> dict[str, Any]:
    """A result but for its summary, with what summarises it now beside what measured it."""
    found = json.loads(file.read_text())
    found.pop("summary", None)
    return found | {"summarised": provenance(module)}


def check_settings(directory: Path, expected: dict[str, Any]) -> None:
    """Write what determines the result beside the log, or compare it with what stands there.

    Raises:
        ValueError: if the folder was begun with other settings; each that differs is named.
    """
    expected = json.loads(json.dumps(expected))  # As it will be read again: tuples are lists.
    file = directory / "settings.json"
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(expected, indent=1) + "\n")
    elif (found := json.loads(file.read_text())) != expected:
        nothing = "not given"
        differing = [
            f"{name} {found.get(name, nothing)}, now {expected.get(name, nothing)}"
            for name in expected | found
            if found.get(name, nothing) != expected.get(name, nothing)
        ]
        raise ValueError(
            f"{directory} was begun with other settings: {', '.join(differing)}; give the old "
            "settings to go on, or another folder to start anew"
        )


def cut_log(file: Path, step: int) -> None:
    """Drop the lines of a log past the step one resumes from: those steps are done again."""
    lines = file.read_text().splitlines() if file.exists() else []
    told = [json.loads(line) for line in lines if line.endswith("}")]
    kept = [values for values in told if values["step"] <= step and "held_out" not in values]
    write_whole(file, "".join(json.dumps(values) + "\n" for values in kept))


def append(file: Path, **values: Any) -> None:
    """One line of JSON at the end of a log, at once on disk."""
    with file.open("a") as stream:
        stream.write(json.dumps(values) + "\n")


def write_whole(file: Path, text: str) -> None:
    """Write all or nothing: a kill leaves the old file or the new one."""
    beside = file.with_suffix(".new")
    beside.write_text(text)
    beside.replace(file)
