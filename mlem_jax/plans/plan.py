"""Plans: what the solver is told, and all it is told, of levels, chance and fitting.

A plan is the waist of the library. Above it gates, draws and fits decide; below it a loop runs

    F = weights . o + read . m        o_k = f^k(x, t), evaluated only where needed
    m[store_k] = o_k                  slots of the state's shape

which knows nothing of a probability or a fit. Plain Euler-Maruyama of one level, a switch from a
small network to a large one, multilevel draws, differences held from one opening to the next and
fitted weights are all such tables; a plan can be printed, priced before it is run, stored, run
again, or written by hand.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from mlem_jax.checks import as_float, as_table, check_count, check_kind, is_count
from mlem_jax.steps import Steps
from mlem_jax.types import Weights


class Memory(NamedTuple):
    """What a plan remembers: outputs of levels, in slots of the state's shape, 0 at the start.

    An output is written once and stays where it is until another takes its slot, so remembering
    costs a step one reading of the slots and no more; whatever is linear in them is in `read`.

    Attributes:
        read: F += read . m, of the slots as the step finds them.
        store: the slot that the output of each level goes into where it runs; -1 for none. No slot
            twice in a step.
    """

    read: Float[Array, "steps slots"]
    store: Int[Array, "steps levels"]


class Plan(NamedTuple):
    """Which levels run at each step, with what weight, and what is remembered of them.

    Attributes:
        weights: of each level's output at each step; differentiable in the logits.
        needed: whether the level is evaluated. Not `weights != 0`: with p_k = p_{k+1} and both
            gates open the weight is 0 while its derivative is not.
        memory: of earlier steps; no slots for most plans.
        made_for: scale, gain and noise of the steps whose coefficients went into this plan, for a
            solver to compare; no columns for a plan that suits any steps.
    """

    weights: Weights
    needed: Bool[Array, "steps levels"]
    memory: Memory
    made_for: Float[Array, "steps columns"]


def make_plan(
    weights: Weights,
    needed: Bool[Array, "steps levels"],
    memory: Memory | None = None,
    made_for: Steps | None = None,
) -> Plan:
    """A plan from its tables, without memory and for any steps unless they are given."""
    steps, levels = weights.shape
    memory = no_memory(steps, levels) if memory is None else memory
    columns = _no_columns(steps) if made_for is None else fingerprint(made_for)
    return Plan(weights, needed, memory, columns)


def no_memory(steps: int, levels: int) -> Memory:
    """Zero slots."""
    return Memory(_no_columns(steps), jnp.asarray(np.full((steps, levels), -1, np.int32), np.int32))


def _no_columns(steps: int) -> Float[Array, "steps 0"]:
    return as_float(np.zeros((steps, 0)))


@jax.jit
def fingerprint(steps: Steps) -> Float[Array, "steps 3"]:
    """scale, gain and noise of each step; for noise per entry the mean."""
    noise = steps.noise.reshape(len(steps.t), -1).mean(axis=1)
    return jnp.stack([steps.scale, steps.gain, noise], axis=1)


def full(steps: int, levels: int, level: int) -> Plan:
    """One level at every step, its Euler-Maruyama. Levels are counted from 1, the cheapest."""
    check_count(steps, "at least 1 step")
    _check_level(level, levels)
    return by_hand(np.tile(np.arange(1, levels + 1) == level, (steps, 1)))


def switch(steps: int, levels: int, at: int, *, early: int, late: int) -> Plan:
    """One level for the first `at` steps, another for the rest; counted from 1, the cheapest.

    References:
        T-Stitch, Pan et al. 2024, arXiv:2402.14167: small early, large late.
    """
    check_count(steps, "at least 1 step")
    _check_level(early, levels)
    _check_level(late, levels)
    if not (is_count(at, 0) and at <= steps):
        raise ValueError(f"expected a switch after 0 to {steps} steps, got {at}")
    chosen = np.where(np.arange(steps) < at, early, late)
    return by_hand(chosen[:, None] == np.arange(1, levels + 1))


def by_hand(weights: ArrayLike) -> Plan:
    """Any weights [steps, levels]; levels of weight 0 do not run.

    Raises:
        ValueError: if `weights` is no table of finite numbers.
    """
    table = as_table(weights, "finite weights")
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError(f"expected finite weights [steps, levels], got shape {table.shape}")
    return make_plan(as_float(table), jnp.asarray(table != 0, bool))


def drop_idle(plan: Plan) -> Plan:
    """The same plan without evaluations that nothing uses: never for learning its gates.

    With every gate certain this leaves the top level alone, which is plain Euler-Maruyama. What is
    written to memory stays.
    """
    check_kind(plan, Plan, "make one with the functions of mlem_jax.plans")
    return plan._replace(needed=_used(plan))


@jax.jit
def _used(plan: Plan) -> Bool[Array, "steps levels"]:
    return plan.needed & ((plan.weights != 0) | (plan.memory.store >= 0))


def check_plan(plan: Plan) -> None:
    """Tables of a plan that belong together.

    Raises:
        TypeError: if it is no plan.
        ValueError: if shapes differ.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"expected a Plan, got {type(plan).__name__}; make one with the functions "
                        "of mlem_jax.plans")  # fmt: skip
    check_kind(plan.memory, Memory, "make_plan makes one")
    if not all(hasattr(table, "dtype") for table in (*plan[:2], plan.made_for, *plan.memory)):
        raise TypeError(
            "expected a plan made of arrays, got other things in it; make_plan makes one"
        )
    if plan.weights.ndim == 3:
        raise ValueError(
            f"expected one plan, weights [steps, levels], got {len(plan.weights)} stacked; "
            "solve_groups runs one for each group of samples"
        )
    if plan.weights.ndim != 2:
        raise ValueError(f"expected weights [steps, levels], got {list(plan.weights.shape)}")
    (steps, levels), slots = plan.weights.shape, plan.memory.read.shape[-1]
    shapes = {
        "needed": (plan.needed, (steps, levels)),
        "memory.read": (plan.memory.read, (steps, slots)),
        "memory.store": (plan.memory.store, (steps, levels)),
        "made_for": (plan.made_for, (steps, 0 if plan.made_for.shape[-1:] == (0,) else 3)),
    }
    for name, (table, shape) in shapes.items():
        if table.shape != shape:
            raise ValueError(f"expected plan.{name} of shape {list(shape)}, as its weights "
                             f"{[steps, levels]} ask, got {list(table.shape)}")  # fmt: skip
    kinds = {"needed": np.bool_, "memory.store": np.signedinteger}
    for name, table in ({name: table for name, (table, _) in shapes.items()}
                        | {"weights": plan.weights}).items():  # fmt: skip
        if not jnp.issubdtype(table.dtype, kind := kinds.get(name, np.floating)):
            raise ValueError(f"expected plan.{name} of a {kind.__name__} dtype, got {table.dtype}")
    if not isinstance(plan.memory.store, Tracer):
        check_store(np.asarray(plan.memory.store), slots)


def check_store(store: Int[np.ndarray, "*plans steps levels"], slots: int) -> None:
    """Slots that are there, and none for two outputs of a step.

    Raises:
        ValueError: if it is otherwise.
    """
    if not ((store >= -1) & (store < slots)).all():
        last = f"{slots - 1}, the last of {slots} slots" if slots else "-1, as there are no slots"
        raise ValueError(f"expected plan.memory.store from -1, for none, to {last}, got "
                         f"{store.min()} to {store.max()}")  # fmt: skip
    ordered = np.sort(store, axis=-1)
    if ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any():
        raise ValueError("expected a slot of its own for each output of a step, got one for two of "
                         "them in plan.memory.store")  # fmt: skip


def _check_level(level: int, levels: int) -> None:
    check_count(levels, "at least 1 level")
    if not (is_count(level) and level <= levels):
        raise ValueError(f"expected a level from 1 to {levels}, got {level}")
