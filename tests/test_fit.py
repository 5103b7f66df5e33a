"""Fitted plans: normal equations by hand, Adams-Bashforth, and what a fit refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import (
    Ladder,
    Problem,
    brownian_path,
    grids,
    load_plan,
    plans,
    save_plan,
    solve,
    solve_path,
)
from mlem_jax import steps as sp
from mlem_jax.fitting import fit_plan
from mlem_jax.fitting.fit import known_before
from mlem_jax.process import cosine

KEY = jax.random.key(3)
PROCESS = cosine()
FINE = sp.ddpm(PROCESS, grids.uniform_grid(1.0, 0.0, 64))
COARSE = sp.ddpm(PROCESS, grids.uniform_grid(1.0, 0.0, 8))
NEEDED = np.array([[1, 1], [1, 0], [1, 0], [1, 1], [1, 0], [0, 1], [1, 0], [1, 0]], bool)
MEMORY = (1, 2)


def linear(params, x, t):
    return x @ params


def linear_ladder(gap=0.2, size=3):
    rng = np.random.default_rng(0)
    top = rng.normal(size=(size, size)) / 3
    lower = top + gap * rng.normal(size=(size, size))
    return Ladder((linear, linear), (jnp.asarray(lower), jnp.asarray(top)), (1.0, 9.0))


def pilot(ladder, batch=24, fine=FINE, coarse=COARSE):
    """The problem along the coarse steps, and the fine solution at their ends."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(batch, 3)))
    samples = jnp.arange(batch)
    top = plans.full(len(fine.t), len(ladder), len(ladder))
    every = len(fine.t) // len(coarse.t)
    path = solve_path(
        ladder, Problem(x, brownian_path(KEY, fine, samples=samples)), fine, top,
        keep=np.arange(0, len(fine.t) + 1, every),
    ).states  # fmt: skip
    return Problem(x, brownian_path(KEY, fine, coarse, samples=samples)), path


LADDER = linear_ladder()
PROBLEM, PATH = pilot(LADDER)


def fit(ridge=0.0, needed=NEEDED, memory=MEMORY, steps=COARSE, problem=PROBLEM, path=PATH, **more):
    return fit_plan(LADDER, problem, steps, needed, path, memory=memory, ridge=ridge, **more)


def fitted_by_hand(steps, ridge, kept):
    """Normal equations of every step, with arrays of every value known, in numpy."""
    from mlem_jax.noise import store_path

    noise, x = np.asarray(store_path(PROBLEM.noise, PROBLEM.x)), np.asarray(PROBLEM.x)
    params = [np.asarray(own) for own in LADDER.params]
    outputs: list[list[np.ndarray]] = [[], []]
    estimates: list[np.ndarray] = []
    scale, gain, deviation, push = (np.asarray(column) for column in
                                    (steps.scale, steps.gain, steps.noise, steps.push))  # fmt: skip
    rows = []
    for n in range(len(NEEDED)):
        now = [x @ params[k] for k in range(2) if NEEDED[n, k]]
        remembered = [own for k in range(2) for own in outputs[k][::-1][: MEMORY[k]]]
        known = np.stack([each.ravel() for each in [*now, *remembered]], axis=1)
        free = scale[n] * x + deviation[n] * noise[n]
        if push.shape[1] and estimates:
            free = free + push[n, 0] * estimates[-1]
        target = ((np.asarray(PATH[n + 1]) - free) / gain[n]).ravel()
        base = np.zeros(known.shape[1])
        base[len(now) - 1] = 1
        strength = ridge * (known**2).sum(axis=0).max()
        gram = known.T @ known + strength * np.eye(len(base))
        chosen = base + np.linalg.solve(gram, known.T @ (target - known @ base))
        estimate = (known @ chosen).reshape(x.shape)
        rows.append(chosen)
        for k, output in zip(np.flatnonzero(NEEDED[n]), now, strict=True):
            outputs[k] += [output] * bool(kept[n, k])
        estimates.append(estimate)
        x = free + gain[n] * estimate
    return rows, x


def newest_first(plan, counts, kept):
    """Coefficients of the levels, then of what is remembered of each, the last output first."""
    runs = np.cumsum(kept, axis=0) - kept
    first = np.cumsum(counts) - counts
    slots = [first[k] + (runs[:, k] - 1 - age) % count
             for k, count in enumerate(counts) for age in range(count)]  # fmt: skip
    read = np.take_along_axis(np.asarray(plan.memory.read), np.stack(slots, axis=1), axis=1)
    return np.concatenate([plan.weights, read], axis=1)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("ridge", [1e-9, 1e-2])
@pytest.mark.parametrize("kept", [None, plans.beside_next(NEEDED)], ids=["all kept", "paired"])
def test_coefficients_are_those_of_the_normal_equations(second_order, ridge, kept):
    steps, stored = COARSE, NEEDED if kept is None else np.asarray(kept)
    if second_order:
        inner = grids.uniform_grid(1.0, 0.0, 8)
        steps = sp.dpm_solver_2m(PROCESS, inner, churn=1.0)
    rows, end = fitted_by_hand(steps, ridge, stored)
    found = fit(ridge=ridge, steps=steps, kept=kept)
    table = newest_first(found.plan, MEMORY, stored.astype(int))
    known = np.asarray(known_before(NEEDED, found.plan.memory))
    for n, expected in enumerate(rows):
        np.testing.assert_allclose(table[n][known[n]], expected, rtol=1e-7, atol=1e-8)
        assert (table[n][~known[n]] == 0).all()
    np.testing.assert_allclose(solve(LADDER, PROBLEM, steps, found.plan), end, atol=1e-10)


def test_one_level_and_a_drift_that_is_polynomial_in_time_give_adams_bashforth():
    def polynomial(params, x, t):
        return params[0] + params[1] * t + params[2] * t**2 + 0 * x

    grid = grids.uniform_grid(0.0, 1.0, 6)
    coefficients = jnp.asarray(np.random.default_rng(2).normal(size=(3, 40, 1)))
    ladder = Ladder((polynomial,), (coefficients,), (1.0,))
    a, b, c = np.asarray(coefficients)
    exact = jnp.stack([jnp.asarray(a * t + b * t**2 / 2 + c * t**3 / 3) for t in grid])
    found = fit_plan(ladder, Problem(exact[0]), sp.euler_maruyama(grid), np.ones((6, 1), bool),
                     exact, memory=(2,), ridge=1e-13)  # fmt: skip
    for n in range(3, 6):  # The third step still makes up for the first two, which knew too little.
        own = newest_first(found.plan, (2,), np.ones((6, 1), int))[n]
        np.testing.assert_allclose(own, [23 / 12, -16 / 12, 5 / 12], atol=1e-5)


def test_with_equal_levels_the_path_is_the_same_whatever_runs():
    same = Ladder((linear, linear), (LADDER.params[1],) * 2, (1.0, 9.0))
    ends = []
    for needed in (NEEDED, np.ones_like(NEEDED), NEEDED | [True, False], NEEDED[:, ::-1]):
        found = fit_plan(same, PROBLEM, COARSE, needed, PATH, memory=(0, 0), ridge=1e-8)
        ends.append(solve(same, PROBLEM, COARSE, found.plan))
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], atol=1e-6)


def test_each_step_comes_at_least_as_near_to_the_fine_path_as_the_base_weights():
    for ridge in (1e-9, 1e-3, 1.0):
        base, fitted = np.asarray(fit(ridge=ridge).gaps).T
        assert (fitted <= base * (1 + 1e-9)).all()
        assert fitted.sum() < base.sum()


def test_where_nothing_is_known_the_estimate_is_0():
    blank = NEEDED.copy()
    blank[2] = False
    found = fit(needed=blank, memory=(0, 0))
    assert not np.asarray(found.plan.weights)[2].any()
    assert found.gaps[2, 0] == found.gaps[2, 1] > 0


def test_the_order_of_the_samples_changes_nothing():
    order = np.random.default_rng(4).permutation(24)
    path = PROBLEM.noise._replace(samples=PROBLEM.noise.samples[order])
    other = fit(ridge=1e-6, problem=Problem(PROBLEM.x[order], path), path=PATH[:, order])
    np.testing.assert_allclose(other.plan.weights, fit(ridge=1e-6).plan.weights, atol=1e-9)


def test_levels_are_given_so_many_samples_at_a_time_and_nothing_changes():
    whole, cut = fit(ridge=1e-6), fit(ridge=1e-6, chunk=5)
    np.testing.assert_allclose(cut.plan.memory.read, whole.plan.memory.read, atol=1e-9)


def test_the_error_reported_is_that_of_the_plan_and_held_out_samples_are_not_fitted(tmp_path):
    found = fit(ridge=1e-6, held_out=8)
    ends = solve(LADDER, PROBLEM, COARSE, found.plan)
    errors = ((ends - PATH[-1]) ** 2).mean(axis=1)
    np.testing.assert_allclose(found.error, errors[:16].mean(), rtol=1e-6)
    np.testing.assert_allclose(found.held_out, errors[16:], rtol=1e-6)
    spoilt = PATH.at[1:, 16:].add(1.0)
    np.testing.assert_array_equal(
        fit(ridge=1e-6, held_out=8, path=spoilt).plan.weights, found.plan.weights
    )


def test_a_saved_plan_runs_to_the_same_bits_and_a_sample_does_not_depend_on_its_batch(tmp_path):
    plan = fit(ridge=1e-6).plan
    save_plan(tmp_path / "plan.npz", plan)
    end = solve(LADDER, PROBLEM, COARSE, plan)
    again = solve(LADDER, PROBLEM, COARSE, load_plan(tmp_path / "plan.npz"))
    np.testing.assert_array_equal(again, end)
    few = brownian_path(KEY, FINE, COARSE, samples=jnp.arange(3, 7))
    part = solve(LADDER, Problem(PROBLEM.x[3:7], few), COARSE, plan)
    np.testing.assert_allclose(part, end[3:7], atol=1e-12)


def test_fitted_weights_are_of_their_steps_alone():
    plan = fit(ridge=1e-6).plan
    other = sp.ddpm(PROCESS, grids.uniform_grid(1.0, 0.1, 8))
    with pytest.raises(ValueError, match="steps that this plan was made for"):
        solve(LADDER, PROBLEM, other, plan)


def test_a_fit_on_pytrees_is_that_on_their_parts_side_by_side():
    def both(params, x, t):
        joined = linear(params, jnp.concatenate([x["a"], x["b"]], axis=1), t)
        return {"a": joined[:, :1], "b": joined[:, 1:]}

    ladder = Ladder((both, both), LADDER.params, (1.0, 9.0))

    def apart(leaf):
        return {"a": leaf[..., :1], "b": leaf[..., 1:]}

    grid = grids.uniform_grid(0.0, 1.0, 8)
    steps = sp.euler_maruyama(grid)
    path = jnp.asarray(np.random.default_rng(5).normal(size=(9, 24, 3)))
    whole = fit_plan(LADDER, Problem(path[0]), steps, NEEDED, path, memory=MEMORY)
    tree = fit_plan(ladder, Problem(apart(path[0])), steps, NEEDED, apart(path), memory=MEMORY)
    np.testing.assert_allclose(tree.plan.weights, whole.plan.weights, atol=1e-9)


@pytest.mark.parametrize(("change", "message"), [
    ({"needed": NEEDED & (np.arange(8) > 0)[:, None]}, "a level to run at the first step"),
    ({"problem": Problem(PROBLEM.x[:1], brownian_path(KEY, FINE, COARSE, samples=jnp.arange(1))),
      "path": PATH[:, :1]}, "a pilot of at least"),
    ({"path": PATH.at[3, 2].set(jnp.nan)}, "a finite fine solution"),
    ({"path": PATH + 1.0}, "from the same starts"),
    ({"path": PATH[:-1]}, r"steps \+ 1, batch"),
    ({"problem": Problem(PROBLEM.x, brownian_path(jax.random.key(9), FINE, COARSE,
                                                  samples=jnp.arange(24)))},
     "along the problem's Brownian path"),
    ({"memory": (1,)}, "a count of at least 0 for each of 2 levels"),
])  # fmt: skip
def test_what_cannot_be_fitted_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fit(**change)
