"""Plans as files: .npz without pickle, checked by the checksums that every zip file has."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mlem_jax.arrays import read_arrays, write_arrays
from mlem_jax.plans.plan import Memory, Plan, check_plan

_NAMES = ("weights", "needed", "made_for", *(f"memory_{name}" for name in Memory._fields))


def save_plan(file: str | Path, plan: Plan) -> None:
    """Write a plan as .npz; a file that stands there is replaced once the new one is whole.

    Raises:
        TypeError: if it is no plan.
        ValueError: if its tables do not belong together.
    """
    check_plan(plan)
    tables: dict[str, Any] = plan._asdict()
    tables |= {f"memory_{name}": table for name, table in tables.pop("memory")._asdict().items()}
    write_arrays(_checked(file), tables)


def load_plan(file: str | Path) -> Plan:
    """Read a plan; it runs to the same bits as the one saved.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a plan, or is damaged.
    """
    tables = read_arrays(_checked(file), "a plan as save_plan writes it")
    if set(tables) != set(_NAMES):
        raise ValueError(f"expected the arrays {sorted(_NAMES)} in {file}, got {sorted(tables)}")
    for name, table in tables.items():
        if table.dtype.kind not in "fbi" or table.ndim < 2:
            raise ValueError(f"the tables in {file} do not belong together: expected "
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


def _checked(file: str | Path) -> str | Path:
    if not isinstance(file, str | Path) or not str(file).strip():
        raise TypeError(f"expected a name of a file, such as plan.npz, got {file!r}")
    return file


def _check_finite(tables: dict[str, np.ndarray]) -> None:
    for name, table in tables.items():
        if not np.isfinite(table).all():
            raise ValueError(f"expected finite numbers in {name}, got NaN or infinity")
