"""A few hundred calls with something wrong in them: each refused in words, or answered rightly."""

import dataclasses
import re
import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import mlem_jax as mlem
from mlem_jax import draws, evaluate, frontier, gates, grids, plans, process
from mlem_jax import steps as tables
from mlem_jax.noise import store_path
from tests import bad_inputs as good
from tests.problems import normals

pytestmark = pytest.mark.usefixtures("untyped")

FUZZ = settings(
    max_examples=250,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
JUNK = st.one_of(
    st.sampled_from(
        [None, True, False, "two", "", b"two", 1j, (), [], {}, {"a": 1.0}, object, len, set(),
         float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-320, 2**31, 2**63, -(2**63),
         10**30, np.float16(3), np.float64("nan"), np.datetime64("2020-01-01"), [1.0, "a"],
         [[1.0], [1.0, 2.0]], [None], np.array([None]), np.array(["a"]), np.zeros((0, 3)),
         np.ones((2, 2, 2)), np.ones((6, 3), complex), np.ones((6, 3), int), np.zeros((6, 3)),
         np.ma.masked_array([1.0, 2.0], [True, False]), jnp.ones((6, 3), jnp.bfloat16),
         jnp.zeros(()), jnp.arange(3), good.KEY, good.STEPS, good.PLAN, good.LADDER, good.PROBLEM,
         good.COSINE, good.GATES, draws.midpoint, good.LOGITS, good.PATH, range(3), slice(3)]
    ),
    st.integers(-3, 9),
    st.floats(-2, 2),
    st.lists(st.floats(-2, 2), max_size=4),
    st.lists(st.integers(-2, 8), max_size=4),
)  # fmt: skip

PATH_OF = {"key": good.KEY, "fine": good.STEPS, "samples": jnp.arange(4)}
CONSTRUCTORS = {
    process.cosine: {"offset": 0.008},
    process.linear: {"beta_min": 0.1, "beta_max": 20.0},
    process.variance_exploding: {"maximum": 80.0},
    process.discrete: {"betas": [0.1, 0.2]},
    grids.uniform_grid: {"start": 1.0, "end": 0.0, "steps": 6},
    grids.log_snr_grid: {"process": good.COSINE, "start": 0.9, "end": 0.1, "steps": 4},
    grids.karras_grid: {"process": good.COSINE, "start": 0.9, "end": 0.1, "steps": 4},
    grids.index_grid: {"indices": [5, 3, 1]},
    tables.ddpm: {"process": good.COSINE, "times": good.GRID},
    tables.ddim: {"process": good.COSINE, "times": good.GRID, "churn": 0.5},
    tables.exponential_euler: {"process": good.COSINE, "times": [0.9, 0.5], "churn": 1.0},
    tables.look_ahead: {"process": good.COSINE, "times": [0.9, 0.6, 0.3, 0.1]},
    tables.dpm_solver_2m: {"process": good.COSINE, "times": [0.9, 0.5, 0.1], "churn": 0.0},
    tables.diffusion_euler_maruyama: {"process": good.COSINE, "times": [0.9, 0.5], "churn": 1.0},
    tables.make_steps: {"t": [1.0, 0.5], "scale": [1.0, 1.0], "gain": [1.0, 2.0], "noise": [0, 1]},
    mlem.brownian_path: PATH_OF,
    mlem.draw_starts: {"key": good.KEY, "samples": jnp.arange(4), "shape": (3,)},
    store_path: {"path": good.PATH, "like": good.X},
    gates.to_logits: {"probabilities": good.CHANCES},
    gates.table: {"probabilities": good.CHANCES},
    gates.constant: {"probabilities": [0.9, 0.5]},
    gates.inverse_cost: {"costs": good.COSTS},
    gates.theory: {"costs": good.COSTS, "gamma": 2.0},
    gates.even: {"costs": good.COSTS, "gamma": 2.0},
    gates.log_linear: {"start": (0.9, 0.5), "delta": 0.1},
    gates.piecewise_linear: {"start": (0.9, 0.5), "knots": (0.0, 1.0)},
    gates.from_sensitivities: {"sensitivities": good.CHANCES, "costs": good.COSTS, "power": 0.5},
    gates.keep_open: {"gates": good.GATES, "certain": 1},
    mlem.draw_plan: {"draw": draws.independent, "logits": good.LOGITS, "key": good.KEY},
    plans.draw_plans: {"draw": draws.systematic, "logits": good.LOGITS, "key": good.KEY,
                       "count": 2},
    plans.weigh: {"openings": good.OPENINGS, "logits": good.LOGITS},
    plans.full: {"steps": 6, "levels": 3, "level": 2},
    plans.switch: {"steps": 6, "levels": 3, "at": 2, "early": 1, "late": 3},
    plans.by_hand: {"weights": good.CHANCES},
    plans.trapezoid: {"openings": good.OPENINGS, "steps": good.STEPS},
    plans.remember: {"kept": good.OPENINGS, "counts": (1, 0, 2)},
    plans.beside_next: {"needed": good.OPENINGS},
    plans.stack_plans: {"plans": [good.PLAN, good.PLAN]},
    plans.drop_idle: {"plan": good.PLAN},
    mlem.price: {"plan": good.PLAN, "costs": good.COSTS},
    plans.expected_price: {"draw": draws.midpoint, "logits": good.LOGITS, "costs": good.COSTS},
    mlem.fit_budget: {"gates": good.GATES, "t": good.STEPS.t, "costs": good.COSTS,
                      "budget": 60.0, "draw": draws.midpoint},
    mlem.pick_levels: {"ladder": good.LADDER, "levels": [1, 3]},
    frontier.cost_range: {"points": [(1.0, 4.0), (2.0, 1.0)], "wanted": [2.0]},
    frontier.ratio: {"own": [(1.0, 4.0)], "other": [(1.0, 4.0), (2.0, 1.0)]},
    evaluate.square_errors: {"end": good.X, "reference": good.X},
}  # fmt: skip


def like(found, right):
    """An answer of the kind that good inputs give, without a number that is none."""
    leaves = [leaf for leaf in jax.tree.leaves(found) if hasattr(leaf, "dtype")]
    reals = [np.asarray(leaf, float) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return type(found) is type(right) and not any(np.isnan(each).any() for each in reals)


def told(call, words):
    """What a call returns, or None where it is refused in words; nothing else may happen."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # Masked numbers become NaN, which is refused.
            warnings.filterwarnings("ignore", "Warning: converting a masked element")
            return call()
    except (ValueError, TypeError) as error:
        if not re.search(words, str(error)):
            raise
    return None


@cache
def right_of(make):
    return make(**CONSTRUCTORS[make])


@FUZZ
@given(st.sampled_from(list(CONSTRUCTORS)), st.data())
def test_a_constructor_refuses_in_words_or_answers(make, data):
    arguments = dict(CONSTRUCTORS[make])
    names = st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=2, unique=True)
    arguments |= {name: data.draw(JUNK, label=name) for name in data.draw(names)}
    found = told(lambda: make(**arguments), "expected")
    assert found is None or like(found, right_of(make)), (make, arguments, found)


def test_every_constructor_takes_what_is_good():
    for make in CONSTRUCTORS:
        assert like(right_of(make), right_of(make)), make


NOISE = normals(1, 6, 4, 3)
GIVEN = (good.LADDER, mlem.Problem(good.X, NOISE), good.STEPS, mlem.plans.by_hand(good.CHANCES))
FIELDS = [(0, "drifts"), (0, "params"), (1, "x"), (1, "noise"), (1, "condition"),
          *((2, name) for name in good.STEPS._fields),
          *((3, name) for name in good.PLAN._fields)]  # fmt: skip
SPOILED = st.sampled_from([
    lambda x: x[:-1], lambda x: x[::-1], lambda x: x.T, lambda x: x[None], lambda x: x * np.nan,
    lambda x: x * 2, lambda x: x.astype(jnp.float32), lambda x: x.astype(int), lambda x: x > 0.5,
    lambda x: x.astype(complex), np.asarray, lambda x: x.tolist(), lambda x: {"a": x},
    lambda x: (x, x), lambda x: x.ravel(), lambda x: x + np.inf,
])  # fmt: skip


def by_numpy(ladder, problem, steps, plan):
    """x' = scale x + gain F + push . (earlier F) + noise xi, F = sum_k w_k (-rate_k x)."""
    rows = [np.asarray(table, float) for table in (steps.scale, steps.gain, steps.noise)]
    x, rates = np.asarray(problem.x), np.array([float(rate) for rate in ladder.params])
    earlier = [0 * x] * steps.push.shape[1]
    for n, (scale, gain, noise) in enumerate(zip(*rows, strict=True)):
        weights = np.asarray(plan.weights[n]) * np.asarray(plan.needed[n])
        drift = sum(-w * rate * x for w, rate in zip(weights, rates, strict=True) if w != 0)
        pushed = [own * known for own, known in zip(steps.push[n], earlier, strict=True)]
        x, earlier = scale * x + gain * drift + sum(pushed), [drift, *earlier][: len(earlier)]
        if problem.noise is not None:
            x = x + noise * np.asarray(problem.noise[n])
    return x


def replaced(part, name, value):
    return dataclasses.replace(part, **{name: value}) if name in ("drifts", "params") else (
        part._replace(**{name: value}))  # fmt: skip


@settings(FUZZ, max_examples=150)
@given(st.sampled_from(FIELDS), st.booleans(), st.data())
def test_a_solve_refuses_in_words_or_answers_as_numpy_does(field, junk, data):
    number, name = field
    whole = getattr(GIVEN[number], name)
    if junk or not hasattr(whole, "dtype"):
        value = data.draw(JUNK)
    else:
        value = told(lambda: data.draw(SPOILED)(whole), "")
    parts = [replaced(part, name, value) if at == number else part for at, part in enumerate(GIVEN)]
    found = told(lambda: mlem.solve(*parts), r"expected|level \d")
    if found is None or (number, name) == (0, "drifts"):
        return
    with np.errstate(all="ignore"):
        expected = by_numpy(*parts)
    rounding = 1e-4 if found.dtype == np.float32 or "float32" in str(value) else 1e-9
    np.testing.assert_allclose(found, expected, rtol=rounding, atol=rounding)


def test_double_precision_starts_of_numpy_run_in_single_where_jax_does():
    with jax.enable_x64(False):
        steps = mlem.steps.euler_maruyama(np.linspace(0.0, 1.0, 13))
        start = np.random.default_rng(0).normal(size=(3, 2))
        ladder = mlem.Ladder((lambda params, x, t: -params * x,), (jnp.float32(1.0),), (1.0,))
        path = mlem.solve_path(ladder, mlem.Problem(start), steps, mlem.plans.full(12, 1, 1))
        assert path.states.dtype == jnp.float32
        fit = mlem.fitting.fit_plan(ladder, mlem.Problem(start), steps, np.ones((12, 1), bool),
                                    path.states, memory=(0,))  # fmt: skip
        np.testing.assert_allclose(fit.plan.weights, 1, rtol=1e-5)
