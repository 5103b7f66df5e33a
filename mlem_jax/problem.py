"""What a solve is given, and whether its parts fit together, before anything is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Shaped

from mlem_jax.levels import Levels, check_levels, check_params, split_conditions
from mlem_jax.noise import BrownianPath
from mlem_jax.plan import Plan
from mlem_jax.steps import Steps
from mlem_jax.types import Params, State

Noise = BrownianPath | Shaped[Array, "steps *state"] | None
"""What drives the steps: a Brownian path, stored standard normals, or nothing (an ODE)."""


def check_problem(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    plan: Plan,
    noise: Noise,
) -> None:
    """Static facts that must hold before a solve; see `solve` for the errors raised."""
    check_levels(levels)
    check_params(levels, params)
    count, ladder = len(steps.t), len(levels.drifts)
    tables = {"weights": plan.weights, "needed": plan.needed}
    if plan.held is not None:
        tables |= {"held.weights": plan.held.weights, "held.renewed": plan.held.renewed,
                   "held.parts": plan.held.parts[..., 0]}  # fmt: skip
        if plan.held.parts.shape != (count, ladder, ladder):
            raise ValueError(f"expected plan.held.parts of shape {[count, ladder, ladder]}, got "
                             f"{list(plan.held.parts.shape)}")  # fmt: skip
    for name, table in tables.items():
        if table.shape != (count, ladder):
            raise ValueError(
                f"expected plan.{name} of shape [{count} steps, {ladder} levels], got "
                f"{list(table.shape)}; make the plan for these steps and these levels"
            )
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize < 4:
        # A step changes the state by a thousandth: less than half precision can tell apart.
        raise ValueError(
            f"expected a state of float32 or float64, got {x.dtype}; a network may compute in half "
            "precision inside its level, and return the state's dtype"
        )
    if isinstance(noise, BrownianPath):
        if len(noise.first) != count:
            raise ValueError(f"expected a path of {count} steps, got one of {len(noise.first)}; "
                             "make it with the grid that the steps were made with")  # fmt: skip
    elif noise is not None:
        if noise.shape != (count, *x.shape):
            raise ValueError(f"expected stored noise of shape {(count, *x.shape)}, got "
                             f"{noise.shape}")  # fmt: skip
    elif not isinstance(steps.noise, Tracer) and np.any(np.asarray(steps.noise)):
        raise ValueError(
            "expected noise for steps that are an SDE's, got None; give a path from "
            "noise.brownian_path, or steps with noise 0"
        )


def check_samples(x: State, params: tuple[Params, ...], noise: Noise) -> None:
    """As many samples on the path, and as many conditions, as there are starts; at least one.

    Raises:
        ValueError: if not.
    """
    if not x.ndim or not len(x):
        raise ValueError(f"expected at least one start [batch, ...], got shape {list(x.shape)}")
    if isinstance(noise, BrownianPath) and noise.samples.shape != (len(x),):
        raise ValueError(f"expected a path of {len(x)} samples, one a start, got "
                         f"{list(noise.samples.shape)}")  # fmt: skip
    for leaf in jax.tree.leaves(split_conditions(params)[0]):
        if not leaf.ndim or len(leaf) != len(x):
            raise ValueError(f"expected conditions for {len(x)} samples, one a start, got shape "
                             f"{list(leaf.shape)}")  # fmt: skip
