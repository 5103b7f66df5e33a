"""Names for the arrays and functions that the modules hand to each other; no logic."""

from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

Params: TypeAlias = Any
"""A pytree of arrays; for a ladder, a tuple with one such pytree a level."""

State: TypeAlias = Shaped[Array, "*state"]
"""What moves: one array of any shape and floating dtype, often a batch of samples."""

Key: TypeAlias = PRNGKeyArray
Scalar: TypeAlias = Float[Array, ""]
Times: TypeAlias = Float[Array, "*times"]
Grid: TypeAlias = Float[Array, " points"]
PerStep: TypeAlias = Float[Array, " steps"]
PerLevel: TypeAlias = Float[Array, " levels"]
Weights: TypeAlias = Float[Array, "steps levels"]
Logits: TypeAlias = Float[Array, "steps levels"]
Probabilities: TypeAlias = Float[Array, "steps levels"]
Fires: TypeAlias = Bool[Array, "steps levels"]


@runtime_checkable
class Drift(Protocol):
    """What a user brings: any callable with this signature, be it a drift or a prediction.

    The result has the shape and dtype of `x`. The parameters are an argument, never closed over:
    a closure would copy them into the compiled program as constants.
    """

    def __call__(self, params: Params, x: State, t: Scalar, /) -> State: ...
