from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlem_jax import steps as sp
from mlem_jax.noise import brownian_path, draw_increment, snr_clock
from mlem_jax.process import cosine

KEY = jax.random.key(11)
FINE = np.linspace(0, 1, 25)


@jax.jit
def increments(path, like):
    steps = jnp.arange(len(path.first))
    return jax.lax.map(lambda n: draw_increment(path, n, like), steps)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_sample_has_the_same_path_in_every_batch(batch):
    like = jnp.zeros((64, 2, 3))
    whole = increments(brownian_path(KEY, FINE, samples=jnp.arange(64)), like)
    part = increments(brownian_path(KEY, FINE, samples=jnp.arange(batch)), like[:batch])
    np.testing.assert_array_equal(part, whole[:, :batch])
    last = increments(brownian_path(KEY, FINE, samples=jnp.arange(64)[-batch:]), like[:batch])
    np.testing.assert_array_equal(last, whole[:, -batch:])


@given(chosen=st.lists(st.integers(0, 63), min_size=5, max_size=5))
@settings(deadline=None, max_examples=20)
def test_a_path_depends_on_its_sample_and_not_on_its_neighbours(chosen):
    # As a user meets it: any five of the samples, in any order, even twice the same.
    like = jnp.zeros((64, 2))
    whole = increments(brownian_path(KEY, FINE, samples=jnp.arange(64)), like)
    some = increments(brownian_path(KEY, FINE, samples=jnp.array(chosen)), like[:5])
    np.testing.assert_array_equal(some, whole[:, jnp.array(chosen)])


def test_a_single_state_and_a_batch_of_one_have_the_same_path():
    single = increments(brownian_path(KEY, FINE, samples=5), jnp.zeros(4))
    batch = increments(brownian_path(KEY, FINE, samples=[5]), jnp.zeros((1, 4)))
    np.testing.assert_array_equal(single, batch[:, 0])


@given(inner=st.sets(st.integers(1, 23)))
@settings(deadline=None, max_examples=12)
def test_a_coarse_step_is_the_sum_of_the_fine_ones_it_covers(inner):
    clock = FINE**2 + FINE  # Any clock: durations need not be equal.
    edges = np.array([0, *sorted(inner), 24])
    like = jnp.zeros((3,))
    fine = increments(brownian_path(KEY, clock, samples=jnp.arange(3)), like)
    coarse = increments(brownian_path(KEY, clock, clock[edges], samples=jnp.arange(3)), like)
    walked = fine * np.sqrt(np.diff(clock))[:, None]
    sums = np.stack([walked[i:j].sum(0) for i, j in pairwise(edges)])
    np.testing.assert_allclose(coarse * np.sqrt(np.diff(clock[edges]))[:, None], sums, atol=1e-12)


def test_increments_are_standard_normal():
    # 5 standard errors at a fixed key.
    path = brownian_path(KEY, FINE, FINE[::6], samples=jnp.arange(4000))
    values = np.asarray(increments(path, jnp.zeros(4000)))
    count = values.size
    assert abs(values.mean()) < 5 / count**0.5
    assert abs(values.var() - 1) < 5 * (2 / count) ** 0.5
    across = np.corrcoef(values)
    assert np.abs(across - np.eye(len(across))).max() < 5 / 4000**0.5


def test_in_the_snr_clock_a_coarse_ancestral_step_is_the_fine_ones_with_known_data():
    # With x_0 fixed the fine steps compose to the coarse one exactly, noise and all.
    process, fine = cosine(), sp.uniform_grid(1.0, 0.0, 12)
    coarse = fine[[0, 3, 4, 10, 12]]
    data, ends = 0.3, []
    for grid in (fine, coarse):
        steps = sp.ddpm(process, grid)
        path = brownian_path(KEY, snr_clock(process, fine), snr_clock(process, grid), samples=0)
        x, at, xi = 1.7, {}, increments(path, jnp.asarray(0.0))
        for n in range(len(grid) - 1):
            x = steps.scale[n] * x + steps.gain[n] * data + steps.noise[n] * xi[n]
            at[grid[n + 1]] = float(x)
        ends.append([at[t] for t in coarse[1:]])
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-10)


def test_paths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected steps on points of the fine grid.*0\.51"):
        brownian_path(KEY, FINE, [0.0, 0.51, 1.0], samples=0)
    with pytest.raises(ValueError, match="in its direction"):
        brownian_path(KEY, FINE, [1.0, 0.5, 0.0], samples=0)
    path = brownian_path(KEY, FINE, samples=jnp.arange(4))
    with pytest.raises(ValueError, match=r"leading shape \(4,\).*got shape \(3, 2\)"):
        draw_increment(path, jnp.asarray(0), jnp.zeros((3, 2)))
