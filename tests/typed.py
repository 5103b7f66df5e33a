"""How calls of the library are held to their annotations in tests."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from numpy.typing import ArrayLike

held = beartype(
    conf=BeartypeConf(
        hint_overrides=FrozenDict(
            {
                # To numpy a tuple of numbers is an ArrayLike; to beartype it has no __reversed__.
                ArrayLike: object,
                int: int | np.integer,
                float: float | int | np.floating | np.integer,
            }
        )
    )
)


def check_once_returned(function: Callable[..., Any]) -> Callable[..., Any]:
    """Holds a call to its annotations once it has returned, so that refusals of its own stand.

    jaxtyping checks a call twice, its arguments before and all of it after; the second check takes
    what was returned as one more keyword, `ret0`. Records are checked by those who use them.
    """
    after = "ret0" in inspect.signature(function).parameters
    return held(function) if after and function.__name__ != "__init__" else function
