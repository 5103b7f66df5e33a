"""diffrax along our Brownian path: the same increments, so the same strong error is asked of both.

Time is counted in steps: dy/ds = gain F(y) + deviation dB/ds, B of unit variance per step. So the
points of time are whole numbers, which single precision keeps, and an increment is found by its
number. Solvers of higher order also want the space-time Levy area of a step,

    H = int_0^1 (B_s - s B_1) ds ,

here of the path as straight lines between the fine points that a step covers.
"""

import math
from functools import partial
from typing import Any

import diffrax  # pyright: ignore[reportMissingImports]
import equinox  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import lineax  # pyright: ignore[reportMissingImports]
from jaxtyping import Array, Int, Shaped

from mlem_jax.types import Drift, Params, Scalar, State

SOLVERS = {
    "Euler": (diffrax.Euler(), 1),
    "SEA": (diffrax.SEA(), 1),
    "ShARK": (diffrax.ShARK(), 2),
}
"""With the evaluations of the drift in a step; strong orders 1, 1 and 1.5 for additive noise."""


class Increments(diffrax.AbstractBrownianPath):
    """A Brownian path of whole steps, given by its increments and its Levy areas."""

    moves: Shaped[Array, "steps *state"]
    areas: Shaped[Array, "steps *state"]
    # As diffrax's own paths do it; its base class declares them as plain attributes.
    t0: float = equinox.field(static=True, default=-math.inf)  # pyright: ignore
    t1: float = equinox.field(static=True, default=math.inf)  # pyright: ignore
    levy_area: Any = equinox.field(static=True, default=diffrax.SpaceTimeLevyArea)

    def evaluate(
        self, t0: Any, t1: Any | None = None, left: bool = True, use_levy: bool = False
    ) -> Any:
        """The increment of the step that begins at `t0`, with its area if that is asked for."""
        del left  # A Brownian path does not jump.
        if t1 is None:
            raise ValueError("expected both ends of a step, got one point of time")
        step = jnp.round(t0).astype(int)
        if not use_levy:
            return self.moves[step]
        unit = jnp.ones((), self.moves.dtype)
        return diffrax.SpaceTimeLevyArea(dt=unit, W=self.moves[step], H=self.areas[step])


def coarse_increments(fine: Shaped[Array, "fine *state"], count: int) -> Increments:
    """The path of standard normals `fine`, in `count` steps of equally many of them."""
    own = fine.reshape(count, -1, *fine.shape[1:])
    each = own.shape[1]
    points = jnp.cumsum(own, axis=1) / each**0.5
    end = points[:, -1]
    # The trapezoid rule over points 0, 1/each, ..., 1, the first of which is 0.
    areas = points.mean(axis=1) - end / (2 * each) - end / 2
    return Increments(moves=end, areas=areas)


def pad(path: Increments, length: int) -> Increments:
    """The same path with zeros behind it, so that one program solves along paths of any length."""
    return jax.tree.map(
        lambda leaf: jnp.pad(leaf, [(0, length - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)), path
    )


@partial(jax.jit, static_argnums=(0, 1))
def solve_along(
    solver: diffrax.AbstractSolver,
    drift: Drift,
    params: Params,
    x: State,
    path: Increments,
    count: Int[Array, ""],
    gain: Scalar,
    deviation: Scalar,
) -> State:
    """The state after `count` steps of x' = x + gain F + deviation xi, or of a better solver."""
    terms = diffrax.MultiTerm(
        diffrax.ODETerm(lambda _, y, own: gain * drift(own, y, jnp.zeros_like(gain))),
        diffrax.ControlTerm(
            lambda _, y, __: lineax.DiagonalLinearOperator(jnp.full_like(y, deviation)), path
        ),
    )
    zero, end = jnp.zeros((), x.dtype), count.astype(x.dtype)
    found = diffrax.diffeqsolve(terms, solver, zero, end, jnp.ones((), x.dtype), x, params,
                                max_steps=len(path.moves) + 1, throw=False)  # fmt: skip
    if found.ys is None:
        raise ValueError("expected diffrax to save the end, got nothing")
    return found.ys[0]
