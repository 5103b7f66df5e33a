"""What differs by sample: the start, what drives it, its condition; cut in one place.

Samples do not depend on their batch, so a problem may be solved whole, in chunks, in groups under
plans of their own, or on several devices. Whoever cuts it does so with `take` or `map_parts`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mlem_jax.noise import BrownianPath, draw_increment
from mlem_jax.types import Condition, State

Noise = BrownianPath | State | None
"""What drives the steps: a Brownian path, stored standard normals [steps, ...], or nothing."""
Cut = TypeVar("Cut")


class Problem(NamedTuple):
    """Starts and all that goes with each of them.

    Attributes:
        x: the starts: an array [batch, ...], or a pytree of such arrays.
        noise: a path from `brownian_path`, standard normals [steps, batch, ...], or None for an
            ODE.
        condition: what each level is shown beside the state, a pytree of arrays [batch, ...] such
            as classes; None for levels `(params, x, t)`.
    """

    x: State
    noise: Noise = None
    condition: Condition = None


def batch_size(problem: Problem) -> int:
    """How many samples.

    Raises:
        ValueError: if starts, path, normals and conditions are not equally many, or there is none.
    """
    sizes = {"x": {_length(leaf, 0, "x") for leaf in jax.tree.leaves(problem.x)}}
    if isinstance(problem.noise, BrownianPath):
        sizes["noise.samples"] = {_length(problem.noise.samples, 0, "noise.samples")}
    else:
        sizes["noise"] = {_length(leaf, 1, "noise") for leaf in jax.tree.leaves(problem.noise)}
    sizes["condition"] = {_length(leaf, 0, "condition")
                          for leaf in jax.tree.leaves(problem.condition)}  # fmt: skip
    every = set().union(*sizes.values())
    if len(every) != 1 or every == {0}:
        told = ", ".join(f"{sorted(own)} in {name}" for name, own in sizes.items() if own)
        raise ValueError(f"expected as many samples everywhere, at least one, got {told}")
    return every.pop()


def increment_at(problem: Problem, step: Int[Array, ""], like: State) -> State | None:
    """xi[n], like the state; None for an ODE."""
    noise = problem.noise
    if noise is None:
        return None
    if isinstance(noise, BrownianPath):
        return draw_increment(noise, step, like)
    return jax.tree.map(lambda stored, x: stored[step].astype(x.dtype), noise, like)


def take(problem: Problem, samples: Int[Array, " some"]) -> Problem:
    """The problem of some of the samples."""

    def rows(tree: Any, axis: int = 0) -> Any:
        return jax.tree.map(lambda leaf: jnp.take(leaf, samples, axis=axis), tree)

    noise = problem.noise
    if isinstance(noise, BrownianPath):
        noise = noise._replace(samples=rows(noise.samples))
    else:
        noise = rows(noise, axis=1)
    return Problem(rows(problem.x), noise, rows(problem.condition))


def map_parts(function: Callable[..., Any], problem: Problem, parts: int, *others: Any) -> Any:
    """`function(part, *others[i])` of each of so many equal parts, one after the other.

    Never batched: a batched predicate would run every level at every step.

    Args:
        function: of a part of the problem, and a row of each of the others.
        problem: to be cut; its size a multiple of `parts`.
        parts: how many.
        others: pytrees with a leading axis [parts].

    Returns:
        What the function returns, stacked along a leading axis [parts].

    Raises:
        ValueError: if the problem cannot be cut so.
    """
    size = batch_size(problem)
    if parts < 1 or size % parts:
        raise ValueError(f"expected samples that can be cut into {parts} equal parts, got {size}")
    numbers = jnp.arange(size).reshape(parts, -1)
    return jax.lax.map(
        lambda given: function(take(problem, given[0]), *given[1:]), (numbers, *others)
    )


def _length(leaf: Array, axis: int, name: str) -> int:
    if jnp.ndim(leaf) <= axis:
        raise ValueError(f"expected a batch axis in {name}, got shape {jnp.shape(leaf)}; a single "
                         "sample is a batch of one")  # fmt: skip
    return jnp.shape(leaf)[axis]
