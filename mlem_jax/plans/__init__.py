"""Plans: which levels run at each step, with what weight, and what is remembered of them."""

from mlem_jax.plans.files import load_plan, save_plan
from mlem_jax.plans.memory import beside_next, open_first, remember, trapezoid
from mlem_jax.plans.plan import (
    Memory,
    Plan,
    by_hand,
    check_plan,
    drop_idle,
    full,
    make_plan,
    no_memory,
    switch,
)
from mlem_jax.plans.price import Price, expected_price, fit_budget, price
from mlem_jax.plans.weigh import (
    draw_plan,
    draw_plans,
    open_ratios,
    stack_plans,
    weigh,
    weigh_ratios,
)

__all__ = [
    "Memory",
    "Plan",
    "Price",
    "beside_next",
    "by_hand",
    "check_plan",
    "draw_plan",
    "draw_plans",
    "drop_idle",
    "expected_price",
    "fit_budget",
    "full",
    "load_plan",
    "make_plan",
    "no_memory",
    "open_first",
    "open_ratios",
    "price",
    "remember",
    "save_plan",
    "stack_plans",
    "switch",
    "trapezoid",
    "weigh",
    "weigh_ratios",
]
