"""Claims about learning gates: its gradient, its noise, its memory, and what it finds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy.special import expit

from mlem_jax import draws, gates, learn, plans
from mlem_jax.evaluate import Batch, make_reference, take_batch
from mlem_jax.grids import uniform_grid
from mlem_jax.ladder import Ladder
from mlem_jax.noise import brownian_path, store_path
from mlem_jax.problem import Problem
from mlem_jax.steps import euler_maruyama
from tests.exact import exact_gradient, known_draws
from tests.problems import count_of, normals, wavy_ladder

KEY = jax.random.key(5)
GIVEN = known_draws(2, 3, (1.0, 0.6, 0.4))


def learner_of(given, **options):
    _, steps, family, _, _ = given
    options = {"penalty": 0.0, "groups": 2, "optimiser": optax.sgd(1.0)} | options
    return learn.gate_learner(steps, family, options.pop("optimiser"), **options)


def many_gradients(given, repeats, **options):
    """The gradients that a learner's own steps use, from plain descent of rate 1."""
    ladder, _, _, theta, batch = given
    learner = learner_of(given, **options)
    state = learner.init()._replace(theta=theta)

    def one(key):
        after, info = learner.step(state, ladder, batch, key)
        return ravel_pytree(jax.tree.map(jnp.subtract, theta, after.theta))[0], info

    return jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(KEY, repeats))


def tiled(given, groups):
    """The same two samples in each group, so that the expectation is the enumerated one."""
    *rest, batch = given
    return *rest, take_batch(batch, jnp.tile(jnp.arange(2), groups))


@pytest.mark.parametrize("tangents", [1, 3])
def test_the_steps_of_a_learner_follow_the_exact_gradient(tangents):
    drawn, info = many_gradients(tiled(GIVEN, 8), 4000, groups=8, tangents=tangents)
    drawn = np.asarray(drawn)
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - exact_gradient(*GIVEN)) < 5 * error).all()
    np.testing.assert_allclose(info.gradient, np.linalg.norm(drawn, axis=1))


def test_the_penalty_is_paid_on_the_expected_cost():
    ladder, steps, family, theta, _ = GIVEN
    paid, free = (many_gradients(GIVEN, 3, penalty=penalty) for penalty in (0.7, 0.0))

    @jax.jit
    @jax.value_and_grad
    def cost(theta):
        # No two gates are equal here, so nothing is idle and the price of a plan to run is it.
        logits = family.logits(theta, steps.t)
        return plans.expected_price(draws.independent, logits, ladder.costs).costs.sum()

    price, slope = cost(theta)
    expected = 0.7 * np.concatenate(slope)
    added = np.asarray(paid[0]) - np.asarray(free[0])
    np.testing.assert_allclose(added, np.tile(expected, (3, 1)), rtol=1e-9)
    np.testing.assert_allclose(paid[1].cost, price)
    np.testing.assert_allclose(paid[1].loss, np.asarray(free[1].error) + 0.7 * float(price))


def test_the_baseline_lowers_the_noise_of_the_gradient():
    with_, without = (
        np.var(many_gradients(tiled(GIVEN, 8), 1000, groups=8, baseline=baseline)[0], axis=0).sum()
        for baseline in (learn.leave_one_out, learn.no_baseline)
    )
    assert with_ < 0.8 * without


def test_a_step_keeps_its_conds_one_a_level():
    ladder, *_, batch = given = tiled(GIVEN, 4)
    learner = learner_of(given, groups=4, tangents=2)
    jaxpr = jax.make_jaxpr(learner.step)(learner.init(), ladder, batch, KEY)
    assert count_of("cond", jaxpr.jaxpr) == 3


def test_new_costs_parameters_and_batches_trace_nothing_anew():
    ladder, *_, batch = given = tiled(GIVEN, 2)
    learner = learner_of(given, penalty=0.1)
    step, state = jax.jit(learner.step), learner.init()
    for seed in range(3):
        params = tuple(own + 0.1 * seed for own in ladder.params)
        own = Ladder(ladder.drifts, params, (1.0, 2.0, 3.0 + seed))
        problem = batch.problem._replace(x=batch.problem.x + seed)
        state, _ = step(state, own, batch._replace(problem=problem), jax.random.key(seed))
    assert step._cache_size() == 1
    assert state.step == 3


@pytest.mark.usefixtures("others_promote")
def test_memory_does_not_grow_with_the_steps():
    def temporary(count):
        ladder, steps = wavy_ladder(), euler_maruyama(uniform_grid(1.0, 0.0, count), jnp.ones_like)
        family = gates.log_linear((1.0, 0.5, 0.2))
        learner = learn.gate_learner(steps, family, optax.adam(0.1), penalty=0.1, groups=4)
        x = jnp.zeros((8, 64, 64, 12))  # As 128 small pictures.
        batch = Batch(Problem(x, brownian_path(KEY, steps, samples=jnp.arange(8))), x)
        compiled = jax.jit(learner.step).lower(learner.init(), ladder, batch, KEY).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(1000) < 1.1 * temporary(100)


def test_the_groups_of_a_batch_take_their_conditions_along():
    def conditioned(params, x, t, condition):
        return params * x + condition[:, None]

    ladder = Ladder((conditioned,) * 2, (jnp.asarray(0.5), jnp.asarray(1.0)), (1.0, 2.0))
    steps = euler_maruyama(uniform_grid(1.0, 0.0, 2))
    batch = make_reference(ladder, Problem(normals(0, 4, 3), None, jnp.arange(4.0)), steps)
    certain_enough = gates.log_linear((1.0, 1 - 1e-12))
    learner = learn.gate_learner(steps, certain_enough, optax.sgd(0.1), penalty=0, groups=4)
    _, info = jax.jit(learner.step)(learner.init(), ladder, batch, KEY)
    assert info.error < 1e-18


def test_stored_normals_teach_what_their_path_teaches():
    ladder, *_, batch = given = tiled(GIVEN, 2)
    learner = learner_of(given)
    step = jax.jit(learner.step)
    stored = store_path(batch.problem.noise, batch.problem.x)
    problems = batch.problem, batch.problem._replace(noise=stored)
    along, by_hand = (
        step(learner.init(), ladder, batch._replace(problem=problem), KEY)[0].theta
        for problem in problems
    )
    for own, other in zip(along, by_hand, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-12)


def test_a_state_of_two_arrays_is_learned_on_as_one_array_of_both():
    ladder, *_, batch = tiled(GIVEN, 2)
    whole = batch._replace(problem=batch.problem._replace(
        noise=store_path(batch.problem.noise, batch.problem.x)))  # fmt: skip

    def apart(array):
        return {"left": array[..., 0], "right": array[..., 1:]}

    noise = apart(whole.problem.noise)
    in_parts = Batch(Problem(apart(whole.problem.x), noise), apart(whole.reference))
    drifts = tuple(
        lambda params, x, t, own=own: jax.tree.map(lambda leaf: own(params, leaf, t), x)
        for own in ladder.drifts
    )
    learner = learner_of(GIVEN)
    step = jax.jit(learner.step)
    one, two = (
        step(learner.init(), ladder, batch, KEY)[1].error
        for ladder, batch in (
            (ladder, whole), (Ladder(drifts, ladder.params, ladder.costs), in_parts)
        )
    )  # fmt: skip
    assert two == pytest.approx(float(one), rel=1e-12)


def known_ladder():
    """Drifts that depend on t alone: error and cost of any gates are sums in closed form."""
    sizes = (
        lambda t: 0 * t + 1.0,
        lambda t: 0.08 * (t + 0.1) ** -0.8,
        lambda t: 0.25 * (t + 0.1) ** 1.5,
    )
    totals = [lambda t, k=k: sum(size(t) for size in sizes[: k + 1]) for k in range(3)]
    drifts = tuple(lambda params, x, t, total=total: 0 * x + total(t) for total in totals)
    return Ladder(drifts, ((),) * 3, (0.02, 0.2, 1.0)), sizes


@pytest.mark.usefixtures("others_promote")
@pytest.mark.parametrize("estimate", [learn.score_function_terms, learn.leading_order_terms])
def test_learning_recovers_the_best_gates_of_a_ladder_where_they_are_known(estimate):
    ladder, sizes = known_ladder()
    costs, penalty = np.array(ladder.costs), 1e-3
    steps = euler_maruyama(uniform_grid(1.0, 0.0, 20))
    squares = np.stack([(size(np.asarray(steps.t)) / 20) ** 2 for size in sizes[1:]], axis=1)

    def error(p):  # sum_n sum_k gain^2 d_k(t_n)^2 (1/p_kn - 1)
        return float((squares * (1 / p - 1)).sum())

    def cost(p):  # The bottom always runs; level 2 where gate 2 or 3 is open.
        two, three = p[:, 0], p[:, 1]
        return float((costs[0] + costs[1] * (two + three - two * three) + costs[2] * three).sum())

    # The best gates step by step, by trying all pairs.
    tried = np.geomspace(1e-3, 1.0, 400)
    two, three = np.meshgrid(tried, tried, indexing="ij")
    paid = costs[1] * (two + three - two * three) + costs[2] * three
    best = []
    for square in squares:
        loss = square[0] * (1 / two - 1) + square[1] * (1 / three - 1) + penalty * paid
        best.append([each.ravel()[loss.argmin()] for each in (two, three)])
    best = np.array(best)

    family = gates.log_linear((1.0, 0.5, 0.5))
    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, 400))
    learner = learn.gate_learner(
        steps, family, optimiser, penalty=penalty, groups=64,
        tangents=4, directions=learn.orthogonal_directions, estimate=estimate,
    )  # fmt: skip
    batch = make_reference(ladder, Problem(jnp.zeros((64, 1))), steps)

    def one(state, key):
        return learner.step(state, ladder, batch, key)

    state, infos = jax.jit(lambda keys: jax.lax.scan(one, learner.init(), keys))(
        jax.random.split(KEY, 400)
    )

    def closable(theta):
        """The logits of the gates that are learned."""
        return np.asarray(jax.jit(family.logits)(theta, steps.t))[:, 1:]

    def cost_of_equal_error(theta):
        """What gates of this shape cost, shifted to the error of the best."""
        logits, low, high = closable(theta), -9.0, 9.0
        for _ in range(60):
            middle = (low + high) / 2
            p = expit(logits + middle)
            low, high = (middle, high) if error(p) > error(best) else (low, middle)
        return cost(p)

    assert cost_of_equal_error(family.init()) > 1.4 * cost(best)
    assert cost_of_equal_error(state.theta) < 1.1 * cost(best)
    learned = expit(closable(state.theta))
    loss, least = (error(p) + penalty * cost(p) for p in (learned, best))
    assert loss < 1.05 * least
    assert infos.cost[-1] == pytest.approx(cost(learned), rel=0.02)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"expected a penalty >= 0 on the cost, got -1\.0"):
        learner_of(GIVEN, penalty=-1.0)
    with pytest.raises(ValueError, match="expected at least 2 groups, got 1: a baseline compares"):
        learner_of(GIVEN, groups=1)
    with pytest.raises(ValueError, match="expected at least 1 group and 1 tangent, got 2 and 0"):
        learner_of(GIVEN, tangents=0)
    ladder, *_, batch = GIVEN
    learner = learner_of(GIVEN, groups=3, penalty=1.0)
    with pytest.raises(ValueError, match="a batch that is a multiple of 3 groups, got 2 samples"):
        learner.step(learner.init(), ladder, batch, KEY)
    fewer = batch._replace(reference=batch.reference[:1])
    with pytest.raises(ValueError, match=r"like the starts, float64\[2, 3\], got float64\[1, 3\]"):
        learner.step(learner.init(), ladder, fewer, KEY)
    empty = Batch(Problem(jnp.zeros((0, 3))), jnp.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"at least one, got \[0\] in x"):
        learner.step(learner.init(), ladder, empty, KEY)
    unpriced = Ladder(ladder.drifts, ladder.params)
    learner = learner_of(GIVEN)
    with pytest.raises(ValueError, match="expected one cost for each of 3 levels, got 0"):
        jax.eval_shape(learner.step, learner.init(), unpriced, batch, KEY)
