"""Checkpoints of levels and gates by Orbax, restored strictly: the asked tree or an error.

A checkpoint is a folder with two items: `tree`, the arrays, and `about`, a JSON object that says
what they are. Orbax writes under another name and renames at the end, so a folder that exists is
whole.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mlem_jax.types import Params


def save(directory: str | Path, tree: Params, *, about: Mapping[str, Any]) -> None:
    """Write arrays and what they are; a checkpoint that stands there already is replaced.

    Args:
        directory: the checkpoint's own folder; parents are made.
        tree: a pytree of arrays.
        about: anything JSON can hold: the architecture, the command, the data.
    """
    with _checkpointer() as checkpointer:
        items = ocp.args.Composite(
            tree=ocp.args.StandardSave(_boxed(tree)), about=ocp.args.JsonSave(dict(about))
        )
        checkpointer.save(Path(directory).absolute(), items, force=True)
    # Where Orbax leaves markers it writes this machine's path into them; only their being there
    # counts, and what is shipped should not tell it.
    for marker in Path(directory).rglob("commit_success.txt"):
        marker.write_text("committed\n")


def read_about(directory: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it is damaged.
    """
    return _read(directory, ocp.args.Composite(about=ocp.args.JsonRestore())).about


def restore(directory: str | Path, like: Params) -> Params:
    """The arrays of a checkpoint, in the structure of `like`.

    Args:
        directory: the checkpoint's folder.
        like: a pytree of arrays or `jax.ShapeDtypeStruct`; `jax.eval_shape` makes one for nothing.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it holds another tree (each leaf that differs is named), or is damaged.
    """
    directory, boxed = _existing(directory), _boxed(like)
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
    """Shapes and dtypes of a tree, to be put on this machine's first device.

    Orbax would put arrays back on the device they were saved from, which may be a GPU that is not
    here.
    """
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like
    )


def _boxed(tree: Params) -> Params:
    """The tree itself, or one around a single array, which Orbax does not take alone."""
    return {"array": tree} if jax.tree_util.all_leaves([tree]) else tree


def _read(directory: str | Path, items: ocp.args.Composite) -> Any:
    directory = _existing(directory)
    with _damage_named(directory), _checkpointer() as checkpointer:
        return checkpointer.restore(directory, items)


def _existing(directory: str | Path) -> Path:
    directory = Path(directory).absolute()
    if not (directory / "tree").is_dir():
        raise FileNotFoundError(
            f"expected a checkpoint (a folder with `tree` and `about`) at {directory}, found none"
        )
    return directory


def _checkpointer() -> ocp.Checkpointer:
    handler = ocp.CompositeCheckpointHandler(
        tree=ocp.StandardCheckpointHandler(), about=ocp.JsonCheckpointHandler()
    )
    return ocp.Checkpointer(handler)


def _stored_tree(directory: Path) -> Any:
    """Names, shapes and dtypes of what is stored, without the arrays."""
    with _damage_named(directory), _checkpointer() as checkpointer:
        return checkpointer.metadata(directory).item_metadata["tree"].tree


@contextmanager
def _damage_named(directory: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files.
        raise ValueError(
            f"the checkpoint {directory} cannot be read, it is damaged or incomplete "
            f"({type(error).__name__}: {(str(error).splitlines() or [''])[0]}); copy it again"
        ) from error


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
