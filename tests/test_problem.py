"""What does not fit together is refused before anything is compiled."""

import jax
import jax.numpy as jnp
import pytest

from mlem_jax import plan, process
from mlem_jax import steps as sp
from mlem_jax.groups import solve_groups
from mlem_jax.levels import Levels
from mlem_jax.noise import brownian_path
from mlem_jax.solve import (
    Carry,
    StepInputs,
    begin,
    mlem_step,
    solve,
    solve_chunks,
    solve_path,
)
from tests.problems import wavy
from tests.test_solve import DRAWN, GRID, KEY, LEVELS, PARAMS, PATH, STEPS, X


def shrinks(params, x, t):
    return x[:-1]


def narrows(params, x, t):
    return x.astype(jnp.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": PARAMS[:2]}, "one pytree of params for each of 3 levels, got 2"),
        ({"params": {"a": 1, "b": 2, "c": 3}}, "params is a tuple"),
        ({"levels": Levels([wavy] * 3, (1.0, 2.0, 3.0))}, "expected tuples .*got list and tuple"),
        ({"x": X.astype(jnp.float16)}, "a state of float32 or float64, got float16"),
        ({"plan": plan.full_plan(11, 3, 1)}, r"plan.weights of shape \[12 steps, 3 levels\]"),
        ({"plan": plan.full_plan(12, 2, 1)}, r"got \[12, 2\]"),
        ({"levels": Levels((wavy,) * 3, (1.0, 2.0))}, "got 3 levels and 2 costs"),
        ({"levels": Levels((wavy,) * 3, (1.0, 3.0, 2.0))}, "expected positive costs, cheapest"),
        ({"levels": Levels((wavy, shrinks, wavy), (1.0, 2.0, 3.0))}, r"level 2 .*got float64\[3"),
        ({"levels": Levels((wavy, wavy, narrows), (1.0, 2.0, 3.0))}, "level 3 .*got float32"),
        ({"noise": None}, "expected noise for steps that are an SDE's, got None"),
        ({"noise": jnp.zeros((11, 4, 3))}, "expected stored noise of shape"),
        (
            {"noise": brownian_path(KEY, GRID[:-1], samples=jnp.arange(4))},
            "expected a path of 12 steps, got one of 11",
        ),
        ({"x": jnp.ones((4, 3), int)}, "a state of float32 or float64, got int64"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    problem = {"levels": LEVELS, "params": PARAMS, "x": X, "steps": STEPS, "plan": DRAWN,
               "noise": PATH}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        solve(**problem | change)


def test_strides_and_chunks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a stride that divides the 12 steps, got 5"):
        solve_path(LEVELS, PARAMS, X, STEPS, DRAWN, PATH, stride=5)
    with pytest.raises(ValueError, match="expected a positive chunk"):
        solve_chunks(LEVELS, PARAMS, X, STEPS, DRAWN, PATH, chunk=0)


def test_a_carry_without_the_memory_that_is_asked_for_is_refused():
    steps = sp.dpm_solver_2m(process.cosine(), sp.uniform_grid(1.0, 0.1, 4))
    levels = Levels((lambda params, x, t: params * x,), (1.0,))
    own = plan.full_plan(4, 1, 1)
    first = jax.tree.map(lambda table: table[0], (steps, own))
    x = jnp.ones((2, 3))
    inputs = StepInputs(first[0], first[1], None)
    with pytest.raises(ValueError, match="expected a carry with `previous`"):
        mlem_step(levels, (0.5,), Carry(x), inputs)
    moved = mlem_step(levels, (0.5,), begin(levels, x, steps, own), inputs)
    assert moved.previous is not None


def test_samples_conditions_and_paths_go_together():
    levels = Levels((lambda params, x, t: params * x,), (1.0,))
    grid = sp.uniform_grid(0.0, 1.0, 4)
    steps, own, x = (
        sp.euler_maruyama(grid, lambda t: 0.1 + t),
        plan.full_plan(4, 1, 1),
        jnp.ones((4, 3)),
    )
    path = brownian_path(jax.random.key(0), grid, samples=jnp.arange(8))
    with pytest.raises(ValueError, match=r"expected a path of 4 samples, one a start, got \[8\]"):
        solve_chunks(levels, (0.5,), x, steps, own, path, chunk=2)
    with pytest.raises(ValueError, match="expected at least one start"):
        solve_chunks(levels, (0.5,), x[:0], steps, own, path, chunk=2)
    with pytest.raises(ValueError, match="expected plans stacked along a leading axis"):
        solve_groups(levels, (0.5,), x, steps, own, path)
