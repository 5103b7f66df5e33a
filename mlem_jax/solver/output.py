"""The output of one level, with an error that says which one failed, and how it was called."""

from typing import Any

import jax
import jax.numpy as jnp

from mlem_jax.types import Condition, Drift, Params, Scalar, State


def evaluate_level(
    k: int, drift: Drift, params: Params, x: State, t: Scalar, condition: Condition
) -> State:
    """f^k(x, t), k counted from 0 here and from 1 in what is said.

    Raises:
        ValueError: if the level fails, or returns something unlike the state.
    """
    given = () if condition is None else (condition,)
    try:
        output = drift(params, x, t, *given)
    except Exception as error:
        called = "params, x, t" if condition is None else "params, x, t, condition"
        raise ValueError(
            f"level {k + 1} failed when it was called with ({called}), x of {_told(x)} and t a "
            f"number: {type(error).__name__}: {error}\nA level takes one time for the whole batch; "
            "wrap a network that wants one for each sample in levels.batched_time"
        ) from error
    same = jax.tree.structure(output) == jax.tree.structure(x) and all(
        jnp.shape(own) == jnp.shape(leaf) and jnp.result_type(own) == leaf.dtype
        for own, leaf in zip(jax.tree.leaves(output), jax.tree.leaves(x), strict=True)
    )
    if not same:
        raise ValueError(f"expected level {k + 1} to return {_told(x)}, like the state, got "
                         f"{_told(output)}")  # fmt: skip
    return output


def _told(tree: Any) -> str:
    """Dtypes and shapes, in words."""
    if jax.tree_util.all_leaves([tree]):
        array = hasattr(tree, "dtype")
        return f"{tree.dtype}{list(tree.shape)}" if array else f"a {type(tree).__name__}"
    if tree is None:
        return "None"
    return str(jax.tree.map(_told, tree))
