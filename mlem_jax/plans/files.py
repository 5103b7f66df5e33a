"""Plans as files: .npz without pickle, checked by the checksums that every zip file has."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mlem_jax.plans.plan import Memory, Plan, check_plan

_NAMES = ("weights", "needed", "made_for", *(f"memory_{name}" for name in Memory._fields))


def save_plan(file: str | Path, plan: Plan) -> None:
    """Write a plan as .npz; a file that stands there is replaced once the new one is whole."""
    check_plan(plan)
    tables: dict[str, Any] = plan._asdict()
    tables |= {f"memory_{name}": table for name, table in tables.pop("memory")._asdict().items()}
    beside = Path(f"{file}.part")
    with beside.open("wb") as stream:
        whole: dict[str, Any] = {name: np.asarray(table) for name, table in tables.items()}
        np.savez(stream, **whole)
    os.replace(beside, file)


def load_plan(file: str | Path) -> Plan:
    """Read a plan; it runs to the same bits as the one saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a plan, or is damaged.
    """
    content = Path(file).read_bytes()
    try:
        _check_sums(content)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            tables = {name: np.asarray(arrays[name]) for name in arrays.files}
    except Exception as error:  # Of a damaged file anything may be raised, by zip or by numpy.
        raise ValueError(
            f"expected a plan as save_plan writes it, an .npz, in {file}; it is another kind of "
            f"file, or damaged ({type(error).__name__}: {error})"
        ) from error
    if set(tables) != set(_NAMES):
        raise ValueError(f"expected the arrays {sorted(_NAMES)} in {file}, got {sorted(tables)}")
    for name, table in tables.items():
        if table.dtype.kind not in "fb" or table.ndim < 2:
            raise ValueError(f"the tables in {file} do not belong together: expected floating "
                             f"numbers in rows and columns, got {table.dtype}"
                             f"{list(table.shape)} in {name}")  # fmt: skip
    memory = Memory(*(jnp.asarray(tables[f"memory_{name}"]) for name in Memory._fields))
    weights, needed, made_for = (jnp.asarray(tables[name]) for name in _NAMES[:3])
    plan = Plan(weights, needed, memory, made_for)
    try:
        check_plan(plan)
        _check_finite(tables)
    except ValueError as error:
        raise ValueError(f"the tables in {file} do not belong together: {error}") from error
    return plan


def _check_sums(content: bytes) -> None:
    """Every array whole: numpy alone reads as far as an array's header says, and no checksum."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def _check_finite(tables: dict[str, np.ndarray]) -> None:
    for name, table in tables.items():
        if not np.isfinite(table).all():
            raise ValueError(f"expected finite numbers in {name}, got NaN or infinity")
