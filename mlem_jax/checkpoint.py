"""Checkpoints of levels and gates by Orbax, restored strictly: the asked tree or an error.

A checkpoint is a folder with two items: `tree`, the arrays, and `about`, a JSON object that says
what they are; and with `SHA256SUMS`, the checksum of every file of the two, in the form that
`sha256sum --check` reads. A checkpoint is written beside the one it replaces and then takes its
place, so a folder that exists is whole, and one that cannot be written costs nothing.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mlem_jax.arrays import digest
from mlem_jax.types import Params

SUMS = "SHA256SUMS"
ITEMS = ("tree", "about")
MARKERS = ("_CHECKPOINT_METADATA", "commit_success.txt")


def save(directory: str | Path, tree: Params, *, about: Mapping[str, Any]) -> None:
    """Write arrays and what they are; a checkpoint that stands there already is replaced.

    What else lies in its folder, such as a card, stays. Should anything fail, the old checkpoint
    stands as it was; if the machine itself stops between the two renamings at the end, old and new
    are both whole in a folder beside, whose name begins with a dot.

    Args:
        directory: the checkpoint's own folder; parents are made. Of several processes one writes.
        tree: a pytree of arrays.
        about: anything JSON can hold: the architecture, the command, the data.

    Raises:
        TypeError: if JSON cannot hold `about`, or a leaf of the tree is no array.
        FileExistsError: if something else than a checkpoint stands there.
        OSError: if it cannot be written.
    """
    _check_about(about)
    _check_arrays(tree)
    directory = Path(directory).resolve()
    _check_replaceable(directory)
    with _failure_told(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            _write(beside / "new", tree, about)
            _swap(beside / "new", directory, beside / "old")
        finally:
            # Unless the old one could not even be put back: then it stays where it is.
            if directory.exists() or not (beside / "old").exists():
                _remove(beside)


def _remove(folder: Path) -> None:
    """Again until it stays gone: as a write fails, threads of Orbax are still at others."""
    gone = 0
    for pause in (0.0, 0.01, 0.1, 0.3, 1.0):
        time.sleep(pause)
        gone = 0 if folder.exists() else gone + 1
        if gone == 2:
            return
        shutil.rmtree(folder, ignore_errors=True)


def seal(directory: str | Path) -> None:
    """Write the checksums of a checkpoint as it is now; only of one that is known to be good.

    `save` does it by itself: this is for checkpoints older than checksums, or changed by hand.

    Raises:
        FileNotFoundError: if there is no checkpoint.
    """
    directory = _existing(directory)
    lines = [f"{digest(directory / name)}  {name}\n" for name in _own_files(directory)]
    (directory / SUMS).write_text("".join(lines))


def read_about(directory: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it is damaged.
    """
    directory = _existing(directory)
    _verify(directory)
    return _read(directory, ocp.args.Composite(about=ocp.args.JsonRestore())).about


def restore(directory: str | Path, like: Params) -> Params:
    """The arrays of a checkpoint, in the structure of `like`.

    Args:
        directory: the checkpoint's folder.
        like: a pytree of arrays or `jax.ShapeDtypeStruct`; `jax.eval_shape` makes one for nothing.
            A leaf with a sharding is put there, such as parameters spread over devices.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it holds another tree (each leaf that differs is named), or is damaged.
    """
    directory, boxed = _existing(directory), _boxed(like)
    _verify(directory)  # Before its names and shapes are believed.
    found = {leaf.name: _kind(leaf) for leaf in jax.tree.leaves(_stored_tree(directory))}
    expected = {
        jax.tree_util.keystr(path, simple=True, separator="."): _kind(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(boxed)
    }
    differing = [
        f"  {name}: expected {expected.get(name, 'nothing')}, got {found.get(name, 'nothing')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if differing:
        raise ValueError(
            f"the checkpoint {directory} is of another architecture; restore it with the one "
            "named in its `about`:\n" + "\n".join(differing[:10])
        )
    items = ocp.args.Composite(tree=ocp.args.StandardRestore(abstract(boxed)))
    restored = _read(directory, items).tree
    return restored if boxed is like else restored["array"]


def abstract(like: Params) -> Params:
    """Shapes and dtypes of a tree, to be put where it lies, else on this process's first device.

    Orbax would put arrays back on the device they were saved from, which may be a GPU that is not
    here.
    """
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def as_here(leaf: Any) -> jax.ShapeDtypeStruct:
        place = getattr(leaf, "sharding", None) or here
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    return jax.tree.map(as_here, like)


def _boxed(tree: Params) -> Params:
    """The tree itself, or one around a single array, which Orbax does not take alone."""
    return {"array": tree} if jax.tree_util.all_leaves([tree]) else tree


def _check_about(about: Mapping[str, Any]) -> None:
    try:
        json.dumps(dict(about), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"expected `about` to be what JSON can hold, got another value in it ({error}); turn "
            "arrays into lists and paths into strings"
        ) from error


def _check_arrays(tree: Params) -> None:
    if not jax.tree.leaves(tree):
        raise TypeError(f"expected a pytree of arrays, got {tree!r}, which has none in it")
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            place = jax.tree_util.keystr(path, simple=True, separator=".")
            raise TypeError(f"expected a pytree of arrays, got {type(leaf).__name__} at {place}; "
                            "what is no array belongs in `about`")  # fmt: skip


def _check_replaceable(directory: Path) -> None:
    """Nothing there, or an empty folder, or a checkpoint, be it half a one."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not any((directory / item).is_dir() for item in ITEMS):
        raise FileExistsError(
            f"expected no folder or a checkpoint at {directory}, got something else, which would "
            "be replaced; give the checkpoint a folder of its own"
        )


def _write(directory: Path, tree: Params, about: Mapping[str, Any]) -> None:
    with _checkpointer() as checkpointer:
        items = ocp.args.Composite(
            tree=ocp.args.StandardSave(_boxed(tree)), about=ocp.args.JsonSave(dict(about))
        )
        checkpointer.save(directory, items)
    # Where Orbax leaves markers it writes this machine's path into them; only their being there
    # counts, and what is shipped should not tell it.
    for marker in directory.rglob("commit_success.txt"):
        marker.write_text("committed\n")
    seal(directory)


def _swap(new: Path, directory: Path, old: Path) -> None:
    """`new` takes the place of `directory`, which becomes `old`; or all stays as it was."""
    if not directory.exists():
        os.rename(new, directory)
        return
    own = (*ITEMS, *MARKERS, SUMS)
    for other in sorted(set(directory.iterdir()) - {directory / name for name in own}):
        if other.is_dir():
            shutil.copytree(other, new / other.name, symlinks=True)
        else:
            shutil.copy2(other, new / other.name, follow_symlinks=False)
    os.rename(directory, old)
    try:
        os.rename(new, directory)
    except BaseException:
        os.rename(old, directory)
        raise


def _own_files(directory: Path) -> list[str]:
    """Paths of a checkpoint's files, inside it; hidden ones are other programs' and left out."""
    top = [directory / name for name in MARKERS if (directory / name).is_file()]
    inner = [file for item in ITEMS for file in (directory / item).rglob("*") if file.is_file()]
    return sorted(
        file.relative_to(directory).as_posix()
        for file in (*top, *inner)
        if not file.name.startswith(".")
    )


def _verify(directory: Path) -> None:
    """Every file of a checkpoint is the one that was written, none is missing, none came along."""
    if not (directory / SUMS).is_file():
        raise ValueError(
            f"expected {SUMS} in the checkpoint {directory}, found none: it is older than "
            "checksums, or not copied whole; copy it again, or, if you know it to be good, write "
            "them with mlem_jax.checkpoint.seal"
        )
    lines = (directory / SUMS).read_bytes().decode("ascii", "replace").split("\n")
    rows = [re.fullmatch(r"([0-9a-f]{64})  (\S+)", line) for line in lines[:-1]]
    sums = {row[2]: row[1] for row in rows if row}
    if lines[-1] or not all(rows):
        raise _damaged(directory, f"{SUMS} is not as it was written")
    for name in sorted(sums.keys() | set(_own_files(directory))):
        if name not in sums:
            raise _damaged(directory, f"{name} is not in {SUMS}")
        if not (directory / name).is_file():
            raise _damaged(directory, f"{name} is missing")
        if digest(directory / name) != sums[name]:
            raise _damaged(directory, f"{name} is not as it was written, its SHA-256 differs")


def _damaged(directory: Path, what: str) -> ValueError:
    return ValueError(
        f"the checkpoint {directory} cannot be read, it is damaged or incomplete: {what}; copy it "
        "again"
    )


def _read(directory: Path, items: ocp.args.Composite) -> Any:
    with _damage_named(directory), _checkpointer() as checkpointer:
        return checkpointer.restore(directory, items)


def _existing(directory: str | Path) -> Path:
    if not isinstance(directory, str | Path):
        raise TypeError(f"expected a checkpoint's folder, got {directory!r}")
    directory = Path(directory).absolute()
    if not (directory / "tree").is_dir():
        raise FileNotFoundError(
            f"expected a checkpoint (a folder with `tree` and `about`) at {directory}, found none"
        )
    return directory


def _checkpointer() -> ocp.Checkpointer:
    # Of several processes each reads for itself: none waits, nothing is sent.
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own},
                                               barrier_sync_key_prefix=f"process{own}")  # fmt: skip
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        tree=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        about=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _stored_tree(directory: Path) -> Any:
    """Names, shapes and dtypes of what is stored, without the arrays."""
    with _damage_named(directory), _checkpointer() as checkpointer:
        return checkpointer.metadata(directory).item_metadata["tree"].tree


@contextmanager
def _damage_named(directory: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files.
        told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise _damaged(directory, told) from error


@contextmanager
def _failure_told(directory: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Of a full disk Orbax and TensorStore raise many kinds.
        told = (str(error).splitlines() or [repr(error)])[0]
        raise OSError(f"the checkpoint {directory} could not be written, what was there before is "
                      f"whole: {told}") from error  # fmt: skip


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
