"""The gradient of learning against sums over every draw: no Monte Carlo error."""

import dataclasses
import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mlem_jax import gates, learn, plans
from mlem_jax.evaluate import make_reference
from mlem_jax.ladder import Ladder
from mlem_jax.learn import learner
from tests.exact import all_openings, every_draw, exact_gradient, known_draws
from tests.problems import normals, wavy_ladder

KEY = jax.random.key(0)


def second_moments(theta, tangents):
    """Every tuple of `tangents` vectors sqrt(d) e_i: mean of v v^T is I, as of Gaussians."""
    flat, unravel = ravel_pytree(theta)
    points = np.sqrt(len(flat)) * np.eye(len(flat))
    tuples = np.stack([np.stack(each) for each in itertools.product(points, repeat=tangents)])
    return jax.jit(jax.vmap(jax.vmap(unravel)))(tuples)


def all_terms(ladder, steps, family, theta, batch, tangents=1, estimate=learn.score_function_terms):
    """Probabilities of all draws, and their terms with the directions integrated out."""
    directions = second_moments(theta, tangents)

    chances, draws = all_openings(family, theta, steps)
    each = terms_of(estimate, ladder, batch, steps, family, theta, draws, directions)
    return chances, jax.tree.map(lambda leaf: np.asarray(leaf).mean(axis=1), each)


@partial(jax.jit, static_argnums=(0, 4))
def terms_of(estimate, ladder, batch, steps, family, theta, draws, directions):
    """Terms [draws, directions], draw by draw, as a batched predicate would run every level."""
    return jax.lax.map(
        lambda openings: jax.vmap(
            lambda own: estimate(ladder, batch, steps, family, theta, openings, own)
        )(directions),
        draws,
    )


def mean_gradient(chances, terms, baseline, groups):
    """Mean of the estimator over all draws of all groups."""
    tuples = np.array(list(itertools.product(range(len(chances)), repeat=groups)))
    stacked = jax.tree.map(lambda leaf: leaf[tuples], terms)
    estimates = _estimates(stacked, baseline)
    weights = chances[tuples].prod(axis=1)
    np.testing.assert_allclose(weights.sum(), 1, atol=1e-12)
    means = (np.tensordot(weights, leaf, 1) for leaf in jax.tree.leaves(estimates))
    return np.concatenate([mean.ravel() for mean in means])


@partial(jax.jit, static_argnums=1)
def _estimates(terms, baseline):
    return jax.vmap(partial(learn.error_gradient, baseline=baseline))(terms)


PROBLEMS = [
    (2, 2, (0.6, 0.3), True),
    (2, 3, (1.0, 0.5, 0.5), True),  # Equal gates: weight 0, derivative not.
    (3, 3, (1.0, 0.4, 0.2), False),
    (3, 2, (0.5, 0.5), True),
]


@pytest.mark.parametrize(("count", "levels", "start", "noisy"), PROBLEMS)
@pytest.mark.parametrize(
    ("baseline", "groups"),
    [(learn.no_baseline, 1), (learn.no_baseline, 2), (learn.leave_one_out, 2)],
)
def test_the_estimator_has_the_gradient_as_its_mean(count, levels, start, noisy, baseline, groups):
    given = known_draws(count, levels, start, noisy=noisy)
    found = mean_gradient(*all_terms(*given), baseline, groups)
    np.testing.assert_allclose(found, exact_gradient(*given), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tangents", [1, 2, 3])
def test_any_number_of_tangents_has_the_same_mean(tangents):
    given = known_draws(2, 2, (1.0, 0.4))
    found = mean_gradient(*all_terms(*given, tangents=tangents), learn.leave_one_out, 2)
    np.testing.assert_allclose(found, exact_gradient(*given), rtol=1e-9, atol=1e-9)


def test_three_groups_with_a_baseline_are_unbiased_too():
    given = known_draws(2, 2, (1.0, 0.4))
    found = mean_gradient(*all_terms(*given), learn.leave_one_out, 3)
    np.testing.assert_allclose(found, exact_gradient(*given), rtol=1e-9, atol=1e-9)


def test_a_richer_family_has_the_same_estimator():
    ladder, steps, _, _, batch = known_draws(3, 2, (1.0, 0.4))
    family = gates.piecewise_linear((1.0, 0.4), (0.0, 0.4, 1.0))
    given = (ladder, steps, family, normals(3, 3, 1), batch)
    found = mean_gradient(*all_terms(*given), learn.leave_one_out, 2)
    np.testing.assert_allclose(found, exact_gradient(*given), rtol=1e-9, atol=1e-9)


def test_leaving_out_what_has_weight_0_would_give_another_gradient(monkeypatch):
    ladder, steps, family, _, batch = known_draws(2, 3, (1.0, 0.5, 0.5))
    given = (ladder, steps, family, family.init(), batch)  # Equal gates at all times.
    right = mean_gradient(*all_terms(*given), learn.no_baseline, 1)
    np.testing.assert_allclose(right, exact_gradient(*given), rtol=1e-9, atol=1e-9)
    naive = lambda openings, logits: plans.drop_idle(plans.weigh(openings, logits))  # noqa: E731
    monkeypatch.setattr(learner, "weigh", naive)
    anew = partial(learn.score_function_terms)  # Another function, so traced with the other plan.
    wrong = mean_gradient(*all_terms(*given, estimate=anew), learn.no_baseline, 1)
    assert np.abs(wrong - right).max() > 0.01


@pytest.mark.parametrize("logit", [-30.0, 30.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("estimate", [learn.score_function_terms, learn.leading_order_terms])
def test_terms_are_finite_where_gates_are_nearly_closed_or_certain(logit, dtype, estimate):
    ladder, steps, family, theta, batch = known_draws(2, 3, (1.0, 0.5, 0.5))
    theta = theta._replace(slope=np.zeros(2), offset=np.full(2, logit))
    params, theta, batch = jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf, dtype)) if leaf.dtype == jnp.float64 else leaf,
        (ladder.params, theta, batch),
    )
    ladder = dataclasses.replace(ladder, params=params)
    logits = jax.jit(family.logits)(theta, steps.t)
    directions = learn.gaussian_directions(KEY, theta, 1)
    run, scores = jax.jit(estimate, static_argnums=3), jax.jit(learn.score)
    # Every draw, however unlikely; in single precision those alone whose weights it can square.
    every = itertools.product((True, False), repeat=4)
    for bits in every if dtype == jnp.float64 else [(logit > 0,) * 4]:
        openings = np.column_stack([(True, True), np.reshape(bits, (2, 2))])
        terms = run(ladder, batch, steps, family, theta, openings, directions)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(terms))
        score = np.asarray(scores(openings, logits))
        assert (np.abs(score) <= 1).all()
        np.testing.assert_array_equal(score[:, 0], 0)
    likely = np.column_stack([(True, True), np.full((2, 2), logit > 0)])
    assert np.abs(scores(likely, logits)).max() < 1e-12  # Nothing to learn from it.


def test_a_certain_gate_has_no_score():
    logits = gates.to_logits([[1.0, 0.3]] * 4)
    openings = jnp.asarray([[True, False], [True, True]] * 2)
    score = learn.score(openings, logits)
    np.testing.assert_allclose(score[:, 0], 0)
    np.testing.assert_allclose(score[:, 1], [-0.3, 0.7] * 2)


def test_a_forward_gradient_along_a_basis_is_the_gradient():
    function = lambda own: jnp.sum(jnp.sin(own["a"]) * own["b"] ** 2)  # noqa: E731
    params = {"a": normals(0, 3), "b": normals(1, 3)}
    directions = jax.tree.map(lambda leaf: leaf[:, 0], second_moments(params, 1))
    value, found = learn.forward_gradient(function, params, directions)
    assert value == function(params)
    expected = jax.grad(function)(params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), found, expected)


def test_directions_are_standard_normal_and_their_own():
    params = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)}
    drawn = learn.gaussian_directions(KEY, params, 20_000)
    flat = np.concatenate([drawn["a"].reshape(-1, 6), drawn["b"]], axis=1)
    error = 5 / np.sqrt(20_000)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=error)
    np.testing.assert_allclose(np.cov(flat.T), np.eye(8), atol=error * 2**0.5)


def test_the_baseline_of_a_group_is_the_mean_of_the_others():
    np.testing.assert_allclose(learn.leave_one_out(jnp.asarray([1.0, 2.0, 6.0])), [4, 3.5, 1.5])


@cache
def of_time_alone(sizes):
    """Drifts that do not depend on the state: the end is linear in the gates."""
    drifts = tuple(lambda params, x, t, size=size: 0 * x + size * (t + 1) for size in sizes)
    return Ladder(drifts, ((),) * len(sizes), (1.0, 4.0, 16.0)[: len(sizes)])


@pytest.mark.parametrize("start", [(1.0, 0.5, 0.5), (0.9, 0.6, 0.2)])
def test_the_leading_order_is_all_where_the_end_is_linear_in_the_gates(start):
    _, steps, family, theta, batch = known_draws(2, 3, start)
    ladder = of_time_alone((0.4, 0.9, 1.0))
    # The reference has to be the mean: the top level along the same path.
    batch = make_reference(ladder, batch.problem, steps)
    given = (ladder, steps, family, theta, batch)
    terms = all_terms(*given, estimate=learn.leading_order_terms)
    found = mean_gradient(*terms, learn.leave_one_out, 2)
    np.testing.assert_allclose(found, exact_gradient(*given), rtol=1e-9, atol=1e-12)


def test_the_leading_order_is_reached_as_the_levels_approach_each_other():
    def relative_error(gap):
        _, steps, family, theta, batch = known_draws(2, 3, (1.0, 0.5, 0.3))
        ladder = wavy_ladder(sizes=[1 - gap * away for away in (1.0, 0.5, 0.0)])
        batch = make_reference(ladder, batch.problem, steps)
        given = (ladder, steps, family, theta, batch)
        terms = all_terms(*given, estimate=learn.leading_order_terms)
        found, exact = mean_gradient(*terms, learn.no_baseline, 1), exact_gradient(*given)
        return np.abs(found - exact).max() / np.abs(exact).max()

    near, far = relative_error(0.01), relative_error(0.04)
    assert near < 0.05
    assert 2 < far / near < 8  # Of first order in the gap.


def test_the_leading_order_plan_is_the_plan_and_certain_gates_do_not_move():
    logits = gates.to_logits([[1.0, 0.5, 0.2]] * 2)
    for _, openings in every_draw(logits):
        expected = plans.weigh(openings, logits)
        leading, moved = jax.jvp(
            lambda own, openings=openings: learn.weigh_to_leading_order(openings, own).weights,
            (logits,),
            (jnp.ones((2, 3)),),
        )
        np.testing.assert_array_equal(leading, expected.weights)
        ratios = np.asarray(openings[:, 1:]) / np.array([0.5, 0.2])
        np.testing.assert_allclose(moved[:, 1], -(ratios[:, 0] - ratios[:, 1]) / 2)
        np.testing.assert_allclose(moved[:, 0], ratios[:, 0] / 2)


def test_as_many_orthogonal_directions_as_parameters_give_the_gradient():
    function = lambda own: jnp.sum(jnp.sin(own["a"]) * own["b"] ** 2)  # noqa: E731
    params = {"a": normals(0, 3), "b": normals(1, 3)}
    directions = learn.orthogonal_directions(KEY, params, 6)
    _, found = learn.forward_gradient(function, params, directions)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), found, jax.grad(function)(params))
    drawn = jax.vmap(lambda key: learn.orthogonal_directions(key, params, 2))(
        jax.random.split(KEY, 5000)
    )
    flat = np.concatenate([drawn["a"], drawn["b"]], axis=2).reshape(-1, 6)
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(6), atol=5 * 2 / np.sqrt(5000))
    with pytest.raises(ValueError, match="at most one tangent for each of 6 parameters, got 7"):
        learn.orthogonal_directions(KEY, params, 7)
