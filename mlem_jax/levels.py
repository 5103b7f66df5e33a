"""Levels from networks: adaptors that turn what a user has into `(params, x, t) -> like x`.

They compose from the inside out: a module becomes a function, guidance mixes two evaluations of
it, and `data` turns its prediction into x_0, which is the F of every table that knows a process:

    drift = data(guided(linen(unet)), process, predict_noise, clip=1.0)

Each level may compute in a dtype of its own, `data(in_dtype(linen(unet), jnp.bfloat16), ...)`: what
it predicts becomes x_0, and is added up, in the dtype of the state.

A condition is whatever the network takes as its fourth argument; it is handed through.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from mlem_jax.checks import check_kind, is_number
from mlem_jax.ladder import Ladder, check_ladder
from mlem_jax.process import Prediction, Process, convert, predict_data, step_index
from mlem_jax.types import Condition, Drift, Params, Scalar, State, Times


class Guidance(NamedTuple):
    """The condition of a `guided` network.

    Attributes:
        condition: of each sample.
        null: the condition that stands for none, for each sample too.
        scale: 0 the unconditional network, 1 the conditional one, more pushes further.
    """

    condition: Condition
    null: Condition
    scale: Float[Array, " batch"]


def linen(module: Any) -> Drift:
    """A Flax linen module as a level: params are what `module.init` returned."""

    def drift(params: Params, x: State, t: Times, *condition: Condition) -> State:
        return module.apply(params, x, t, *condition)

    return drift


def nnx(model: Any) -> tuple[Drift, Params]:
    """A Flax nnx model as a level: the function, and the parameters that travel beside it.

    Put the model into evaluation first, `model.eval()`: a level is a function, without dropout or
    running averages.
    """
    from flax import nnx as flax_nnx  # Here, so that mlem_jax does not need flax to be imported.

    definition, params = flax_nnx.split(model)

    def drift(params: Params, x: State, t: Times, *condition: Condition) -> State:
        return flax_nnx.merge(definition, params)(x, t, *condition)

    return drift, params


def batched_time(network: Drift) -> Drift:
    """A network that takes a time for each sample, [batch], as a level, which is given one."""

    def drift(params: Params, x: State, t: Scalar, *condition: Condition) -> State:
        batch = len(jax.tree.leaves(x)[0])
        return network(params, x, jnp.full((batch,), t), *condition)

    return drift


def at_steps(network: Drift) -> Drift:
    """F(params, x, t) = network(params, x, i): a network that takes the training step i.

    i = round(t) - 1 is a whole number, int32, as in `process.discrete`: between steps the nearest
    counts.
    """

    def drift(params: Params, x: State, t: Times, *condition: Condition) -> State:
        return network(params, x, step_index(t), *condition)

    return drift


def in_dtype(network: Drift, dtype: Any) -> Drift:
    """F(params, x, t) in the dtype of x, computed by the network in another, such as bfloat16.

    Parameters, state and condition are cast for the network. The time is not: embeddings multiply
    it by a thousand, of which half precision would leave nothing. What a network makes of it has to
    be cast to the dtype of x before they meet, as `nets.UNet` does, or it computes in that of t.

    Args:
        network: that computes in the dtype of what it is given.
        dtype: of its computation. Parameters that are `cast` beforehand need not be cast in every
            evaluation.
    """
    if not callable(network) or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"expected a callable network and a floating dtype such as jnp.bfloat16, "
                        f"got {network!r} and {dtype!r}")  # fmt: skip

    def drift(params: Params, x: State, t: Times, *condition: Condition) -> State:
        output = network(cast(params, dtype), cast(x, dtype), t, *cast(condition, dtype))
        return jax.tree.map(lambda own, like: own.astype(like.dtype), output, x)

    return drift


def cast(tree: Any, dtype: Any) -> Any:
    """Every floating leaf in that dtype; others, such as classes, as they are."""

    def one(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype) if floating else leaf

    return jax.tree.map(one, tree)


def data(
    network: Drift, process: Process, prediction: Prediction, *, clip: float | None = None
) -> Drift:
    """x_0(x, t) from what a network predicts, clipped to [-clip, clip].

    The F of every table in `steps` that knows a process. Clipping is the level's own, so each
    level stays a function of (x, t) and the multilevel sum still telescopes.

    Args:
        network: `(params, x, t)`, the prediction.
        process: the process it was trained on.
        prediction: what it predicts, such as `process.predict_noise`.
        clip: bound on the predicted data; None for none.
    """
    if not callable(network) or not callable(prediction):
        raise TypeError(f"expected a callable network and a prediction such as "
                        f"process.predict_noise, got {network!r} and {prediction!r}")  # fmt: skip
    check_kind(process, Process, "make one with the functions of mlem_jax.process")
    if clip is not None and not (is_number(clip) and clip > 0):
        raise ValueError(f"expected clip above 0, or None for none, got {clip!r}")

    def drift(params: Params, x: State, t: Scalar, *condition: Condition) -> State:
        predicted = network(params, x, t, *condition)
        found = convert(process, prediction, predict_data, x, predicted, t)
        return found if clip is None else jnp.clip(found, -clip, clip)

    return drift


def guided(network: Drift) -> Drift:
    """F = (1 - scale) F(null) + scale F(condition): two evaluations, so twice the cost.

    The condition of the problem is a `Guidance`, which `guide` makes. Guide what the network
    predicts, then turn it into x_0 with `data`, so that clipping comes last.

    References:
        Ho & Salimans 2022, arXiv:2207.12598, equation 6.
    """

    def drift(params: Params, x: State, t: Times, given: Guidance) -> State:
        check_kind(given, Guidance, "levels.guide makes one, the condition of the problem")
        without, toward = (network(params, x, t, own) for own in (given.null, given.condition))

        def mix(without: Array, toward: Array) -> Array:
            scale = given.scale.reshape(-1, *(1,) * (without.ndim - 1)).astype(without.dtype)
            return without + scale * (toward - without)

        return jax.tree.map(mix, without, toward)

    return drift


def guide(condition: Condition, null: Condition, scale: float) -> Guidance:
    """The same null condition and the same scale for every sample of a condition.

    Args:
        condition: of each sample, leaves [batch, ...].
        null: of one sample, leaves [...], such as the number of the class that stands for none.
        scale: of the guidance.

    Raises:
        ValueError: if the scale is no finite number, or the null condition not like one sample's.
    """
    traced = isinstance(scale, Tracer)
    if not traced and not (is_number(scale) and jnp.isfinite(scale)):
        raise ValueError(f"expected one finite scale of guidance, got {scale!r}")
    try:
        batch = len(jax.tree.leaves(condition)[0])
        every = jax.tree.map(
            lambda like, leaf: jnp.broadcast_to(jnp.asarray(leaf, like.dtype), like.shape),
            condition,
            null,
        )
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError("expected a condition of arrays [batch, ...], and a null condition like "
                         f"that of one sample, got {condition!r:.80} and {null!r:.80}"
                         ) from error  # fmt: skip
    return Guidance(condition, every, jnp.full((batch,), scale))


def guided_ladder(ladder: Ladder) -> Ladder:
    """Every level `guided`, at twice its cost. Make it of networks, before `data`."""
    check_ladder(ladder)
    drifts = tuple(map(guided, ladder.drifts))
    return Ladder(drifts, ladder.params, tuple(2 * cost for cost in ladder.costs))
