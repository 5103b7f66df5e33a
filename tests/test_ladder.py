"""The ladder as one pytree: through jit, closed over, vmapped, differentiated, cut."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import plans
from mlem_jax.ladder import Ladder, check_costs, check_ladder, known_costs, pick_levels
from mlem_jax.problem import Problem
from mlem_jax.solver import solve
from tests.problems import count_of, wavy
from tests.twelve_steps import DRAWN, LADDER, PATH, PROBLEM, STEPS, X


def end(ladder):
    return solve(ladder, PROBLEM, STEPS, DRAWN)


def test_passed_closed_over_and_called_plainly_it_is_the_same():
    expected = end(LADDER)
    np.testing.assert_allclose(jax.jit(end)(LADDER), expected, atol=1e-13)
    np.testing.assert_allclose(jax.jit(lambda: end(LADDER))(), expected, atol=1e-13)


def test_new_costs_and_parameters_compile_nothing_anew_and_other_functions_do():
    traces = []

    @jax.jit
    def run(ladder):
        traces.append(1)
        return end(ladder)

    for seed in range(3):
        params = tuple(own + seed for own in LADDER.params)
        run(Ladder(LADDER.drifts, params, (1.0 + seed, 9.0, 20.0)))
    assert len(traces) == 1
    run(dataclasses.replace(LADDER, drifts=(wavy, wavy, lambda p, x, t: p * x)))
    assert len(traces) == 2


def test_derivatives_in_its_parameters_are_those_of_finite_differences():
    def total(params):
        return end(dataclasses.replace(LADDER, params=params)).sum()

    direction = tuple(jnp.asarray(own) for own in (0.3, -1.0, 0.7))
    forward = jax.jvp(total, (LADDER.params,), (direction,))[1]
    reverse = sum(g * d for g, d in zip(jax.grad(total)(LADDER.params), direction, strict=True))
    there, back = (total(tuple(p + s * d for p, d in zip(LADDER.params, direction, strict=True)))
                   for s in (1e-6, -1e-6))  # fmt: skip
    assert forward == pytest.approx(float(there - back) / 2e-6, rel=1e-6)
    assert reverse == pytest.approx(float(forward), rel=1e-10)


def test_the_gradient_of_a_ladder_is_a_ladder():
    slopes = jax.grad(lambda ladder: end(ladder).sum())(LADDER)
    assert isinstance(slopes, Ladder)
    assert slopes.drifts == LADDER.drifts
    assert [float(cost) for cost in slopes.costs] == [0.0] * 3


def test_vmap_over_states_keeps_its_conds():
    single = PATH._replace(samples=jnp.asarray(0))

    def run(ladder, x):
        return solve(ladder, Problem(x, single), STEPS, DRAWN)

    jaxpr = jax.make_jaxpr(jax.vmap(run, (None, 0)))(LADDER, X)
    assert count_of("cond", jaxpr.jaxpr) == 3


def test_some_of_its_levels_are_a_ladder_of_their_own():
    some = pick_levels(LADDER, (1, 3))
    assert some.costs == (1.0, 16.0)
    two = solve(some, PROBLEM, STEPS, plans.full(12, 2, 2))
    np.testing.assert_array_equal(two, solve(LADDER, PROBLEM, STEPS, plans.full(12, 3, 3)))
    assert pick_levels(dataclasses.replace(LADDER, costs=()), [2]).costs == ()
    for wrong in ((), (0, 1), (1, 4), (2, 1), (1, 1)):
        with pytest.raises(ValueError, match="levels that rise, from 1 to 3 at most"):
            pick_levels(LADDER, wrong)


class Unhashable:
    __hash__ = None

    def __call__(self, params, x, t):
        return x


@pytest.mark.parametrize(
    ("ladder", "error", "message"),
    [
        ((LADDER.drifts, LADDER.params), TypeError, "expected a Ladder, got tuple; make one"),
        (Ladder([wavy], (1.0,)), TypeError, r"ladder\.drifts to be a tuple .* got list"),
        (Ladder((wavy,), {"a": 1.0}), TypeError, r"ladder\.params to be a tuple .* got dict"),
        (Ladder((wavy,), (1.0,), [1.0]), TypeError, r"ladder\.costs to be a tuple .* got list"),
        (Ladder((wavy, wavy), (1.0,)), ValueError, "got 2 drifts and 1 params"),
        (Ladder((), ()), ValueError, "got 0 drifts"),
        (Ladder((wavy, 3), (1.0, 2.0)), TypeError, "level 2 to be a callable .* got int"),
        (Ladder((Unhashable(),), (1.0,)), TypeError, "level 1 to be hashable.*pass a function"),
    ],
)
def test_what_is_no_ladder_is_refused(ladder, error, message):
    with pytest.raises(error, match=message):
        check_ladder(ladder)
    with pytest.raises(error, match=message):
        solve(ladder, PROBLEM, STEPS, DRAWN)


def test_costs_that_are_none_are_refused():
    for wrong in ((0.0,), (-1.0,), (float("nan"),), (float("inf"),), (2.0, 1.0)):
        with pytest.raises(ValueError, match="expected positive costs, cheapest level first"):
            check_costs(wrong)
    with pytest.raises(ValueError, match=r"one cost for each of 3 levels, got 0; .*measure_costs"):
        known_costs(dataclasses.replace(LADDER, costs=()))
