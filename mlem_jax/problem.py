"""What differs by sample: the start, what drives it, its condition; cut in one place.

Samples do not depend on their batch but for rounding, so a problem may be solved whole, in chunks,
in groups under plans of their own, or on several devices. Whoever cuts it does so with `take`,
`map_chunks`, `map_parts` or `shard_problem`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec
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
    return _map_rows(lambda leaf, axis: jnp.take(leaf, samples, axis=axis), problem)


def map_chunks(function: Callable[[Problem], State], problem: Problem, chunk: int) -> State:
    """`function(part)` of `chunk` samples at a time, one part after the other, as of the whole.

    Of n parts each takes every n-th sample, not neighbours: of samples that are spread over devices
    as many of each part lie on every device, and none has to be sent.

    Args:
        function: of a part of the problem, to a state like its `x`.
        problem: to be cut; what does not fill a chunk comes last.
        chunk: samples of a part.
    """
    count = batch_size(problem)
    whole = count // chunk * chunk
    parts = []
    if whole:
        filled = problem if whole == count else take(problem, jnp.arange(whole))
        parts.append(_map_strided(function, filled, whole // chunk))
    if whole < count:
        parts.append(function(take(problem, jnp.arange(whole, count))))
    return jax.tree.map(lambda *ends: jnp.concatenate(ends), *parts)


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


def shard_problem(problem: Problem, sharding: NamedSharding) -> Problem:
    """The problem with its samples spread over devices; key and tables of a path on each of them.

    What solves it then runs on all of them at once, and none waits for another. The samples are
    those of one device: to the bit if that is given as many at a time as each of these, else up to
    rounding.

    Args:
        problem: its size a multiple of the number of devices.
        sharding: of an array [batch, ...], `NamedSharding(mesh, PartitionSpec("samples"))` with
            `mesh = jax.make_mesh((8,), ("samples",), axis_types=(AxisType.Auto,))`. Of a mesh with
            more axes the others are left to the parameters. It may hold the devices of several
            processes, of which each gives the same problem.

    Raises:
        TypeError: if the sharding is of another kind.
        ValueError: if it is not of the batch alone, if an axis of the mesh is not automatic, or if
            the samples cannot be spread evenly.
    """
    _check_sharding(sharding)
    size, devices = batch_size(problem), device_count(sharding)
    if size % devices:
        raise ValueError(f"expected as many samples on each of {devices} devices, got {size}; give "
                         f"{-(-size // devices) * devices} and drop what is too many")  # fmt: skip
    specs = specs_of(problem, sharding)
    return jax.tree.map(
        lambda leaf, spec: _put(leaf, NamedSharding(sharding.mesh, spec)), problem, specs
    )


def sharding_of(problem: Problem) -> NamedSharding | None:
    """How the samples are spread over devices; None if they are not, or while tracing."""
    leaf = jax.tree.leaves(problem.x)[0]
    sharding = None if isinstance(leaf, Tracer) else getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not len(sharding.spec):
        return None
    of_batch = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0]))
    return of_batch if device_count(of_batch) > 1 else None


def specs_of(problem: Problem, sharding: NamedSharding) -> Problem:
    """Which axis of each leaf is spread, in the structure of the problem."""
    nowhere = jax.tree.map(lambda _: PartitionSpec(), problem)
    return _map_rows(lambda _, axis: PartitionSpec(*(None,) * axis, *sharding.spec), nowhere)


def axes_of(sharding: NamedSharding) -> tuple[str, ...]:
    """Names of the mesh axes over which the batch is spread."""
    names = sharding.spec[0]
    return (names,) if isinstance(names, str) else tuple(names or ())


def _map_rows(function: Callable[[Any, int], Any], problem: Problem) -> Problem:
    """`function(leaf, axis)` of every leaf that has an axis of samples."""

    def rows(tree: Any, axis: int = 0) -> Any:
        return jax.tree.map(lambda leaf: function(leaf, axis), tree)

    noise = problem.noise
    if isinstance(noise, BrownianPath):
        noise = noise._replace(samples=rows(noise.samples))
    else:
        noise = rows(noise, axis=1)
    return Problem(rows(problem.x), noise, rows(problem.condition))


def _put(leaf: Array | np.ndarray, place: NamedSharding) -> Array:
    """The leaf there, also over the devices of several processes, as JAX itself puts no key."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.device_put(leaf, place)
    data = jax.device_put(jax.random.key_data(leaf), place)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))


def _map_strided(function: Callable[[Problem], State], problem: Problem, parts: int) -> State:
    """`map_chunks` of so many equal parts."""

    def cut(leaf: Array, axis: int) -> Array:
        return leaf.reshape(*leaf.shape[:axis], -1, parts, *leaf.shape[axis + 1 :])

    def replace(ends: State, i: Int[Array, ""]) -> tuple[State, None]:
        def pick(leaf: Array, axis: int) -> Array:
            return jax.lax.dynamic_index_in_dim(cut(leaf, axis), i, axis + 1, keepdims=False)

        def put(whole: Array, part: Array) -> Array:
            return jax.lax.dynamic_update_index_in_dim(whole, part, i, 1)

        return jax.tree.map(put, ends, function(_map_rows(pick, problem))), None

    # Each end is written where its start stood: no second copy of them is ever made.
    begun = jax.tree.map(lambda leaf: cut(leaf, 0), problem.x)
    ends = jax.lax.scan(replace, begun, jnp.arange(parts))[0]
    return jax.tree.map(lambda end, x: end.reshape(x.shape), ends, problem.x)


def device_count(sharding: NamedSharding) -> int:
    """Over how many devices the batch is spread."""
    return math.prod(sharding.mesh.shape[name] for name in axes_of(sharding))


def _check_sharding(sharding: NamedSharding) -> None:
    if not isinstance(sharding, NamedSharding):
        raise TypeError("expected a sharding of the batch, NamedSharding(mesh, "
                        f"PartitionSpec('samples')), got {sharding!r:.80}")  # fmt: skip
    if len(sharding.spec) != 1 or not axes_of(sharding):
        raise ValueError(f"expected a sharding of the batch alone, PartitionSpec('samples'), got "
                         f"{sharding.spec}")  # fmt: skip
    if any(kind != AxisType.Auto for kind in sharding.mesh.axis_types):
        raise ValueError(
            f"expected a mesh whose axes are automatic, got {sharding.mesh.axis_types}; give "
            "jax.make_mesh axis_types=(AxisType.Auto,), one for each axis"
        )


def _length(leaf: Array | np.ndarray, axis: int, name: str) -> int:
    if jnp.ndim(leaf) <= axis:
        raise ValueError(f"expected a batch axis in {name}, got shape {jnp.shape(leaf)}; a single "
                         "sample is a batch of one")  # fmt: skip
    return jnp.shape(leaf)[axis]
