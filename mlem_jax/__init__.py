"""The multilevel Euler-Maruyama method (arXiv:2603.24594) in JAX.

A ladder of models of one drift goes in, samples as of the largest come out, for a fraction of its
cost. Gates become a plan, a process becomes steps, and `solve` runs the one along the other:

    logits = inverse_cost_gates(levels.costs, 200, scale=scale)
    plan = draw_plan(midpoint, logits, None)
    x = solve(levels, params, x, ddpm(process, grid), plan, path)

Gates are learned with `mlem_jax.learn` (which needs optax), networks trained with
`mlem_jax.denoise` and built with `mlem_jax.unet` (which needs flax), and both are kept by
`mlem_jax.checkpoint` (which needs orbax); these are imported by name.
"""

from mlem_jax.draws import Draw, independent, midpoint, systematic
from mlem_jax.evaluate import Batch, Best, best_of, couple, judge
from mlem_jax.faults import solve_checked
from mlem_jax.gates import (
    Gates,
    constant_gates,
    inverse_cost_gates,
    log_linear_gates,
    piecewise_linear_gates,
    probabilities,
    shift_gates,
    table_gates,
    theory_gates,
)
from mlem_jax.levels import (
    Conditional,
    Guided,
    Levels,
    conditional,
    count_flops,
    data_drift,
    guided_levels,
    linen_drift,
    measure_costs,
    nnx_drift,
)
from mlem_jax.noise import BrownianPath, brownian_path, draw_starts, snr_clock, store_path
from mlem_jax.plan import (
    Plan,
    Price,
    draw_plan,
    drop_idle,
    expected_price,
    fit_budget,
    full_plan,
    hand_plan,
    load_plan,
    price,
    save_plan,
    switch_plan,
    weigh,
)
from mlem_jax.process import (
    Process,
    convert,
    cosine,
    linear,
    log_snr,
    perturb,
    predict_data,
    predict_noise,
    predict_score,
    predict_v,
    predict_velocity,
    rectified_flow,
    variance_exploding,
)
from mlem_jax.solve import (
    StepInputs,
    Trajectory,
    mlem_step,
    solve,
    solve_chunks,
    solve_path,
)
from mlem_jax.steps import (
    Steps,
    ddim,
    ddpm,
    diffusion_euler_maruyama,
    euler_maruyama,
    exponential_euler,
    karras_grid,
    log_snr_grid,
    subgrid,
    uniform_grid,
)
from mlem_jax.types import Drift

__all__ = [
    "Batch",
    "Best",
    "BrownianPath",
    "Conditional",
    "Draw",
    "Drift",
    "Gates",
    "Guided",
    "Levels",
    "Plan",
    "Price",
    "Process",
    "StepInputs",
    "Steps",
    "Trajectory",
    "best_of",
    "brownian_path",
    "conditional",
    "constant_gates",
    "convert",
    "cosine",
    "count_flops",
    "couple",
    "data_drift",
    "ddim",
    "ddpm",
    "diffusion_euler_maruyama",
    "draw_plan",
    "draw_starts",
    "drop_idle",
    "euler_maruyama",
    "expected_price",
    "exponential_euler",
    "fit_budget",
    "full_plan",
    "guided_levels",
    "hand_plan",
    "independent",
    "inverse_cost_gates",
    "judge",
    "karras_grid",
    "linear",
    "linen_drift",
    "load_plan",
    "log_linear_gates",
    "log_snr",
    "log_snr_grid",
    "measure_costs",
    "midpoint",
    "mlem_step",
    "nnx_drift",
    "perturb",
    "piecewise_linear_gates",
    "predict_data",
    "predict_noise",
    "predict_score",
    "predict_v",
    "predict_velocity",
    "price",
    "probabilities",
    "rectified_flow",
    "save_plan",
    "shift_gates",
    "snr_clock",
    "solve",
    "solve_checked",
    "solve_chunks",
    "solve_path",
    "store_path",
    "subgrid",
    "switch_plan",
    "systematic",
    "table_gates",
    "theory_gates",
    "uniform_grid",
    "variance_exploding",
    "weigh",
]
