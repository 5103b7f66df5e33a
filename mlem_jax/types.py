"""Names for the arrays and functions that the modules hand to each other; no logic."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Shaped

Params: TypeAlias = Any
"""A pytree of arrays; for a ladder, a tuple with one such pytree per level."""

if TYPE_CHECKING:
    State: TypeAlias = Any  # A checker knows nothing of PyTree.
else:
    State: TypeAlias = PyTree[Shaped[Array, "..."]]
"""What moves: a pytree of arrays of one floating dtype, mostly a single array [batch, ...]."""

Condition: TypeAlias = Any
"""A pytree of arrays whose leading axis is the batch, or None."""

Key: TypeAlias = PRNGKeyArray
Scalar: TypeAlias = Float[Array, ""]
Times: TypeAlias = Float[Array, "*times"]
PerStep: TypeAlias = Float[Array, " steps"]
PerLevel: TypeAlias = Float[Array, " levels"]
Weights: TypeAlias = Float[Array, "steps levels"]
Logits: TypeAlias = Float[Array, "steps levels"]
Probabilities: TypeAlias = Float[Array, "steps levels"]
Openings: TypeAlias = Bool[Array, "steps levels"]
"""B: whether the gate of difference k is open at step n."""


Drift: TypeAlias = Callable[..., State]
"""What a user brings, `(params, x, t) -> like x`, be it a drift or a prediction.

`t` is one number, for the whole batch. The result has the structure, shape and dtype of `x`. The
parameters are an argument, never closed over: a closure would copy them into the compiled program
as constants. Where the problem has a condition, it is the fourth argument.
"""
