"""Finding what is not finite: a slower solve that says what broke, and at which step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mlem_jax.ladder import Ladder
from mlem_jax.noise import BrownianPath
from mlem_jax.plans.plan import Plan
from mlem_jax.problem import Problem
from mlem_jax.solver.check import checked_table
from mlem_jax.solver.executors import reporting
from mlem_jax.solver.step import Table, init_carry
from mlem_jax.steps import Steps
from mlem_jax.types import Condition, State


def solve_checked(ladder: Ladder, problem: Problem, steps: Steps, plan: Plan) -> State:
    """As `solve`, up to rounding, but stops where a number is not finite and says where it arose.

    Slower, for finding a fault.

    Raises:
        FloatingPointError: if a start, a parameter, a table, the noise or the result of a level is
            NaN or infinite; the first of them is named, with the step and the level.
        TypeError, ValueError: as `solve`.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((ladder, problem, steps, plan))):
        raise TypeError("expected what is known outside jax.jit, got traced values; take `solve` "
                        "there, and solve_checked to find a fault")  # fmt: skip
    table = checked_table(ladder, problem, steps, plan)
    for name, tree in (
        ("start", problem.x),
        ("condition", problem.condition),
        *((f"parameter of level {k + 1}", own) for k, own in enumerate(ladder.params)),
        ("column of the steps", steps),
        ("table of the plan", plan),
    ):
        _check_finite(tree, name)
    last = [problem.x]

    def look(done: int, _: int, x: State) -> None:
        if not _all_finite(x):
            _blame(ladder, problem, table, done - 1, last[0])
        last[0] = x

    run = reporting(look, every=1)
    return run(ladder, init_carry(table, problem.x), table, problem).x


def _check_finite(tree: Any, name: str) -> None:
    for place, leaf in jax.tree_util.tree_leaves_with_path(tree):
        number = jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)
        if number and not np.isfinite(np.asarray(leaf)).all():
            where = jax.tree_util.keystr(place)
            raise FloatingPointError(f"a {name} is not finite{': ' + where if where else ''}")


def _blame(ladder: Ladder, problem: Problem, table: Table, n: int, x: State) -> None:
    """Say what made the state after step n not finite, by looking at its parts.

    Raises:
        FloatingPointError: always.
    """
    t = table.t[n]
    given: tuple[Condition, ...] = () if problem.condition is None else (problem.condition,)
    for k in np.flatnonzero(np.asarray(table.needed[n])):
        if not _all_finite(ladder.drifts[k](ladder.params[k], x, t, *given)):
            raise FloatingPointError(
                f"level {k + 1} returned NaN or infinity at step {n}, t = {float(t):g}, from a "
                "finite state"
            )
    noise = problem.noise
    if noise is not None and not isinstance(noise, BrownianPath):
        _check_finite(jax.tree.map(lambda stored: stored[n], noise), f"stored noise of step {n}")
    raise FloatingPointError(
        f"the state is not finite after step {n}, t = {float(t):g}, though the levels are: it has "
        "grown beyond its dtype"
    )


def _all_finite(tree: State) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))
