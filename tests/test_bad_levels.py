"""Bad levels, and bad inputs to what picks, measures, judges and adapts them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import (
    Ladder,
    Problem,
    draws,
    evaluate,
    levels,
    measure_costs,
    pick_levels,
    plans,
    solve,
    solve_checked,
)
from mlem_jax.costs import count_flops
from tests.bad_inputs import (
    BATCH,
    COSINE,
    KEY,
    LADDER,
    LADDERS,
    LOGITS,
    NAN,
    NO_COUNTS,
    NO_KEYS,
    NOISELESS,
    ODE,
    PLAN,
    STACKED,
    STEPS,
    X,
    each,
    refused,
    row,
)  # fmt: skip
from tests.problems import ornstein_uhlenbeck as ou


def one_level(function, params=()):
    """A ladder of one level, which is spoiled, and its plan."""
    return Ladder((function,), (params,), (1.0,)), NOISELESS, ODE, plans.full(6, 1, 1)


BAD_LEVELS = {
    "tuple": lambda params, x, t: (x, x),
    "None": lambda params, x, t: None,
    "float": lambda params, x, t: 1.0,
    "a list": lambda params, x, t: [x],
    "a mean": lambda params, x, t: x.mean(),
    "a sum over entries": lambda params, x, t: x.sum(-1),
    "single precision": lambda params, x, t: x.astype(jnp.float32),
    "whole numbers": lambda params, x, t: x.astype(int),
    "another axis": lambda params, x, t: x[None],
    "wants a time per sample": lambda params, x, t: x * t[:, None],
    "raises": lambda params, x, t: 1 / 0,
    "takes two": lambda params, x: x,
    "takes a condition": lambda params, x, t, condition: x,
    "takes keywords": lambda *, params, x, t: x,
    "asks for a value": lambda params, x, t: x if t > 0.5 else -x,
    "goes through numpy": lambda params, x, t: np.asarray(x),
    "misses parameters": lambda params, x, t: params["w"] * x,
    "params and x swapped": lambda x, params, t: x * params[0],
}
LEVELS = [
    *(row(f"a level that returns or {name}", lambda f=f: solve(*one_level(f)),
          "level 1") for name, f in BAD_LEVELS.items()),
    *(row(f"checked: {name}", lambda f=f: solve_checked(*one_level(f)), "level 1")
      for name, f in list(BAD_LEVELS.items())[:6]),
    row("checked: a level that is NaN", lambda: solve_checked(
        *one_level(lambda params, x, t: x * NAN)), "level 1 returned NaN"),
    row("checked: params NaN", lambda: solve_checked(
        *one_level(ou, jnp.asarray(NAN))), "parameter of level 1 is not finite"),
    row("checked: x NaN", lambda: solve_checked(
        LADDER, Problem(X * NAN), ODE, PLAN), "start is not finite"),
    row("checked: stored noise NaN", lambda: solve_checked(
        LADDER, Problem(X, jnp.full((6, 4, 3), NAN)), STEPS, PLAN), "noise .*not finite"),
    row("checked: weights NaN", lambda: solve_checked(
        LADDER, NOISELESS, ODE, PLAN._replace(weights=PLAN.weights * NAN)), "plan is not finite"),
    row("checked: gain NaN", lambda: solve_checked(
        LADDER, NOISELESS, ODE._replace(gain=ODE.gain * NAN), PLAN), "steps is not finite"),
    row("checked traced", lambda: jax.jit(
        lambda x: solve_checked(LADDER, Problem(x), ODE, PLAN))(X), "expected .*jax.jit"),
    *each("pick_levels", lambda v: pick_levels(LADDER, v),
          ([], [0, 1], [4], [2, 1], [1, 1], 2, None, "12", [1.5], [-1], [NAN]), "expected levels"),
    *each("pick_levels of", lambda v: pick_levels(v, [1]), (None, (ou,), "ladder"),
          "expected a Ladder"),
]  # fmt: skip

T = jnp.asarray(0.5)
COUNTED = [
    *(row(f"{measure.__name__} of {number}", partial(measure, bad, X, T), match)
      for measure in (measure_costs, count_flops)
      for number, (bad, match) in enumerate(LADDERS[:-1])),
    *each("evaluations", lambda v: measure_costs(LADDER, X, T, evaluations=v), NO_COUNTS[:-1],
          "expected .*evaluations"),
    *each("repeats", lambda v: measure_costs(LADDER, X, T, repeats=v), NO_COUNTS[:-1],
          "expected .*repeats"),
    *(row(f"{measure.__name__}, x {name}", partial(measure, LADDER, bad, T), "expected .*state")
      for measure in (measure_costs, count_flops)
      for name, bad in {"None": None, "int": jnp.zeros(3, int), "text": "x"}.items()),
    *(row(f"measured: a level that returns or {name}", lambda f=f: measure_costs(
        Ladder((f,), ((),)), X, T), "level 1") for name, f in list(BAD_LEVELS.items())[:6]),
    row("x and t swapped", lambda: measure_costs(LADDER, 0.5, X), "expected .*state"),
]  # fmt: skip

JUDGED = [
    *each("reference", lambda v: evaluate.judge(
        LADDER, evaluate.Batch(NOISELESS, v), ODE, STACKED),
        (X[:2], X.astype(jnp.float32), None, {"a": X}, 0.5), "expected references"),
    *each("batch", lambda v: evaluate.judge(LADDER, v, ODE, STACKED), (NOISELESS, X, None),
          "expected a Batch"),
    *each("plans to judge", lambda v: evaluate.judge(LADDER, BATCH, ODE, v),
          (PLAN, None, [PLAN], LOGITS), "expected"),
    *each("count of best_of", lambda v: evaluate.best_of(
        LADDER, BATCH, ODE, draws.independent, LOGITS, KEY, count=v), NO_COUNTS, "one draw"),
    *each("key of best_of", lambda v: evaluate.best_of(
        LADDER, BATCH, ODE, draws.independent, LOGITS, v, count=2), NO_KEYS, "expected a key"),
    *each("logits of best_of", lambda v: evaluate.best_of(
        LADDER, BATCH, ODE, draws.independent, v, KEY, count=2), (None, LOGITS[:2], LOGITS * NAN),
        "expected"),
    row("best_of without costs", lambda: evaluate.best_of(
        Ladder(LADDER.drifts, LADDER.params), BATCH, ODE, draws.independent, LOGITS, KEY, count=2),
        "measure_costs"),
    *each("reference of", lambda v: evaluate.make_reference(v, NOISELESS, ODE), (None, "ladder"),
          "expected a Ladder"),
]  # fmt: skip

GUIDED = levels.guided(lambda params, x, t, condition: x)
ADAPTED = [
    *each("a prediction", lambda v: levels.data(ou, COSINE, v), (None, "noise", ou(0, X, 1)),
          "expected .*prediction"),
    *each("a process", lambda v: levels.data(ou, v, levels.predict_data), (None, "cosine", STEPS),
          "expected a Process"),
    *each("clip", lambda v: levels.data(ou, COSINE, levels.predict_data, clip=v),
          (-1.0, 0.0, NAN, "one"), "expected .*clip"),
    *each("a network", lambda v: levels.data(v, COSINE, levels.predict_data), (None, X),
          "expected .*callable"),
    *each("guidance scale", lambda v: levels.guide(jnp.zeros(4, int), 9, v), (NAN, None, "two"),
          "expected .*scale"),
    *each("null", lambda v: levels.guide(jnp.zeros((4, 2)), v, 2.0),
          (jnp.zeros(3), None, "none"), "expected .*null"),
    row("a guided level without Guidance", lambda: solve(
        Ladder((GUIDED,), ((),)), Problem(X, None, jnp.zeros(4)), ODE, plans.full(6, 1, 1)),
        "level 1.*expected a Guidance"),
    row("a guided level without a condition", lambda: solve(
        Ladder((GUIDED,), ((),)), NOISELESS, ODE, plans.full(6, 1, 1)), "level 1"),
    *each("guided_ladder", levels.guided_ladder, (None, (ou,)), "expected a Ladder"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "match"), [*LEVELS, *COUNTED, *JUDGED, *ADAPTED])
def test_a_bad_input_is_refused_in_words(call, match):
    refused(call, match)
