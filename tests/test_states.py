"""States of any shape, of several arrays and of any precision, and the noise that drives them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import plans
from mlem_jax.ladder import Ladder
from mlem_jax.noise import store_path
from mlem_jax.problem import Problem
from mlem_jax.solver import solve, solve_chunks, solve_path
from mlem_jax.steps import euler_maruyama
from tests.problems import normals, wavy
from tests.twelve_steps import DRAWN, GRID, LADDER, LOGITS, PATH, PROBLEM, STEPS, X


def test_params_are_pytrees_and_states_of_any_shape():
    def drift(params, x, t):
        return x @ params["matrix"] + params["bias"][0]

    ladder = Ladder((drift,), ({"matrix": jnp.eye(3), "bias": [jnp.asarray(1.0)]},))
    for shape in ((3,), (2, 3), (2, 1, 5, 3)):
        end = solve(ladder, Problem(jnp.ones(shape)), euler_maruyama(GRID), plans.full(12, 1, 1))
        np.testing.assert_allclose(end, (1 + 1 / 12) ** 12 * 2 - 1, atol=1e-12)


def test_a_state_of_several_arrays_runs_like_its_parts():
    # What does not couple its parts moves them as if each were alone; memory and noise too.
    def both(params, x, t):
        return {"place": wavy(params, x["place"], t), "speed": [wavy(params, x["speed"][0], t)]}

    both_ladder = dataclasses.replace(LADDER, drifts=(both,) * 3)
    steps = STEPS._replace(push=normals(3, 12, 2) / 10)
    held = plans.trapezoid(LOGITS > -0.5, steps)
    parts = {"place": X, "speed": [normals(8, 4)]}
    noise = {"place": normals(1, 12, 4, 3), "speed": [normals(2, 12, 4)]}
    for plan in (DRAWN, held):
        found = solve(both_ladder, Problem(parts, noise), steps, plan)
        assert jax.tree.structure(found) == jax.tree.structure(parts)
        for end, x, xi in zip(*map(jax.tree.leaves, (found, parts, noise)), strict=True):
            expected = solve(LADDER, Problem(x, xi), steps, plan)
            np.testing.assert_allclose(end, expected, atol=1e-12)
    path = solve_path(both_ladder, Problem(parts, PATH), STEPS, DRAWN, keep=[12])
    whole = solve(both_ladder, Problem(parts, PATH), STEPS, DRAWN)
    chunks = solve_chunks(both_ladder, Problem(parts, PATH), STEPS, DRAWN, chunk=3)
    for end, last, chunked in zip(*map(jax.tree.leaves, (whole, path.states, chunks)), strict=True):
        np.testing.assert_allclose(last[-1], end, atol=1e-14)
        np.testing.assert_allclose(chunked, end, atol=1e-14)


def test_the_arrays_of_one_state_are_driven_by_noise_of_their_own():
    stored = store_path(PATH, {"a": X, "b": X})
    assert jnp.abs(stored["a"] - stored["b"]).min() > 0
    alone = store_path(PATH, {"a": X})
    np.testing.assert_array_equal(alone["a"], store_path(PATH, X))


def test_noise_may_differ_by_entry_of_the_state():
    # Columns of a diagonal diffusion are so many SDEs of one number each.
    deviations = np.array([0.0, 0.3, 2.0]) * (0.5 + GRID[:-1, None]) * (1 / 12) ** 0.5
    noise = normals(1, 12, 4, 3)
    wide = euler_maruyama(GRID)._replace(noise=jnp.asarray(deviations))
    found = solve(LADDER, Problem(X, noise), wide, DRAWN)
    for column in range(3):
        narrow = wide._replace(noise=wide.noise[:, column])
        own = Problem(X[:, column], noise[..., column])
        np.testing.assert_allclose(found[:, column], solve(LADDER, own, narrow, DRAWN), atol=1e-12)
    with pytest.raises(ValueError, match=r"broadcast to the state \[4, 3\], got \[2\]"):
        solve(LADDER, Problem(X, noise), wide._replace(noise=jnp.ones((12, 2))), DRAWN)


def test_a_single_precision_state_stays_one_whatever_the_tables_are():
    params = tuple(p.astype(jnp.float32) for p in LADDER.params)
    ladder = dataclasses.replace(LADDER, params=params)
    end = solve(ladder, Problem(X.astype(jnp.float32), PATH), STEPS, DRAWN)
    assert STEPS.gain.dtype == jnp.float64
    assert end.dtype == jnp.float32


def test_a_network_may_compute_in_half_precision():
    def drift(params, x, t):
        return wavy(params, x.astype(jnp.bfloat16), t.astype(jnp.bfloat16)).astype(x.dtype)

    full = plans.full(12, 1, 1)
    exact = solve(Ladder((wavy,), (jnp.asarray(1.0),)), PROBLEM, STEPS, full)
    rough = solve(Ladder((drift,), (jnp.bfloat16(1.0),)), PROBLEM, STEPS, full)
    assert 0 < jnp.abs(rough - exact).max() < 0.02
