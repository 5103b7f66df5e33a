"""The fine solution that fitted plans are to approach, and the paths that lead along it."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mlem_jax.ladder import Ladder, pick_levels
from mlem_jax.noise import BrownianPath, brownian_path, coarsen
from mlem_jax.plans.plan import full
from mlem_jax.problem import Problem, increment_at, take
from mlem_jax.solver.solve import solve_path
from mlem_jax.steps import Steps, goes_ahead
from mlem_jax.types import State


class Fine(NamedTuple):
    """The top level's solution at the points that coarser steps go through.

    Attributes:
        steps: the fine steps.
        done: after how many of them the states are kept, rising.
        states: the states then.
    """

    steps: Steps
    done: Int[np.ndarray, " kept"]
    states: State


def fine_solution(ladder: Ladder, problem: Problem, fine: Steps, coarse: Iterable[Steps]) -> Fine:
    """The top level at every fine step, kept where any of the coarse steps begins or ends.

    Raises:
        ValueError: if a coarse step does not begin and end where fine ones do, or as `solve`.
    """
    done = np.unique(np.concatenate([points_on(fine, own) for own in coarse]))
    top = pick_levels(ladder, (len(ladder),))  # What does not run is not compiled either.
    plan = full(len(fine.t), 1, 1)
    return Fine(fine, done, solve_path(top, problem, fine, plan, keep=done).states)


def points_on(fine: Steps, coarse: Steps) -> Int[np.ndarray, " points"]:
    """After how many fine steps each coarse one begins, and the last one ends.

    Raises:
        ValueError: if a coarse step does not begin and end where fine ones do.
    """
    path = brownian_path(jax.random.key(0), fine, coarse, samples=jnp.arange(1))
    return np.append(np.asarray(path.first), np.asarray(path.last)[-1])


def along(problem: Problem, fine: Steps, coarse: Steps, drawn: State | None = None) -> Problem:
    """The problem with the same Brownian paths in coarser steps.

    Args:
        problem: with paths over the fine steps, or an ODE, which stays as it is.
        fine: its steps.
        coarse: steps on points of those.
        drawn: the increments of the fine steps, from `store_path`, if the coarse ones are to be
            summed of them now instead of drawn at every solve.
    """
    noise = problem.noise
    if not isinstance(noise, BrownianPath):
        return problem
    path = brownian_path(noise.key, fine, coarse, samples=noise.samples)
    return problem._replace(noise=path if drawn is None else coarsen(path, drawn))


def states_on(fine: Fine, coarse: Steps, problem: Problem) -> State:
    """The fine solution at the beginnings of coarse steps and at the end.

    Between the two rows of a step that looks ahead, off the path: where the mean F of the step has
    brought it, that is the one which with these rows and this noise leads from where the fine
    solution is at its beginning to where that is at its end.

    Args:
        fine: the solution.
        coarse: steps on points of the fine ones.
        problem: what was solved, with its path over the coarse steps.
    """
    places = np.searchsorted(fine.done, points_on(fine.steps, coarse))
    states = jax.tree.map(lambda leaf: np.asarray(leaf)[places], fine.states)
    columns = [np.asarray(column) for column in coarse[1:4]]
    for n in np.flatnonzero(goes_ahead(coarse)).tolist():
        rows = [[column[row] for column in columns] for row in (n, n + 1)]
        begun, ended = (jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), states)
                        for row in (n, n + 2))  # fmt: skip
        moved = (increment_of(problem, row, begun) for row in (n, n + 1))
        between = _between(*rows, begun, ended, *moved)
        for leaf, own in zip(jax.tree.leaves(states), jax.tree.leaves(between), strict=True):
            leaf[n + 1] = own
    return jax.tree.map(jnp.asarray, states)


@jax.jit
def _between(ahead: list, back: list, begun: State, ended: State, *moved: State) -> State:
    """The state after the first of two rows, if the same F is used in both."""
    (scale, gain, noise), (rest_scale, rest_gain, rest_noise) = ahead, back

    def of_leaf(x: Array, y: Array, xi: Array, rest: Array) -> Array:
        free = scale * x + noise * xi
        mean = (y - rest_scale * free - rest_noise * rest) / (rest_scale * gain + rest_gain)
        return free + gain * mean

    return jax.tree.map(of_leaf, begun, ended, *moved)


def at_step(problem: Problem, n: int) -> Problem:
    """The problem with the noise of one step, as step 0: its shapes do not tell how many there are.

    So what is compiled for one number of steps serves any other.
    """
    noise = problem.noise
    if isinstance(noise, BrownianPath):
        tables = {name: np.asarray(getattr(noise, name))[n : n + 1]
                  for name in ("first", "last", "shares")}  # fmt: skip
        noise = noise._replace(**tables)
    elif noise is not None:
        noise = jax.tree.map(lambda xi: xi[n][None], noise)
    return problem._replace(noise=noise)


def increment_of(problem: Problem, n: int, like: State) -> State | None:
    """xi[n], like the state; None for an ODE."""
    return _increment(at_step(problem, n), like)


@jax.jit
def _increment(problem: Problem, like: State) -> State | None:
    return increment_at(problem, jnp.asarray(0), like)


def part_of(problem: Problem, fine: Fine, count: int) -> tuple[Problem, Fine]:
    """The first samples of a pilot batch and of its fine solution."""
    states = jax.tree.map(lambda leaf: leaf[:, :count], fine.states)
    return take(problem, jnp.arange(count)), fine._replace(states=states)
