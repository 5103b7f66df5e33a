"""What tests of bad inputs share: rows of (name, call, message), good parts and bad ladders."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mlem_jax as mlem
from tests.problems import normals, ou_ladder
from tests.problems import ornstein_uhlenbeck as ou

NAN, INF = float("nan"), float("inf")
REFUSALS = (ValueError, TypeError, FileNotFoundError, FileExistsError, FloatingPointError)
NO_NUMBERS = ("two", None, [1.0, 2.0], 1j)
NOT_POSITIVE = (0.0, -1.0, NAN, INF, "two", None)
NO_COUNTS = (0, -1, 1.5, NAN, "two", None, True)
NO_KEYS = (None, 0, "key", 1.5, jnp.zeros(3), jnp.zeros((5,), jnp.uint32))

KEY = jax.random.key(0)
COSINE = mlem.process.cosine()
GRID = mlem.grids.uniform_grid(1.0, 0.0, 6)
STEPS = mlem.steps.ddpm(COSINE, GRID)
ODE = mlem.steps.ddim(COSINE, GRID)
OTHER = mlem.steps.ddpm(COSINE, mlem.grids.uniform_grid(0.9, 0.0, 6))
MULTISTEP = mlem.steps.dpm_solver_2m(COSINE, GRID)
LADDER = ou_ladder()
COSTS = LADDER.costs
X = normals(0, 4, 3)
PATH = mlem.brownian_path(KEY, STEPS, samples=jnp.arange(4))
PROBLEM = mlem.Problem(X, PATH)
NOISELESS = mlem.Problem(X)
BATCH = mlem.evaluate.Batch(NOISELESS, X)
PLAN = mlem.plans.full(6, 3, 3)
CHANCES = np.tile([0.9, 0.5, 0.25], (6, 1))
LOGITS = mlem.gates.to_logits(CHANCES)
OPENINGS = mlem.draws.midpoint.openings(None, LOGITS)
HELD = mlem.plans.trapezoid(mlem.plans.open_first(OPENINGS), STEPS)
STACKED = mlem.plans.stack_plans([PLAN, PLAN])
GATES = mlem.gates.inverse_cost(COSTS)


class Unhashable:
    __hash__ = None

    def __call__(self, params, x, t):
        return x


LADDERS = [
    (None, "expected a Ladder"),
    (LADDER.drifts, "expected a Ladder"),
    ("ladder", "expected a Ladder"),
    (mlem.Ladder((), ()), "expected one pytree"),
    (mlem.Ladder((ou,) * 3, LADDER.params[:2]), "expected one pytree"),
    (mlem.Ladder([ou] * 3, LADDER.params), "expected ladder.drifts"),
    (mlem.Ladder((ou,) * 3, list(LADDER.params)), "expected ladder.params"),
    (mlem.Ladder((ou,) * 3, jnp.ones(3)), "expected ladder.params"),
    (mlem.Ladder(ou, LADDER.params), "expected ladder.drifts"),
    (mlem.Ladder((ou, None, ou), LADDER.params), "expected level 2 to be a callable"),
    (mlem.Ladder((ou, ou, 1.0), LADDER.params), "expected level 3 to be a callable"),
    (mlem.Ladder((ou, Unhashable(), ou), LADDER.params), "expected level 2 to be hashable"),
    (mlem.Ladder(LADDER.params, (ou,) * 3), "expected level 1 to be a callable"),
    (mlem.Ladder((ou,) * 2, LADDER.params[:2]), "expected a plan of 6 steps and 2 levels"),
]


def row(name, call, match):
    """One bad input, and what the error must say (a regular expression)."""
    name = re.sub(r" at 0x[0-9a-f]+", "", re.sub(r"\s+", " ", name))[:80]
    return pytest.param(call, match, id=name)


def each(name, call, values, match):
    """The same call with each of several bad values."""
    return [row(f"{name} {value!r}", partial(call, value), match) for value in values]


def refused(call, match):
    with pytest.raises(REFUSALS, match=match):
        call()


class Attack:
    """Unpickled, it fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)
