from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, events, gates, plan, process, steps
from mlem_jax.levels import Levels
from mlem_jax.noise import brownian_path
from mlem_jax.solve import solve
from tests.problems import ou_ladder

GRID = steps.uniform_grid(1.0, 0.0, 4)
RATES = np.array([[40.0, 8.0, 2.0]] * 4) * [[0.5], [1.0], [1.5], [2.0]]
COSTS = (1.0, 4.0, 16.0)


def slopes(t):
    """Three drifts of t alone, whose integrals over [0, 1] are known."""
    return np.stack([np.cos(t), np.cos(t) + 0.5 * t, np.cos(t) + 0.5 * t + 0.25 * np.exp(t)], -1)


INTEGRAL = np.sin(1) + 0.25 + 0.25 * (np.e - 1)


def impulses(own):
    """End of dx = sum of the differences from x = 0: each event adds Delta/lambda."""
    differences = np.diff(slopes(own.times[:-1]), axis=1, prepend=0)
    return float(
        np.sign(own.times[-1] - own.times[0]) * (own.fires * differences / own.rates).sum()
    )


@pytest.mark.parametrize("times", [GRID, GRID[::-1], 3 * GRID + 2])
def test_even_events_come_as_often_as_their_rates_say_and_in_the_direction_of_time(times):
    due = (RATES * np.abs(np.diff(times))[:, None]).sum(0)
    for key in (None, jax.random.key(0), jax.random.key(1)):
        own = events.even_events(key, RATES, times)
        assert (np.abs(own.fires.sum(0) - due) < 1 + 1e-9).all()
        assert own.times[0] == times[0]
        assert own.times[-1] == times[-1]
        assert not own.fires[0].any()
        assert own.fires[1:].any(1).all()
        # While a quarter of the time goes by, a quarter of the cells' events do.
        passed = (own.times[:-1] - times[0]) / (times[-1] - times[0]) <= 0.25
        assert (np.abs(own.fires[passed].sum(0) - due / 10) < 1 + 1e-9).all()


def test_even_events_without_a_key_lie_in_the_middle_of_the_time_they_stand_for():
    own = events.even_events(None, [[5.0]], (0.0, 1.0))
    np.testing.assert_allclose(own.times, [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1], atol=1e-15)


def test_events_of_two_levels_at_one_time_are_one():
    # (i - 1/2)/8 = (5 i - 2 - 1/2)/40.
    own = events.even_events(None, [[40.0, 8.0]], (0.0, 1.0))
    assert len(own.times) == 42
    assert own.fires[:, 1].sum() == (own.fires[:, 0] & own.fires[:, 1]).sum() == 8


def test_a_plan_of_events_adds_each_as_an_impulse():
    own = events.poisson(jax.random.key(2), RATES, GRID)
    table = steps.euler_maruyama(own.times)
    drift = (events.event_plan(own).weights * slopes(np.asarray(table.t))).sum(1)
    assert float((table.gain * drift).sum()) == pytest.approx(impulses(own), abs=1e-12)


def test_midpoint_draws_become_even_events_without_a_key():
    fine = 2**14
    rates = 0.97 * RATES  # No event at the end, where it would be in one and not in the other.
    table = np.repeat(rates, fine // 4, axis=0) / fine
    fires = draws.midpoint(None, gates.table_gates(table))
    own = events.even_events(None, rates, GRID)
    for k in range(3):
        drawn = np.linspace(1, 0, fine + 1)[:-1][np.asarray(fires[:, k])]
        np.testing.assert_allclose(own.times[:-1][own.fires[:, k]], drawn, atol=1.01 / fine)


def test_poisson_events_agree_in_law_with_independent_draws_of_ever_smaller_steps():
    fine, count = 1024, 1000
    times = np.linspace(1, 0, fine + 1)
    table = jnp.asarray(np.repeat(RATES, fine // 4, axis=0) / fine)
    logits = gates.table_gates(table)
    keys = jax.random.split(jax.random.key(0), count)

    @jax.jit
    def fine_end(key):
        weights = plan.draw_plan(draws.independent, logits, key).weights
        return -(weights * slopes(times[:-1])).sum() / fine

    fine_ends = np.asarray(jax.lax.map(fine_end, keys, batch_size=50))
    ends = np.array([impulses(events.poisson(key, RATES, GRID)) for key in keys])
    # In the limit the variance is the integral of Delta^2 / lambda.
    cells = np.repeat(RATES, fine // 4, axis=0)
    differences = np.diff(slopes(times[:-1]), axis=1, prepend=0)
    variance = (differences**2 / cells).sum() / fine
    for own in (ends, fine_ends):
        squares = (own + INTEGRAL) ** 2
        assert abs(own.mean() + INTEGRAL) < 5 * np.sqrt(variance / count)
        assert abs(squares.mean() - variance) < 5 * squares.std() / np.sqrt(count)


def test_even_events_are_unbiased_and_their_error_falls_as_one_over_their_number():
    keys = jax.random.split(jax.random.key(1), 600)
    spread = []
    # 0.4 and 0.6 beyond a whole number, between which the end of the time falls equally badly.
    for rates in ([[40.4, 8.4, 4.4]], [[161.6, 33.6, 17.6]]):
        off = [impulses(events.even_events(key, rates, (1.0, 0.0))) + INTEGRAL for key in keys]
        assert abs(np.mean(off)) < 5 * np.std(off) / np.sqrt(len(off))
        spread.append(np.sqrt(np.mean(np.square(off))))
    assert spread[0] / spread[1] == pytest.approx(4.0, abs=0.6)


def test_levels_of_infinite_rate_run_at_every_event_and_are_weighed_like_certain_gates():
    rates = np.concatenate([np.full((4, 1), np.inf), RATES[:, 1:]], axis=1)
    own = events.poisson(jax.random.key(3), rates, GRID)
    drawn = events.event_plan(own)
    assert own.fires[:, 0].all()
    assert drawn.needed[:, 0].all()
    np.testing.assert_allclose(np.asarray(drawn.weights.sum(1)), 1.0, rtol=1e-12)
    certain = events.event_plan(events.even_events(None, np.full((4, 3), np.inf), GRID))
    np.testing.assert_array_equal(certain.weights, [[0, 0, 1]])
    np.testing.assert_array_equal(certain.needed, [[False, False, True]])


def test_a_level_runs_at_its_own_events_and_at_those_of_the_next():
    own = events.even_events(jax.random.key(3), RATES, GRID)
    drawn = events.event_plan(own)
    np.testing.assert_array_equal(drawn.needed[:, 2], own.fires[:, 2])
    np.testing.assert_array_equal(drawn.needed[:, 0], own.fires[:, 0] | own.fires[:, 1])
    np.testing.assert_array_equal(drawn.needed[0], [False] * 3)


def test_events_are_solved_along_a_brownian_path_like_the_fine_steps_they_stand_for():
    # Same noise, same events: once on the grid of the events, once on a fine grid around them.
    levels, params = ou_ladder()
    own = events.even_events(jax.random.key(5), RATES, GRID)
    fine = np.unique(np.concatenate([own.times, np.linspace(0, 1, 2001)]))[::-1]
    fine = fine[np.insert(np.diff(fine) < -1e-9, 0, True)]
    at = steps.nearest_points(fine, own.times[:-1])
    fires, rates = np.zeros((len(fine) - 1, 3), bool), np.ones((len(fine) - 1, 3))
    fires[at], rates[at] = own.fires, own.rates
    dense = events.Events(fine, fires, rates)
    ends = []
    for each in (own, dense):
        path = brownian_path(jax.random.key(0), fine, each.times, samples=jnp.arange(5))
        table = steps.euler_maruyama(each.times, lambda t: 0.4 + 0 * t)
        ends.append(solve(levels, params, jnp.ones(5), table, events.event_plan(each), path))
    # An impulse sees the noise up to its time in both, and so is the same.
    np.testing.assert_allclose(*ends, atol=1e-9)


@pytest.mark.parametrize(("table", "clock"), [(steps.ddim, 1), (steps.ddpm, 2)])
def test_spans_of_diffusion_samplers_are_those_of_their_clocks(table, clock):
    # u = alpha/sigma for the ODE, its square, the SNR, for the SDE.
    cosine, times = process.cosine(), steps.uniform_grid(0.95, 0.05, 6)

    def u(t):
        return (cosine.alpha(t) / cosine.sigma(t)) ** clock

    slope = jax.vmap(jax.grad(u))(jnp.asarray(times[:-1]))
    expected = np.abs(np.diff(u(jnp.asarray(times))) / slope)
    np.testing.assert_allclose(
        events.table_spans(partial(table, cosine), times), expected, rtol=1e-7
    )


def test_spans_of_euler_maruyama_are_the_lengths_of_its_steps():
    times = np.cumsum([0.0, 0.3, 1e-9, 0.5, 1e-5])
    spans = events.table_spans(steps.euler_maruyama, times)
    np.testing.assert_allclose(spans, np.diff(times), rtol=1e-6)


def test_event_plans_with_spans_are_the_limit_of_small_steps_of_a_sampler():
    cosine = process.cosine()
    levels = Levels((lambda own, x, t: own * jnp.tanh(x + t),) * 2, (1.0, 2.0))
    params, x, grid = (jnp.asarray(0.5), jnp.asarray(0.9)), jnp.ones(3), (0.9, 0.1)
    rates = np.array([[30.0, 10.0]])
    table = partial(steps.ddim, cosine)
    own = events.even_events(None, rates, grid)
    spans = events.table_spans(table, own.times)
    end, naive = (
        solve(levels, params, x, table(own.times), events.event_plan(own, each))
        for each in (spans, None)
    )
    fine = steps.uniform_grid(*grid, 2**13)
    logits = gates.constant_gates(tuple(rates[0] * 0.8 / 2**13), 2**13)
    limit = solve(levels, params, x, table(fine), plan.draw_plan(draws.midpoint, logits, None))
    np.testing.assert_allclose(end, limit, atol=1e-3)
    assert np.abs(naive - limit).max() > 1e-2


def test_what_makes_no_events_is_refused():
    with pytest.raises(ValueError, match=r"rates \[cells, levels\] for 4 cells .* shape \(3, 3\)"):
        events.poisson(jax.random.key(0), RATES[:3], GRID)
    with pytest.raises(ValueError, match=r"positive rates, got 0.0 in cell 1, level 2"):
        events.even_events(None, np.where(RATES == 8.0, 0.0, RATES), GRID)
    with pytest.raises(ValueError, match="expected a key for random events"):
        events.poisson(None, RATES, GRID)
    own = events.even_events(None, RATES, GRID)
    with pytest.raises(ValueError, match="expected one positive span for each of"):
        events.event_plan(own, np.zeros(len(own.fires)))
    with pytest.raises(ValueError, match=r"scale 0 from 0\.5 to 0\.0; leave that step out"):
        events.table_spans(partial(steps.ddim, process.cosine()), (1.0, 0.5, 0.0))
