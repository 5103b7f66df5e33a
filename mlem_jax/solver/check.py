"""Whether the parts of a solve fit together, before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mlem_jax.checks import shape_of
from mlem_jax.ladder import Ladder, check_ladder
from mlem_jax.noise import BrownianPath
from mlem_jax.plans.plan import Plan, check_plan, fingerprint
from mlem_jax.problem import Problem, batch_size
from mlem_jax.solver.step import Table, make_table
from mlem_jax.steps import Steps
from mlem_jax.types import State

_AXES = {"push": 2, "clock": 2, "ramp": 2, "noise": None}
"""Of the columns of steps that do not have one."""


def checked_table(ladder: Ladder, problem: Problem, steps: Steps, plan: Plan) -> Table:
    """The table of a plan and steps, once all that is known of them fits the ladder and problem.

    What cannot be known while tracing, noisy steps without noise and a plan made for other steps,
    makes the table NaN, so that no sample comes out as if nothing were wrong.

    Raises:
        TypeError, ValueError: as `solve`.
    """
    check_ladder(ladder)
    check_plan(plan)
    if not isinstance(steps, Steps):
        raise TypeError(f"expected Steps, got {type(steps).__name__}; make them with the functions "
                        "of mlem_jax.steps")  # fmt: skip
    _check_columns(steps)
    if not isinstance(problem, Problem):
        raise TypeError(f"expected a Problem, got {type(problem).__name__}; make one with "
                        "Problem(x, noise)")  # fmt: skip
    expected = len(steps.t), len(ladder)
    if plan.weights.shape != expected:
        raise ValueError(f"expected a plan of {expected[0]} steps and {expected[1]} levels, got "
                         f"weights {list(plan.weights.shape)}; make it for these")  # fmt: skip
    dtype = _check_state(problem.x)
    _check_noise(problem, steps)
    _check_condition(problem)
    # What is needed stays known where the plan is, though the rest be traced.
    table = make_table(steps, plan, dtype)._replace(needed=plan.needed)
    wrong = _lacks_noise(problem, steps) | made_for_others(steps, plan) | _lacks_slots(plan)
    if wrong is False:
        return table
    return table._replace(scale=jnp.where(jnp.asarray(wrong), jnp.nan, table.scale))


def _lacks_slots(plan: Plan) -> bool | jax.Array:
    """Whether an output goes where no slot is; of a known plan that is refused before."""
    store, slots = plan.memory.store, plan.memory.read.shape[-1]
    return jnp.any((store < -1) | (store >= slots)) if isinstance(store, Tracer) else False


def _check_columns(steps: Steps) -> None:
    rows = shape_of(steps.t)
    for name in Steps._fields:
        column, axes = getattr(steps, name), _AXES.get(name, 1)
        floating = hasattr(column, "dtype") and jnp.issubdtype(column.dtype, jnp.floating)
        if not floating or column.shape[:1] != rows or axes not in (None, column.ndim):
            came = f"{getattr(column, 'dtype', type(column).__name__)}{list(shape_of(column))}"
            raise ValueError(f"expected steps with {len(rows) and rows[0]} rows of real numbers in "
                             f"every column, got {came} in {name}; make_steps makes them"
                             )  # fmt: skip


def _check_state(x: State) -> np.dtype:
    leaves = jax.tree.leaves(x)
    if not leaves or not all(hasattr(leaf, "dtype") for leaf in leaves):
        raise TypeError(f"expected a state of arrays, got {x!r}")
    dtypes = {leaf.dtype for leaf in leaves}
    dtype = leaves[0].dtype
    if len(dtypes) > 1 or not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize < 4:
        # A step changes the state by a thousandth: less than half precision can tell apart.
        raise ValueError(
            f"expected a state of float32 or float64 throughout, got "
            f"{', '.join(sorted(map(str, dtypes)))}; a network may compute in half precision "
            "inside its level, and return the state's dtype"
        )
    # As JAX will take it: float64 of numpy is float32 unless double precision is on.
    return jax.dtypes.canonicalize_dtype(dtype)


def _check_noise(problem: Problem, steps: Steps) -> None:
    count, noise = len(steps.t), problem.noise
    if isinstance(noise, BrownianPath):
        if len(noise.first) != count:
            raise ValueError(f"expected a path of {count} steps, got one of {len(noise.first)}; "
                             "make it with these steps")  # fmt: skip
    elif noise is not None:
        same = jax.tree.structure(noise) == jax.tree.structure(problem.x)
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(noise)]
        expected = [(count, *leaf.shape) for leaf in jax.tree.leaves(problem.x)]
        real = all(hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
                   for leaf in jax.tree.leaves(noise))  # fmt: skip
        if not same or shapes != expected or not real:
            raise ValueError(f"expected stored noise like the state, floating, of shapes "
                             f"{expected}, got {shapes}")  # fmt: skip
    if steps.noise.ndim > 1:
        row = steps.noise.shape[1:]
        for leaf in jax.tree.leaves(problem.x):
            try:
                fits = np.broadcast_shapes(row, leaf.shape) == leaf.shape
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(f"expected noise per step that can be broadcast to the state "
                                 f"{list(leaf.shape)}, got {list(row)}")  # fmt: skip


def _check_condition(problem: Problem) -> None:
    """A condition has a row for each sample; of a single state without a batch nothing is known."""
    noise = problem.noise
    if problem.condition is None or (isinstance(noise, BrownianPath) and not noise.samples.ndim):
        return
    batch_size(problem)


def _lacks_noise(problem: Problem, steps: Steps) -> jax.Array | bool:
    """Whether the steps are an SDE's and the problem has no noise; known, that is an error."""
    if problem.noise is not None:
        return False
    if isinstance(steps.noise, Tracer):
        return jnp.any(steps.noise != 0)
    if np.any(np.asarray(steps.noise)):
        raise ValueError(
            "expected noise for steps that are an SDE's, got None; give the problem a path from "
            "brownian_path, or take steps with noise 0"
        )
    return False


def made_for_others(steps: Steps, plan: Plan) -> jax.Array | bool:
    """Whether a plan, or one of stacked ones, has other steps' coefficients; known, an error."""
    if not plan.made_for.shape[-1]:
        return False
    found, given = fingerprint(steps), plan.made_for
    if given.shape[-2:] != found.shape:
        raise ValueError(f"expected plan.made_for of shape {list(found.shape)}, or no columns, got "
                         f"{list(given.shape)}")  # fmt: skip
    if isinstance(found, Tracer) or isinstance(given, Tracer):
        return _differ(found, given)
    # By numpy: what is small and known need not wait for the device.
    if _differ(np.asarray(found), np.asarray(given)):
        raise ValueError(
            "expected the steps that this plan was made for, got others of the same number; a plan "
            "that remembers or was fitted holds their coefficients, so make it anew for these"
        )
    return False


def _differ(found: Any, made_for: Any) -> Any:
    # Relative to each coefficient, since a gain may be as small as a step.
    expected = made_for.astype(found.dtype)
    gap = abs(found - expected)
    return ~((gap <= 1e-5 * abs(found)) | (gap <= 1e-5 * abs(expected))).all()
