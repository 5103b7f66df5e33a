"""How draws spread their openings: exactly, by sums over all offsets, and in their rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlem_jax import draws, gates, plans
from mlem_jax.grids import uniform_grid
from mlem_jax.problem import Problem
from mlem_jax.solver import solve
from mlem_jax.steps import euler_maruyama
from tests.exact import every_offset
from tests.problems import wavy_ladder

LOGITS = gates.to_logits([[1.0, 0.5, 0.2], [0.7, 0.7, 0.1]])

chances = st.one_of(st.just(1.0), st.just(1e-7), st.floats(1e-3, 1.0))
columns = st.sampled_from((1, 6)).flatmap(
    lambda count: st.lists(st.tuples(chances), min_size=count, max_size=count)
)
# Of few shapes, as each is compiled anew.
tables = st.sampled_from([(1, 1), (9, 2), (30, 3)]).flatmap(
    lambda shape: st.lists(
        st.lists(st.floats(0.05, 1.0), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0], max_size=shape[0],
    )
)  # fmt: skip


@given(table=tables, seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=15)
def test_systematic_gates_open_as_often_as_their_probabilities_say(table, seed):
    logits = gates.to_logits(table)
    for draw in (draws.systematic, draws.midpoint):
        opened = np.cumsum(np.asarray(draw.openings(jax.random.key(seed), logits)), axis=0)
        due = np.cumsum(np.asarray(table), axis=0)
        assert (np.abs(opened - due) < 1 + 1e-9).all()


def test_midpoint_opens_in_the_middle_of_the_time_it_stands_for():
    logits = gates.to_logits(np.tile([1.0, 0.2], (10, 1)))
    openings = draws.midpoint.openings(None, logits)
    np.testing.assert_array_equal(np.flatnonzero(openings[:, 1]), [2, 7])
    assert openings[:, 0].all()


def test_independent_gates_open_with_their_probabilities():
    # 5 standard errors at a fixed key.
    p = np.array([0.9, 0.3, 0.02])
    logits = gates.to_logits(np.tile(p, (20_000, 1)))
    rates = np.asarray(draws.independent.openings(jax.random.key(5), logits)).mean(0)
    assert (np.abs(rates - p) < 5 * np.sqrt(p * (1 - p) / 20_000)).all()


def test_a_certain_gate_is_always_open():
    logits = gates.to_logits(np.ones((3000, 2))).astype(jnp.float32)
    for draw in (draws.independent, draws.systematic, draws.midpoint):
        assert draw.openings(jax.random.key(0), logits).all()


def test_draws_depend_on_their_key_alone():
    for draw in (draws.independent, draws.systematic):
        first = draw.openings(jax.random.key(3), LOGITS)
        np.testing.assert_array_equal(first, draw.openings(jax.random.key(3), LOGITS))
        with pytest.raises(ValueError, match="expected a key for a random draw"):
            draw.openings(None, LOGITS)


def test_small_probabilities_are_kept_in_single_precision():
    # A uniform of float32 is below 1e-9 as often as it is 0, once in 2^23; under this key it is.
    logits = gates.to_logits(np.full((2**16, 2), 1e-9)).astype(jnp.float32)
    key = jax.random.key(7)
    assert (jax.random.uniform(key, logits.shape, logits.dtype) < 1e-9).sum() == 1
    assert draws.independent.openings(key, logits).sum() == 0


@given(column=columns)
@settings(deadline=None, max_examples=40, derandomize=True)
def test_every_step_of_a_systematic_draw_opens_with_exactly_its_probability(column):
    logits = gates.to_logits(column)
    every = every_offset(logits)
    assert sum(chance for chance, _ in every) == pytest.approx(1.0, abs=1e-12)
    mean = sum(chance * np.asarray(openings) for chance, openings in every)
    np.testing.assert_allclose(mean, column, atol=1e-9)


@given(column=columns, seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_a_systematic_draw_opens_as_often_as_is_due_and_never_lags_more_than_one(column, seed):
    # |D| <= 1/lambda of the module's derivation, in units of openings.
    due = np.cumsum(np.asarray(column), axis=0)
    # A certain gate beside it, since logits of (1/2, 0.73] alone look like probabilities.
    logits = gates.to_logits(np.concatenate([column, np.ones_like(column)], axis=1))
    openings = draws.systematic.openings(jax.random.key(seed), logits)
    opened = np.cumsum(np.asarray(openings[:, :1]), axis=0)
    assert openings[:, 1].all()
    assert np.floor(due[-1] - 1e-9) <= opened[-1] <= np.ceil(due[-1] + 1e-9)
    assert (np.abs(due - opened) < 1 + 1e-9).all()


def test_even_gates_are_the_cheapest_where_errors_fall_as_the_square_of_the_openings():
    # n ~ (2^-2k / c_k)^(1/3) by hand: costs 4^k, levels 1 to 3, gamma 2.
    t = jnp.zeros(2)
    own = gates.even((4.0, 16.0, 64.0), gamma=2.0)
    p = gates.to_probabilities(own.logits((), t, 4.0))
    np.testing.assert_allclose(p, [[1.0, 4 * 2 ** (-8 / 3), 4 * 2**-4.0]] * 2, rtol=1e-12)
    p = np.array([0.2, 0.05, 0.0125]) * 1.7
    costs, size = np.array([4.0, 16.0, 64.0]), np.array([0.5, 0.25, 0.125])

    def cost_at_one_error(p):
        return (costs * p).sum() * np.sqrt((size**2 / p**2).sum())

    even = gates.to_probabilities(gates.even(tuple(costs), gamma=2.0).logits((), t, 0.1))[0]
    for other in np.random.default_rng(0).uniform(0.8, 1.25, (50, 3)):
        assert cost_at_one_error(even) <= cost_at_one_error(even * other)


def test_the_lag_of_independent_draws_has_the_variance_of_the_time_over_the_rate():
    # lambda_k = p/dt; D = dt (n - openings/p) has variance n dt^2 (1 - p)/p: t/lambda as p -> 0.
    count, p = 400, 0.02
    logits = gates.to_logits(np.full((count, 1), p))
    keys = jax.random.split(jax.random.key(0), 4000)
    opened = jax.vmap(lambda key: draws.independent.openings(key, logits).sum())(keys)
    lag = 1 - np.asarray(opened) / (p * count)
    expected = (1 - p) / (p * count)
    assert abs(lag.mean()) < 5 * np.sqrt(expected / 4000)
    squares = lag**2
    assert abs(squares.mean() - expected) < 5 * squares.std() / np.sqrt(4000)


@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize(
    ("draw", "rate"), [(draws.independent, 1.0), (draws.systematic, 2.0)], ids=("one", "two")
)
def test_the_squared_error_falls_at_the_rate_of_the_draw(draw, rate, noise):
    ladder = wavy_ladder((0.8, 1.0))
    count, repetitions = 512, 256
    table = euler_maruyama(uniform_grid(0.0, 1.0, count), lambda t: noise + 0 * t)

    @jax.jit
    def squared(logits):
        def one(key):
            path_key, gate_key = jax.random.split(key)
            path = jax.random.normal(path_key, (count,))
            both = (plans.draw_plan(draw, logits, gate_key), plans.full(count, 2, 2))
            ends = [solve(ladder, Problem(jnp.ones(()), path), table, own) for own in both]
            return (ends[0] - ends[1]) ** 2

        return jax.vmap(one)(jax.random.split(jax.random.key(0), repetitions)).mean()

    openings = np.array([4, 8, 16, 32])
    errors = [squared(gates.to_logits(np.tile([1.0, n / count], (count, 1)))) for n in openings]
    slope = np.polyfit(np.log(openings), np.log(errors), 1)[0]
    assert slope == pytest.approx(-rate, abs=0.25)
