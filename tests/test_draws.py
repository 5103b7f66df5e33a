import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlem_jax import draws, gates, plan, steps
from mlem_jax.solve import solve
from tests.exact import every_column, every_nested_draw, every_offset
from tests.problems import normals, wavy_ladder

COSTS = (1.0, 4.0, 16.0)
chances = st.one_of(st.just(1.0), st.just(1e-7), st.floats(1e-3, 1.0))
columns = st.sampled_from((1, 6)).flatmap(
    lambda count: st.lists(st.tuples(chances), min_size=count, max_size=count)
)
small_tables = st.lists(st.tuples(chances, chances, chances), min_size=2, max_size=2)
FALLING = np.array([[0.9, 0.5, 0.2], [0.6, 0.6, 0.05]])
RISING = np.array([[0.1, 0.3, 1.0], [0.2, 0.2, 0.7]])
MIXED = np.array([[1.0, 0.2, 0.6], [0.5, 0.9, 0.9]])
ALL = (draws.independent, draws.systematic, draws.midpoint)


@given(column=columns)
@settings(deadline=None, max_examples=40, derandomize=True)
def test_every_step_of_a_systematic_draw_opens_with_exactly_its_probability(column):
    logits = gates.table_gates(column)
    every = every_offset(logits)
    assert sum(chance for chance, _ in every) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(sum(q * fires for q, fires in every), column, atol=1e-9)


@given(column=columns, seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_a_systematic_draw_opens_as_often_as_is_due_and_never_lags_more_than_one(column, seed):
    # |D| <= 1/lambda of the module's derivation, in units of openings.
    due = np.cumsum(np.asarray(column), axis=0)
    opened = np.cumsum(draws.systematic(jax.random.key(seed), gates.table_gates(column)), axis=0)
    assert np.floor(due[-1] - 1e-9) <= opened[-1] <= np.ceil(due[-1] + 1e-9)
    assert (np.abs(due - opened) < 1 + 1e-9).all()


@given(table=small_tables)
@settings(deadline=None, max_examples=3, derandomize=True)
@pytest.mark.parametrize("outcomes", [every_column, every_offset])
def test_nested_gates_keep_their_probabilities_and_the_sum_its_mean(outcomes, table):
    logits = gates.table_gates(table)
    every = list(every_nested_draw(outcomes, logits))
    assert sum(chance for chance, _ in every) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(sum(q * fires for q, fires in every), table, atol=1e-12)
    mean = sum(q * plan.weigh(fires, logits).weights for q, fires in every)
    np.testing.assert_allclose(mean, [[0, 0, 1]] * 2, atol=1e-9)


@pytest.mark.parametrize("table", [FALLING, RISING])
def test_nested_independent_gates_have_the_law_of_one_uniform_a_step(table):
    found = np.zeros((2,) * 6)
    for chance, fires in every_nested_draw(every_column, gates.table_gates(table)):
        found[tuple(np.asarray(fires).astype(int).ravel())] += chance
    laws = []
    for p in table:
        law, edges = np.zeros((2,) * 3), np.sort([0.0, *p, 1.0])
        for low, high in itertools.pairwise(edges):
            law[tuple(((low + high) / 2 < p).astype(int))] += high - low
        laws.append(law)
    np.testing.assert_allclose(found, np.multiply.outer(*laws), atol=1e-12)


@pytest.mark.parametrize("draw", ALL)
@pytest.mark.parametrize("table", [FALLING, RISING, MIXED])
def test_nested_gates_open_only_inside_one_another(draw, table):
    p = np.tile(table, (300, 1))
    fires = np.asarray(draws.nested(draw)(jax.random.key(1), gates.table_gates(p)))
    lower, upper = fires[:, :-1], fires[:, 1:]
    inside, outside = p[:, 1:] <= p[:, :-1], p[:, 1:] >= p[:, :-1]
    assert (upper <= lower)[inside].all()
    assert (upper >= lower)[outside].all()
    assert fires.sum(0).min() > 0


def test_nested_systematic_gates_lag_by_no_more_than_their_bound():
    p = np.array([0.7, 0.3, 0.08])
    fires = draws.nested(draws.systematic)(jax.random.key(2), gates.constant_gates(tuple(p), 2000))
    due = np.arange(1, 2001)[:, None] * p
    lag = np.abs(np.cumsum(fires, axis=0) - due).max(axis=0)
    assert (lag < [1, 1 + p[1] / p[0], 1 + p[2] / p[1] + p[2] / p[0]]).all()
    independent = draws.nested(draws.independent)(
        jax.random.key(2), gates.constant_gates(tuple(p), 2000)
    )
    assert np.abs(np.cumsum(independent, axis=0) - due).max() > 5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_nested_gates_are_given_logits_that_are_numbers_at_any_extreme(dtype):
    given_ = []

    def spy(key, logits):
        given_.append(logits)
        return draws.systematic(key, logits)

    ends = [jnp.inf, 1000.0, 40.0, 1e-6, 0.0, -20.0, -80.0]
    table = jnp.asarray([(a, b, c) for a in ends for b in ends for c in ends], dtype)
    fires = draws.nested(spy)(jax.random.key(0), table)
    assert len(given_) == 3
    assert not any(jnp.isnan(own).any() for own in given_)
    assert all(own.dtype == dtype for own in given_)
    assert fires[jnp.isposinf(table)].all()


@pytest.mark.parametrize("draw", ALL)
def test_certain_nested_gates_are_euler_maruyama(draw):
    levels, params = wavy_ladder()
    table = steps.euler_maruyama(steps.uniform_grid(0.0, 1.0, 20), lambda t: 0.3 + 0 * t)
    noise = normals(0, 20, 4)
    drawn = plan.draw_plan(
        draws.nested(draw), gates.constant_gates((1.0, 1.0, 1.0), 20), jax.random.key(0)
    )
    ends = [
        solve(levels, params, jnp.ones(4), table, own, noise)
        for own in (drawn, plan.full_plan(20, 3, 3))
    ]
    np.testing.assert_array_equal(*ends)
    np.testing.assert_array_equal(drawn.needed.sum(0), [0, 0, 20])


def test_nested_draws_depend_on_their_key_alone_and_need_one_where_their_draw_does():
    logits = gates.table_gates(np.tile(MIXED, (20, 1)))
    draw = draws.nested(draws.independent)
    np.testing.assert_array_equal(draw(jax.random.key(3), logits), draw(jax.random.key(3), logits))
    assert (draw(jax.random.key(3), logits) != draw(jax.random.key(4), logits)).any()
    assert draws.nested(draws.midpoint)(None, logits).shape == logits.shape
    with pytest.raises(ValueError, match="expected a key for a random draw"):
        draw(None, logits)


@pytest.mark.parametrize("table", [FALLING, RISING, MIXED])
def test_the_nested_price_is_the_mean_of_the_realised(table):
    logits = gates.table_gates(table)
    expected = plan.nested_price(logits, COSTS)
    mean = sum(
        chance * plan.price(plan.drop_idle(plan.weigh(fires, logits)), COSTS).costs
        for chance, fires in every_nested_draw(every_column, logits)
    )
    np.testing.assert_allclose(expected.costs, mean, atol=1e-12)
    assert expected.costs.sum() <= plan.expected_price(logits, COSTS).costs.sum()


def test_a_budget_is_met_by_the_price_it_is_fitted_with():
    def family(scale):
        return gates.even_gates(COSTS, 10, scale=scale, gamma=2.0)

    logits = plan.fit_budget(family, COSTS, 20.0, expected=plan.nested_price)
    assert plan.nested_price(logits, COSTS).costs.sum() == pytest.approx(20.0, rel=1e-6)
    assert plan.expected_price(logits, COSTS).costs.sum() > 20.1


def test_even_gates_are_the_cheapest_where_errors_fall_as_the_square_of_the_openings():
    # n ~ (2^-2k / c_k)^(1/3) by hand: costs 4^k, levels 1 to 3, gamma 2.
    p = gates.probabilities(gates.even_gates((4.0, 16.0, 64.0), 2, scale=4.0, gamma=2.0))
    np.testing.assert_allclose(p, [[1.0, 4 * 2 ** (-8 / 3), 4 * 2**-4.0]] * 2, rtol=1e-12)
    p = np.array([0.2, 0.05, 0.0125]) * 1.7
    costs, size = np.array([4.0, 16.0, 64.0]), np.array([0.5, 0.25, 0.125])

    def cost_at_one_error(p):
        return (costs * p).sum() * np.sqrt((size**2 / p**2).sum())

    even = gates.probabilities(gates.even_gates(tuple(costs), 1, scale=0.1, gamma=2.0))[0]
    for other in np.random.default_rng(0).uniform(0.8, 1.25, (50, 3)):
        assert cost_at_one_error(even) <= cost_at_one_error(even * other)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=9, max_size=9))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_cell_ratios_count_the_steps_nearest_to_each_opening(rows):
    fires = np.array(rows)
    expected = np.zeros(fires.shape)
    for k, column in enumerate(fires.T):
        places = np.flatnonzero(column)
        for step in range(len(column)):
            gaps = np.abs(places - step)
            nearest = places[gaps == gaps.min(initial=100)]
            expected[nearest, k] += 1 / max(len(nearest), 1)
    ratios = jax.jit(plan.cell_ratios)(jnp.asarray(fires))
    np.testing.assert_array_equal(ratios, expected)
    np.testing.assert_array_equal(ratios.sum(0), np.where(fires.any(0), 9, 0))


def test_cell_weights_sum_a_difference_that_does_not_change_without_error():
    levels, params = wavy_ladder((0.6, 0.9))
    constant = levels._replace(drifts=(lambda size, x, t: size + 0 * x,) * 2)
    table = steps.euler_maruyama(steps.uniform_grid(0.0, 1.0, 50))
    logits = gates.constant_gates((0.9, 0.1), 50)
    fires = draws.independent(jax.random.key(1), logits)
    assert fires.any(0).all()
    ends = {
        name: float(solve(constant, params, jnp.zeros(()), table, own))
        for name, own in (
            ("cells", plan.weigh_ratios(fires, plan.cell_ratios(fires))),
            ("weighed", plan.weigh(fires, logits)),
        )
    }
    assert ends["cells"] == pytest.approx(0.9, abs=1e-12)
    assert abs(ends["weighed"] - 0.9) > 1e-3


def test_the_lag_of_independent_draws_has_the_variance_of_the_time_over_the_rate():
    # lambda_k = p/dt; D = dt (n - openings/p) has variance n dt^2 (1 - p)/p: t/lambda as p -> 0.
    count, p = 400, 0.02
    logits = gates.constant_gates((p,), count)
    keys = jax.random.split(jax.random.key(0), 4000)
    opened = jax.vmap(lambda key: draws.independent(key, logits).sum())(keys)
    lag = np.asarray(1 - opened / (p * count))
    expected = (1 - p) / (p * count)
    assert abs(lag.mean()) < 5 * np.sqrt(expected / 4000)
    squares = lag**2
    assert abs(squares.mean() - expected) < 5 * squares.std() / np.sqrt(4000)


@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize(
    ("draw", "rate"), [(draws.independent, 1.0), (draws.systematic, 2.0)], ids=("one", "two")
)
def test_the_squared_error_falls_at_the_rate_of_the_draw(draw, rate, noise):
    levels, params = wavy_ladder((0.8, 1.0))
    count, repetitions = 512, 256
    table = steps.euler_maruyama(steps.uniform_grid(0.0, 1.0, count), lambda t: noise + 0 * t)

    @jax.jit
    def squared(logits):
        def one(key):
            path_key, gate_key = jax.random.split(key)
            path = jax.random.normal(path_key, (count,))
            plans = (plan.draw_plan(draw, logits, gate_key), plan.full_plan(count, 2, 2))
            ends = [solve(levels, params, jnp.ones(()), table, own, path) for own in plans]
            return (ends[0] - ends[1]) ** 2

        return jax.vmap(one)(jax.random.split(jax.random.key(0), repetitions)).mean()

    openings = np.array([4, 8, 16, 32])
    errors = [squared(gates.constant_gates((1.0, n / count), count)) for n in openings]
    slope = np.polyfit(np.log(openings), np.log(errors), 1)[0]
    assert slope == pytest.approx(-rate, abs=0.25)
