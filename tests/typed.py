"""How calls of the library are held to their annotations in tests."""

import inspect
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, FrozenDict, beartype
from numpy.typing import ArrayLike

# To numpy and pyright a tuple of numbers is an ArrayLike, not to beartype: it has no __reversed__.
held = beartype(
    conf=BeartypeConf(hint_overrides=FrozenDict({ArrayLike: object}), is_pep484_tower=True)
)


def check_once_returned(function: Callable[..., Any]) -> Callable[..., Any]:
    """Holds a call to its annotations once it has returned, so that refusals of its own stand.

    jaxtyping checks a call twice, its arguments before and all of it after; the second check takes
    what was returned as one more keyword, `ret0`. Records are checked by those who use them.
    """
    after = "ret0" in inspect.signature(function).parameters
    return held(function) if after and function.__name__ != "__init__" else function
