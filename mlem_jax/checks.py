"""Whether what was given is a number, a count, a table or a part of the library; knows none."""

import operator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike


def is_number(given: Any) -> bool:
    """Whether it is one real number, finite or not; whole ones within 64 bits."""
    if isinstance(given, int):
        return abs(given) < 2**63
    if isinstance(given, float):
        return True
    # A key has a dtype that numpy does not know.
    return getattr(given, "ndim", None) == 0 and getattr(given.dtype, "kind", "O") in "fiu"


def is_count(given: Any, least: int = 1) -> bool:
    """Whether it is a whole number, by its type too, from `least` to what 32 bits hold."""
    if isinstance(given, bool | np.bool_):
        return False
    try:
        return least <= operator.index(given) < 2**31
    except TypeError:
        return False


def check_count(given: Any, wanted: str) -> None:
    """A whole number of something, at least 1.

    Raises:
        ValueError: if it is not.
    """
    if not is_count(given):
        raise ValueError(f"expected {wanted}, got {given!r}; a whole number, counted from 1")


def as_table(given: Any, name: str) -> np.ndarray:
    """An array in double precision.

    Raises:
        TypeError: if it is not made of numbers, or is traced.
    """
    try:
        table = np.asarray(given)
        # None and text would become numbers, and of a complex number a part be dropped.
        if table.dtype.kind in "OSUMmc":
            raise TypeError(f"these are of dtype {table.dtype}")
        return table.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"expected {name} made of numbers that are known outside jax.jit, got {given!r:.80}"
        ) from error


def as_float(table: ArrayLike) -> Float[Array, "..."]:
    """A table on the device, in the float type of JAX: 32 bits unless 64 are asked for.

    With its type named it is copied; without, JAX compiles a program for each shape.
    """
    return jnp.asarray(table, jnp.result_type(float))


def shape_of(given: Any) -> tuple[int, ...]:
    """The shape of an array, or of what numpy would make one of; () of anything else."""
    try:
        return tuple(np.shape(given))
    except (TypeError, ValueError):
        return ()


def check_kind(given: Any, kind: type, do: str) -> None:
    """A part of the library, and no other.

    Raises:
        TypeError: if it is of another type.
    """
    if not isinstance(given, kind):
        article = "" if kind.__name__.endswith("s") and kind.__name__ != "Process" else "a "
        raise TypeError(f"expected {article}{kind.__name__}, got {type(given).__name__}; {do}")
