"""The fine solution that fitted plans are to approach, and the paths that lead along it."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from mlem_jax.ladder import Ladder, pick_levels
from mlem_jax.noise import BrownianPath, brownian_path
from mlem_jax.plans.plan import full
from mlem_jax.problem import Problem, take
from mlem_jax.solver.solve import solve_path
from mlem_jax.steps import Steps
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


def along(problem: Problem, fine: Steps, coarse: Steps) -> Problem:
    """The problem with the same Brownian paths in coarser steps."""
    noise = problem.noise
    if not isinstance(noise, BrownianPath):
        return problem
    return problem._replace(noise=brownian_path(noise.key, fine, coarse, samples=noise.samples))


def states_on(fine: Fine, coarse: Steps) -> State:
    """The fine solution at the beginnings of coarse steps and at the end."""
    places = np.searchsorted(fine.done, points_on(fine.steps, coarse))
    return jax.tree.map(lambda leaf: leaf[places], fine.states)


def part_of(problem: Problem, fine: Fine, count: int) -> tuple[Problem, Fine]:
    """The first samples of a pilot batch and of its fine solution."""
    states = jax.tree.map(lambda leaf: leaf[:, :count], fine.states)
    return take(problem, jnp.arange(count)), fine._replace(states=states)
