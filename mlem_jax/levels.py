"""Levels: the ladder of models of one drift, cheapest first, with what an evaluation costs.

A level is any callable `(params, x, t) -> like x`. Here are the ladder itself, adaptors from
network modules and from what networks predict, guidance, and two ways to measure the costs. The
functions are static (hashable, part of the compiled program); the parameters travel beside them as
a tuple of pytrees, one a level.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlem_jax.process import Prediction, Process, convert, predict_data
from mlem_jax.types import Drift, Params, Scalar, State


class Levels(NamedTuple):
    """A ladder of models of one drift, cheapest first.

    Hashable, so static under `jax.jit`. Make it once and keep it: functions compare by identity,
    so a ladder made anew is compiled anew.

    Attributes:
        drifts: one callable `(params, x, t)` a level.
        costs: of one evaluation of each level, in any one unit; never falling.
    """

    drifts: tuple[Drift, ...]
    costs: tuple[float, ...]


def check_levels(levels: Levels) -> None:
    """Lengths and order of a ladder.

    Raises:
        ValueError: if the fields are no tuples, if there is no level or not one cost a level, or
            as `check_costs`.
    """
    drifts, costs = levels
    if not (isinstance(drifts, tuple) and isinstance(costs, tuple)):
        raise ValueError("expected tuples of drifts and of costs, which can be hashed, got "
                         f"{type(drifts).__name__} and {type(costs).__name__}")  # fmt: skip
    if not drifts or len(drifts) != len(costs):
        raise ValueError(f"expected one cost for each level, got {len(drifts)} levels and "
                         f"{len(costs)} costs")  # fmt: skip
    check_costs(costs)


def check_params(levels: Levels, params: Sequence[Params]) -> None:
    """One pytree of params a level.

    Raises:
        ValueError: if there are more or fewer, or they are in no tuple.
    """
    count = len(levels.drifts)
    if not isinstance(params, tuple | list) or len(params) != count:
        raise ValueError(f"expected one pytree of params for each of {count} levels, got "
                         f"{len(params)}; params is a tuple")  # fmt: skip


def check_costs(costs: Sequence[float]) -> None:
    """Costs as a ladder has them.

    Raises:
        ValueError: if one is not positive and finite, or less than the one before it.
    """
    table = np.asarray(costs, np.float64)
    if not (np.isfinite(table).all() and (table > 0).all() and (np.diff(table) >= 0).all()):
        raise ValueError(
            f"expected positive costs, cheapest level first, got {tuple(costs)}; sort the levels, "
            "and leave out one that costs more than a better one"
        )


def linen_drift(module: Any) -> Drift:
    """A Flax linen module as a level: params are what `module.init` returned."""

    def drift(params: Params, x: State, t: Scalar) -> State:
        return module.apply(params, x, t)

    return drift


def nnx_drift(model: Any) -> tuple[Drift, Params]:
    """A Flax nnx model as a level: the function, and the parameters that travel beside it."""
    from flax import nnx  # Here, so that mlem_jax does not need flax to be imported.

    definition, params = nnx.split(model)

    def drift(params: Params, x: State, t: Scalar) -> State:
        return nnx.merge(definition, params)(x, t)

    return drift, params


def data_drift(
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

    def drift(params: Params, x: State, t: Scalar) -> State:
        data = convert(process, prediction, predict_data, x, network(params, x, t), t)
        return data if clip is None else jnp.clip(data, -clip, clip)

    return drift


class Conditional(NamedTuple):
    """Parameters of a conditional level: the network's own, and the condition of each sample."""

    params: Params
    condition: Any


ConditionalNetwork = Callable[[Params, State, Scalar, Any], State]


def conditional(network: ConditionalNetwork) -> Drift:
    """A network `(params, x, t, condition)` as a level; its params are a `Conditional`."""

    def drift(given: Conditional, x: State, t: Scalar) -> State:
        return network(given.params, x, t, given.condition)

    return drift


class Guided(NamedTuple):
    """Parameters of a guided level.

    Attributes:
        params: of the network.
        condition: of each sample.
        null: the condition that stands for none, of each sample too.
        scale: guidance; 0 the unconditional network, 1 the conditional one, more pushes further.
    """

    params: Params
    condition: Any
    null: Any
    scale: Any


def guided_levels(networks: Sequence[ConditionalNetwork], costs: Sequence[float]) -> Levels:
    """Levels F = (1 - scale) F(null) + scale F(condition), each costing two evaluations.

    Args:
        networks: `(params, x, t, condition)`, cheapest first; as levels, their params are `Guided`.
        costs: of one evaluation of each network; the ladder's are twice that.

    References:
        Ho & Salimans 2022, arXiv:2207.12598, equation 6.
    """

    def guide(network: ConditionalNetwork) -> Drift:
        def drift(given: Guided, x: State, t: Scalar) -> State:
            without = network(given.params, x, t, given.null)
            return without + given.scale * (network(given.params, x, t, given.condition) - without)

        return drift

    return Levels(tuple(map(guide, networks)), tuple(2 * cost for cost in costs))


def split_conditions(
    params: Sequence[Params],
) -> tuple[Any, Callable[[Any], tuple[Params, ...]]]:
    """The conditions of single samples in the params of a ladder, and how to put others there.

    Returns:
        A pytree whose leaves all have the batch as leading axis, and a function from such a pytree
        to params.
    """
    names = [
        [name for name in ("condition", "null") if name in own._fields]
        if isinstance(own, Conditional | Guided)
        else []
        for own in params
    ]
    conditions = [
        {name: getattr(own, name) for name in fields}
        for own, fields in zip(params, names, strict=True)
    ]

    def put(conditions: Any) -> tuple[Params, ...]:
        return tuple(
            own._replace(**given) if given else own
            for own, given in zip(params, conditions, strict=True)
        )

    return conditions, put


def measure_costs(
    drifts: Sequence[Drift],
    params: Sequence[Params],
    x: State,
    t: Scalar,
    *,
    evaluations: int = 20,
    repeats: int = 5,
) -> tuple[float, ...]:
    """Seconds of one evaluation on this machine: the median over repeats.

    Each level is timed as the solver runs it, `evaluations` times inside one compiled scan, after
    a warm-up; the levels take turns, so that a drift of the machine's speed meets all of them.

    Args:
        drifts: the levels' functions.
        params: the levels' parameters.
        x: a state of the shape to be sampled: the cost depends on the batch.
        t: a time.
        evaluations: evaluations in one timed scan.
        repeats: timed scans a level.
    """

    def scanned(drift: Drift) -> Callable[[Params, State, Scalar], State]:
        def run(params: Params, x: State, t: Scalar) -> State:
            def body(x: State, _: None) -> tuple[State, None]:
                return 0.5 * x + 0.5 * drift(params, x, t), None

            return jax.lax.scan(body, x, None, length=evaluations)[0]

        return jax.jit(run)

    runs = [scanned(drift) for drift in drifts]
    seconds = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for run, own, taken in zip(runs, params, seconds, strict=True):
            begun = time.perf_counter()
            jax.block_until_ready(run(own, x, t))
            if repeat > 0:  # The first compiles.
                taken.append((time.perf_counter() - begun) / evaluations)
    return tuple(sorted(taken)[repeats // 2] for taken in seconds)


def count_flops(
    drifts: Sequence[Drift], params: Sequence[Params], x: State, t: Scalar
) -> tuple[float, ...]:
    """Floating-point operations of one evaluation, as the compiler counts them."""

    def flops(drift: Drift, params: Params) -> float:
        analysis = jax.jit(drift).lower(params, x, t).compile().cost_analysis()
        return float((analysis or {}).get("flops", float("nan")))

    return tuple(map(flops, drifts, params))
