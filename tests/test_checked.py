"""What `solve_checked` blames for a result that is not finite."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import plans
from mlem_jax.ladder import Ladder
from mlem_jax.noise import store_path
from mlem_jax.problem import Problem
from mlem_jax.solver import solve, solve_checked
from tests.problems import openings_at, wavy
from tests.twelve_steps import DRAWN, LADDER, PATH, PROBLEM, STEPS, X

FULL = plans.full(12, 3, 3)
NAN = jnp.nan


def sick(params, x, t):
    return jnp.where(t > 0.4, NAN, params) * x


def test_what_is_healthy_comes_out_as_from_solve():
    held = plans.trapezoid(openings_at(12, range(12), [0, 5], [0, 7]), STEPS)
    for plan in (DRAWN, held):
        found = solve_checked(LADDER, PROBLEM, STEPS, plan)
        np.testing.assert_allclose(found, solve(LADDER, PROBLEM, STEPS, plan), atol=1e-14)


def test_a_level_is_blamed_at_the_step_at_which_it_fails():
    ladder = dataclasses.replace(LADDER, drifts=(wavy, sick, wavy))
    with pytest.raises(FloatingPointError, match="level 2 returned NaN or infinity at step 5, t ="):
        solve_checked(ladder, PROBLEM, STEPS, plans.full(12, 3, 2))
    # Where it is not needed nothing is wrong.
    assert jnp.isfinite(solve_checked(ladder, PROBLEM, STEPS, FULL)).all()


def test_a_level_is_blamed_even_where_only_memory_takes_its_output():
    ladder = dataclasses.replace(LADDER, drifts=(wavy, sick, wavy))
    needed = openings_at(12, [], [6], range(12))
    made = plans.make_plan(FULL.weights, needed, plans.remember(needed, (0, 1, 0)))
    with pytest.raises(FloatingPointError, match="level 2 returned NaN or infinity at step 6, t ="):
        solve_checked(ladder, PROBLEM, STEPS, made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": PROBLEM._replace(x=X.at[0, 0].set(NAN))}, "a start is not finite"),
        ({"problem": PROBLEM._replace(condition=jnp.full(4, jnp.inf))}, "a condition is not"),
        (
            {"problem": Problem(X, store_path(PATH, X).at[7, 0].set(jnp.inf))},
            "a stored noise of step 7 is not finite",
        ),
        (
            {"ladder": dataclasses.replace(LADDER, params=(jnp.asarray(NAN), *LADDER.params[1:]))},
            "a parameter of level 1 is not finite",
        ),
        (
            {"steps": STEPS._replace(gain=STEPS.gain.at[-1].set(NAN))},
            r"a column of the steps is not finite: \.gain",
        ),
        (
            {"steps": STEPS._replace(noise=STEPS.noise.at[0].set(jnp.inf))},
            r"a column of the steps is not finite: \.noise",
        ),
        (
            {"plan": FULL._replace(weights=FULL.weights.at[3, 2].set(NAN))},
            r"a table of the plan is not finite: \.weights",
        ),
    ],
    ids=["start", "condition", "noise", "parameter", "last gain", "noise of steps", "plan"],
)
def test_what_is_not_finite_is_blamed_and_no_level(change, message):
    given = {"ladder": LADDER, "problem": PROBLEM, "steps": STEPS, "plan": FULL} | change
    with pytest.raises(FloatingPointError, match=message):
        solve_checked(**given)


def test_the_place_of_a_parameter_is_told():
    ladder = Ladder((wavy,), ({"kernel": [jnp.asarray(1.0), jnp.array(np.nan)]},))
    with pytest.raises(FloatingPointError, match=r"parameter of level 1 .*: \['kernel'\]\[1\]"):
        solve_checked(ladder, PROBLEM, STEPS, plans.full(12, 1, 1))


def test_a_state_that_outgrows_its_dtype_is_blamed_on_none():
    ladder = Ladder((lambda params, x, t: params * x,), (jnp.float32(1.0),))
    problem = Problem(jnp.ones((2, 3), jnp.float32))
    steps = STEPS._replace(noise=jnp.zeros(12), gain=jnp.full(12, 1e6))
    with pytest.raises(FloatingPointError, match=r"the state is not finite after step 6, .*grown"):
        solve_checked(ladder, problem, steps, plans.full(12, 1, 1))
