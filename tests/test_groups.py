"""Claims about plans that are not shared by a whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates, plans
from mlem_jax.grids import uniform_grid
from mlem_jax.ladder import Ladder
from mlem_jax.noise import brownian_path, store_path
from mlem_jax.problem import Problem, map_parts, take
from mlem_jax.solver import solve, solve_groups
from mlem_jax.steps import euler_maruyama
from tests.problems import count_of, normals, openings_at, wavy_ladder

LADDER = wavy_ladder()
STEPS = euler_maruyama(uniform_grid(0.0, 1.0, 8), lambda t: 0.3 + t)
X = normals(1, 6, 2)
PATH = brownian_path(jax.random.key(2), STEPS, samples=jnp.arange(6))
PROBLEM = Problem(X, PATH)
LOGITS = gates.to_logits(np.tile([1.0, 0.6, 0.3], (8, 1)))


@pytest.mark.parametrize("noise", [PATH, store_path(PATH, X)], ids=["path", "stored"])
@pytest.mark.parametrize("draw", [draws.independent, draws.systematic])
@pytest.mark.parametrize("count", [1, 3, 6])
def test_every_group_ends_as_alone_under_its_plan(draw, count, noise):
    key, problem = jax.random.key(4), Problem(X, noise)
    made = plans.draw_plans(draw, LOGITS, key, count)
    together = solve_groups(LADDER, problem, STEPS, made)
    for group, samples in enumerate(jnp.arange(6).reshape(count, -1)):
        plan = plans.draw_plan(draw, LOGITS, jax.random.fold_in(key, group))
        alone = solve(LADDER, take(problem, samples), STEPS, plan)
        np.testing.assert_allclose(together[samples], alone, rtol=1e-13)


def test_groups_take_their_conditions_and_their_memory_along():
    def shown(params, x, t, label):
        return params * jnp.tanh(x) + label["class"][:, None]

    ladder = Ladder((shown,) * 2, LADDER.params[:2])
    problem = PROBLEM._replace(condition={"class": normals(5, 6)})
    made = [plans.trapezoid(openings_at(8, range(8), own), STEPS) for own in ([0, 3], [0, 5, 6])]
    together = solve_groups(ladder, problem, STEPS, plans.stack_plans(made))
    for group, samples in enumerate(jnp.arange(6).reshape(2, 3)):
        alone = solve(ladder, take(problem, samples), STEPS, made[group])
        np.testing.assert_allclose(together[samples], alone, rtol=1e-13)


def test_offsets_differ_from_group_to_group_and_midpoints_are_all_alike():
    systematic = plans.draw_plans(draws.systematic, LOGITS, jax.random.key(4), 6)
    assert len({bytes(np.asarray(needed)) for needed in systematic.needed}) > 1
    midpoint = plans.draw_plans(draws.midpoint, LOGITS, None, 3)
    for number in range(3):
        own = jax.tree.map(lambda table, number=number: table[number], midpoint)
        one = plans.draw_plan(draws.midpoint, LOGITS, None)
        jax.tree.map(np.testing.assert_array_equal, own, one)


def test_skipped_levels_stay_skipped():
    made = plans.draw_plans(draws.independent, LOGITS, jax.random.key(4), 3)
    jaxpr = jax.make_jaxpr(lambda x: solve_groups(LADDER, Problem(x, PATH), STEPS, made))(X)
    assert count_of("cond", jaxpr.jaxpr) == 3


def test_a_plan_made_for_other_steps_is_refused_in_any_group():
    other = euler_maruyama(uniform_grid(0.0, 2.0, 8), lambda t: 0.3 + t)
    openings = openings_at(8, range(8), [0, 3], [0, 5])
    made = plans.stack_plans([plans.trapezoid(openings, each) for each in (STEPS, other)])
    with pytest.raises(ValueError, match="expected the steps that this plan was made for"):
        solve_groups(LADDER, PROBLEM, STEPS, made)
    # Where the plans are traced it cannot be known: those samples are NaN.
    found = jax.jit(lambda made: solve_groups(LADDER, PROBLEM, STEPS, made))(made)
    assert jnp.isfinite(found[:3]).all()
    assert jnp.isnan(found[3:]).all()


def test_parts_are_the_samples_in_order():
    parts = map_parts(lambda part, shift: part.x + shift, PROBLEM, 3, jnp.arange(3.0))
    expected = X.reshape(3, 2, 2) + np.arange(3.0)[:, None, None]
    np.testing.assert_array_equal(parts, expected)


def test_samples_that_are_no_whole_groups_are_refused():
    made = plans.draw_plans(draws.independent, LOGITS, jax.random.key(4), 4)
    with pytest.raises(ValueError, match="can be cut into 4 equal parts, got 6"):
        solve_groups(LADDER, PROBLEM, STEPS, made)
    one = plans.draw_plan(draws.independent, LOGITS, jax.random.key(4))
    with pytest.raises(ValueError, match="expected plans stacked along a leading axis"):
        solve_groups(LADDER, PROBLEM, STEPS, one)
    with pytest.raises(TypeError, match=r"stacked into one Plan, got list; plans\.stack_plans"):
        solve_groups(LADDER, PROBLEM, STEPS, [one] * 2)
