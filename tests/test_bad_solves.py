"""Bad inputs to what runs: ladders, levels, problems, solvers, costs, judging."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import (
    Ladder,
    Problem,
    brownian_path,
    draws,
    evaluate,
    levels,
    measure_costs,
    pick_levels,
    plans,
    solve,
    solve_checked,
    solve_chunks,
    solve_groups,
    solve_path,
    solver,
    steps,
)
from mlem_jax.costs import count_flops
from tests.bad_inputs import (
    COSINE,
    GRID,
    HELD,
    KEY,
    LADDER,
    LOGITS,
    NAN,
    NO_COUNTS,
    NO_KEYS,
    ODE,
    OTHER,
    PATH,
    PLAN,
    PROBLEM,
    STACKED,
    STEPS,
    X,
    each,
    refused,
    row,
)  # fmt: skip
from tests.problems import ornstein_uhlenbeck as ou

NOISELESS = Problem(X)
SHORT = steps.ddpm(COSINE, GRID[1:])
CALLS = {
    "solve": solve,
    "path": solve_path,
    "chunks": partial(solve_chunks, chunk=2),
    "checked": solve_checked,
    "segments": partial(solve, executor=solver.segments),
    "groups": lambda ladder, problem, steps, plan: solve_groups(
        ladder, problem, steps, plans.stack_plans([plan, plan])
        if isinstance(plan, plans.Plan) and plan.weights.ndim == 2 else plan),
}  # fmt: skip


def one_level(function, params=()):
    """A ladder of one level, which is spoiled, and its plan."""
    return Ladder((function,), (params,), (1.0,)), NOISELESS, ODE, plans.full(6, 1, 1)


class Unhashable:
    __hash__ = None

    def __call__(self, params, x, t):
        return x


LADDERS = [
    (None, "expected a Ladder"),
    (LADDER.drifts, "expected a Ladder"),
    ("ladder", "expected a Ladder"),
    (Ladder((), ()), "expected one pytree"),
    (Ladder((ou,) * 3, LADDER.params[:2]), "expected one pytree"),
    (Ladder([ou] * 3, LADDER.params), "expected ladder.drifts"),
    (Ladder((ou,) * 3, list(LADDER.params)), "expected ladder.params"),
    (Ladder((ou,) * 3, jnp.ones(3)), "expected ladder.params"),
    (Ladder(ou, LADDER.params), "expected ladder.drifts"),
    (Ladder((ou, None, ou), LADDER.params), "expected level 2 to be a callable"),
    (Ladder((ou, ou, 1.0), LADDER.params), "expected level 3 to be a callable"),
    (Ladder((ou, Unhashable(), ou), LADDER.params), "expected level 2 to be hashable"),
    (Ladder(LADDER.params, (ou,) * 3), "expected level 1 to be a callable"),
    (Ladder((ou,) * 2, LADDER.params[:2]), "expected a plan of 6 steps and 2 levels"),
]
PROBLEMS = [
    (None, "expected a Problem"),
    (X, "expected a Problem"),
    ((X, PATH), "expected a Problem"),
    (Problem(PATH, X), "expected"),
    (Problem(None, PATH), "expected a state of arrays"),
    (Problem("x", PATH), "expected a state of arrays"),
    (Problem(1.0, PATH), "expected a state of arrays"),
    (Problem([[1.0]], PATH), "expected a state of arrays"),
    (Problem({}, PATH), "expected a state of arrays"),
    (Problem({"a": X, "b": X.astype(jnp.float32)}, PATH), "expected a state of float"),
    (Problem(X.astype(jnp.float16), PATH), "expected a state of float"),
    (Problem(X.astype(jnp.bfloat16), PATH), "expected a state of float"),
    (Problem(X.astype(int), PATH), "expected a state of float"),
    (Problem(X.astype(complex), PATH), "expected a state of float"),
    (Problem(X > 0, PATH), "expected a state of float"),
    (NOISELESS, "expected noise"),
    (Problem(X[:2], PATH), "expected"),
    (Problem(X[0], PATH), "expected"),
    (Problem(X[:0], PATH), "expected"),
    (Problem(X, brownian_path(KEY, SHORT, samples=jnp.arange(4))), "expected a path of 6 steps"),
    (Problem(X, brownian_path(KEY, STEPS, samples=jnp.arange(2))), "expected"),
    (Problem(X, X), "expected stored noise"),
    (Problem(X, jnp.zeros((5, 4, 3))), "expected stored noise"),
    (Problem(X, jnp.zeros((6, 4))), "expected stored noise"),
    (Problem(X, jnp.zeros((6, 4, 3), int)), "expected .*noise"),
    (Problem(X, jnp.zeros((6, 4, 3), bool)), "expected .*noise"),
    (Problem(X, np.zeros((6, 4, 3)).tolist()), "expected stored noise"),
    (Problem(X, KEY), "expected .*noise"),
    (Problem(X, 0.5), "expected .*noise"),
    (Problem(X, "noise"), "expected .*noise"),
    (Problem(X, {"a": jnp.zeros((6, 4, 3))}), "expected stored noise"),
    (Problem(X, PATH, jnp.zeros(3)), "expected as many samples"),
    (Problem(X, PATH, jnp.zeros(1)), "expected as many samples"),
    (Problem(X, PATH, jnp.asarray(1.0)), "expected a batch axis in condition"),
    (Problem(X, PATH, (jnp.zeros(4), jnp.zeros(3))), "expected as many samples"),
    (Problem(X, PATH, "class"), "expected"),
]
STEP_KINDS = [
    (None, "expected Steps"),
    (GRID, "expected Steps"),
    (STEPS.t, "expected Steps"),
    (PLAN, "expected Steps"),
    (tuple(STEPS), "expected Steps"),
    (SHORT, "expected a plan of 5 steps|expected a plan"),
    (STEPS._replace(scale=STEPS.scale[:3]), "expected steps"),
    (STEPS._replace(push=STEPS.push[:3]), "expected steps"),
    (STEPS._replace(gain=None), "expected"),
    (STEPS._replace(noise=jnp.zeros((6, 7))), "expected noise per step"),
]
PLAN_KINDS = [
    (None, "expected a Plan"),
    (LOGITS, "expected a Plan"),
    (STEPS, "expected a Plan"),
    ("full", "expected a Plan"),
    (plans.full(5, 3, 3), "expected a plan of 6 steps"),
    (plans.full(6, 2, 2), "expected a plan of 6 steps and 3 levels"),
    (plans.hold(plans.open_first(LOGITS > 0), OTHER), "expected the steps that this plan was made"),
    (PLAN._replace(needed=PLAN.needed[:, :2]), "expected plan.needed"),
    (PLAN._replace(needed=PLAN.weights), "expected plan.needed"),
    (PLAN._replace(weights=PLAN.weights.astype(int)), "expected plan.weights"),
    (PLAN._replace(weights=PLAN.weights[0]), "expected weights"),
    (PLAN._replace(made_for=jnp.zeros((5, 3))), "expected plan.made_for"),
    (PLAN._replace(made_for=jnp.zeros((6, 2))), "expected"),
    (PLAN._replace(memory=PLAN.memory._replace(read=jnp.zeros((5, 1)))), "expected plan.memory"),
    (HELD._replace(memory=HELD.memory._replace(store=HELD.memory.store[:, :2])), "expected plan"),
    (HELD._replace(memory=HELD.memory._replace(store=HELD.memory.store + 9)), "expected plan.mem"),
    (PLAN._replace(memory=None), "expected"),
    (PLAN._replace(weights=None), "expected"),
]
SPOILED = [
    *(row(f"{name}: ladder {number}", partial(call, bad, PROBLEM, STEPS, PLAN), match)
      for name, call in CALLS.items() for number, (bad, match) in enumerate(LADDERS)
      if name in ("solve", "groups")),
    *(row(f"{name}: problem {number}", partial(call, LADDER, bad, STEPS, PLAN), match)
      for name, call in CALLS.items() for number, (bad, match) in enumerate(PROBLEMS)
      if name in ("solve", "chunks", "checked")),
    *(row(f"{name}: steps {number}", partial(call, LADDER, PROBLEM, bad, PLAN), match)
      for name, call in CALLS.items() for number, (bad, match) in enumerate(STEP_KINDS)
      if name in ("solve", "path", "segments")),
    *(row(f"{name}: plan {number}", partial(call, LADDER, PROBLEM, STEPS, bad), match)
      for name, call in CALLS.items() for number, (bad, match) in enumerate(PLAN_KINDS)
      if name in ("solve", "chunks")),
    *(row(f"{name}: swapped {number}", partial(call, *given), "expected")
      for name, call in CALLS.items()
      for number, given in enumerate([
        (PROBLEM, LADDER, STEPS, PLAN), (LADDER, PROBLEM, PLAN, STEPS),
        (LADDER, STEPS, PROBLEM, PLAN), (PLAN, LADDER, PROBLEM, STEPS)])),
]  # fmt: skip

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
    row("segments of a traced plan", lambda: jax.jit(lambda plan: solve(
        LADDER, NOISELESS, ODE, plan, executor=solver.segments))(PLAN), "expected a plan that is"),
    *each("executor", lambda v: solve(LADDER, NOISELESS, ODE, PLAN, executor=v),
          (None, "scan", 3), "expected an executor"),
    *each("every", lambda v: solver.reporting(print, every=v), NO_COUNTS[:-1],
          "expected .*every|expected a report"),
    row("report that is no function", lambda: solver.reporting(None), "expected .*report"),
    *each("keep", lambda v: solve_path(LADDER, NOISELESS, ODE, PLAN, keep=v),
          ([], [2, 1], [0, 0], [-1, 2], [0, 7], [0.5], 3, "all", [NAN], [[0, 1]]),
          "expected whole numbers of steps"),
    *each("chunk", lambda v: solve_chunks(LADDER, NOISELESS, ODE, PLAN, chunk=v), NO_COUNTS,
          "chunk"),
    row("stacked plans to solve", lambda: solve(LADDER, NOISELESS, ODE, STACKED), "solve_groups"),
    row("stacked plans to chunks", lambda: solve_chunks(LADDER, NOISELESS, ODE, STACKED, chunk=2),
        "solve_groups"),
    row("one plan to groups", lambda: solve_groups(LADDER, NOISELESS, ODE, PLAN),
        "expected plans stacked"),
    row("a list of plans to groups", lambda: solve_groups(LADDER, NOISELESS, ODE, [PLAN, PLAN]),
        "stack_plans"),
    row("groups that do not cut", lambda: solve_groups(
        LADDER, Problem(X[:3]), ODE, STACKED), "expected samples that can be cut into 2"),
    row("groups of which the second is of other steps", lambda: solve_groups(
        LADDER, PROBLEM, STEPS, jax.tree.map(
            lambda *tables: jnp.stack(tables), HELD,
            HELD._replace(made_for=2 * HELD.made_for))), "expected the steps that"),
    row("a vmapped plan of wrong levels", lambda: jax.vmap(lambda plan: solve(
        LADDER, NOISELESS, ODE, plan))(plans.stack_plans([plans.full(6, 2, 2)] * 2)),
        "expected a plan"),
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

BATCH = evaluate.Batch(NOISELESS, X)
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


@pytest.mark.parametrize(("call", "match"), [*SPOILED, *LEVELS, *COUNTED, *JUDGED, *ADAPTED])
def test_a_bad_input_is_refused_in_words(call, match):
    refused(call, match)


def test_noise_forgotten_under_jit_is_nan():
    end = jax.jit(lambda steps: solve(LADDER, NOISELESS, steps, PLAN))(STEPS)
    assert np.isnan(end).all()


def test_a_plan_made_for_other_steps_is_nan_under_jit():
    end = jax.jit(lambda steps: solve(LADDER, PROBLEM, steps, HELD))(OTHER)
    assert np.isnan(end).all()
