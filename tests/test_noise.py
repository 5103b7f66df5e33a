"""One Brownian path a sample: whatever the batch, the steps, the generator of the key."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlem_jax.grids import uniform_grid
from mlem_jax.noise import brownian_path, draw_increment, draw_starts
from mlem_jax.process import cosine, linear
from mlem_jax.steps import ddpm, euler_maruyama, make_steps

KEY = jax.random.key(11)
FINE = euler_maruyama(np.linspace(0, 1, 25), jnp.ones_like)


def steps_of(clock):
    count = len(clock) - 1
    return make_steps(*np.ones((4, count)), clock=clock)


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
    single = increments(brownian_path(KEY, FINE, samples=jnp.asarray(5)), jnp.zeros(4))
    batch = increments(brownian_path(KEY, FINE, samples=[5]), jnp.zeros((1, 4)))
    np.testing.assert_array_equal(single, batch[:, 0])


@given(inner=st.sampled_from([0, 1, 5, 23]).flatmap(
    lambda count: st.sets(st.integers(1, 23), min_size=count, max_size=count)))  # fmt: skip
@settings(deadline=None, max_examples=12)
def test_a_coarse_step_is_the_sum_of_the_fine_ones_it_covers(inner):
    points = np.linspace(0, 1, 25)
    clock = points**2 + points  # Any clock: durations need not be equal.
    edges = np.array([0, *sorted(inner), 24])
    like = jnp.zeros((3,))
    fine = increments(brownian_path(KEY, steps_of(clock), samples=jnp.arange(3)), like)
    path = brownian_path(KEY, steps_of(clock), steps_of(clock[edges]), samples=jnp.arange(3))
    coarse = increments(path, like)
    walked = fine * np.sqrt(np.diff(clock))[:, None]
    sums = np.stack([walked[i:j].sum(0) for i, j in pairwise(edges)])
    np.testing.assert_allclose(coarse * np.sqrt(np.diff(clock[edges]))[:, None], sums, atol=1e-12)


def test_increments_are_standard_normal():
    # 5 standard errors at a fixed key.
    path = brownian_path(KEY, FINE, steps_of(np.linspace(0, 1, 5)), samples=jnp.arange(4000))
    values = np.asarray(increments(path, jnp.zeros(4000)))
    count = values.size
    assert abs(values.mean()) < 5 / count**0.5
    assert abs(values.var() - 1) < 5 * (2 / count) ** 0.5
    across = np.corrcoef(values)
    assert np.abs(across - np.eye(len(across))).max() < 5 / 4000**0.5


def test_in_the_snr_clock_a_coarse_ancestral_step_is_the_fine_ones_with_known_data():
    # With x_0 fixed the fine steps compose to the coarse one exactly, noise and all.
    process, fine = cosine(), uniform_grid(1.0, 0.0, 12)
    coarse = fine[[0, 3, 4, 10, 12]]
    data, ends = 0.3, []
    for grid in (fine, coarse):
        steps = ddpm(process, grid)
        path = brownian_path(KEY, ddpm(process, fine), steps, samples=jnp.asarray(0))
        x, at, xi = 1.7, {}, increments(path, jnp.asarray(0.0))
        for n in range(len(grid) - 1):
            x = steps.scale[n] * x + steps.gain[n] * data + steps.noise[n] * xi[n]
            at[grid[n + 1]] = float(x)
        ends.append([at[t] for t in coarse[1:]])
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-10)


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_equal_samples_have_equal_noise_under_keys_of_every_generator(generator):
    key = jax.random.key(3, impl=generator)
    like = jnp.zeros((4, 3))
    whole = increments(brownian_path(key, FINE, samples=jnp.arange(4)), like)
    twice = increments(brownian_path(key, FINE, samples=[2, 2, 0, 2]), like)
    np.testing.assert_array_equal(twice, whole[:, np.array([2, 2, 0, 2])])
    assert len(np.unique(whole)) == whole.size


def test_raw_keys_are_keys():
    raw = jax.random.PRNGKey(11)
    np.testing.assert_array_equal(
        increments(brownian_path(raw, FINE, samples=jnp.arange(3)), jnp.zeros(3)),
        increments(brownian_path(KEY, FINE, samples=jnp.arange(3)), jnp.zeros(3)),
    )
    for wrong in (0, None):
        with pytest.raises(TypeError, match=r"expected a key, as jax.random.key"):
            brownian_path(wrong, FINE, samples=jnp.arange(3))


@pytest.mark.parametrize("samples", [6, 6.0, np.int64(6), [0.5, 1.0], jnp.ones(3), True])
def test_samples_that_are_no_integer_array_are_refused(samples):
    for make in (lambda: brownian_path(KEY, FINE, samples=samples),
                 lambda: draw_starts(KEY, samples, (2,))):  # fmt: skip
        with pytest.raises(TypeError, match=r"for a batch of 6 it is jnp\.arange\(6\)"):
            make()


@pytest.mark.parametrize("samples", [[2**33], [-1, 0], [2**31]])
def test_samples_past_their_integers_are_refused(samples):
    with pytest.raises(ValueError, match=r"sample indices from 0 to 2\^31 - 1, got"):
        brownian_path(KEY, FINE, samples=np.array(samples))


def test_paths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"steps that begin and end where fine ones do.*0\.51"):
        brownian_path(KEY, FINE, steps_of([0.0, 0.51, 1.0]), samples=jnp.arange(2))
    with pytest.raises(ValueError, match="in their direction"):
        brownian_path(KEY, FINE, steps_of([1.0, 0.5, 0.0]), samples=jnp.arange(2))
    path = brownian_path(KEY, FINE, samples=jnp.arange(4))
    with pytest.raises(ValueError, match=r"leading shape \(4,\).*got shape \(3, 2\)"):
        draw_increment(path, jnp.asarray(0), jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="expected the indices of a batch"):
        draw_starts(KEY, jnp.asarray(3), (2,))


def test_steps_of_different_clocks_cannot_share_a_path():
    fine, coarse = uniform_grid(1.0, 0.0, 12), uniform_grid(1.0, 0.0, 6)
    for first, second in (
        (ddpm(cosine(), fine), ddpm(linear(), coarse)),
        (ddpm(cosine(), fine), euler_maruyama(coarse, jnp.ones_like)),
    ):
        with pytest.raises(ValueError, match="make both tables with the same process"):
            brownian_path(KEY, first, second, samples=jnp.arange(2))
    gap = jax.tree.map(lambda column: column[np.array([0, 1, 3])], ddpm(cosine(), fine))
    with pytest.raises(ValueError, match="one after the other, got a gap"):
        brownian_path(KEY, gap, samples=jnp.arange(2))
    with pytest.raises(ValueError, match=r"expected steps made outside jax\.jit"):
        jax.jit(lambda steps: brownian_path(KEY, steps, samples=jnp.arange(2)))(FINE)
