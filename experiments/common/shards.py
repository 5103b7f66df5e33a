"""Pictures as a folder of files that survives kills: each is whole or not there.

    settings.json             what the pictures depend on; a run with other settings is refused
    pictures_000000000.npz    `images`, uint8 [count, height, width, 3], from picture 0 on
    manifest.json             once all are there: each file, its pictures, its SHA-256

What ends in .part was being written when its process was killed, and will be written over.
Processes that write into one folder need not talk to one another: each file is one's alone, and
whoever finds all of them there writes the manifest.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import runs
from mlem_jax.arrays import arrays_in, digest, write_arrays
from mlem_jax.types import Params

MANIFEST = "manifest.json"


class Shard(NamedTuple):
    """One file of a folder.

    Attributes:
        file: where it lies.
        numbers: of its pictures.
    """

    file: Path
    numbers: range


def shards_of(folder: Path, images: int, size: int) -> list[Shard]:
    """The files of so many pictures, `size` in each but the last."""
    return [
        Shard(folder / f"pictures_{first:09d}.npz", range(first, min(first + size, images)))
        for first in range(0, images, size)
    ]


def write_shard(shard: Shard, pictures: np.ndarray) -> None:
    """Write a file, all of it or nothing; the same pictures make the same bytes."""
    write_arrays(shard.file, {"images": pictures})


def is_whole(shard: Shard, sums: dict[str, str]) -> bool:
    """Whether a file is there as it was written; else it is to be drawn again.

    Args:
        shard: the file.
        sums: SHA-256 of files by name, as far as they are known.
    """
    if not shard.file.exists():
        return False
    content = shard.file.read_bytes()
    known = sums.get(shard.file.name)
    if known is not None:
        return checksum(content) == known
    try:
        return len(pictures_in(content)) == len(shard.numbers)
    except ValueError:
        return False


def write_manifest(folder: Path, shards: list[Shard], process: int) -> bool:
    """Write what the folder holds, if nothing is missing any more; whether it did.

    Args:
        folder: of the files.
        shards: all of them.
        process: who writes; another may do so at the same time.
    """
    if not all(shard.file.exists() for shard in shards):
        return False
    rows = [
        {"file": shard.file.name, "first": shard.numbers.start, "count": len(shard.numbers),
         "sha256": digest(shard.file)}
        for shard in shards
    ]  # fmt: skip
    told = {"images": shards[-1].numbers.stop, "files": rows}
    runs.write_whole(folder / MANIFEST, (json.dumps(told, indent=1) + "\n").encode(), process)
    return True


def known_sums(folder: Path) -> dict[str, str]:
    """The checksums of a folder's manifest; of none, or a damaged one, nothing."""
    try:
        return {row["file"]: row["sha256"] for row in _rows(folder)}
    except (OSError, ValueError):
        return {}


def read_pictures(folder: Path) -> Iterator[np.ndarray]:
    """The pictures of a folder [count, height, width, 3], file by file, in their order.

    Raises:
        FileNotFoundError: if there is no manifest: it was not drawn to its end.
        ValueError: if a file is missing or is not the one that was written.
    """
    if not (folder / MANIFEST).exists():
        raise FileNotFoundError(f"expected {MANIFEST} in {folder}, which is written last, found "
                                "none; give experiments.sample the same command again")  # fmt: skip
    for row in _rows(folder):
        file = folder / row["file"]
        content = file.read_bytes() if file.exists() else b""
        if checksum(content) != row["sha256"]:
            raise ValueError(f"expected {file} as its manifest has it, got another file, or none; "
                             "give experiments.sample the same command again")  # fmt: skip
        yield pictures_in(content)


def pictures_in(content: bytes) -> np.ndarray:
    """The pictures in a file's content.

    Raises:
        ValueError: if there are none, or they are damaged.
    """
    arrays = arrays_in(io.BytesIO(content), "pictures, .npz")
    if "images" not in arrays:
        raise ValueError(f"expected an array `images`, got {sorted(arrays)}")
    pictures = arrays["images"]
    if pictures.dtype != np.uint8 or pictures.ndim != 4:
        raise ValueError(f"expected uint8 [count, height, width, channels], got {pictures.dtype} "
                         f"{list(pictures.shape)}")  # fmt: skip
    return pictures


def checksum(content: bytes) -> str:
    """SHA-256, as `sha256sum` tells it."""
    return hashlib.sha256(content).hexdigest()


def checksum_of_arrays(tree: Params) -> str:
    """SHA-256 of the numbers in a tree, with their dtypes and shapes."""
    found = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(tree)):
        found.update(f"{leaf.dtype}{leaf.shape}".encode())
        found.update(leaf.tobytes())
    return found.hexdigest()


def _rows(folder: Path) -> list[dict[str, Any]]:
    """What a manifest says of each file.

    Raises:
        ValueError: if it is no manifest.
    """
    try:
        rows = json.loads((folder / MANIFEST).read_text())["files"]
        if any(not isinstance(row["file"], str) or Path(row["file"]).name != row["file"]
               or not isinstance(row["sha256"], str) for row in rows):  # fmt: skip
            raise ValueError("a file is not named as such")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected a manifest as experiments.sample writes it in {folder}, got "
                         f"another file ({type(error).__name__}: {error})") from error  # fmt: skip
    return rows
