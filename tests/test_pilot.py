"""Claims about effects measured in one pilot run, and about the gates made from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, pilot, plan
from mlem_jax import steps as sp
from mlem_jax.evaluate import couple, judge, square_errors, stack_plans
from mlem_jax.levels import Levels
from mlem_jax.noise import brownian_path
from mlem_jax.solve import solve
from tests.exact import every_draw
from tests.problems import normals, wavy_ladder

LEVELS, PARAMS = wavy_ladder(sizes=(0.6, 0.9, 1.0))
GRID = sp.uniform_grid(0.0, 1.0, 8)
STEPS = sp.euler_maruyama(GRID, lambda t: 0.3 + t)
X = normals(1, 6, 2)
PATH = brownian_path(jax.random.key(2), GRID, samples=jnp.arange(6))


def slope_of_the_end(step, difference):
    """By a central difference of the whole run in the weight of one F^k - F^{k-1}."""

    def end(size):
        weights = jnp.zeros((8, 3)).at[:, 2].set(1.0)
        weights = weights.at[step, difference].add(size).at[step, difference - 1].add(-size)
        return solve(LEVELS, PARAMS, X, STEPS, plan.Plan(weights, jnp.ones((8, 3), bool)), PATH)

    return (end(1e-5) - end(-1e-5)) / 2e-5


def test_with_one_step_a_stretch_an_effect_is_the_squared_slope_of_the_end():
    effects = pilot.measure_effects(LEVELS, PARAMS, X, STEPS, jax.random.key(3), PATH, stretches=8)
    assert jnp.isposinf(effects[:, 0]).all()
    for step in (0, 3, 7):
        for difference in (1, 2):
            expected = jnp.mean(slope_of_the_end(step, difference) ** 2)
            assert effects[step, difference] == pytest.approx(float(expected), rel=1e-6)


def test_the_effect_of_a_stretch_is_the_mean_over_its_steps():
    # Each sample is disturbed at one step of the stretch: many copies of one sample see them all.
    x, samples = jnp.tile(X[:1], (512, 1)), jnp.zeros(512, int)
    path = brownian_path(jax.random.key(2), GRID, samples=samples)
    key = jax.random.key(4)
    each = pilot.measure_effects(LEVELS, PARAMS, x, STEPS, key, path, stretches=8, certain=0)
    pairs = pilot.measure_effects(LEVELS, PARAMS, x, STEPS, key, path, stretches=2, certain=0)
    means = each.reshape(2, 4, 3).mean(axis=1)
    spread = each.reshape(2, 4, 3).std(axis=1) / 512**0.5
    found = pairs[::4]
    assert (jnp.abs(found - means) < 5 * spread + 1e-12).all()
    assert (pairs[:4] == pairs[0]).all()


def test_the_predicted_error_is_that_of_gates_where_the_end_is_linear_in_them():
    # Drifts that do not depend on x: the end is a sum, and its error under gates is exact.
    drifts = tuple(lambda params, x, t, c=c: params * (1 + c * t) * jnp.ones_like(x)
                   for c in (0.0, 1.0))  # fmt: skip
    levels, params = Levels(drifts, (1.0, 2.0)), (jnp.asarray(0.5), jnp.asarray(0.8))
    grid = sp.uniform_grid(0.0, 1.0, 3)
    steps, x = sp.euler_maruyama(grid), jnp.zeros((1, 1))
    effects = pilot.measure_effects(
        levels, params, x, steps, jax.random.key(0), stretches=3, certain=0
    )
    logits = jnp.asarray([[0.3, -0.5], [jnp.inf, 0.2], [1.0, -1.0]])
    reference = couple(levels, params, x, steps, None).reference
    exact = sum(
        chance * square_errors(solve(levels, params, x, steps, plan.weigh(b, logits)), reference)
        for chance, b in every_draw(logits)
    )
    assert pilot.predict_error(effects, logits) == pytest.approx(float(exact[0]), rel=1e-10)


def test_gates_from_effects_have_the_least_predicted_error_for_their_cost():
    effects = jnp.asarray(np.random.default_rng(5).uniform(0.1, 9.0, (6, 3))).at[:, 0].set(jnp.inf)
    costs = (1.0, 4.0, 16.0)
    paid = jnp.asarray([0.0, 4.0, 20.0])
    logits = pilot.effect_gates(effects, costs, scale=0.5)
    p = jax.nn.sigmoid(logits)
    assert (p[:, 0] == 1).all()
    assert (p[:, 1:] < 1).all()
    # Stationary: moving cost from any gate to any other gains nothing to first order.
    gain = -effects[:, 1:] / p[:, 1:] ** 2 / paid[1:]
    np.testing.assert_allclose(gain, gain[0, 0], rtol=1e-9)


@pytest.mark.parametrize("error", [1e-6, 0.3, 500.0])
def test_gates_meet_the_error_they_are_asked_for(error):
    effects = jnp.asarray(np.random.default_rng(5).uniform(0.1, 9.0, (6, 3))).at[:, 0].set(jnp.inf)
    costs = (1.0, 4.0, 16.0)
    logits = pilot.fit_error(
        lambda scale: pilot.effect_gates(effects, costs, scale=scale), effects, error
    )
    assert pilot.predict_error(effects, logits) == pytest.approx(error, rel=1e-5)
    with pytest.raises(ValueError, match="expected an error above 0 and finite, got 0"):
        pilot.fit_error(lambda scale: logits, effects, 0)


def test_effects_predict_the_error_of_close_levels():
    levels, params = wavy_ladder(sizes=(0.97, 0.99, 1.0))
    effects = pilot.measure_effects(levels, params, X, STEPS, jax.random.key(3), PATH, stretches=8)
    logits = pilot.effect_gates(effects, levels.costs, scale=40.0)
    keys = jax.random.split(jax.random.key(6), 400)
    plans = stack_plans([plan.draw_plan(draws.independent, logits, key) for key in keys])
    batch = couple(levels, params, X, STEPS, PATH)
    errors = judge(levels, params, batch, STEPS, plans).mean(axis=1)
    predicted = pilot.predict_error(effects, logits)
    assert predicted > 0
    assert abs(errors.mean() - predicted) < 5 * errors.std() / 400**0.5 + 0.05 * predicted


def test_bad_pilots_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="expected from 1 to 8 stretches, one a step, got 9"):
        pilot.measure_effects(LEVELS, PARAMS, X, STEPS, key, PATH, stretches=9)
    with pytest.raises(ValueError, match="expected fewer certain gates than 3 levels, got 3"):
        pilot.measure_effects(LEVELS, PARAMS, X, STEPS, key, PATH, stretches=8, certain=3)
    two = STEPS._replace(previous=STEPS.gain)
    with pytest.raises(ValueError, match="expected one-step steps for a pilot run"):
        pilot.measure_effects(LEVELS, PARAMS, X, two, key, PATH, stretches=8)


def test_an_error_that_no_gates_have_is_refused():
    def gates_of(effects):
        return lambda scale: pilot.effect_gates(effects, (1.0, 4.0, 16.0), scale=scale)

    alike = jnp.zeros((6, 3)).at[:, 0].set(jnp.inf)  # Levels that are all the same.
    with pytest.raises(ValueError, match="expected an error that the gates can have, from 0 to 0"):
        pilot.fit_error(gates_of(alike), alike, 1e-3)
    with pytest.raises(ValueError, match="expected effects without NaN"):
        pilot.fit_error(gates_of(alike), alike.at[0, 1].set(jnp.nan), 1e-3)
    with pytest.raises(ValueError, match=r"expected effects \[steps, 2 levels\]"):
        pilot.effect_gates(alike, (1.0, 4.0), scale=1.0)
    with pytest.raises(ValueError, match="expected a scale above 0, got -1"):
        pilot.effect_gates(alike, (1.0, 4.0, 16.0), scale=-1.0)
