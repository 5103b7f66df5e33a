"""Bad inputs to the solvers: ladders, problems, steps, plans, swapped and with bad options."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import (
    Problem,
    brownian_path,
    plans,
    solve,
    solve_checked,
    solve_chunks,
    solve_groups,
    solve_path,
    solver,
    steps,
)
from tests.bad_inputs import (
    COSINE,
    GRID,
    HELD,
    KEY,
    LADDER,
    LADDERS,
    LOGITS,
    NAN,
    NO_COUNTS,
    NOISELESS,
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
    (
        plans.trapezoid(plans.open_first(LOGITS > 0), OTHER),
        "expected the steps that this plan was made",
    ),
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
OPTIONS = [
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
]  # fmt: skip


@pytest.mark.parametrize(("call", "match"), [*SPOILED, *OPTIONS])
def test_a_bad_input_is_refused_in_words(call, match):
    refused(call, match)


def test_noise_forgotten_under_jit_is_nan():
    end = jax.jit(lambda steps: solve(LADDER, NOISELESS, steps, PLAN))(STEPS)
    assert np.isnan(end).all()


def test_a_plan_made_for_other_steps_is_nan_under_jit():
    end = jax.jit(lambda steps: solve(LADDER, PROBLEM, steps, HELD))(OTHER)
    assert np.isnan(end).all()
