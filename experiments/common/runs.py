"""What is kept of a run: one way to finish a result, its settings, and a log that survives a kill.

A script's settings are a dataclass with a folder `out`; in a result they stand without what says
only where things lie, or which part is done now.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.common import sums
from experiments.common.machine import provenance
from mlem_jax.arrays import whole_file

WHERE = ("out", "runs", "rows", "tiny", "samplers")
"""Settings that a result does not depend on."""


def finish(
    name: str,
    settings: Any,
    result: dict[str, Any],
    draw: Callable[[Path], None] | None = None,
    *,
    apart: tuple[str, ...] = (),
    console: Console | None = None,
) -> None:
    """Write `name`.json and, where it is drawn, `name`.png into the folder `settings.out`.

    Each file is written beside its place and then moved there, so that a kill leaves the old one or
    the new one. What wrote it comes first; a result of `measured_before` keeps what measured it.

    Args:
        name: of the files.
        settings: of the script.
        result: what JSON can hold.
        draw: draws the picture into a file.
        apart: settings that the result does not depend on, besides `WHERE`.
        console: that says what was written.
    """
    folder: Path = settings.out
    folder.mkdir(parents=True, exist_ok=True)
    about = {**provenance(module_of(settings)), "settings": recorded(settings, apart)}
    file = folder / f"{name}.json"
    write_whole(file, json.dumps(about | result, indent=1) + "\n")
    written = str(file)
    if draw is not None:
        beside = folder / f"{name}.new.png"  # What draws goes by the ending.
        draw(beside)
        beside.replace(folder / f"{name}.png")
        written += " and .png"
    (console or Console()).print(f"wrote {written}")


def module_of(settings: Any) -> str:
    """The module a script's settings are of, as one runs it with `python -m`."""
    found = sys.modules[type(settings).__module__]
    return found.__spec__.name if found.__spec__ else found.__name__


def recorded(settings: Any, apart: tuple[str, ...] = ()) -> dict[str, Any]:
    """Settings as result files keep them: folders by name, and without `WHERE` and `apart`."""
    given = dataclasses.asdict(settings)
    return {name: value.name if isinstance(value, Path) else value
            for name, value in given.items() if name not in (*WHERE, *apart)}  # fmt: skip


def measured_before(file: Path, settings: Any) -> dict[str, Any]:
    """A result but for its summary, with what summarises it now beside what measured it."""
    found = json.loads(file.read_text())
    found.pop("summary", None)
    return found | {"summarised": provenance(module_of(settings))}


def check_settings(directory: Path, expected: dict[str, Any], process: int = 0) -> None:
    """Write what determines the result beside the log, or compare it with what stands there.

    Args:
        directory: of the run; made if need be.
        expected: what JSON can hold.
        process: which of several that begin the same run at the same time.

    Raises:
        ValueError: if the folder was begun with other settings; each that differs is named.
    """
    expected = json.loads(json.dumps(expected))  # As it will be read again: tuples are lists.
    file = directory / "settings.json"
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(expected, indent=1) + "\n", process)
    try:
        found = dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"expected the settings of a run in {file}, it is damaged ({error}); if "
                         "you know that they are those of now, delete it") from error  # fmt: skip
    if found != expected:
        nothing = "not given"
        differing = [
            f"{name} {found.get(name, nothing)}, now {expected.get(name, nothing)}"
            for name in expected | found
            if found.get(name, nothing) != expected.get(name, nothing)
        ]
        raise ValueError(
            f"expected the settings of before, {directory} was begun with other settings: "
            f"{', '.join(differing)}; give the old settings to go on, or another folder to start "
            "anew"
        )


def cut_log(file: Path, step: int) -> None:
    """Drop the lines of a log past the step one resumes from: those steps are done again."""
    write_log(file, [values for values in read_log(file)
                     if values["step"] <= step and "held_out" not in values])  # fmt: skip


def append(file: Path, **values: Any) -> None:
    """One line of JSON at the end of a log, at once on disk; all of it or, after an error, nothing.

    Of a line that a kill left unfinished the rest is dropped first.
    """
    line = f"{sums.dumps(values)}\n".encode()
    with file.open("ab+", buffering=0) as stream:  # So that nothing waits to be written later.
        stream.seek(0)
        whole = stream.read().rfind(b"\n") + 1
        try:
            stream.truncate(whole)
            while line:
                line = line[stream.write(line) :]
            os.fsync(stream.fileno())
        except OSError as error:
            stream.truncate(whole)
            told = f"{error.strerror}; the line is not written, the log before it is whole"
            raise OSError(error.errno, told, str(file)) from error


def read_log(file: Path) -> list[dict[str, Any]]:
    """The lines of a log, none if it is not there; one that a kill left unfinished is dropped.

    Raises:
        ValueError: if a line is not as it was written.
    """
    if not file.exists():
        return []
    *lines, _ = file.read_bytes().split(b"\n")
    return [sums.loads(line, f"line {number} of {file}") for number, line in enumerate(lines, 1)]


def write_log(file: Path, lines: Iterable[dict[str, Any]]) -> None:
    """A log of these lines, all or nothing."""
    write_whole(file, "".join(f"{sums.dumps(values)}\n" for values in lines))


def write_whole(file: Path, content: str | bytes, process: int = 0) -> None:
    """Write all or nothing: a kill, or a full disk, leaves the old file or the new one.

    Of several processes, each may write it at the same time; the last one's stays.
    """
    with whole_file(file, process) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
