"""Stacked ladders: each difference shrunk by its least-squares share, so that no more is drawn.

Networks trained apart differ by more than they must: part of f^k - f^{k-1} is not towards the
truth, and the multilevel sum pays for its variance all the same. The stacked ladder

    F^0 = 0 ,    F^k = F^{k-1} + w_k(t) (f^k - F^{k-1})

takes of each difference its share w_k alone (`mlem_jax.shares` fits them); the plain ladder is the
case w = 1. F^k is linear in the levels, so the shares are one more factor in a plan's weights and
the solver knows nothing of them. Going down from the top with c_K = 0,

    sum_k r_k (F^k - F^{k-1}) = sum_k a_k f^k ,    a_k = w_k (r_k + c_k) ,
    c_{k-1} = (1 - w_k) c_k - w_k r_k ,

where c_k is what the differences above k add to the coefficient of F^k.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlem_jax.draws import Draw
from mlem_jax.gates import probabilities
from mlem_jax.levels import check_costs
from mlem_jax.plan import Plan, Price, drop_idle, open_ratios
from mlem_jax.types import Fires, Grid, Key, Logits, PerStep, Probabilities, Weights


class Stack(NamedTuple):
    """How much of each difference is taken, at some times.

    Attributes:
        times: rising.
        shares: w_k at each of them; 1 is the plain ladder.
    """

    times: Grid
    shares: Float[Array, "points levels"]


def stack_shares(stack: Stack, t: PerStep) -> Weights:
    """w_k(t_n), linear between the stack's times, constant beyond the first and the last."""
    along = jax.vmap(lambda own: jnp.interp(t, stack.times, own), 1, 1)
    return along(stack.shares)


def weigh_stack(fires: Fires, ratios: Weights, shares: Weights) -> Plan:
    """sum_k r_k (F^k - F^{k-1}) as weights of the levels; with w = 1 `plan.weigh_ratios`, exactly.

    A firing needs its level and those below it, down to the first with a share of exactly 1, whose
    rung forgets the lower ones. A difference with a share of 0 is none and needs nothing.

    Args:
        fires: which gates are open.
        ratios: r_k, 0 where a gate is closed, as `plan.open_ratios` gives them.
        shares: w_k at each step, as `stack_shares` gives them.

    Raises:
        ValueError: if the tables have not the same shape.
    """
    _check_shares(shares, ratios)
    weights, needed = [], []
    taken, wanted = jnp.zeros_like(ratios[:, 0]), jnp.zeros_like(fires[:, 0])
    for k in reversed(range(shares.shape[1])):
        share, ratio, fired = shares[:, k], ratios[:, k], fires[:, k] & (shares[:, k] != 0)
        weights.append(share * (ratio + taken))
        needed.append((share != 0) & (fired | wanted))
        taken = (1 - share) * taken - share * ratio
        wanted = fired | (wanted & (share != 1))
    return Plan(jnp.stack(weights[::-1], axis=1), jnp.stack(needed[::-1], axis=1))


def differences(shares: Weights) -> Float[Array, "steps levels levels"]:
    """F^k - F^{k-1} = sum_j d_kj f^j: the row of F^k is w_k e_k + (1 - w_k) that of F^{k-1}."""
    rows, count = [jnp.zeros_like(shares)], shares.shape[1]
    for k in range(count):
        share = shares[:, k, None]
        rows.append((1 - share) * rows[-1] + share * (jnp.arange(count) == k))
    return jnp.diff(jnp.stack(rows, axis=1), axis=1)


def draw_stack_plan(draw: Draw, logits: Logits, shares: Weights, key: Key | None) -> Plan:
    """A plan of the stacked ladder to run: gates drawn, weighed, idle evaluations dropped.

    Args:
        draw: as for `draw_plan`.
        logits: of the gates of the differences F^k - F^{k-1}.
        shares: w_k at each step.
        key: of the gates, as for `draw_plan`.

    Raises:
        ValueError: as `weigh_stack`.
    """
    fires = draw(key, logits)
    return drop_idle(weigh_stack(fires, open_ratios(fires, logits), shares))


def stack_top(shares: Weights) -> Plan:
    """F^K at every step: what plans of the stacked ladder approach, and their mean."""
    ones = jnp.ones_like(shares)
    return drop_idle(weigh_stack(ones.astype(bool), ones, shares))


def stack_needs(logits: Logits, shares: Weights | None = None) -> Probabilities:
    """P(level j needed) = 1 - prod_{k >= j} (1 - p_k): E of the `needed` of `weigh_stack`.

    For draws whose levels are independent of each other; differentiable in the logits. Exact where
    shares of 0 or 1 spare a level as well, if the shares are given.
    """
    shares = jnp.full_like(logits, 0.5) if shares is None else shares
    _check_shares(shares, logits)
    shut = jnp.where(shares == 0, 1, 1 - probabilities(logits))
    needs, unwanted = [], jnp.ones_like(shut[:, 0])
    for k in reversed(range(shares.shape[1])):
        needs.append(jnp.where(shares[:, k] == 0, 0, 1 - shut[:, k] * unwanted))
        unwanted = shut[:, k] * jnp.where(shares[:, k] == 1, 1, unwanted)
    return jnp.stack(needs[::-1], axis=1)


def stack_price(logits: Logits, costs: Sequence[float], *, shares: Weights | None = None) -> Price:
    """E of `price` over `draw_stack_plan`, for draws whose levels are independent of each other.

    Takes what `plan.expected_price` takes, so gates are fitted to a budget with either. Idle
    evaluations are not taken off: with shares other than 0 and 1 weights cancel only by accident.

    Raises:
        ValueError: if there is not one cost for each level, or the shares have another shape.
    """
    if logits.shape[1] != len(costs):
        raise ValueError(f"expected one cost for each of {logits.shape[1]} levels, got "
                         f"{len(costs)}")  # fmt: skip
    check_costs(costs)
    evaluations = stack_needs(logits, shares).sum(axis=0)
    return Price(evaluations, evaluations * jnp.asarray(costs))


def save_stack(file: str | Path, stack: Stack) -> None:
    """Write a stack as .npz, without pickle."""
    with Path(file).open("wb") as stream:
        np.savez(stream, times=np.asarray(stack.times), shares=np.asarray(stack.shares))


def load_stack(file: str | Path) -> Stack:
    """Read a stack.

    Raises:
        ValueError: if the file is not a stack.
    """
    with np.load(file, allow_pickle=False) as arrays:
        if set(arrays.files) != {"times", "shares"}:
            raise ValueError(
                f"expected arrays `times` and `shares` in {file}, got {sorted(arrays.files)}"
            )
        return Stack(jnp.asarray(arrays["times"]), jnp.asarray(arrays["shares"]))


def _check_shares(shares: Weights, table: Weights) -> None:
    if shares.shape != table.shape:
        raise ValueError(
            f"expected shares [steps, levels] like the gates, {list(table.shape)}, got "
            f"{list(shares.shape)}; `stack_shares` makes them from a stack and the steps' times"
        )
