"""Shares of stacked ladders: what the fit finds, and what holds of it exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import gates, levels, process, shares, stack
from mlem_jax.solve import solve
from mlem_jax.steps import Steps
from tests.problems import SPREAD, normals, wavy_ladder

PROCESS = process.cosine()
T = jnp.asarray(0.4)
LADDER, PARAMS = wavy_ladder()


def rung(own, count, x, t):
    """F^count of the stack, by the solver: one step that returns F."""
    step = Steps(t[None], jnp.zeros(1), jnp.ones(1), jnp.zeros(1))
    part = levels.Levels(LADDER.drifts[:count], LADDER.costs[:count])
    return solve(part, PARAMS[:count], x, step, stack.stack_top(own[None, :count]))


def test_on_the_data_of_the_fit_each_difference_is_the_drop_in_loss_it_buys():
    x, target = normals(0, 30, 5), normals(1, 30, 5)
    own = shares.fit_shares(LADDER, PARAMS, x, target, T)
    ladder = [jnp.zeros_like(x), *(rung(own, count, x, T) for count in (1, 2, 3))]
    for low, high in itertools.pairwise(ladder):
        drop = ((target - low) ** 2).mean() - ((target - high) ** 2).mean()
        assert drop > 0
        assert abs(((target - high) * (high - low)).mean()) < 1e-12
        np.testing.assert_allclose(((high - low) ** 2).mean(), drop, atol=1e-12)


def test_losses_moves_and_drops_are_those_of_the_ladder_itself():
    x, target = normals(0, 30, 5), normals(1, 30, 5)
    products = shares._products(LADDER.drifts, PARAMS, x, target, T)
    for own in (jnp.array([0.9, 0.3, 0.7]), jnp.ones(3), shares.product_shares(products)):
        errors = shares.stack_errors(products, own)
        ladder = [jnp.zeros_like(x), *(rung(own, count, x, T) for count in (1, 2, 3))]
        losses = np.array([((target - each) ** 2).mean() for each in ladder])
        moves = [((b - a) ** 2).mean() for a, b in itertools.pairwise(ladder)]
        np.testing.assert_allclose(errors.losses, losses[1:], rtol=1e-10)
        np.testing.assert_allclose(errors.moves, moves, atol=1e-12)
        np.testing.assert_allclose(errors.drops, -np.diff(losses), atol=1e-12)


def test_the_shares_of_a_linear_ladder_with_independent_errors_are_found():
    # Level k is the target plus an error orthogonal to it and to the others': with |target| = 1,
    # 1/w_k - 1 is the error's size over the loss so far, 1 at first.
    basis = jnp.linalg.qr(normals(3, 40, 4))[0].T
    target, sizes = basis[0], jnp.array([1.0, 0.8, 0.5])
    linear = levels.Levels((lambda params, x, t: target + params,) * 3, (1.0, 2.0, 3.0))
    params = tuple(size * error for size, error in zip(sizes, basis[1:], strict=True))
    own = shares.fit_shares(linear, params, jnp.zeros(40), target, T)
    loss, expected = 1.0, []
    for size in np.asarray(sizes) ** 2:
        expected.append(loss / (loss + size))
        loss = loss * size / (loss + size)
    np.testing.assert_allclose(own, expected, atol=1e-12)


def test_a_ladder_that_ends_in_the_target_takes_all_of_its_last_difference():
    x = normals(4, 6, 20, 3)
    times = jnp.linspace(0.1, 0.9, 6)
    top = jnp.stack(
        [LADDER.drifts[2](PARAMS[2], each, t) for each, t in zip(x, times, strict=True)]
    )
    own = shares.fit_states(LADDER, PARAMS, times, x, top)
    np.testing.assert_allclose(own.shares[:, 2], 1.0, atol=1e-12)
    each = shares.fit_shares(LADDER, PARAMS, x[3], top[3], times[3])
    np.testing.assert_allclose(own.shares[3], each, atol=1e-12)


def test_a_level_that_brings_nothing_new_gets_no_share_and_no_difference_a_share_of_one():
    twice, x = levels.Levels(LADDER.drifts[:2], (1.0, 2.0)), normals(5, 8, 2)
    own = shares.fit_shares(twice, (PARAMS[2],) * 2, x, x, T)
    np.testing.assert_allclose(own[1], 0.0, atol=1e-12)
    silent = levels.Levels((lambda params, x, t: params * x,) * 2, (1.0, 2.0))
    own = shares.fit_shares(silent, (jnp.asarray(0.0),) * 2, x, x, T)
    np.testing.assert_array_equal(own, 1.0)


def shrunk(gain, x, t):
    """A gain away from E[x_0 | x_t] of Gaussian data."""
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    return gain * alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * x


GAUSSIAN = levels.Levels((shrunk, shrunk), (1.0, 2.0))
GAINS = (jnp.asarray(0.5), jnp.asarray(1.6))


def test_a_stack_fitted_on_data_makes_the_best_denoiser_of_wrong_gains():
    # Whatever the gain of the first level, its share sets it right up to the noise of the data.
    data = SPREAD * normals(6, 400, 30)
    own = shares.fit_stack(GAUSSIAN, GAINS, PROCESS, data, jax.random.key(0), chunk=150)
    assert own.shares.shape == (12, 2)
    assert (jnp.diff(own.times) > 0).all()
    low = own.times < 0.7
    np.testing.assert_allclose(own.shares[low, 0] * 0.5, 1.0, atol=0.05)
    np.testing.assert_allclose(own.shares[low, 1], 0.0, atol=0.05)


def test_a_fit_does_not_depend_on_the_chunks():
    data = SPREAD * normals(7, 25, 4)
    fits = [
        shares.fit_stack(
            GAUSSIAN, GAINS, PROCESS, data, jax.random.key(1), times=(0.2, 0.5), chunk=chunk
        )
        for chunk in (1, 7, 100)
    ]
    for other in fits[1:]:
        np.testing.assert_allclose(other.shares, fits[0].shares, atol=1e-12)


def test_conditions_go_with_their_data():
    data = normals(8, 9, 3)
    drift = levels.conditional(lambda params, x, t, condition: params * x + condition[:, None])
    ladder = levels.Levels((drift,), (1.0,))
    # A level that is told the target is trusted in full, unless the conditions were mixed up.
    params = (levels.Conditional(jnp.asarray(0.0), data[:, 0]),)
    told = shares.fit_stack(
        ladder, params, PROCESS, jnp.tile(data[:, :1], (1, 3)), jax.random.key(2), chunk=4
    )
    np.testing.assert_allclose(told.shares, 1.0, atol=1e-12)


@pytest.mark.parametrize(
    "own", [PROCESS, process.rectified_flow(), process.linear(), process.variance_exploding()]
)
def test_the_times_of_a_fit_are_spread_over_the_noise_of_any_process(own):
    times = shares.spread_times(own, 9)
    angles = np.arctan2(own.sigma(jnp.asarray(times)), own.alpha(jnp.asarray(times)))
    np.testing.assert_allclose(np.diff(angles), angles[0] * 2, rtol=0.02)
    end = np.arctan2(own.sigma(jnp.asarray(own.end)), own.alpha(jnp.asarray(own.end)))
    np.testing.assert_allclose(end - angles[-1], angles[0], rtol=0.02)


def test_a_fitted_stack_runs_from_gates_to_samples():
    own = shares.fit_stack(GAUSSIAN, GAINS, PROCESS, normals(9, 20, 4), jax.random.key(3))
    t = jnp.linspace(0.9, 0.1, 5)
    table = stack.stack_shares(own, t)
    logits = gates.constant_gates((1.0, 0.4), 5)
    drawn = jax.jit(stack.draw_stack_plan, static_argnums=0)(
        lambda key, logits: gates.probabilities(logits) > 0.3, logits, table, None
    )
    end = solve(GAUSSIAN, GAINS, normals(10, 4), Steps(t, t, t, 0 * t), drawn)
    assert jnp.isfinite(end).all()


def test_data_that_do_not_fit_are_refused():
    key, data = jax.random.key(0), normals(0, 4, 2)
    with pytest.raises(ValueError, match=r"as floats, scaled .* got uint8\[4, 2\]"):
        shares.fit_stack(GAUSSIAN, GAINS, PROCESS, data.astype(jnp.uint8), key)
    with pytest.raises(ValueError, match=r"times that rise, at least one, got \[0.5, 0.2\]"):
        shares.fit_stack(GAUSSIAN, GAINS, PROCESS, data, key, times=(0.5, 0.2))
    with pytest.raises(ValueError, match="a positive chunk, got 0"):
        shares.fit_stack(GAUSSIAN, GAINS, PROCESS, data, key, chunk=0)
    with pytest.raises(ValueError, match="one time for each of 4 sets of states, got 1"):
        shares.fit_states(GAUSSIAN, GAINS, (0.5,), data, data)
    with pytest.raises(ValueError, match=r"a target like the state, \[4, 2\], got \[4\]"):
        shares.fit_shares(GAUSSIAN, GAINS, data, data[:, 0], T)
    with pytest.raises(ValueError, match="one share for each of 2 levels, got 3"):
        shares.stack_errors(jnp.eye(3), jnp.ones(3))
