"""Plans as files: .npz without pickle, checked by the checksums that every zip file has."""

import os
import zipfile
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from mlem_jax.plans.plan import Memory, Plan, check_plan

_NAMES = ("weights", "needed", "made_for", *(f"memory_{name}" for name in Memory._fields))


def save_plan(file: str | Path, plan: Plan) -> None:
    """Write a plan as .npz; a file that stands there is replaced once the new one is whole."""
    check_plan(plan)
    tables = plan._asdict()
    tables |= {f"memory_{name}": table for name, table in tables.pop("memory")._asdict().items()}
    beside = Path(f"{file}.part")
    with beside.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **{n: np.asarray(x) for n, x in tables.items()})
    os.replace(beside, file)


def load_plan(file: str | Path) -> Plan:
    """Read a plan; it runs to the same bits as the one saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a plan, or is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            tables = {name: np.asarray(arrays[name]) for name in arrays.files}
    except (ValueError, TypeError, AttributeError, EOFError, KeyError, IndexError, SyntaxError,
            NotImplementedError, MemoryError, OverflowError, UnicodeDecodeError, RuntimeError,
            zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise ValueError(
            f"expected a plan as save_plan writes it, an .npz, in {file}; it is another kind of "
            f"file, or damaged ({type(error).__name__}: {error})"
        ) from error
    if set(tables) != set(_NAMES):
        raise ValueError(f"expected the arrays {sorted(_NAMES)} in {file}, got {sorted(tables)}")
    memory = Memory(*(jnp.asarray(tables[f"memory_{name}"]) for name in Memory._fields))
    weights, needed, made_for = (jnp.asarray(tables[name]) for name in _NAMES[:3])
    plan = Plan(weights, needed, memory, made_for)
    try:
        check_plan(plan)
    except ValueError as error:
        raise ValueError(f"the tables in {file} do not belong together: {error}") from error
    return plan
