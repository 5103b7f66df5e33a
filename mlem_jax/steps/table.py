"""Integrators as tables: the coefficients of one linear step, one row per step.

Every method here is linear in the state, in the estimate F and in one standard normal vector xi,
once the times are known:

    x[n+1] = scale[n] x[n] + gain[n] F[n] + sum_j push[n, j] F[n-1-j] + noise[n] xi[n]

so a method is a table, and the loop that runs it does not know which one it runs. `push` is what a
multistep method takes from earlier estimates; a one-step method has none, a table of no columns.

A table also keeps the clock of its noise: when each step begins and ends in the time u of the
Brownian motion W that drives it, and how much of W it takes, from begin to end:

    xi[n] = int omega[n](u) dW(u) / (int omega[n]^2 du)^(1/2)

with omega the straight line in log u from the first number of `ramp` to the second. All but steps
that look ahead have (1, 1), all of the noise. Coarse and fine steps of one clock can be driven by
one path.

Tables are computed with numpy in double precision before any loop, and only then rounded:
differences of nearby alphas lose half their digits in single precision.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from mlem_jax.checks import as_float, as_table
from mlem_jax.types import PerStep


class Steps(NamedTuple):
    """x' = scale x + gain F + push . (earlier F) + noise xi, one row per step.

    Made by the functions below, or by `make_steps` from columns of your own.

    Attributes:
        t: the time at which F is evaluated.
        scale: of the state.
        gain: of F.
        noise: of the standard normal vector; 0 everywhere for an ODE. A number per step, or an
            array per step that is broadcast to the state: the noise is additive and depends on t
            alone.
        push: of the estimates of the steps before, the last one first; no columns for a one-step
            method.
        clock: beginning and end of each step in the time of its Brownian motion, in double
            precision.
        ramp: how much of the Brownian motion is taken at the beginning and at the end of each step.
    """

    t: PerStep
    scale: PerStep
    gain: PerStep
    noise: Float[Array, "steps *broadcast"]
    push: Float[Array, "steps lags"]
    clock: Float[np.ndarray, "steps 2"]
    ramp: Float[np.ndarray, "steps 2"]


def make_steps(
    t: ArrayLike,
    scale: ArrayLike,
    gain: ArrayLike,
    noise: ArrayLike,
    *,
    push: ArrayLike | None = None,
    clock: ArrayLike | None = None,
    ramp: ArrayLike | None = None,
) -> Steps:
    """A table from its columns [steps].

    Args:
        t: times at which F is evaluated.
        scale: of the state.
        gain: of F.
        noise: of xi; [steps], or [steps, ...] broadcast to the state.
        push: of earlier estimates [steps, lags]; by default none.
        clock: readings at the points between steps [steps + 1], rising or falling, or at the
            beginning and the end of each [steps, 2]; by default each step lasts 1.
        ramp: how much of the Brownian motion is taken at the beginning and at the end of each step
            [steps, 2], see the module; by default all of it.

    Raises:
        ValueError: if a column is not finite or they are not equally long.
    """
    t, scale, gain, noise = (as_table(each, "columns") for each in (t, scale, gain, noise))
    push = np.zeros((t.size, 0)) if push is None else as_table(push, "push")
    points = np.arange(t.size + 1.0) if clock is None else as_table(clock, "a clock")
    if points.ndim == 1:
        points = np.stack([points[:-1], points[1:]], axis=1)
    ramp = np.ones((t.size, 2)) if ramp is None else as_table(ramp, "a ramp")
    axes = {"t": (t, 1), "scale": (scale, 1), "gain": (gain, 1), "push": (push, 2),
            "clock": (points, 2), "ramp": (ramp, 2),
            "noise": (noise, max(noise.ndim, 1))}  # fmt: skip
    for name, (column, count) in axes.items():
        if column.ndim != count:
            raise ValueError(f"expected {name} with {count} axes, the steps first, got shape "
                             f"{list(column.shape)}")  # fmt: skip
    columns = {"t": t, "scale": scale, "gain": gain, "noise": noise, "push": push,
               "clock": points, "ramp": ramp}  # fmt: skip
    for name, column in columns.items():
        if len(column) != len(t):
            raise ValueError(f"expected {len(t)} rows in every column, one per step, got "
                             f"{len(column)} in {name}")  # fmt: skip
        if not np.isfinite(column).all():
            n = int(np.argwhere(~np.isfinite(column))[0][0])
            raise ValueError(f"expected finite coefficients, got {column[n]} in {name} at step {n}")
    exact = {name: columns.pop(name) for name in ("clock", "ramp")}
    return Steps(**{name: as_float(column) for name, column in columns.items()}, **exact)


def goes_ahead(steps: Steps) -> Bool[np.ndarray, " steps"]:
    """Whether a step ends off the path, at the mean of the noise to come: see `look_ahead`."""
    return np.asarray(steps.ramp[:, 1] != 1)
