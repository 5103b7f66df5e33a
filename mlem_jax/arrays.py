"""Arrays as files: .npz, written whole or not at all, read without pickle and checked.

A zip keeps a checksum of each array (CRC-32), which numpy alone does not ask for: it reads as far
as an array's header says. Nothing in a file is ever run.
"""

import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@contextmanager
def whole_file(file: str | Path, process: int = 0) -> Iterator[BufferedIOBase]:
    """A file to be written: it takes its place once it is on disk, all of it, or not at all.

    Args:
        file: its place.
        process: which of several that may write it at the same time; the last one's stays.

    Raises:
        OSError: if it cannot be written; what stood there before stands as it was.
    """
    beside = Path(f"{file}.{process}.part" if process else f"{file}.part")
    if not beside.parent.is_dir():
        raise FileNotFoundError(f"expected a folder {beside.parent} to write {file} into, found "
                                "none; make it first")  # fmt: skip
    try:
        with beside.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, file)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            told = f"{error.strerror}; the new file is not written, what was there before is whole"
            raise OSError(error.errno, told, str(file)) from error
        raise


def write_arrays(file: str | Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write arrays by name, as `whole_file` does.

    Raises:
        TypeError: if one is made of objects, which only a pickle could hold.
        OSError: if the file cannot be written.
    """
    whole: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in whole.items():
        if array.dtype.hasobject:
            raise TypeError(f"expected arrays of numbers, got objects in {name}")
    with whole_file(file) as stream:
        np.savez(stream, **whole)


def read_arrays(file: str | Path, what: str) -> dict[str, np.ndarray]:
    """Every array of a file, as it was written.

    Args:
        file: an .npz.
        what: it is expected to be, for the error.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is another kind of file, or damaged.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"expected {what}, an .npz, in {file}, found no such file")
    with Path(file).open("rb") as stream:
        return arrays_in(stream, f"{what}, an .npz, in {file}")


def arrays_in(stream: BufferedIOBase, what: str) -> dict[str, np.ndarray]:
    """Every array of an .npz that is open, or in memory, as it was written.

    Raises:
        ValueError: if it is another kind of file, or damaged.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
            return {_name(member): _array(archive, member) for member in archive.namelist()}
    except Exception as error:  # Of a damaged file anything may be raised, by zip or by numpy.
        raise ValueError(
            f"expected {what}; it is another kind of file, or damaged "
            f"({type(error).__name__}: {error})"
        ) from error


def digest(file: Path) -> str:
    """The SHA-256 of a file, as `sha256sum` tells it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _name(member: str) -> str:
    """Of what has another ending numpy would give the bytes, as if they were meant."""
    if not member.endswith(".npy"):
        raise zipfile.BadZipFile(f"{member!r} is no array")
    return member.removesuffix(".npy")


def _array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
