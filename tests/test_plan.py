"""Claims about plans and their prices, by enumeration of every draw where chance plays a part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlem_jax import draws, gates, plans
from mlem_jax.grids import uniform_grid
from mlem_jax.steps import euler_maruyama
from tests.exact import every_draw, every_systematic_draw

COSTS = (1.0, 4.0, 16.0)
TABLE = np.array([[1.0, 0.5, 0.2], [0.7, 0.7, 0.1]])
LOGITS = gates.to_logits(TABLE)
TIMES = jnp.linspace(1.0, 0.1, 10)

# Of few shapes, as each is compiled anew.
tables = st.sampled_from([(1, 1), (9, 2), (30, 3)]).flatmap(
    lambda shape: st.lists(
        st.lists(st.floats(0.05, 1.0), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0], max_size=shape[0],
    )
)  # fmt: skip


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


@given(table=tables, seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=15)
def test_systematic_gates_open_as_often_as_their_probabilities_say(table, seed):
    # Beside a certain gate, without which logits in (0, 1] would be taken for probabilities.
    table = np.concatenate([np.ones((len(table), 1)), table], axis=1)
    logits = gates.to_logits(table)
    for draw in (draws.systematic, draws.midpoint):
        opened = np.cumsum(np.asarray(draw.openings(jax.random.key(seed), logits)), axis=0)
        due = np.cumsum(table, axis=0)
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


def test_small_probabilities_are_kept_in_single_precision():
    # A uniform of float32 is below 1e-9 as often as it is 0, once in 2^23; under this key it is.
    logits = gates.to_logits(np.full((2**16, 2), 1e-9)).astype(jnp.float32)
    key = jax.random.key(7)
    assert (jax.random.uniform(key, logits.shape, logits.dtype) < 1e-9).sum() == 1
    assert draws.independent.openings(key, logits).sum() == 0


# Files.


def some_plan():
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 4))
    return plans.trapezoid(jnp.asarray([[True, True], [True, False]] * 2), steps)


@pytest.mark.parametrize("made", [
    plans.draw_plan(draws.independent, LOGITS, jax.random.key(9)),
    some_plan(),
], ids=["drawn", "remembers"])  # fmt: skip
def test_plans_load_to_the_same_bits(made, tmp_path):
    plans.save_plan(tmp_path / "plan.npz", made)
    loaded = plans.load_plan(tmp_path / "plan.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["plan.npz"]
    assert jax.tree.structure(made) == jax.tree.structure(loaded)
    for before, after in zip(*map(jax.tree.leaves, (made, loaded)), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


def test_no_damaged_byte_of_a_plan_file_goes_unnoticed(tmp_path):
    # Every byte in turn, one bit of it or all: an error that says so, or the same plan.
    file = tmp_path / "plan.npz"
    made = plans.by_hand([[0.0, 1.0]])
    plans.save_plan(file, made)
    whole = file.read_bytes()
    refused = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF if place % 5 == 0 else 1 << place % 8
        file.write_bytes(damaged)
        try:
            loaded = plans.load_plan(file)
        except ValueError:
            refused += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, loaded, made)
    assert refused > len(whole) / 2


def test_a_file_that_is_no_whole_plan_is_refused(tmp_path):
    file = tmp_path / "plan.npz"
    plans.save_plan(file, some_plan())
    whole = file.read_bytes()
    for part in (b"", b"no plan", whole[: len(whole) // 2], whole[:-1], whole[40:]):
        file.write_bytes(part)
        with pytest.raises(ValueError, match=r"expected a plan as save_plan writes it.*plan\.npz"):
            plans.load_plan(file)
    np.savez(file, a=np.ones(2))
    with pytest.raises(ValueError, match=r"expected the arrays .* got \['a'\]"):
        plans.load_plan(file)
    np.savez(file, weights=np.array([{}], object))
    with pytest.raises(ValueError, match="expected a plan as save_plan writes it"):
        plans.load_plan(file)
    with pytest.raises(FileNotFoundError):
        plans.load_plan(tmp_path / "none.npz")


def test_tables_in_a_file_that_do_not_belong_together_are_refused(tmp_path):
    file, made = tmp_path / "plan.npz", some_plan()
    plans.save_plan(file, made)
    with np.load(file) as arrays:
        tables = dict(arrays)
    for name, wrong in (
        ("needed", tables["needed"][:3]),
        ("needed", tables["needed"].astype(float)),
        ("memory_store", tables["memory_store"][:, :1]),
        ("made_for", tables["made_for"][:2]),
        ("weights", tables["weights"][None]),
        ("weights", tables["weights"].astype(complex)),
        ("weights", np.full_like(tables["weights"], np.nan)),
        ("memory_read", np.full_like(tables["memory_read"], np.inf)),
    ):
        np.savez(file, **tables | {name: wrong})
        with pytest.raises(ValueError, match=r"the tables in .*plan\.npz do not belong together"):
            plans.load_plan(file)


def test_a_plan_that_cannot_be_written_leaves_the_old_file_as_it_was(tmp_path):
    file = tmp_path / "plan.npz"
    plans.save_plan(file, some_plan())
    whole = file.read_bytes()
    broken = some_plan()._replace(needed=jnp.ones((3, 2), bool))
    with pytest.raises(ValueError, match=r"expected plan\.needed of shape \[4, 2\]"):
        plans.save_plan(file, broken)
    assert file.read_bytes() == whole


# What is refused.


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
            make(jnp.asarray(TABLE))


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
