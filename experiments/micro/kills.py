"""Kill a run at chosen moments and let it go on: what scripts do, on toy networks.

Moments are exact where they can be: the n-th time that a run is about to touch a file in its
folder, as Python's audit hooks tell, or the middle of what it writes into the n-th file; else a
time. Runs are forked off one process that has imported all and run nothing, so that each costs no
imports.
"""

import builtins
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ACTIVITIES = ("training", "learning", "sampling", "fitting")
"""Of `experiments.micro.toys`."""
TOUCHING = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}


class Moment(NamedTuple):
    """When a run is killed.

    Attributes:
        kind: "file", before it touches one; "write", half of it written; "second"; or "never".
        number: of the file, or of seconds.
    """

    kind: str = "never"
    number: float = 0


class Ended(NamedTuple):
    """How a run ended.

    Attributes:
        status: 0 if it came to its end, -9 if it was killed, else something failed.
        counts: how often it touched files, opened one to write, and its seconds, by `Moment.kind`;
            of a run that came to its end.
        told: the last of what it printed.
    """

    status: int
    counts: dict[str, float]
    told: str


Server = Callable[[str, Path, Moment], Ended]
"""Runs one of `ACTIVITIES` in a folder, until it ends or is killed."""


@contextmanager
def serving() -> Iterator[Server]:
    """A process to fork runs off."""
    command = [sys.executable, "-c", "from experiments.micro import kills; kills.serve()"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              cwd=root, env=environment)  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    requests, answers = server.stdin, server.stdout

    def run(activity: str, folder: Path, moment: Moment) -> Ended:
        print(json.dumps([activity, str(folder), *moment]), file=requests, flush=True)
        return Ended(*json.loads(answers.readline()))

    try:
        yield run
    finally:
        requests.close()
        server.wait()
        answers.close()


def serve() -> None:
    """Fork a run off for every line that comes in."""
    from experiments.micro import toys

    for line in sys.stdin:
        activity, folder, *moment = json.loads(line)
        ended = forked(getattr(toys, activity), Path(folder), Moment(*moment))
        print(json.dumps(ended), flush=True)


def forked(run: Callable[[Path], None], folder: Path, moment: Moment) -> Ended:
    """A run in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    log, begun = folder.with_suffix(".out"), time.monotonic()
    process = os.fork()
    if process == 0:
        with log.open("w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        status = 1
        try:
            counts = watch(folder, moment)
            run(folder)
            counts["second"] = time.monotonic() - begun
            folder.with_suffix(".counts").write_text(json.dumps(counts))
            status = 0
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr.flush()
        os._exit(status)
    if moment.kind == "second":
        time.sleep(moment.number)
        os.kill(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    counts = json.loads(folder.with_suffix(".counts").read_text()) if status == 0 else {}
    return Ended(status, counts, log.read_text()[-2000:])


def watch(folder: Path, moment: Moment) -> dict[str, float]:
    """Count what this process does to the files of a folder, and kill it at its moment."""
    counts: dict[str, float] = {"file": 0, "write": 0}

    def passed(kind: str) -> bool:
        counts[kind] += 1
        return moment == (kind, counts[kind])

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in TOUCHING and touches(event, args, str(folder)) and passed("file"):
            die()

    opened = io.open

    def watched(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        stream = opened(file, mode, *args, **options)
        if set(mode) & set("wa+x") and str(file).startswith(str(folder)) and passed("write"):
            written = stream.write

            def half(data: Any) -> int:
                count = written(data[: len(data) // 2])
                stream.flush()
                die()
                return count

            stream.write = half  # pyright: ignore[reportAttributeAccessIssue]
        return stream

    builtins.open = io.open = watched
    sys.addaudithook(hook)
    return counts


def touches(event: str, args: tuple[Any, ...], folder: str) -> bool:
    """Whether an event of Python's changes a folder."""
    if event == "open" and not int(args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return False
    paths = [os.fsdecode(arg) for arg in args if isinstance(arg, str | bytes | os.PathLike)]
    relative = event in ("os.remove", "os.rmdir") and args[-1] != -1  # To a folder taken away.
    return relative or any(path.startswith(folder) for path in paths)


def die() -> None:
    """As the kernel kills: at once, nothing flushed, nobody told."""
    os.kill(os.getpid(), signal.SIGKILL)


class Outcome(NamedTuple):
    """What came of killing a run again and again.

    Attributes:
        killed: moments at which it was running still, and died.
        same: whether it ended with the bits of an unbroken run.
        told: what it said where it did not.
    """

    killed: int
    same: bool
    told: str


def killed_at(run: Server, activity: str, folder: Path, moments: list[Moment]) -> Outcome:
    """A run in a folder of its own, killed at each moment in turn and then left alone."""
    killed, failures = 0, []
    for moment in (*moments, Moment()):
        ended = run(activity, folder, moment)
        killed += ended.status == -signal.SIGKILL
        if ended.status not in (0, -signal.SIGKILL):
            failures.append(f"{moment}: {ended.told}")
    end, whole = folder / "end", folder.parent / f"{activity}_whole" / "end"
    same = not failures and end.read_bytes() == whole.read_bytes()
    if not failures and not same:
        failures.append(f"{moments}: another end")
    return Outcome(killed, same, "\n".join(failures))


def draw_moments(
    rng: np.random.Generator, counts: dict[str, float], count: int, kinds: tuple[str, ...]
) -> list[Moment]:
    """Random ones, of each kind in turn, in the first half of a run: a chain of them goes on."""
    return [Moment(kind, rng.uniform(0, counts[kind] / 2) if kind == "second"
                   else int(rng.integers(1, int(counts[kind]) // 2 + 1)))
            for _, kind in zip(range(count), itertools.cycle(kinds))]  # fmt: skip
