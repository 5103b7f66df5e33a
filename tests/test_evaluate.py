import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, evaluate, gates, plan
from mlem_jax.noise import brownian_path
from mlem_jax.solve import solve
from mlem_jax.steps import euler_maruyama, uniform_grid
from tests.problems import normals, wavy_ladder

KEY = jax.random.key(1)
GRID = uniform_grid(0.0, 1.0, 10)
STEPS = euler_maruyama(GRID, lambda t: 0.5 + t)
LEVELS, PARAMS = wavy_ladder()
PATH = brownian_path(KEY, GRID, samples=jnp.arange(4))
BATCH = evaluate.couple(LEVELS, PARAMS, normals(0, 4, 3), STEPS, PATH)
GATES = gates.constant_gates((1.0, 0.5, 0.25), 10)


def drawn(number):
    return plan.draw_plan(draws.independent, GATES, jax.random.fold_in(KEY, number))


def test_the_top_level_has_no_error_to_its_own_reference():
    plans = evaluate.stack_plans([plan.full_plan(10, 3, 3), drawn(0)])
    errors = evaluate.judge(LEVELS, PARAMS, BATCH, STEPS, plans)
    assert errors.shape == (2, 4)
    np.testing.assert_array_equal(errors[0], 0)
    assert (errors[1] > 0).all()


def test_plans_are_judged_as_if_each_were_run_alone():
    plans = [drawn(number) for number in range(3)]
    errors = evaluate.judge(LEVELS, PARAMS, BATCH, STEPS, evaluate.stack_plans(plans))
    for own, each in zip(errors, plans, strict=True):
        end = solve(LEVELS, PARAMS, BATCH.x, STEPS, each, PATH)
        np.testing.assert_allclose(own, ((end - BATCH.reference) ** 2).mean(axis=1), rtol=1e-12)


def test_the_best_of_several_draws_is_the_one_with_the_least_error(tmp_path):
    best = evaluate.best_of(LEVELS, PARAMS, BATCH, STEPS, draws.independent, GATES, KEY, count=8)
    assert best.error == best.errors.min() < best.errors.max()
    number = int(best.errors.argmin())
    jax.tree.map(np.testing.assert_array_equal, best.plan, drawn(number))
    np.testing.assert_array_equal(best.price.evaluations, best.plan.needed.sum(axis=0))
    # Kept and run again, it ends at the same bits.
    plan.save_plan(tmp_path / "best.npz", best.plan)
    ends = [
        solve(LEVELS, PARAMS, BATCH.x, STEPS, each, PATH)
        for each in (best.plan, plan.load_plan(tmp_path / "best.npz"))
    ]
    np.testing.assert_array_equal(*ends)
    np.testing.assert_allclose(
        evaluate.square_errors(ends[0], BATCH.reference).mean(), best.error, rtol=1e-12
    )


def test_no_draw_cannot_be_the_best():
    with pytest.raises(ValueError, match="expected at least one draw, got 0"):
        evaluate.best_of(LEVELS, PARAMS, BATCH, STEPS, draws.independent, GATES, KEY, count=0)


def test_a_plan_for_other_steps_is_refused():
    other = evaluate.stack_plans([plan.full_plan(9, 3, 3)])
    with pytest.raises(ValueError, match=r"expected plan\.weights of shape \[10 steps, 3 levels\]"):
        evaluate.judge(LEVELS, PARAMS, BATCH, STEPS, other)


def test_a_draw_that_is_not_finite_is_never_the_best():
    def fragile(params, x, t):
        return jnp.where(jnp.abs(x) > 3, jnp.nan, params * jnp.sin(x + t))

    levels = LEVELS._replace(drifts=(fragile,) * 3)
    thin = gates.constant_gates((1.0, 0.05, 0.05), 10)  # Weights of 20: most draws go astray.
    best = evaluate.best_of(
        levels, PARAMS, BATCH, STEPS, draws.independent, thin, jax.random.key(3), count=12
    )
    assert jnp.isnan(best.errors).any()
    assert best.error == jnp.nanmin(best.errors)
