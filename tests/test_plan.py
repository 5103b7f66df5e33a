import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlem_jax import draws, gates, plan
from tests.exact import every_draw

COSTS = (1.0, 4.0, 16.0)
TABLE = np.array([[1.0, 0.5, 0.2], [0.7, 0.7, 0.1]])
LOGITS = gates.table_gates(TABLE)

tables = st.integers(1, 3).flatmap(
    lambda levels: st.lists(
        st.lists(st.floats(0.05, 1.0), min_size=levels, max_size=levels), min_size=1, max_size=30
    )
)


def test_probabilities_of_all_draws_sum_to_one():
    assert sum(p for p, _ in every_draw(LOGITS)) == pytest.approx(1.0, abs=1e-12)


def test_the_mean_weights_are_those_of_the_top_level_alone():
    mean = sum(p * plan.weigh(fires, LOGITS).weights for p, fires in every_draw(LOGITS))
    np.testing.assert_allclose(mean, [[0, 0, 1], [0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize("table", [TABLE, [[1.0, 1.0, 1.0]], [[1.0, 1.0, 0.5], [0.3, 0.3, 0.3]]])
def test_the_expected_price_is_the_mean_of_the_realised(table):
    logits = gates.table_gates(table)
    drawn = [(p, plan.drop_idle(plan.weigh(fires, logits))) for p, fires in every_draw(logits)]
    expected = plan.expected_price(logits, COSTS)
    for field in plan.Price._fields:
        mean = sum(p * getattr(plan.price(each, COSTS), field) for p, each in drawn)
        np.testing.assert_allclose(getattr(expected, field), mean, atol=1e-12)


def test_dropping_idle_evaluations_changes_no_weight_and_leaves_certain_gates_the_top_alone():
    logits = gates.constant_gates((1.0, 1.0, 1.0), 2)
    whole = plan.weigh(draws.independent(jax.random.key(0), logits), logits)
    lean = plan.drop_idle(whole)
    assert whole.needed.all()
    np.testing.assert_array_equal(lean.weights, whole.weights)
    np.testing.assert_array_equal(lean.needed, [[False, False, True]] * 2)


def test_a_weight_of_zero_has_a_derivative_so_its_level_stays_needed():
    logits = jnp.zeros((1, 2))
    fires = jnp.ones((1, 2), bool)
    drawn = plan.weigh(fires, logits)
    slope = jax.jvp(lambda logits: plan.weigh(fires, logits).weights, (logits,), (jnp.eye(2)[:1],))[
        1
    ]
    assert drawn.weights[0, 0] == 0
    assert slope[0, 0] != 0
    assert drawn.needed[0, 0]


def test_no_derivative_is_nan_at_extreme_and_certain_gates():
    logits = jnp.array([[30.0, -30.0, jnp.inf], [-1000.0, 1000.0, jnp.inf]])
    for fires in (jnp.zeros((2, 3), bool), logits > 0):
        grad = jax.grad(lambda logits, fires=fires: plan.weigh(fires, logits).weights.sum())(logits)
        assert jnp.isfinite(grad).all()


@given(table=tables, seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_systematic_gates_open_as_often_as_their_probabilities_say(table, seed):
    logits = gates.table_gates(table)
    for draw in (draws.systematic, draws.midpoint):
        opened = np.cumsum(draw(jax.random.key(seed), logits), axis=0)
        due = np.cumsum(np.asarray(table), axis=0)
        assert (np.abs(opened - due) < 1 + 1e-9).all()


def test_systematic_gates_open_with_their_probabilities():
    # Exact mean over the offset: B is a step function of U, so a fine sum over U is its integral.
    offsets = (np.arange(1000) + 0.5) / 1000
    table = np.array([[0.3], [0.55], [0.8], [0.2]])
    logits = gates.table_gates(table)
    fires = [draws._systematic(jnp.array([u]), logits) for u in offsets]
    np.testing.assert_allclose(np.mean(fires, axis=0), table, atol=2e-3)


def test_midpoint_opens_in_the_middle_of_the_time_it_stands_for():
    logits = gates.constant_gates((1.0, 0.2), 10)
    fires = draws.midpoint(None, logits)
    np.testing.assert_array_equal(np.flatnonzero(fires[:, 1]), [2, 7])
    assert fires[:, 0].all()


def test_independent_gates_open_with_their_probabilities():
    # 5 standard errors at a fixed key.
    logits = gates.constant_gates((0.9, 0.3, 0.02), 20_000)
    rates = np.asarray(draws.independent(jax.random.key(5), logits)).mean(0)
    p = np.array([0.9, 0.3, 0.02])
    assert (np.abs(rates - p) < 5 * np.sqrt(p * (1 - p) / 20_000)).all()


def test_a_certain_gate_is_always_open():
    logits = gates.constant_gates((1.0, 1.0), 3000).astype(jnp.float32)
    for draw in (draws.independent, draws.systematic, draws.midpoint):
        assert draw(jax.random.key(0), logits).all()


def test_draws_depend_on_their_key_alone():
    for draw in (draws.independent, draws.systematic):
        first = draw(jax.random.key(3), LOGITS)
        np.testing.assert_array_equal(first, draw(jax.random.key(3), LOGITS))
        with pytest.raises(ValueError, match="expected a key for a random draw"):
            draw(None, LOGITS)


def test_full_switch_and_hand_plans_are_the_tables_one_expects():
    np.testing.assert_array_equal(plan.full_plan(2, 3, 2).weights, [[0, 1, 0]] * 2)
    switch = plan.switch_plan(4, 3, 3, early=1, late=3)
    np.testing.assert_array_equal(switch.weights.argmax(1), [0, 0, 0, 2])
    np.testing.assert_array_equal(switch.needed.sum(1), [1] * 4)
    hand = plan.hand_plan([[0.5, 0.0, 0.5]])
    np.testing.assert_array_equal(hand.needed, [[True, False, True]])


@pytest.mark.parametrize("budget", [3.0, 10.0, 60.0])
def test_a_fitted_budget_is_met(budget):
    logits = plan.fit_budget(lambda c: gates.inverse_cost_gates(COSTS, 10, scale=c), COSTS, budget)
    assert plan.expected_price(logits, COSTS).costs.sum() == pytest.approx(budget, rel=1e-6)


def test_gate_families_are_their_formulas():
    p = gates.probabilities(gates.inverse_cost_gates(COSTS, 3, scale=2.0))
    np.testing.assert_allclose(p, [[1.0, 0.5, 0.125]] * 3, rtol=1e-12)
    p = gates.probabilities(gates.theory_gates(COSTS, 3, scale=1.0, gamma=2.0))
    np.testing.assert_allclose(p, [[1.0, 0.25, 0.0625]] * 3, rtol=1e-12)
    p = gates.probabilities(gates.theory_gates(COSTS, 1, scale=1.0, gamma=4.0))
    np.testing.assert_allclose(p[0], np.array(COSTS) ** -0.75, rtol=1e-12)


def test_plans_load_to_the_same_bits(tmp_path):
    drawn = plan.draw_plan(draws.independent, LOGITS, jax.random.key(9))
    plan.save_plan(tmp_path / "plan.npz", drawn)
    loaded = plan.load_plan(tmp_path / "plan.npz")
    assert loaded.held is None
    for before, after in zip(drawn[:2], loaded[:2], strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.01, float("nan")])
def test_probabilities_outside_zero_to_one_are_refused(wrong):
    with pytest.raises(ValueError, match=r"in \(0, 1\], got .* at step 1, level 2"):
        gates.table_gates([[0.5, 0.5], [0.5, wrong]])


def test_tables_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one cost for each of 3 levels, got 2"):
        plan.price(plan.full_plan(2, 3, 1), (1.0, 2.0))
    with pytest.raises(ValueError, match="one cost for each of 3 levels, got 1"):
        plan.expected_price(LOGITS, (1.0,))
    with pytest.raises(ValueError, match="a level from 1 to 3, got 4"):
        plan.full_plan(2, 3, 4)
    with pytest.raises(ValueError, match="switch after 0 to 4 steps, got 5"):
        plan.switch_plan(4, 2, 5, early=1, late=2)
    with pytest.raises(ValueError, match="expected finite weights"):
        plan.hand_plan([[1.0, np.inf]])
    with pytest.raises(ValueError, match=r"probabilities \[steps, levels\], got shape \(2,\)"):
        gates.table_gates([0.5, 0.5])
    with pytest.raises(ValueError, match="expected a budget the gates can spend"):
        plan.fit_budget(lambda c: gates.inverse_cost_gates(COSTS, 10, scale=c), COSTS, 1e6)
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="expected arrays `weights` and `needed`"):
        plan.load_plan(tmp_path / "other.npz")


def test_a_budget_below_the_certain_levels_is_refused():
    def family(scale):
        return gates.inverse_cost_gates(COSTS, 10, scale=scale).at[:, 0].set(jnp.inf)

    with pytest.raises(
        ValueError, match=r"expected a budget above 10\.\d*, the cost of the certain"
    ):
        plan.fit_budget(family, COSTS, 5.0)


def test_small_probabilities_are_kept_in_single_precision():
    # A uniform of float32 is below 1e-9 as often as it is 0, once in 2^23; here it is once.
    logits = gates.table_gates(np.full((2**23, 2), 1e-9)).astype(jnp.float32)
    key = jax.random.key(0)
    assert (jax.random.uniform(key, logits.shape, logits.dtype) < 1e-9).sum() == 1
    assert draws.independent(key, logits).sum() == 0
