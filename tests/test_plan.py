"""Claims about plans and their prices, by enumeration of every draw where chance plays a part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates, plans
from tests.exact import every_draw, every_systematic_draw

COSTS = (1.0, 4.0, 16.0)
TABLE = np.array([[1.0, 0.5, 0.2], [0.7, 0.7, 0.1]])
LOGITS = gates.to_logits(TABLE)
TIMES = jnp.linspace(1.0, 0.1, 10)


def test_probabilities_of_all_draws_sum_to_one():
    assert sum(p for p, _ in every_draw(LOGITS)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("every", [every_draw, every_systematic_draw])
def test_the_mean_weights_are_those_of_the_top_level_alone(every):
    mean = sum(p * plans.weigh(openings, LOGITS).weights for p, openings in every(LOGITS))
    np.testing.assert_allclose(mean, [[0, 0, 1], [0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize(
    ("draw", "every"),
    [(draws.independent, every_draw), (draws.systematic, every_systematic_draw)],
    ids=["independent", "systematic"],
)
@pytest.mark.parametrize("table", [TABLE, [[1.0, 1.0, 1.0]], [[1.0, 1.0, 0.5], [0.3, 0.3, 0.3]]])
def test_the_expected_price_is_the_mean_of_the_realised(draw, every, table):
    logits = gates.to_logits(table)
    drawn = [(p, plans.drop_idle(plans.weigh(openings, logits))) for p, openings in every(logits)]
    expected = plans.expected_price(draw, logits, COSTS)
    for field in plans.Price._fields:
        mean = sum(p * np.asarray(getattr(plans.price(each, COSTS), field)) for p, each in drawn)
        np.testing.assert_allclose(getattr(expected, field), mean, atol=1e-12)


def test_dropping_idle_evaluations_changes_no_weight_and_leaves_certain_gates_the_top_alone():
    logits = gates.to_logits(np.ones((2, 3)))
    whole = plans.weigh(draws.independent.openings(jax.random.key(0), logits), logits)
    lean = plans.drop_idle(whole)
    assert whole.needed.all()
    np.testing.assert_array_equal(lean.weights, whole.weights)
    np.testing.assert_array_equal(lean.needed, [[False, False, True]] * 2)


def test_a_weight_of_zero_has_a_derivative_so_its_level_stays_needed():
    logits = jnp.zeros((1, 2))
    openings = jnp.ones((1, 2), bool)
    drawn = plans.weigh(openings, logits)
    slope = jax.jvp(
        lambda logits: plans.weigh(openings, logits).weights, (logits,), (jnp.eye(2)[:1],)
    )[1]
    assert drawn.weights[0, 0] == 0
    assert slope[0, 0] != 0
    assert drawn.needed[0, 0]


def test_no_derivative_is_nan_at_extreme_and_certain_gates():
    logits = jnp.array([[30.0, -30.0, jnp.inf], [-1000.0, 1000.0, jnp.inf]])
    for openings in (jnp.zeros((2, 3), bool), logits > 0):
        grad = jax.grad(
            lambda logits, openings=openings: plans.weigh(openings, logits).weights.sum()
        )(logits)
        assert jnp.isfinite(grad).all()


def test_full_switch_and_hand_plans_are_the_tables_one_expects():
    np.testing.assert_array_equal(plans.full(2, 3, 2).weights, [[0, 1, 0]] * 2)
    switch = plans.switch(4, 3, 3, early=1, late=3)
    np.testing.assert_array_equal(switch.weights.argmax(1), [0, 0, 0, 2])
    np.testing.assert_array_equal(switch.needed.sum(1), [1] * 4)
    hand = plans.by_hand([[0.5, 0.0, 0.5]])
    np.testing.assert_array_equal(hand.needed, [[True, False, True]])


@pytest.mark.parametrize("draw", [draws.independent, draws.systematic, draws.midpoint])
@pytest.mark.parametrize("budget", [3.0, 10.0, 60.0])
def test_a_fitted_budget_is_met_by_the_draw_it_is_fitted_for(budget, draw):
    logits = plans.fit_budget(gates.inverse_cost(COSTS), TIMES, COSTS, budget, draw=draw)
    paid = plans.expected_price(draw, logits, COSTS).costs.sum()
    assert paid == pytest.approx(budget, rel=1e-6)


def test_a_budget_is_met_by_the_price_of_a_draw_of_ones_own():
    # One that opens every gate at every step is priced as such, whatever the logits say.
    greedy = draws.Draw(lambda key, logits: jnp.ones_like(logits, bool),
                        lambda logits: 2 * draws.independent_needs(logits))  # fmt: skip
    family = gates.inverse_cost(COSTS)
    logits = plans.fit_budget(family, TIMES, COSTS, 20.0, draw=greedy)
    half = plans.fit_budget(family, TIMES, COSTS, 10.0, draw=draws.independent)
    np.testing.assert_allclose(logits, half, rtol=1e-6)


def test_learned_gates_are_fitted_from_their_own_parameters():
    family = gates.log_linear((0.5, 0.5, 0.25))
    theta = family.init()._replace(slope=jnp.asarray([1.0, -1.0, 0.5]))
    logits = plans.fit_budget(family, TIMES, COSTS, 60.0, draw=draws.midpoint, theta=theta)
    paid = plans.expected_price(draws.midpoint, logits, COSTS).costs.sum()
    assert paid == pytest.approx(60.0, rel=1e-6)
    shift = logits - family.logits(theta, TIMES)
    np.testing.assert_allclose(shift, shift[0, 0], rtol=1e-9)


def test_an_expected_price_is_traced_and_learned_through():
    def paid(logits):
        return plans.expected_price(draws.independent, logits, COSTS).costs.sum()

    free = gates.to_logits([[0.9, 0.5, 0.2], [0.7, 0.6, 0.1]])
    slope = jax.jit(jax.grad(paid))(free)
    for n, k in np.ndindex(2, 3):
        step = jnp.zeros((2, 3)).at[n, k].set(1e-6)
        difference = float(paid(free + step) - paid(free - step)) / 2e-6
        assert slope[n, k] == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.01, float("nan")])
def test_probabilities_outside_zero_to_one_are_refused(wrong):
    for make in (gates.to_logits, gates.table):
        with pytest.raises(ValueError, match=r"in \(0, 1\], got .* at step 1, level 2"):
            make([[0.5, 0.5], [0.5, wrong]])


@pytest.mark.parametrize("draw", [draws.independent, draws.systematic, draws.midpoint])
def test_logits_that_are_none_are_refused(draw):
    key = jax.random.key(0)
    for make in (lambda bad: plans.draw_plan(draw, bad, key),
                 lambda bad: plans.draw_plans(draw, bad, key, 2),
                 lambda bad: draw.openings(key, bad)):  # fmt: skip
        with pytest.raises(ValueError, match="logits without NaN, got one at step 1, level 2"):
            make(LOGITS.at[1, 1].set(jnp.nan))
        with pytest.raises(ValueError, match=r"expected logits, got .*to_logits"):
            make(jnp.asarray(TABLE).at[:, 0].set(1.0))  # A certain level, as a probability.


@pytest.mark.parametrize("draw", [draws.independent, draws.systematic, draws.midpoint])
def test_a_nan_among_traced_logits_is_a_weight_of_nan(draw):
    bad = LOGITS.at[1, 1].set(jnp.nan)
    drawn = jax.jit(lambda logits: plans.draw_plan(draw, logits, jax.random.key(0)))(bad)
    assert jnp.isnan(drawn.weights).any()
    assert drawn.needed[jnp.isnan(drawn.weights)].all()


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one cost for each of 3 levels, got 2"):
        plans.price(plans.full(2, 3, 1), (1.0, 2.0))
    with pytest.raises(ValueError, match="one cost for each of 3 levels, got 1"):
        plans.expected_price(draws.midpoint, LOGITS, (1.0,))
    with pytest.raises(ValueError, match="a level from 1 to 3, got 4"):
        plans.full(2, 3, 4)
    with pytest.raises(ValueError, match="switch after 0 to 4 steps, got 5"):
        plans.switch(4, 2, 5, early=1, late=2)
    for wrong in ([[1.0, np.inf]], [[np.nan]], [1.0]):
        with pytest.raises(ValueError, match="expected finite weights"):
            plans.by_hand(wrong)
    with pytest.raises(ValueError, match="expected at least one draw, got 0"):
        plans.draw_plans(draws.independent, LOGITS, jax.random.key(0), 0)
    with pytest.raises(ValueError, match=r"as a draw gives them.*got float64"):
        plans.weigh(jnp.ones((2, 3)), LOGITS)


def test_budgets_that_cannot_be_met_are_refused():
    inverse = gates.inverse_cost(COSTS)

    def fit(budget, family=inverse, **others):
        return plans.fit_budget(family, TIMES, COSTS, budget, draw=draws.midpoint, **others)

    for wrong in (1e6, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"expected a budget from .* to 160, with"):
            fit(wrong)
    certain = gates.log_linear((1.0, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"expected a budget from 10, the cost of the certain"):
        fit(5.0, certain)
    with pytest.raises(TypeError, match=r"expected a budget that is a number.*outside jax\.jit"):
        jax.jit(fit)(10.0)
    with pytest.raises(TypeError, match="expected a budget that is a number, got str"):
        fit("much")
    with pytest.raises(TypeError, match=r"known, .*outside jax\.jit"):
        jax.jit(lambda theta: fit(20.0, certain, theta=theta))(certain.init())
