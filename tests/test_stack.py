"""Stacked ladders as plans: weights, needs, prices, files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import stack as script
from mlem_jax import draws, gates, plan, stack
from mlem_jax.solve import solve
from mlem_jax.steps import euler_maruyama, uniform_grid
from tests.exact import every_draw
from tests.problems import normals, wavy_ladder

COSTS = (1.0, 4.0, 16.0)
LOGITS = gates.table_gates([[1.0, 0.5, 0.2], [0.7, 0.7, 0.1]])
SHARES = jnp.array([[0.9, 0.6, 0.3], [1.1, 0.8, 0.5]])
ONES = jnp.ones((2, 3))


def rungs(shares, outputs):
    """F^1, F^2, ... at each step, from the definition."""
    below, found = np.zeros(len(shares)), []
    for share, own in zip(np.asarray(shares).T, np.asarray(outputs).T, strict=True):
        below = below + share * (own - below)
        found.append(below)
    return np.stack(found, axis=1)


def test_shares_of_one_are_exactly_the_plans_of_the_plain_ladder():
    for _, fires in every_draw(LOGITS):
        plain = plan.weigh(fires, LOGITS)
        stacked = stack.weigh_stack(fires, plan.open_ratios(fires, LOGITS), ONES)
        np.testing.assert_array_equal(stacked.weights, plain.weights)
        np.testing.assert_array_equal(stacked.needed, plain.needed)
    key = jax.random.key(0)
    plain = plan.draw_plan(draws.independent, LOGITS, key)
    stacked = stack.draw_stack_plan(draws.independent, LOGITS, ONES, key)
    jax.tree.map(np.testing.assert_array_equal, stacked, plain)
    jax.tree.map(np.testing.assert_array_equal, stack.stack_top(ONES), plan.full_plan(2, 3, 3))
    np.testing.assert_allclose(
        stack.stack_needs(LOGITS, ONES), plan.expected_needs(LOGITS), atol=1e-12
    )


def test_the_mean_over_every_draw_is_the_top_of_the_stack():
    def weights(fires):
        return stack.weigh_stack(fires, plan.open_ratios(fires, LOGITS), SHARES).weights

    outputs = normals(0, 2, 3)
    mean = sum(p * (weights(fires) * outputs).sum(1) for p, fires in every_draw(LOGITS))
    np.testing.assert_allclose(mean, rungs(SHARES, outputs)[:, -1], atol=1e-12)
    top = stack.stack_top(SHARES)
    np.testing.assert_allclose((top.weights * outputs).sum(1), mean, atol=1e-12)


def test_a_firing_adds_its_own_difference_and_nothing_else():
    outputs = normals(1, 2, 3)
    differences = np.diff(rungs(SHARES, outputs), axis=1, prepend=0)
    for k in range(3):
        ratios = jnp.zeros((2, 3)).at[:, k].set(1.7)
        weights = stack.weigh_stack(ratios > 0, ratios, SHARES).weights
        np.testing.assert_allclose((weights * outputs).sum(1), 1.7 * differences[:, k], atol=1e-12)


def test_a_stacked_plan_runs_as_one_step_of_the_stack():
    levels, params = wavy_ladder()
    x, steps = normals(2, 4), euler_maruyama(uniform_grid(0.0, 0.3, 1))
    outputs = [drift(own, x, jnp.zeros(())) for drift, own in zip(*levels[:1], params, strict=True)]
    top = rungs(jnp.tile(SHARES[:1], (4, 1)), jnp.stack(outputs, axis=1))[:, -1]
    end = solve(levels, params, x, steps, stack.stack_top(SHARES[:1]))
    np.testing.assert_allclose(end, x + 0.3 * top, atol=1e-12)


def test_what_is_needed_is_cumulative_and_has_every_weight():
    for _, fires in every_draw(LOGITS):
        drawn = stack.weigh_stack(fires, plan.open_ratios(fires, LOGITS), SHARES)
        highest = np.where(fires.any(1), 3 - np.asarray(fires)[:, ::-1].argmax(1), 0)
        np.testing.assert_array_equal(drawn.needed, np.arange(3) < highest[:, None])
        assert ((drawn.weights == 0) | drawn.needed).all()


def test_shares_of_zero_and_one_spare_what_they_make_idle():
    fires = jnp.array([[False, False, True]] * 3)
    shares = jnp.array([[0.5, 0.5, 0.0], [0.5, 1.0, 0.5], [0.5, 0.0, 0.5]])
    drawn = stack.weigh_stack(fires, 2.0 * fires, shares)
    np.testing.assert_array_equal(
        drawn.needed, [[False, False, False], [False, True, True], [True, False, True]]
    )
    np.testing.assert_array_equal(drawn.needed, drawn.weights != 0)


@pytest.mark.parametrize("shares", [SHARES, ONES, SHARES.at[0, 1].set(1.0).at[1, 1].set(0.0)])
def test_the_expected_needs_are_the_mean_over_every_draw(shares):
    needed = [
        (p, stack.weigh_stack(fires, plan.open_ratios(fires, LOGITS), shares).needed)
        for p, fires in every_draw(LOGITS)
    ]
    mean = sum(p * each for p, each in needed)
    np.testing.assert_allclose(stack.stack_needs(LOGITS, shares), mean, atol=1e-12)


def test_the_expected_price_is_the_mean_of_the_realised():
    drawn = [
        (p, stack.weigh_stack(fires, plan.open_ratios(fires, LOGITS), SHARES))
        for p, fires in every_draw(LOGITS)
    ]
    expected = stack.stack_price(LOGITS, COSTS)
    for field in plan.Price._fields:
        mean = sum(p * getattr(plan.price(plan.drop_idle(each), COSTS), field) for p, each in drawn)
        np.testing.assert_allclose(getattr(expected, field), mean, atol=1e-12)


def test_shares_are_interpolated_between_their_times_and_constant_beyond():
    own = stack.Stack(jnp.array([0.2, 0.6]), jnp.array([[1.0, 0.4], [0.8, 0.0]]))
    table = stack.stack_shares(own, jnp.array([1.0, 0.6, 0.3, 0.2, 0.0]))
    np.testing.assert_allclose(
        table, [[0.8, 0.0], [0.8, 0.0], [0.95, 0.3], [1.0, 0.4], [1.0, 0.4]], atol=1e-12
    )


def test_a_stacked_plan_is_the_same_drawn_inside_a_compiled_function():
    own = stack.Stack(jnp.array([0.2, 0.6]), SHARES)
    t, key = jnp.array([0.5, 0.3]), jax.random.key(4)

    def draw(own, logits, t, key):
        return stack.draw_stack_plan(draws.systematic, logits, stack.stack_shares(own, t), key)

    plain, compiled = draw(own, LOGITS, t, key), jax.jit(draw)(own, LOGITS, t, key)
    np.testing.assert_array_equal(plain.needed, compiled.needed)
    np.testing.assert_allclose(plain.weights, compiled.weights, rtol=1e-12)
    # A weight can be learned through, at closed gates and certain ones alike.
    fires = jnp.array([[True, False, True], [False, True, False]])
    slope = jax.grad(
        lambda logits: stack.weigh_stack(fires, plan.open_ratios(fires, logits), SHARES)
        .weights[:, 0].sum()
    )(LOGITS)  # fmt: skip
    assert jnp.isfinite(slope).all()
    assert (slope[:, 1:] != 0).any()


def test_a_stack_loads_to_the_same_bits(tmp_path):
    own = stack.Stack(jnp.array([0.2, 0.6]), SHARES)
    stack.save_stack(tmp_path / "stack.npz", own)
    jax.tree.map(np.testing.assert_array_equal, stack.load_stack(tmp_path / "stack.npz"), own)


def test_what_does_not_fit_is_refused(tmp_path):
    fires = jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"like the gates, \[2, 3\], got \[1, 3\]; `stack_shares`"):
        stack.weigh_stack(fires, ONES, SHARES[:1])
    with pytest.raises(ValueError, match=r"like the gates, \[2, 3\], got \[2, 2\]"):
        stack.stack_price(LOGITS, COSTS, shares=SHARES[:, :2])
    with pytest.raises(ValueError, match="one cost for each of 3 levels, got 2"):
        stack.stack_price(LOGITS, (1.0, 2.0))
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="expected arrays `times` and `shares`"):
        stack.load_stack(tmp_path / "other.npz")


def test_the_script_judges_a_ladder_and_ships_its_shares(small_ladder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "pictures.npz", images=pixels)
    settings = script.Settings(
        data=tmp_path / "pictures.npz", ladder=small_ladder, size=8, times=2, judged=2,
        ship=True, out=tmp_path / "results",
    )  # fmt: skip
    with jax.enable_x64(False):
        script.main(settings)
    result = json.loads((settings.out / "stack.json").read_text())
    assert result["settings"]["data"] == "pictures.npz"
    assert (result["pictures_fitted"], result["pictures_judged"]) == (4, 4)
    assert len(result["rows"]) == 2 * 11
    for row in result["rows"]:
        assert row["gain"] == pytest.approx(row["loss"] - row["stacked_loss"], abs=1e-4)
        assert row["stacked_loss_standard_error"] > 0
    shipped = stack.load_stack(small_ladder / "stack.npz")
    np.testing.assert_allclose(shipped.shares, result["shares"], rtol=1e-6)
    card = (small_ladder / "README.md").read_text()
    assert card.count(script.HEADING) == 1
    script.name_in_card(small_ladder / "README.md", shipped, result["rows"], 4)
    assert (small_ladder / "README.md").read_text() == card
    assert (settings.out / "stack.png").stat().st_size > 5000
