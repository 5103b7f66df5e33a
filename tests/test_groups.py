"""Claims about plans that are not shared by a whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates
from mlem_jax import steps as sp
from mlem_jax.groups import draw_plans, solve_groups
from mlem_jax.noise import brownian_path, store_path
from mlem_jax.plan import draw_plan
from mlem_jax.solve import solve
from tests.problems import count_conds, normals, wavy_ladder

LEVELS, PARAMS = wavy_ladder()
GRID = sp.uniform_grid(0.0, 1.0, 8)
STEPS = sp.euler_maruyama(GRID, lambda t: 0.3 + t)
X = normals(1, 6, 2)
PATH = brownian_path(jax.random.key(2), GRID, samples=jnp.arange(6))
LOGITS = gates.constant_gates((1.0, 0.6, 0.3), 8)


@pytest.mark.parametrize("draw", [draws.independent, draws.systematic])
@pytest.mark.parametrize("count", [1, 3, 6])
def test_every_group_ends_as_alone_under_its_plan(draw, count):
    key = jax.random.key(4)
    plans = draw_plans(draw, LOGITS, key, count)
    together = solve_groups(LEVELS, PARAMS, X, STEPS, plans, PATH)
    for group in range(count):
        own = slice(group * 6 // count, (group + 1) * 6 // count)
        path = PATH._replace(samples=PATH.samples[own])
        plan = draw_plan(draw, LOGITS, jax.random.fold_in(key, group))
        alone = solve(LEVELS, PARAMS, X[own], STEPS, plan, path)
        np.testing.assert_allclose(together[own], alone, rtol=1e-13)


def test_offsets_differ_from_group_to_group():
    plans = draw_plans(draws.systematic, LOGITS, jax.random.key(4), 6)
    assert len({bytes(np.asarray(needed)) for needed in plans.needed}) > 1


def test_skipped_levels_stay_skipped():
    plans = draw_plans(draws.independent, LOGITS, jax.random.key(4), 3)
    jaxpr = jax.make_jaxpr(lambda x: solve_groups(LEVELS, PARAMS, x, STEPS, plans, PATH))(X)
    assert count_conds(jaxpr.jaxpr) == 3


def test_samples_that_are_no_whole_groups_are_refused():
    plans = draw_plans(draws.independent, LOGITS, jax.random.key(4), 4)
    with pytest.raises(ValueError, match="expected a multiple of 4 samples, one plan a group"):
        solve_groups(LEVELS, PARAMS, X, STEPS, plans, PATH)
    plans = draw_plans(draws.independent, LOGITS, jax.random.key(4), 3)
    with pytest.raises(ValueError, match="and a path or no noise, got 6 samples and Array"):
        solve_groups(LEVELS, PARAMS, X, STEPS, plans, store_path(PATH, X))
    with pytest.raises(ValueError, match="expected at least one draw, got 0"):
        draw_plans(draws.independent, LOGITS, jax.random.key(4), 0)
