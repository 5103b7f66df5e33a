"""Damage every kind of file, fill its disk, and lock its folder: is it told, is anything lost?"""

import os
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from experiments.micro.kept_files import Kind, files_of

TOLD = (ValueError, TypeError, FileNotFoundError)
"""What a reader may raise, if it says what it expected."""
NOBODY = 65534
WHOLE = "error, old file whole"
"""What should become of a file that cannot be written."""
Trouble = Callable[[], AbstractContextManager[None]]
"""Makes a context in which nothing can be written."""


def verdict(kind: Kind, right: Any) -> str:
    """Whether a reader says what is wrong, or gives what was written; else what it did."""
    try:
        found = kind.read()
    except TOLD as error:
        told = any(word in str(error) for word in ("expected", "damaged"))
        return "error" if told else f"error without words: {error!r:.200}"
    except Exception as error:
        return f"raw error: {error!r:.200}"
    return "right" if kind.same(found, right) else "silently wrong"


def spoiled(whole: bytes, places: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Every byte range of a file in turn: one bit, zeros, noise, or missing."""
    edges = np.linspace(0, len(whole), min(places, len(whole)) + 1).astype(int)
    for number, (start, stop) in enumerate(pairwise(edges)):
        own = bytearray(whole[start:stop])
        if number % 4 == 0:
            own[rng.integers(len(own))] ^= 1 << int(rng.integers(8))
        elif number % 4 == 1:
            own = bytearray(len(own))
        elif number % 4 == 2:
            own = bytearray(rng.bytes(len(own)))
        else:
            own = bytearray()
        if own != whole[start:stop]:
            yield whole[:start] + bytes(own) + whole[stop:]


def damage(kind: Kind, places: int, seed: int = 0) -> Counter[str]:
    """What its reader makes of a file that is damaged at many places, one after the other."""
    kind.write(0)
    right, rng, verdicts = kind.read(), np.random.default_rng(seed), Counter[str]()
    files = [file for file in files_of(kind) if file.stat().st_size]
    total = sum(file.stat().st_size for file in files)
    for file in files:
        whole = file.read_bytes()
        for each in spoiled(whole, -(-places * len(whole) // total), rng):
            file.write_bytes(each)
            verdicts[verdict(kind, right)] += 1
        file.write_bytes(whole)
    assert kind.read() == right
    return verdicts


def kept_through(kind: Kind, trouble: Trouble) -> str:
    """What is left of a file if the next one cannot be written: it is told, and the old is whole.

    Args:
        kind: of the file, written already.
        trouble: in which the next one is written.
    """
    old, files = kind.read(), set(kind.path.parent.rglob("*"))
    try:
        with trouble():
            kind.write(1)
    except OSError as error:
        named = str(kind.path.parent) in str(error)
        told = "error" if named else f"error without a name: {error!r:.200}"
    except Exception as error:
        told = f"raw error: {error!r:.200}"
    else:
        told = "silence"
    if told != "error":
        return told
    if verdict(kind, old) != "right":
        return f"lost: {verdict(kind, old)}"
    left = set(kind.path.parent.rglob("*")) - files
    return f"left behind: {sorted(map(str, left))}" if left else WHOLE


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file can grow beyond a size: the kernel refuses to write more, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder in which nothing can be made, and no file be changed; not even by root."""
    everything = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in everything}
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)
