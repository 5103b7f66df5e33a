"""A sample ends the same in every batch and chunk, and chunks need the memory of one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import plans
from mlem_jax.ladder import Ladder
from mlem_jax.noise import brownian_path, draw_starts, store_path
from mlem_jax.problem import Problem
from mlem_jax.solver import solve, solve_chunks
from tests.problems import normals
from tests.twelve_steps import DRAWN, KEY, LADDER, PATH, PROBLEM, STEPS, X


def test_a_sample_is_the_same_in_every_batch_and_chunk():
    x = normals(3, 64, 2)
    path = brownian_path(KEY, STEPS, samples=jnp.arange(64))
    whole = solve(LADDER, Problem(x, path), STEPS, DRAWN)
    for batch in (1, 3):
        part = Problem(x[:batch], path._replace(samples=path.samples[:batch]))
        np.testing.assert_allclose(solve(LADDER, part, STEPS, DRAWN), whole[:batch], atol=1e-14)
    for chunk in (5, 64, 100):
        chunked = solve_chunks(LADDER, Problem(x, path), STEPS, DRAWN, chunk=chunk)
        np.testing.assert_allclose(chunked, whole, atol=1e-14)


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_sample_is_the_same_in_every_chunk_under_keys_of_every_generator(generator):
    key = jax.random.key(5, impl=generator)
    x = draw_starts(key, jnp.arange(8), (2,))
    np.testing.assert_array_equal(draw_starts(key, jnp.array([6, 2]), (2,)), x[jnp.array([6, 2])])
    path = brownian_path(key, STEPS, samples=jnp.arange(8))
    whole = solve(LADDER, Problem(x, path), STEPS, DRAWN)
    for chunk in (1, 3):
        chunked = solve_chunks(LADDER, Problem(x, path), STEPS, DRAWN, chunk=chunk)
        np.testing.assert_allclose(chunked, whole, atol=1e-14)


def test_conditions_and_stored_noise_are_cut_along_with_their_samples():
    def network(params, x, t, label):
        return params * x + label[:, None]

    ladder, full = Ladder((network,), (jnp.asarray(0.3),)), plans.full(12, 1, 1)
    x, path = normals(6, 7, 2), brownian_path(KEY, STEPS, samples=jnp.arange(7))
    for noise in (path, store_path(path, x)):
        problem = Problem(x, noise, normals(5, 7))
        chunked = solve_chunks(ladder, problem, STEPS, full, chunk=3)
        np.testing.assert_allclose(chunked, solve(ladder, problem, STEPS, full), atol=1e-14)


def test_a_stored_path_is_the_path():
    stored = Problem(X, store_path(PATH, X))
    np.testing.assert_allclose(
        solve(LADDER, stored, STEPS, DRAWN), solve(LADDER, PROBLEM, STEPS, DRAWN), atol=1e-14
    )


def test_a_start_depends_on_its_sample_alone():
    starts = draw_starts(KEY, jnp.arange(5), (2, 3))
    np.testing.assert_array_equal(draw_starts(KEY, jnp.array([3]), (2, 3))[0], starts[3])
    assert len(np.unique(starts)) == 30


def test_chunks_need_the_memory_of_one():
    def memory(batch, chunk):
        problem = Problem(
            jnp.zeros((batch, 1000)), brownian_path(KEY, STEPS, samples=jnp.arange(batch))
        )
        run = jax.jit(partial(solve_chunks, chunk=chunk))
        compiled = run.lower(LADDER, problem, STEPS, DRAWN).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(256, 8) < memory(256, 256) / 4
