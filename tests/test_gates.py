"""Families of gates: their formulas, their scales, where they start, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from mlem_jax import checkpoint, draws, gates, plans
from mlem_jax.gates.scale import least_scale

TIMES = jnp.linspace(1.0, 0.0, 6)


def test_log_linear_gates_are_the_sigmoids_of_the_paper():
    family = gates.log_linear((1.0, 0.5, 0.25), delta=0.1)
    theta = gates.LogLinear(jnp.asarray([0.7, -0.4]), jnp.asarray([-1.0, 0.3]))
    p = gates.to_probabilities(family.logits(theta, TIMES))
    for n, t in enumerate(np.asarray(TIMES)):
        expected = expit([0.7 * np.log(t + 0.1) - 1.0, -0.4 * np.log(t + 0.1) + 0.3])
        np.testing.assert_allclose(p[n], [1.0, *expected], rtol=1e-12)


@pytest.mark.parametrize(
    "family",
    [
        gates.log_linear((1.0, 0.5, 0.25)),
        gates.piecewise_linear((1.0, 0.5, 0.25), (0.0, 0.3, 1.0)),
    ],
)
def test_a_family_starts_where_it_is_told_and_a_certain_gate_stays(family):
    theta = family.init()
    p = gates.to_probabilities(family.logits(theta, TIMES))
    np.testing.assert_allclose(p, np.tile([1.0, 0.5, 0.25], (6, 1)), rtol=1e-12)
    moved = family.logits(jax.tree.map(lambda leaf: leaf - 3.0, theta), TIMES)
    assert jnp.isposinf(moved[:, 0]).all()
    assert (moved[:, 1:] != family.logits(theta, TIMES)[:, 1:]).all()


def test_a_family_keeps_the_dtype_of_its_parameters():
    with jax.enable_x64(False):
        for family in (
            gates.log_linear((1.0, 0.5)),
            gates.piecewise_linear((1.0, 0.5), (0.0, 1.0)),
        ):
            assert family.logits(family.init(), jnp.linspace(1, 0, 6)).dtype == jnp.float32


def test_piecewise_linear_gates_go_through_their_knots_and_straight_between():
    family = gates.piecewise_linear((0.5, 0.5), (0.1, 0.5, 0.9))
    theta = jnp.asarray([[0.0, 3.0], [2.0, 1.0], [1.0, 1.0]])
    logits = family.logits(theta, jnp.asarray([1.0, 0.9, 0.7, 0.5, 0.2, 0.1, 0.0]))
    np.testing.assert_allclose(logits[:, 0], [1.0, 1.0, 1.5, 2.0, 0.5, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(logits[:, 1], [1.0, 1.0, 1.0, 1.0, 2.5, 3.0, 3.0], atol=1e-12)


def test_piecewise_linear_gates_start_at_a_table():
    table = [[1.0, 0.9], [1.0, 0.2], [1.0, 0.5]]
    family = gates.piecewise_linear(table, (0.0, 0.3, 1.0))
    p = gates.to_probabilities(family.logits(family.init(), jnp.asarray([1.0, 0.3, 0.0])))
    np.testing.assert_allclose(p, table[::-1], rtol=1e-12)
    with pytest.raises(ValueError, match="expected a start at each of 2 knots, got 3 rows"):
        gates.piecewise_linear(table, (0.0, 1.0))
    with pytest.raises(ValueError, match="expected levels that start below 1 at all knots, or"):
        gates.piecewise_linear([[1.0, 1.0], [1.0, 0.2]], (0.0, 1.0))


@pytest.mark.parametrize(
    "family",
    [
        gates.log_linear((0.5, 0.25)),
        gates.piecewise_linear((0.5, 0.25), (0.0, 0.3, 1.0)),
    ],
)
def test_the_scale_of_learned_gates_is_a_constant_added_to_every_logit(family):
    theta = jax.tree.map(lambda leaf: leaf + 0.3, family.init())
    shifted = family.logits(theta, TIMES, np.exp(1.5))
    np.testing.assert_allclose(shifted, family.logits(theta, TIMES) + 1.5, rtol=1e-12)


@pytest.mark.parametrize(
    "family",
    [
        gates.log_linear((1.0, 0.5, 0.25)),
        gates.piecewise_linear((1.0, 0.5, 0.25), (0.0, 0.3, 1.0)),
    ],
)
def test_learned_gates_are_kept_and_restored(family, tmp_path):
    theta = jax.tree.map(lambda leaf: leaf + 0.7, family.init())
    checkpoint.save(tmp_path / "gates", theta, about={"start": [1.0, 0.5, 0.25]})
    restored = checkpoint.restore(tmp_path / "gates", family.init())
    np.testing.assert_array_equal(family.logits(theta, TIMES), family.logits(restored, TIMES))


def test_bad_families_are_refused():
    with pytest.raises(ValueError, match="expected a level to learn, one that starts below 1"):
        gates.log_linear((1.0, 1.0))
    with pytest.raises(ValueError, match=r"expected probabilities in \(0, 1\], got 0\.0 at step 0"):
        gates.log_linear((1.0, 0.0))
    with pytest.raises(ValueError, match="expected at least two knots, rising"):
        gates.piecewise_linear((1.0, 0.5), (0.0, 0.5, 0.5))
    family = gates.log_linear((1.0, 0.5))
    with pytest.raises(ValueError, match=r"expected times above -delta = -0\.1, got -0\.5"):
        family.logits(family.init(), jnp.asarray([1.0, -0.5]))


# Fixed gates.

COSTS = (1.0, 4.0, 16.0)


def fixed(family, scale):
    assert family.init() == ()
    return gates.to_probabilities(family.logits((), TIMES, scale))


def test_fixed_gates_are_their_formulas_at_every_time():
    for family, scale, expected in (
        (gates.inverse_cost(COSTS), 2.0, [1.0, 0.5, 0.125]),
        (gates.theory(COSTS, gamma=2.0), 1.0, [1.0, 0.25, 0.0625]),
        (gates.theory(COSTS, gamma=4.0), 1.0, np.array(COSTS) ** -0.75),
        (gates.even(COSTS, gamma=2.0), 0.5, 0.5 * np.array(COSTS) ** (-2 / 3)),
        (gates.constant((0.9, 0.5, 0.1)), 1.0, [0.9, 0.5, 0.1]),
        (gates.constant((0.9, 0.5, 0.1)), 3.0, [1.0, 1.0, 0.3]),
    ):
        np.testing.assert_allclose(fixed(family, scale), [expected] * 6, rtol=1e-12)


def test_a_table_is_its_rows_times_a_scale():
    table = np.linspace(0.1, 0.9, 12).reshape(6, 2)
    np.testing.assert_allclose(fixed(gates.table(table), 1.0), table, rtol=1e-12)
    np.testing.assert_allclose(fixed(gates.table(table), 2.0), np.minimum(1, 2 * table), rtol=1e-12)
    with pytest.raises(ValueError, match="expected 6 times, one per row of the table"):
        gates.table(table).logits((), TIMES[:5])


def test_logits_of_likely_gates_are_not_taken_for_probabilities():
    # p from 1/2 to 0.73 has logits from 0 to 1.
    likely = np.tile([0.7, 0.6], (10, 1))
    plan = plans.draw_plan(draws.midpoint, gates.to_logits(likely), None)
    assert plan.needed.sum(axis=0).tolist() == [10 - 2, 6]


def test_what_is_to_stay_open_is_certain_at_any_power():
    squared = jnp.asarray([[jnp.inf, 1.0], [jnp.inf, 4.0]])
    family = gates.from_sensitivities(squared, (1.0, 4.0), power=0.0)
    logits = family.logits((), TIMES[:2], 0.1)
    assert jnp.isposinf(logits[:, 0]).all()
    np.testing.assert_allclose(gates.to_probabilities(logits)[:, 1], 0.1)


@pytest.mark.parametrize("power", [1 / 2, 1 / 3])
def test_gates_of_sensitivities_pay_for_the_level_and_the_one_below(power):
    squared = np.array([[np.inf, 0.3, 0.02]] * 3 + [[np.inf, 0.5, 0.01]] * 3)
    p = fixed(gates.from_sensitivities(squared, COSTS, power=power), 0.1)
    # The bottom level is certain, so it is there already: gate 2 pays 4, gate 3 pays 16 + 4.
    expected = 0.1 * (squared[:, 1:] / [4.0, 20.0]) ** power
    np.testing.assert_array_equal(p[:, 0], 1.0)
    np.testing.assert_allclose(p[:, 1:], expected, rtol=1e-12)
    closing = np.where(np.isinf(squared), 0.9, squared)
    p = fixed(gates.from_sensitivities(closing, COSTS, power=power), 0.1)
    np.testing.assert_allclose(p, 0.1 * (closing / [1.0, 5.0, 20.0]) ** power, rtol=1e-12)


def test_what_makes_no_gates_is_refused():
    for gamma in (-1.0, 0.0, float("nan")):
        for make in (gates.theory, gates.even):
            with pytest.raises(ValueError, match=f"expected gamma above 0, got {gamma}"):
                make(COSTS, gamma=gamma)
    for make in (gates.inverse_cost, lambda costs: gates.theory(costs, gamma=2.0)):
        for wrong in ((4.0, 1.0), (0.0, 1.0), (1.0, float("nan"))):
            with pytest.raises(ValueError, match="expected positive costs, cheapest level first"):
                make(wrong)
    for scale in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected a scale"):
            gates.inverse_cost(COSTS).logits((), TIMES, scale)
    with pytest.raises(ValueError, match="expected sensitivities without NaN"):
        gates.from_sensitivities(np.full((6, 3), np.nan), COSTS)
    with pytest.raises(ValueError, match=r"expected sensitivities \[steps, 3 levels\]"):
        gates.from_sensitivities(np.ones((6, 2)), COSTS)
    with pytest.raises(ValueError, match=r"probabilities \[steps, levels\], got shape \(2,\)"):
        gates.to_logits([0.5, 0.5])


# Certain levels, and the one bisection.


def test_levels_that_are_kept_open_are_certain_at_any_scale():
    kept = gates.keep_open(gates.inverse_cost(COSTS), certain=2)
    for scale in (0.01, 1.0):
        logits = kept.logits(kept.init(), TIMES, scale)
        assert jnp.isposinf(logits[:, :2]).all()
        plain = gates.inverse_cost(COSTS).logits((), TIMES, scale)
        np.testing.assert_array_equal(logits[:, 2], plain[:, 2])


@pytest.mark.parametrize("wanted", [1e-20, 0.3, 1.0, 1e15])
def test_the_least_scale_is_found_to_rounding(wanted):
    found = jax.jit(lambda wanted: least_scale(lambda scale: scale >= wanted))(wanted)
    assert found == pytest.approx(wanted, rel=1e-10)


def test_no_scale_is_nan_and_any_scale_is_zero():
    assert jnp.isnan(least_scale(lambda scale: scale < 0))
    assert least_scale(lambda scale: scale > 0) == 0


def test_the_first_scale_that_is_enough_counts_where_more_is_too_little_again():
    found = least_scale(lambda scale: ((scale >= 2.0) & (scale < 40.0)) | (scale > 1e6))
    assert found == pytest.approx(2.0, rel=1e-10)
