"""Finding what is not finite: a slower solve that says which level broke, and at which step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from mlem_jax.levels import Levels
from mlem_jax.plan import Plan
from mlem_jax.problem import Noise, check_problem
from mlem_jax.solve import run_unchecked
from mlem_jax.steps import Steps
from mlem_jax.types import Drift, Params, Scalar, State


def solve_checked(
    levels: Levels,
    params: tuple[Params, ...],
    x: State,
    steps: Steps,
    plan: Plan,
    noise: Noise = None,
) -> State:
    """As `solve`, but stops at what is not finite and says where: slower, for finding a fault.

    Raises:
        FloatingPointError: if a parameter or the result of a level is NaN or infinite, with the
            level's number, and the parameter's name or the step.
    """
    for k, own in enumerate(params):
        for name, leaf in jax.tree_util.tree_leaves_with_path(own):
            number = jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)
            if number and not np.isfinite(np.asarray(leaf)).all():
                raise FloatingPointError(
                    f"level {k + 1} has a parameter that is not finite: "
                    f"{jax.tree_util.keystr(name)}"
                )
    drifts = tuple(_checked(k, drift, steps) for k, drift in enumerate(levels.drifts))
    check_problem(levels, params, x, steps, plan, noise)
    checked = checkify.checkify(partial(run_unchecked, levels._replace(drifts=drifts)))
    error, end = jax.jit(checked)(params, x, steps, plan, noise)
    if message := error.get():
        raise FloatingPointError(message.split(" (`check` failed)")[0])
    return end


def _checked(k: int, drift: Drift, steps: Steps) -> Drift:
    def checked(params: Params, x: State, t: Scalar) -> State:
        value = drift(params, x, t)
        step = jnp.argmin(jnp.abs(steps.t - t))
        checkify.check(
            jnp.isfinite(value).all(),
            f"level {k + 1} returned NaN or infinity at step {{step}}, t = {{t}}",
            step=step,
            t=t,
        )
        return value

    return checked
