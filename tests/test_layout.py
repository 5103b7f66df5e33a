"""Claims about the project itself: imports, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "mlem_jax"
ORDER = ("types", "frontier", "process", "steps", "noise", "levels", "gates", "draws", "plan",
         "events", "stack", "shares", "hold", "problem", "solve", "faults", "groups", "gradients",
         "evaluate", "pilot", "intervals", "rungs", "trials", "diagnose", "report",
         "learn")  # fmt: skip
LEAVES = {"unet": set(), "denoise": {"types", "process"}, "checkpoint": {"types"}}


def imported(module: str) -> set[str]:
    """Modules of the package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlem_jax"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def test_imports_go_one_way():
    modules = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == {*ORDER, *LEAVES}
    for place, module in enumerate(ORDER):
        assert imported(module) <= set(ORDER[:place]), module
    for module, allowed in LEAVES.items():
        assert imported(module) <= allowed, module


def test_nothing_in_the_library_knows_the_experiments():
    for file in PACKAGE.glob("*.py"):
        assert "experiments" not in file.read_text().replace("the experiments", ""), file


def test_importing_needs_no_network_library():
    code = "import sys, mlem_jax; print(*{'flax', 'orbax', 'optax', 'matplotlib'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_annotated_shapes_hold_in_a_whole_run():
    code = """
from jaxtyping import install_import_hook
with install_import_hook("mlem_jax", "beartype.beartype"):
    import mlem_jax as m
import jax, jax.numpy as jnp
process, grid = m.cosine(), m.uniform_grid(1.0, 0.0, 8)
network = lambda params, x, t: params * x
drift = m.data_drift(network, process, m.predict_v, clip=1.0)
levels, params = m.Levels((drift, drift), (1.0, 4.0)), (jnp.float32(0.9), jnp.float32(1.0))
logits = m.fit_budget(lambda c: m.inverse_cost_gates(levels.costs, 8, scale=c), levels.costs, 12.0)
path = m.brownian_path(jax.random.key(0), m.snr_clock(process, grid), samples=jnp.arange(3))
for draw in (m.independent, m.systematic, m.midpoint, m.nested(m.independent)):
    plan = m.draw_plan(draw, logits, jax.random.key(1))
    m.price(plan, levels.costs), m.expected_price(logits, levels.costs)
    x = m.solve(levels, params, jnp.ones((3, 2)), m.ddpm(process, grid), plan, path)
    m.solve_path(levels, params, x, m.ddpm(process, grid), plan, path, stride=2)
    m.solve_chunks(levels, params, x, m.ddpm(process, grid), plan, path, chunk=2)
own = m.fit_stack(levels, params, process, jnp.ones((5, 2)), jax.random.key(2), chunk=2)
share = m.stack_shares(own, m.ddpm(process, grid).t)
m.fit_states(levels, params, own.times, jnp.ones((12, 3, 2)), jnp.ones((12, 3, 2)))
m.stack_price(logits, levels.costs, shares=share), m.stack_top(share)
plan = m.draw_stack_plan(m.midpoint, logits, share, None)
x = m.solve(levels, params, x, m.ddpm(process, grid), plan, path)
fires = m.midpoint(None, logits)
m.weigh_ratios(fires, m.cell_ratios(fires)), m.nested_price(logits, levels.costs)
rates, ends = jnp.array([[10.0, jnp.inf]]), m.uniform_grid(0.9, 0.1, 1)
events = m.poisson(jax.random.key(2), rates, ends)
m.event_plan(events), m.even_events(None, rates, ends)
m.event_plan(events, m.table_spans(lambda times: m.ddpm(process, times), events.times))
steps = m.dpm_solver_2m(process, grid)
x = m.solve(levels, params, x, steps, m.trapezoid_plan(m.open_first(fires), steps, share), path)
m.hold_plan(fires, steps)
effects = m.measure_effects(levels, params, x, m.ddpm(process, grid), jax.random.key(3), path,
                            stretches=4)
m.predict_error(effects, m.effect_gates(effects, levels.costs, scale=0.1))
found = m.diagnose(levels, params, x, m.ddpm(process, grid), jax.random.key(4), path, draws=2,
                   resamples=3)
m.report(found), m.keep_levels(levels, params, found.advice.kept)
print(x.shape)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == "(3, 2)", ran.stderr[-3000:]
