"""A pilot run: what each difference does to the end, and what that asks of its gate.

To first order in the differences D_k = F^k - F^{k-1}, the end under independent gates misses the
top level's by

    sum_{n,k} (B/p - 1) J_{n,k} ,    J_{n,k} = Phi(end, n) gain_n D_k(x_n, t_n) ,

with Phi the propagation of a perturbation along the top level's own path. The gates are independent
and (B/p - 1) has mean 0 and variance 1/p - 1, so

    E |error|^2  =  sum_{n,k} (1/p_k(t_n) - 1) v_k(t_n) ,    v_k(t_n) = E |J_{n,k}|^2 .

Minimising it for a given cost sum p c gives p ~ sqrt(v / c). For even draws the errors of an
opening and the next cancel, and what is left of a gap of 1/lambda is the change of J within it:
per unit of time q / lambda^2, where q is how fast the square of that change grows. With q in
proportion to v this gives lambda ~ (v / c)^(1/3).

The v, squared sensitivities, are measured in forward mode in one run of the top level: a tangent
for every time bin, which is a few successive steps, and every difference, into which gain_n D_k is
injected at one step of the bin, drawn for each sample by itself. Its mean square at the end is then
the mean of v over the bin. (Random signs at all of its steps have that mean too; but neighbours' J
are nearly parallel, so the square of a sum of signs stands before it, which varies by more than
itself.) No state is stored, so memory does not grow with the number of steps but for a few numbers
per step; there are as many tangents of the size of the batch as time bins times differences.

A ladder of fewer levels needs no run of its own: its differences are sums of neighbouring ones, so
its J are sums of their J, and its v follow from the mean products of neighbours' J
(`subsets.subset_sensitivities`).

References:
    Derived from arXiv:2603.24594, section 2 and theorem 1, whose bound on Phi is replaced by its
    measurement.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlem_jax.checks import check_kind, is_count
from mlem_jax.ladder import Ladder, check_ladder
from mlem_jax.noise import as_key
from mlem_jax.plans.plan import full
from mlem_jax.problem import Problem, batch_size, increment_at
from mlem_jax.solver.check import checked_table
from mlem_jax.solver.step import Table, add_noise, evaluate_level
from mlem_jax.steps import Steps
from mlem_jax.types import Key, Logits, Scalar, State

Sensitivities = Float[Array, "steps levels"]
"""v[n, k], squared: mean square, over entries and samples, of what leaving difference k out of step
n does to the end; +inf where it was not measured because the gate is to stay open."""


class Pilot(NamedTuple):
    """What one run of the top level tells of the ladder, sample by sample; means over entries.

    Attributes:
        differences: squares of F^k - F^{k-1} along the top level's path, with F^0 = 0.
        distances: squares of F^k - F^K along it.
        products: of J_{n,k} and J_{n,l} at the end, n one step of each time bin, drawn for
            each sample; of the differences above the certain ones.
    """

    differences: Float[Array, "steps batch levels"]
    distances: Float[Array, "steps batch levels"]
    products: Float[Array, "batch bins free free"]


def run_pilot(
    ladder: Ladder,
    problem: Problem,
    steps: Steps,
    key: Key,
    *,
    bins: int = 16,
    certain: int = 1,
) -> Pilot:
    """J[n, k] = Phi(end, n) gain[n] (F^k - F^{k-1})(x[n], t[n]), and the differences, in one run.

    Costs as much as about `bins x differences / 2` runs of the top level at every step, beside one
    run of every level: each time bin and difference has a tangent, which goes through the top level
    from its bin to the end. Differences are those above the certain gates.

    Args:
        ladder: the levels.
        problem: starts, of arrays [batch, ...], noise, conditions; the more samples, the less
            noise in the means.
        steps: the integrator, a one-step method.
        key: of the steps at which each sample is disturbed.
        bins: time bins of equally many steps, at most one per step.
        certain: how many of the lowest gates are to stay open; their sensitivities are not
            measured.

    Raises:
        ValueError: as `solve`, and if there are no such bins, or no gate is left to close.
    """
    check_ladder(ladder)
    check_kind(steps, Steps, "make them with the functions of mlem_jax.steps")
    count, levels = len(steps.t), len(ladder)
    table = checked_table(ladder, problem, steps, full(count, levels, levels))
    if steps.push.shape[1]:
        raise ValueError("expected one-step steps for a pilot run, got a multistep method; measure "
                         "with its one-step form, exponential_euler")  # fmt: skip
    if not (is_count(bins) and bins <= count):
        raise ValueError(f"expected from 1 to {count} time bins, at most one per step, "
                         f"got {bins!r}")  # fmt: skip
    if not (is_count(certain, 0) and certain < levels):
        raise ValueError(f"expected fewer certain gates than {levels} levels, got {certain}")
    own = bin_numbers(count, bins)
    first = np.searchsorted(own, np.arange(bins + 1))
    shape = batch_size(problem), bins
    chosen = jax.random.randint(as_key(key), shape, first[None, :-1], first[None, 1:])
    return _measure(ladder, problem, table, chosen, jnp.asarray(own, jnp.result_type(int)), certain)


def measure_sensitivities(
    ladder: Ladder,
    problem: Problem,
    steps: Steps,
    key: Key,
    *,
    bins: int = 16,
    certain: int = 1,
) -> Sensitivities:
    """v[n, k] = E |Phi(end, n) gain[n] (F^k - F^{k-1})(x[n], t[n])|^2, from one run.

    The same number for all steps of a bin; +inf for the certain gates. Arguments and errors as for
    `run_pilot`.
    """
    pilot = run_pilot(ladder, problem, steps, key, bins=bins, certain=certain)
    bin_of = jnp.asarray(bin_numbers(len(steps.t), bins), jnp.result_type(int))
    return _on_steps(pilot.products.mean(axis=0), bin_of, certain)


@partial(jax.jit, static_argnums=2)
def _on_steps(
    products: Float[Array, "bins free free"], bin_of: Int[Array, " steps"], certain: int
) -> Sensitivities:
    found = jnp.diagonal(products, axis1=1, axis2=2)[bin_of]
    return jnp.concatenate([jnp.full((len(bin_of), certain), jnp.inf, found.dtype), found], axis=1)


def bin_numbers(count: int, bins: int) -> Int[np.ndarray, " steps"]:
    """The time bin that each step belongs to."""
    return np.arange(count) * bins // count


def predict_error(sensitivities: Sensitivities, logits: Logits) -> Scalar:
    """E |x - x_ref|^2 = sum_{n,k} (1/p - 1) v, for independent draws, to first order."""
    certain = jnp.isposinf(logits)
    odds = jnp.exp(-jnp.where(certain, 0, logits))  # 1/p - 1, where p itself would round to 1.
    missed = jnp.where(certain | (sensitivities == 0), 0, sensitivities)
    return jnp.where(missed > 0, odds * missed, 0).sum()


@partial(jax.jit, static_argnums=5)
def _measure(
    ladder: Ladder,
    problem: Problem,
    table: Table,
    chosen: Int[Array, "batch bins"],
    bin_of: Int[Array, " steps"],
    certain: int,
) -> Pilot:
    """The run: the tangents at the end, and what the levels said on the way."""
    free, bins = len(ladder) - certain, chosen.shape[1]
    bin_of_tangent = jnp.repeat(jnp.arange(bins), free)

    def body(carry: tuple, n: Int[Array, ""]) -> tuple[tuple, tuple[Array, Array]]:
        x, tangents = carry
        t, scale, gain = table.t[n], table.scale[n], table.gain[n]

        def output(k: int, x: State) -> State:
            drift, params = ladder.drifts[k], ladder.params[k]
            return evaluate_level(k, drift, params, x, t, problem.condition)

        top, push = jax.linearize(partial(output, len(ladder) - 1), x)

        def pushed(tangent: State) -> State:
            moved = push(tangent)
            return jax.tree.map(lambda own, f: scale * own + gain * f, tangent, moved)

        def move(given: tuple[Array, State]) -> State:
            # Before its bin a tangent is 0 and need not be pushed.
            return jax.lax.cond(given[0] <= bin_of[n], pushed, lambda same: same, given[1])

        every = [*(output(k, x) for k in range(len(ladder) - 1)), top]
        rises = [every[0], *(_minus(own, below) for below, own in pairwise(every))]
        squares = _squares(rises), _squares([_minus(own, top) for own in every])
        tangents = jax.lax.map(move, (bin_of_tangent, tangents))
        here = chosen[:, bin_of[n]] == n
        own = bin_of[n] * free + jnp.arange(free)
        tangents = jax.tree.map(
            lambda leaf, *rises: leaf.at[own].add(
                jnp.where(_beside(here, rises[0])[None], gain * jnp.stack(rises), 0)
            ),
            tangents, *rises[certain:],
        )  # fmt: skip
        x = jax.tree.map(lambda x, f: scale * x + gain * f, x, top)
        return (_with_noise(problem, table, n, x), tangents), squares

    start = jax.tree.map(lambda leaf: jnp.zeros((bins * free, *leaf.shape), leaf.dtype), problem.x)
    (_, ends), (differences, distances) = jax.lax.scan(
        body, (problem.x, start), jnp.arange(len(table.t))
    )
    flat = [leaf.reshape(bins, free, leaf.shape[1], -1) for leaf in jax.tree.leaves(ends)]
    ends = jnp.concatenate(flat, axis=-1)
    products = jnp.mean(ends[:, :, None] * ends[:, None], axis=-1)
    return Pilot(differences, distances, jnp.moveaxis(products, -1, 0))


def _with_noise(problem: Problem, table: Table, n: Int[Array, ""], x: State) -> State:
    drawn = increment_at(problem, n, x)
    return x if drawn is None else add_noise(x, table.noise[n], drawn)


def _minus(left: State, right: State) -> State:
    return jax.tree.map(jnp.subtract, left, right)


def _beside(samples: Array, like: Array) -> Array:
    """A number for each sample, so that it can be broadcast to a state."""
    return samples.reshape(-1, *(1,) * (like.ndim - 1))


def _squares(values: Sequence[State]) -> Float[Array, "batch levels"]:
    """Mean squares over the entries of each sample."""

    def one(value: State) -> Float[Array, " batch"]:
        leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(value)]
        return jnp.mean(jnp.concatenate(leaves, axis=1) ** 2, axis=1)

    return jnp.stack([one(value) for value in values], axis=1)
