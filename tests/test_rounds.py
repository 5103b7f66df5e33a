"""Claims about rounds: the samples of plans run alone, in batches that were fixed before."""

import collections
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates, plans
from mlem_jax.grids import uniform_grid
from mlem_jax.ladder import Ladder
from mlem_jax.levels import batched_time
from mlem_jax.noise import brownian_path
from mlem_jax.problem import Problem, take
from mlem_jax.process import cosine
from mlem_jax.solver import make_rounds, solve, solve_each, solve_groups
from mlem_jax.steps import dpm_solver_2m, euler_maruyama, make_steps
from tests.problems import normals, openings_at, wavy, wavy_ladder

COUNT = 4
LADDER = wavy_ladder()
GRID = uniform_grid(0.0, 1.0, 8)
STEPS = euler_maruyama(GRID, lambda t: 0.3 + t)
ODE = euler_maruyama(GRID)
ENTRIES = make_steps(STEPS.t, STEPS.scale, STEPS.gain, np.linspace(0.1, 0.5, 16).reshape(8, 2))
X = normals(1, COUNT, 2)
PATH = brownian_path(jax.random.key(2), STEPS, samples=jnp.arange(COUNT))
LOGITS = gates.to_logits(np.tile([1.0, 0.6, 0.3], (8, 1)))
DRAWN = plans.draw_plans(draws.independent, LOGITS, jax.random.key(4), COUNT)
# Steps at which nothing runs, at the beginning, in between and at the end.
SPARSE = plans.draw_plans(
    draws.systematic, gates.to_logits(np.tile([0.4, 0.3, 0.2], (8, 1))), jax.random.key(5), COUNT
)


def held(steps):
    """Plans that remember, each open at other steps."""
    opened = [openings_at(8, [0, i], [0, 5, i + 1], [0, 7 - i]) for i in range(COUNT)]
    return plans.stack_plans([plans.trapezoid(own, steps) for own in opened])


def alone(ladder, problem, steps, made):
    """Each sample by itself under its plan."""
    ends = [solve(ladder, take(problem, jnp.array([number])), steps,
                  jax.tree.map(lambda table, number=number: table[number], made))
            for number in range(COUNT)]  # fmt: skip
    return jax.tree.map(lambda *each: jnp.concatenate(each), *ends)


@pytest.mark.parametrize(("made", "steps", "noise", "batch"), [
    (DRAWN, STEPS, PATH, None), (SPARSE, ENTRIES, normals(6, 8, COUNT, 2), 2),
    (held(STEPS), STEPS, PATH, 2),
], ids=["drawn", "sparse, noise for each entry", "held"])  # fmt: skip
def test_every_sample_ends_as_alone_under_its_plan(made, steps, noise, batch):
    problem = Problem(X, noise)
    found = solve_each(LADDER, problem, steps, made, batch=batch)
    np.testing.assert_allclose(found, alone(LADDER, problem, steps, made), rtol=1e-12)


def test_of_an_ode_in_single_precision_they_are_the_same_to_1e_6():
    problem = Problem(X.astype(jnp.float32))
    found = solve_each(LADDER, problem, ODE, DRAWN, batch=2)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, solve_groups(LADDER, problem, ODE, DRAWN), atol=1e-6)


def test_conditions_pytrees_and_multistep_methods_go_along():
    def shown(params, x, t, label):
        # A network that wants a time for each sample.
        return jax.tree.map(lambda leaf: params * jnp.tanh(leaf) + (label["class"] * t)[:, None], x)

    steps = dpm_solver_2m(cosine(), 0.9 - 0.8 * GRID, churn=1.0)
    path = brownian_path(jax.random.key(0), steps, samples=jnp.arange(COUNT))
    start = {"a": X, "b": normals(3, COUNT, 3)}
    problem = Problem(start, path, {"class": normals(5, COUNT)})
    ladder = Ladder((batched_time(shown),) * 3, LADDER.params)
    found = solve_each(ladder, problem, steps, DRAWN, batch=2)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11),
                 found, alone(ladder, problem, steps, DRAWN))  # fmt: skip


def test_noise_for_each_sample_apart_is_refused():
    whole = make_steps(STEPS.t, STEPS.scale, STEPS.gain, np.ones((8, COUNT, 2)))
    with pytest.raises(ValueError, match=r"can be broadcast to the state \[1, 2\]"):
        solve_each(LADDER, Problem(X, PATH), whole, DRAWN)


@pytest.mark.parametrize("made", [DRAWN, SPARSE])
@pytest.mark.parametrize("batch", [None, 1, 3, 100])
def test_rounds_call_what_is_needed_once_at_its_step_and_end_every_step_after_it(made, batch):
    needed = np.asarray(made.needed)
    done, called = np.zeros(COUNT, int), set()
    for level, samples, places in make_rounds(needed, batch=batch):
        size = len(samples)
        assert size.bit_count() == 1 or size == (batch or COUNT)
        assert size <= (batch or COUNT)
        assert len(set(samples.tolist())) == size
        np.testing.assert_array_equal(places, done[samples])
        if level:
            own = {(int(i), int(n), level - 1) for i, n in zip(samples, places, strict=True)}
            assert not own & called
            called |= own
        else:
            for i, n in zip(samples, places, strict=True):
                assert {k for (j, m, k) in called if (j, m) == (i, n)} == set(
                    np.flatnonzero(needed[i, n])
                )
            done[samples] += 1
    assert called == {tuple(each) for each in np.argwhere(needed).tolist()}
    assert (done == 8).all()


def test_plans_that_are_alike_run_in_whole_batches():
    made = plans.draw_plans(draws.midpoint, LOGITS, None, COUNT)
    rounds = make_rounds(made.needed)
    assert {len(each.samples) for each in rounds} == {COUNT}
    assert sum(each.level > 0 for each in rounds) == int(made.needed[0].sum())


def test_many_samples_fill_nearly_every_batch():
    made = plans.draw_plans(draws.independent, LOGITS, jax.random.key(1), 64)
    calls = [len(each.samples) for each in make_rounds(made.needed, batch=8) if each.level]
    assert sum(calls) == int(made.needed.sum())
    assert np.mean(calls) > 7
    in_turn = int(made.needed.sum())
    assert len(make_rounds(made.needed)) < in_turn / 8


def test_a_level_is_compiled_once_a_size_and_evaluated_for_no_other_sample():
    traced, ran = collections.Counter(), collections.Counter()

    def counted(k, params, x, t):
        traced[k] += 1
        jax.debug.callback(lambda t: ran.update([(k, round(float(t) * 8))]), t)
        return wavy(params, x, t)

    ladder = dataclasses.replace(LADDER, drifts=tuple(partial(counted, k) for k in range(3)))
    for sign in (1.0, -1.0):
        solve_each(ladder, Problem(sign * X, PATH), STEPS, DRAWN, batch=2)
        jax.effects_barrier()
    assert max(traced.values()) <= 2  # Sizes 1 and 2.
    evaluated = np.asarray(DRAWN.needed.sum(axis=0))
    assert ran == {(k, n): 2 * count for (n, k), count in np.ndenumerate(evaluated) if count}


def test_starts_are_left_as_they_were_though_buffers_are_given_up():
    start = jnp.array(X)
    first, second = (solve_each(LADDER, Problem(start, PATH), STEPS, DRAWN) for _ in range(2))
    np.testing.assert_array_equal(start, X)
    np.testing.assert_array_equal(first, second)


def test_what_is_no_plan_a_sample_is_refused():
    problem = Problem(X, PATH)
    few = jax.tree.map(lambda table: table[:3], DRAWN)
    with pytest.raises(ValueError, match="expected a plan for each of 4 samples, got 3"):
        solve_each(LADDER, problem, STEPS, few)
    one = jax.tree.map(lambda table: table[0], DRAWN)
    with pytest.raises(ValueError, match="expected plans stacked along a leading axis"):
        solve_each(LADDER, problem, STEPS, one)
    with pytest.raises(TypeError, match="expected a Problem, got"):
        solve_each(LADDER, X, STEPS, DRAWN)
    with pytest.raises(ValueError, match="expected plans that are known, got traced ones"):
        jax.jit(lambda made: solve_each(LADDER, problem, STEPS, made))(DRAWN)
    for batch in (0, 1.5):
        with pytest.raises(ValueError, match="a batch of at least 1 sample, got"):
            solve_each(LADDER, problem, STEPS, DRAWN, batch=batch)
    with pytest.raises(ValueError, match=r"expected needed \[samples, steps, levels\], got \[8"):
        make_rounds(one.needed)
