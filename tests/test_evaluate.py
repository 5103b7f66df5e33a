"""Claims about judging plans, and about the best of several draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, evaluate, gates, plans
from mlem_jax.grids import uniform_grid
from mlem_jax.noise import brownian_path
from mlem_jax.problem import Problem, take
from mlem_jax.solver import solve
from mlem_jax.steps import euler_maruyama
from tests.problems import normals, wavy_ladder

KEY = jax.random.key(1)
STEPS = euler_maruyama(uniform_grid(0.0, 1.0, 10), lambda t: 0.5 + t)
LADDER = wavy_ladder()
PROBLEM = Problem(normals(0, 4, 3), brownian_path(KEY, STEPS, samples=jnp.arange(4)))
BATCH = evaluate.make_reference(LADDER, PROBLEM, STEPS)
LOGITS = gates.to_logits([[1.0, 0.5, 0.25]] * 10)


def drawn(number):
    return plans.draw_plan(draws.independent, LOGITS, jax.random.fold_in(KEY, number))


def test_the_top_level_has_no_error_to_its_own_reference():
    both = plans.stack_plans([plans.full(10, 3, 3), drawn(0)])
    errors = evaluate.judge(LADDER, BATCH, STEPS, both)
    assert errors.shape == (2, 4)
    np.testing.assert_array_equal(errors[0], 0)
    assert (errors[1] > 0).all()


def test_plans_are_judged_as_if_each_were_run_alone():
    several = [drawn(number) for number in range(3)]
    errors = evaluate.judge(LADDER, BATCH, STEPS, plans.stack_plans(several))
    for own, each in zip(errors, several, strict=True):
        end = solve(LADDER, PROBLEM, STEPS, each)
        np.testing.assert_allclose(own, ((end - BATCH.reference) ** 2).mean(axis=1), rtol=1e-12)


def test_the_best_of_several_draws_is_the_one_with_the_least_error(tmp_path):
    best = evaluate.best_of(LADDER, BATCH, STEPS, draws.independent, LOGITS, KEY, count=8)
    assert best.error == best.errors.min() < best.errors.max()
    number = int(best.errors.argmin())
    jax.tree.map(np.testing.assert_array_equal, best.plan, drawn(number))
    np.testing.assert_array_equal(best.price.evaluations, best.plan.needed.sum(axis=0))
    # Kept and run again, it ends at the same bits.
    plans.save_plan(tmp_path / "best.npz", best.plan)
    ends = [
        solve(LADDER, PROBLEM, STEPS, each)
        for each in (best.plan, plans.load_plan(tmp_path / "best.npz"))
    ]
    np.testing.assert_array_equal(*ends)
    np.testing.assert_allclose(
        evaluate.square_errors(ends[0], BATCH.reference).mean(), best.error, rtol=1e-12
    )


def test_no_draw_cannot_be_the_best():
    with pytest.raises(ValueError, match="expected at least one draw, got 0"):
        evaluate.best_of(LADDER, BATCH, STEPS, draws.independent, LOGITS, KEY, count=0)


def test_a_plan_for_other_steps_is_refused():
    other = plans.stack_plans([plans.full(9, 3, 3)])
    with pytest.raises(ValueError, match="expected a plan of 10 steps and 3 levels, got weights"):
        evaluate.judge(LADDER, BATCH, STEPS, other)


def test_references_unlike_the_starts_are_refused():
    both = plans.stack_plans([plans.full(10, 3, 3)])
    wrong = BATCH._replace(reference=BATCH.reference[:, :2])
    with pytest.raises(ValueError, match=r"like the starts, float64\[4, 3\], got float64\[4, 2\]"):
        evaluate.judge(LADDER, wrong, STEPS, both)


def test_some_samples_of_a_batch_are_judged_as_they_are_in_the_whole():
    both = plans.stack_plans([drawn(0), drawn(1)])
    some = jnp.asarray([3, 1])
    part = evaluate.take_batch(BATCH, some)
    np.testing.assert_array_equal(part.problem.x, take(PROBLEM, some).x)
    whole = evaluate.judge(LADDER, BATCH, STEPS, both)
    errors = evaluate.judge(LADDER, part, STEPS, both)
    np.testing.assert_allclose(errors, whole[:, some], rtol=1e-12)


def test_the_error_of_a_state_of_several_arrays_is_the_mean_over_all_their_entries():
    end, reference = normals(1, 4, 3), normals(2, 4, 3)
    trees = ({"one": each[:, 0], "rest": each[:, 1:]} for each in (end, reference))
    expected = ((end - reference) ** 2).mean(axis=1)
    np.testing.assert_allclose(evaluate.square_errors(*trees), expected)


def test_a_draw_that_is_not_finite_is_never_the_best():
    def fragile(params, x, t):
        return jnp.where(jnp.abs(x) > 3, jnp.nan, params * jnp.sin(x + t))

    ladder = dataclasses.replace(LADDER, drifts=(fragile,) * 3)
    thin = gates.to_logits([[1.0, 0.05, 0.05]] * 10)  # Weights of 20: most draws go astray.
    best = evaluate.best_of(
        ladder, BATCH, STEPS, draws.independent, thin, jax.random.key(3), count=12
    )
    assert jnp.isnan(best.errors).any()
    assert best.error == jnp.nanmin(best.errors)
