"""What does not fit together is refused before anything is compiled, or is NaN where traced."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, plans
from mlem_jax.ladder import Ladder
from mlem_jax.noise import brownian_path
from mlem_jax.problem import Problem, batch_size
from mlem_jax.solver import solve, solve_checked, solve_chunks, solve_groups, solve_path
from mlem_jax.steps import euler_maruyama
from tests.problems import normals, wavy
from tests.twelve_steps import DRAWN, GRID, KEY, LADDER, LOGITS, PATH, PROBLEM, STEPS, X


def with_level(k, drift):
    drifts = tuple(drift if k == number else wavy for number in (1, 2, 3))
    return {"ladder": dataclasses.replace(LADDER, drifts=drifts)}


def wants_batched_time(params, x, t):
    return params * x * t[:, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": Problem(X.astype(jnp.float16), PATH)}, "float32 or float64 .*got float16"),
        ({"problem": Problem(jnp.ones((4, 3), int), PATH)}, "float32 or float64 .*got int64"),
        ({"plan": plans.full(11, 3, 1)}, r"12 steps and 3 levels, got weights \[11, 3\]"),
        ({"plan": plans.full(12, 2, 1)}, r"got weights \[12, 2\]"),
        ({"plan": plans.draw_plans(draws.midpoint, LOGITS, None, 2)}, "2 stacked; solve_groups"),
        (with_level(2, lambda p, x, t: x[:-1]), r"level 2 to return float64\[4, 3\].*\[3, 3"),
        (with_level(3, lambda p, x, t: x.astype(jnp.float32)), "level 3 .*got float32"),
        (with_level(1, lambda p, x, t: (x, x)), "level 1 to return .*got .*float64"),
        (with_level(1, lambda p, x, t: None), "level 1 to return .*got None"),
        (with_level(2, lambda p, x, t: 1.0), "level 2 to return .*got a float"),
        (with_level(2, wants_batched_time), r"level 2 failed .*(\n|.)*levels\.batched_time"),
        (with_level(1, lambda x, t: x), r"level 1 failed .*\(params, x, t\)"),
        ({"problem": Problem(X)}, "expected noise for steps that are an SDE's, got None"),
        ({"problem": Problem(X, jnp.zeros((11, 4, 3)))}, "expected stored noise like the state"),
        (
            {"problem": Problem(X, brownian_path(KEY, euler_maruyama(GRID[:-1]),
                                                 samples=jnp.arange(4)))},
            "expected a path of 12 steps, got one of 11",
        ),
        (
            {"problem": Problem(X, brownian_path(KEY, STEPS, samples=jnp.arange(3)))},
            r"leading shape \(3,\), one path for each sample, got shape \(4, 3\)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, message):
    given = {"ladder": LADDER, "problem": PROBLEM, "steps": STEPS, "plan": DRAWN} | change
    with pytest.raises(ValueError, match=message):
        solve(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": X}, "expected a Problem, got .*Problem"),
        ({"problem": Problem([1.0, 2.0])}, "expected a state of arrays"),
        ({"steps": GRID}, "expected Steps, got ndarray"),
        ({"plan": DRAWN.weights}, "expected a Plan, got"),
    ],
)
def test_what_is_of_another_kind_is_refused(change, message):
    given = {"ladder": LADDER, "problem": PROBLEM, "steps": STEPS, "plan": DRAWN} | change
    with pytest.raises(TypeError, match=message):
        solve(**given)


def test_noise_that_is_forgotten_under_jit_is_nan():
    run = jax.jit(lambda steps: solve(LADDER, Problem(X), steps, DRAWN))
    assert jnp.isnan(run(STEPS)).all()
    ode = STEPS._replace(noise=jnp.zeros(12))
    np.testing.assert_allclose(run(ode), solve(LADDER, Problem(X), ode, DRAWN), atol=1e-13)


@pytest.mark.parametrize("noise", [PATH, normals(2, 12, 4, 3)], ids=["path", "stored"])
def test_one_condition_for_many_samples_is_refused_everywhere(noise):
    def shown(params, x, t, label):
        return params * x + label[..., None]

    ladder = Ladder((shown,) * 3, LADDER.params)
    stacked = plans.draw_plans(draws.midpoint, LOGITS, None, 2)
    for condition in (jnp.ones(1), jnp.ones(3), jnp.asarray(1.0)):
        problem = Problem(X, noise, condition)
        for run in (lambda p: solve(ladder, p, STEPS, DRAWN),
                    lambda p: solve_path(ladder, p, STEPS, DRAWN),
                    lambda p: solve_checked(ladder, p, STEPS, DRAWN),
                    lambda p: solve_chunks(ladder, p, STEPS, DRAWN, chunk=2),
                    lambda p: solve_groups(ladder, p, STEPS, stacked)):  # fmt: skip
            with pytest.raises(ValueError, match=r"expected (as many samples|a batch axis)"):
                run(problem)


def test_a_single_state_may_have_a_condition_under_vmap():
    def shown(params, x, t, label):
        return params * x + label

    ladder, labels = Ladder((shown,) * 3, LADDER.params), normals(5, 4)

    def run(x, sample, label):
        path = PATH._replace(samples=sample)
        return solve(ladder, Problem(x, path, label), STEPS, DRAWN)

    found = jax.vmap(run)(X, jnp.arange(4), labels)
    batched = Ladder((lambda p, x, t, label: shown(p, x, t, label[:, None]),) * 3, LADDER.params)
    expected = solve(batched, Problem(X, PATH, labels), STEPS, DRAWN)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_states_to_keep_and_chunks_that_do_not_fit_are_refused():
    for keep in ([], [3, 2], [-1, 4], [13], [0.5], 4):
        with pytest.raises(ValueError, match="expected whole numbers of steps, rising, from 0 to"):
            solve_path(LADDER, PROBLEM, STEPS, DRAWN, keep=keep)
    with pytest.raises(ValueError, match="expected a chunk of at least 1 sample, got 0"):
        solve_chunks(LADDER, PROBLEM, STEPS, DRAWN, chunk=0)


def test_samples_conditions_and_paths_go_together():
    path = brownian_path(KEY, STEPS, samples=jnp.arange(8))
    with pytest.raises(ValueError, match=r"\[4\] in x, \[8\] in noise\.samples"):
        batch_size(Problem(X, path))
    with pytest.raises(ValueError, match=r"\[4\] in x, .*\[3\] in condition"):
        batch_size(Problem(X, PATH, {"class": jnp.ones((3, 2))}))
    with pytest.raises(ValueError, match="at least one, got"):
        batch_size(Problem(X[:0]))
    with pytest.raises(ValueError, match=r"a batch axis in x.*a batch of one"):
        batch_size(Problem(jnp.asarray(1.0)))
