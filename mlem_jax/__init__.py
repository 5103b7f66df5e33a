"""The multilevel Euler-Maruyama method (arXiv:2603.24594) in JAX.

A ladder of models of one drift goes in, samples near to the largest one's come out, while that one
runs at a few of the steps. Gates become a plan, a process becomes steps, and `solve` runs the one
along the other:

    steps = mlem.steps.ddpm(process, grid)
    problem = mlem.Problem(x, mlem.brownian_path(key, steps, samples=samples))
    gates = mlem.gates.keep_open(mlem.gates.inverse_cost(ladder.costs))
    logits = mlem.fit_budget(gates, steps.t, ladder.costs, budget, draw=mlem.draws.midpoint)
    x = mlem.solve(ladder, problem, steps, mlem.draw_plan(mlem.draws.midpoint, logits, None))

What a first script needs is here; families are in modules: `process`, `grids`, `steps`, `levels`,
`gates`, `draws`, `plans`, `solver`, `fitting`, `evaluate`, `frontier`, `diagnosis`. Three more are
loaded when they are first asked for, since they need other libraries: `learn` (optax), `nets`
(flax, optax) and `checkpoint` (orbax).
"""

import importlib
from types import ModuleType

from mlem_jax import (
    diagnosis,
    draws,
    evaluate,
    fitting,
    frontier,
    gates,
    grids,
    levels,
    plans,
    process,
    solver,
    steps,
)
from mlem_jax.costs import measure_costs
from mlem_jax.diagnosis import diagnose
from mlem_jax.ladder import Ladder, pick_levels
from mlem_jax.noise import brownian_path, draw_starts
from mlem_jax.plans import Memory, Plan, draw_plan, fit_budget, load_plan, price, save_plan
from mlem_jax.problem import Problem, shard_problem
from mlem_jax.solver import (
    mlem_step,
    solve,
    solve_checked,
    solve_chunks,
    solve_each,
    solve_groups,
    solve_path,
)
from mlem_jax.steps import Steps
from mlem_jax.types import Drift

__version__ = "0.2.0"

__all__ = [
    "Drift",
    "Ladder",
    "Memory",
    "Plan",
    "Problem",
    "Steps",
    "brownian_path",
    "diagnose",
    "diagnosis",
    "draw_plan",
    "draw_starts",
    "draws",
    "evaluate",
    "fit_budget",
    "fitting",
    "frontier",
    "gates",
    "grids",
    "levels",
    "load_plan",
    "measure_costs",
    "mlem_step",
    "pick_levels",
    "plans",
    "price",
    "process",
    "save_plan",
    "shard_problem",
    "solve",
    "solve_checked",
    "solve_chunks",
    "solve_each",
    "solve_groups",
    "solve_path",
    "solver",
    "steps",
]

_LOADED_ON_DEMAND = ("checkpoint", "learn", "nets")


def __getattr__(name: str) -> ModuleType:
    if name in _LOADED_ON_DEMAND:
        return importlib.import_module(f"mlem_jax.{name}")
    raise AttributeError(f"module 'mlem_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_LOADED_ON_DEMAND])
