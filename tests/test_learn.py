import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from mlem_jax import gates, gradients, learn, plan
from mlem_jax.evaluate import Batch, couple
from mlem_jax.levels import Conditional, Levels, conditional
from mlem_jax.noise import brownian_path
from mlem_jax.steps import euler_maruyama, uniform_grid
from tests.problems import count_conds, normals, wavy_ladder
from tests.test_gradients import exact_gradient, problem

KEY = jax.random.key(5)


def learner_of(given, **options):
    ladder, _, steps, family, _, _ = given
    options = {"penalty": 0.0, "groups": 2, "optimiser": optax.sgd(1.0)} | options
    return learn.gate_learner(ladder, steps, family, options.pop("optimiser"), **options)


def many_gradients(given, repeats, **options):
    """The gradients that a learner's own steps use, from plain descent of rate 1."""
    _, params, _, _, theta, batch = given
    learner = learner_of(given, **options)
    state = learner.init()._replace(theta=theta)

    def one(key):
        after, info = learner.step(state, params, batch, key)
        return ravel_pytree(jax.tree.map(jnp.subtract, theta, after.theta))[0], info

    return jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(KEY, repeats))


def tiled(given, groups):
    """The same two samples in each group, so that the expectation is the enumerated one."""
    *rest, batch = given
    path = batch.noise._replace(samples=jnp.tile(batch.noise.samples, groups))
    return *rest, Batch(
        jnp.tile(batch.x, (groups, 1)), path, jnp.tile(batch.reference, (groups, 1))
    )


@pytest.mark.parametrize("tangents", [1, 3])
def test_the_steps_of_a_learner_follow_the_exact_gradient(tangents):
    given = problem(2, 3, (1.0, 0.6, 0.4))
    drawn, info = many_gradients(tiled(given, 8), 4000, groups=8, tangents=tangents)
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - exact_gradient(*given)) < 5 * error).all()
    np.testing.assert_allclose(info.gradient, jnp.linalg.norm(drawn, axis=1))


def test_the_penalty_is_paid_on_the_expected_cost():
    given = problem(2, 3, (1.0, 0.6, 0.4))
    ladder, _, steps, family, theta, _ = given
    paid, free = (many_gradients(given, 3, penalty=penalty) for penalty in (0.7, 0.0))

    def cost(theta):
        # No two gates are equal here, so nothing is idle and the price of a plan to run is it.
        return plan.expected_price(family.logits(theta, steps.t), ladder.costs).costs.sum()

    expected = 0.7 * ravel_pytree(jax.grad(cost)(theta))[0]
    np.testing.assert_allclose(paid[0] - free[0], np.tile(expected, (3, 1)), rtol=1e-9)
    np.testing.assert_allclose(paid[1].cost, cost(theta))
    np.testing.assert_allclose(paid[1].loss, free[1].error + 0.7 * cost(theta))


def test_the_baseline_lowers_the_noise_of_the_gradient():
    given = tiled(problem(2, 3, (1.0, 0.6, 0.4)), 8)
    with_, without = (
        many_gradients(given, 1000, groups=8, baseline=baseline)[0].var(axis=0).sum()
        for baseline in (gradients.leave_one_out, gradients.no_baseline)
    )
    assert with_ < 0.8 * without


def test_a_step_keeps_its_conds_one_a_level():
    given = tiled(problem(2, 3, (1.0, 0.6, 0.4)), 4)
    learner = learner_of(given, groups=4, tangents=2)
    jaxpr = jax.make_jaxpr(learner.step)(learner.init(), given[1], given[-1], KEY)
    assert count_conds(jaxpr.jaxpr) >= 3


def test_memory_does_not_grow_with_the_steps():
    def temporary(count):
        ladder, params = wavy_ladder()
        grid = uniform_grid(1.0, 0.0, count)
        family = gates.log_linear_gates((1.0, 0.5, 0.2))
        learner = learn.gate_learner(
            ladder, euler_maruyama(grid, lambda t: 0 * t + 1.0), family, optax.adam(0.1),
            penalty=0.1, groups=4,
        )  # fmt: skip
        x = jnp.zeros((8, 64, 64, 12))  # As 128 small pictures.
        batch = Batch(x, brownian_path(KEY, grid, samples=jnp.arange(8)), x)
        compiled = jax.jit(learner.step).lower(learner.init(), params, batch, KEY).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(1000) < 1.1 * temporary(100)


def test_the_groups_of_a_batch_take_their_conditions_along():
    def network(own, x, t, condition):
        return own * x + condition[:, None]

    grid = uniform_grid(1.0, 0.0, 2)
    levels = Levels((conditional(network),) * 2, (1.0, 2.0))
    steps = euler_maruyama(grid, None)
    params = tuple(Conditional(jnp.asarray(own), jnp.arange(4.0)) for own in (0.5, 1.0))
    batch = couple(levels, params, normals(0, 4, 3), steps, None)
    certain_enough = gates.log_linear_gates((1.0, 1 - 1e-12))
    learner = learn.gate_learner(levels, steps, certain_enough, optax.sgd(0.1), penalty=0, groups=4)
    _, info = jax.jit(learner.step)(learner.init(), params, batch, KEY)
    assert info.error < 1e-18


def known_ladder():
    """Drifts that depend on t alone: error and cost of any gates are sums in closed form."""
    sizes = (
        lambda t: 0 * t + 1.0,
        lambda t: 0.08 * (t + 0.1) ** -0.8,
        lambda t: 0.25 * (t + 0.1) ** 1.5,
    )
    totals = [lambda t, k=k: sum(size(t) for size in sizes[: k + 1]) for k in range(3)]
    drifts = tuple(lambda params, x, t, total=total: 0 * x + total(t) for total in totals)
    return Levels(drifts, (0.02, 0.2, 1.0)), sizes


@pytest.mark.parametrize("estimate", [learn.score_function_terms, learn.leading_order_terms])
def test_learning_recovers_the_best_gates_of_a_ladder_where_they_are_known(estimate):
    levels, sizes = known_ladder()
    costs, penalty = np.array(levels.costs), 1e-3
    steps = euler_maruyama(uniform_grid(1.0, 0.0, 20), None)
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

    family = gates.log_linear_gates((1.0, 0.5, 0.5))
    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, 400))
    learner = learn.gate_learner(
        levels, steps, family, optimiser, penalty=penalty, groups=64,
        tangents=4, directions=gradients.orthogonal_directions, estimate=estimate,
    )  # fmt: skip
    batch = couple(levels, ((),) * 3, jnp.zeros((64, 1)), steps, None)

    def one(state, key):
        return learner.step(state, ((),) * 3, batch, key)

    state, infos = jax.jit(lambda keys: jax.lax.scan(one, learner.init(), keys))(
        jax.random.split(KEY, 400)
    )

    def cost_of_equal_error(theta):
        """What gates of this shape cost, shifted to the error of the best."""
        logits = family.logits(theta, steps.t)
        low, high = -9.0, 9.0
        for _ in range(60):
            middle = (low + high) / 2
            p = np.asarray(gates.probabilities(gates.shift_gates(logits, middle))[:, 1:])
            low, high = (middle, high) if error(p) > error(best) else (low, middle)
        return cost(p)

    assert cost_of_equal_error(family.init()) > 1.4 * cost(best)
    assert cost_of_equal_error(state.theta) < 1.1 * cost(best)
    learned = np.asarray(gates.probabilities(family.logits(state.theta, steps.t))[:, 1:])
    loss, least = (error(p) + penalty * cost(p) for p in (learned, best))
    assert loss < 1.05 * least
    assert infos.cost[-1] == pytest.approx(cost(learned), rel=0.02)


def test_bad_settings_are_named():
    given = problem(2, 3, (1.0, 0.6, 0.4))
    with pytest.raises(ValueError, match=r"expected a penalty >= 0 on the cost, got -1\.0"):
        learner_of(given, penalty=-1.0)
    with pytest.raises(ValueError, match="expected at least 2 groups, got 1: a baseline compares"):
        learner_of(given, groups=1)
    with pytest.raises(ValueError, match="expected at least 1 group and 1 tangent, got 2 and 0"):
        learner_of(given, tangents=0)
    learner = learner_of(given, groups=3, penalty=1.0)
    batch = given[-1]
    for wrong, message in (
        (batch, "expected a batch that is a multiple of 3 groups, got 2 samples"),
        (batch._replace(x=batch.x[:0]), "a multiple of 3 groups, got 0 samples"),
        (batch._replace(noise=normals(0, 2, 2, 3)), "a path or no noise to learn on, got stored"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.step(learner.init(), given[1], wrong, KEY)
    learner = learner_of(given, groups=2)
    wrong = batch._replace(reference=batch.reference[:1])
    with pytest.raises(ValueError, match=r"like the starts, float64\[2, 3\], got float64\[1, 3\]"):
        learner.step(learner.init(), given[1], wrong, KEY)
