"""Bad inputs to what makes tables: processes, grids, steps, paths, gates, draws, plans, prices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import (
    brownian_path,
    draw_plan,
    draw_starts,
    draws,
    fit_budget,
    frontier,
    gates,
    grids,
    plans,
    price,
    process,
    steps,
)
from mlem_jax.noise import store_path
from tests.bad_inputs import (
    CHANCES,
    COSINE,
    COSTS,
    GATES,
    GRID,
    HELD,
    INF,
    KEY,
    LOGITS,
    NAN,
    NO_COUNTS,
    NO_KEYS,
    NO_NUMBERS,
    NOT_POSITIVE,
    OPENINGS,
    PATH,
    PLAN,
    STEPS,
    X,
    each,
    refused,
    row,
)  # fmt: skip

TURNING = ([0.0, 1.0, 0.5], [0.0, 0.0, 1.0], [0.0, NAN, 1.0], [0.0, 1.0, INF], [1.0], [], 3.0,
           [[0.0, 1.0]], "grid", None, ["a", "b"])  # fmt: skip

PROCESSES = [
    *each("cosine offset", lambda v: process.cosine(offset=v), (-1.0, NAN, INF, *NO_NUMBERS),
          "expected .*offset"),
    *each("linear beta_max", lambda v: process.linear(beta_max=v),
          (0.0, -1.0, NAN, INF, *NO_NUMBERS), "expected .*beta_max"),
    *each("linear beta_min", lambda v: process.linear(beta_min=v), (-1.0, 30.0, NAN, "two", None),
          "expected .*beta_m"),
    *each("variance_exploding", lambda v: process.variance_exploding(maximum=v), NOT_POSITIVE,
          "expected .*maximum"),
    row("discrete of nothing", lambda: process.discrete(), "expected one of betas"),
    row("discrete of both", lambda: process.discrete(betas=[0.1], alphas_cumprod=[0.9]),
        "expected one of betas.*both"),
    *each("betas", lambda v: process.discrete(betas=v),
          ([], 0.1, [[0.1]], [0.0], [0.5, 1.5], [-0.1], [NAN, 0.1], [1.0, 0.5], ["a"], "betas"),
          "expected betas"),
    *each("alphas_cumprod", lambda v: process.discrete(alphas_cumprod=v),
          ([], 0.5, [0.5, 0.9], [1.0], [0.5, 0.5], [NAN], [0.5, -0.1], [None], "table"),
          "expected alphas_cumprod"),
    row("convert of another shape", lambda: process.convert(
        COSINE, process.predict_noise, process.predict_data, X, X[:2], jnp.asarray(0.5)),
        "expected a prediction"),
]  # fmt: skip

GRIDS = [
    *each("steps of a uniform grid", lambda v: grids.uniform_grid(1.0, 0.0, v), NO_COUNTS,
          "expected a whole number of steps"),
    *each("start of a uniform grid", lambda v: grids.uniform_grid(v, 0.0, 4),
          (0.0, NAN, INF, *NO_NUMBERS), "expected"),
    row("steps first", lambda: grids.uniform_grid(6, 1.0, 0.0), "expected a whole number"),
    *each("steps of a log-SNR grid", lambda v: grids.log_snr_grid(COSINE, 0.9, 0.1, v), NO_COUNTS,
          "expected a whole number of steps"),
    *each("start of a log-SNR grid", lambda v: grids.log_snr_grid(COSINE, v, 0.1, 4),
          (0.0, 1.0, -0.5, 1.5, NAN, "two", None), "expected"),
    *each("rho", lambda v: grids.karras_grid(COSINE, 0.9, 0.1, 4, rho=v), NOT_POSITIVE,
          "expected rho"),
    row("a Karras grid from pure noise", lambda: grids.karras_grid(COSINE, 1.0, 0.1, 4),
        "expected .*alpha"),
    *each("no process", lambda v: grids.log_snr_grid(v, 0.9, 0.1, 4), (None, "cosine", STEPS),
          "expected a Process"),
    *each("index grid", grids.index_grid,
          ([], [1, 2], [2, 2], [1.5, 0], [-1], [5, -1], [[3, 1]], 3, "steps", None, [NAN, 0.0]),
          "expected training steps"),
    *each("subgrid of", lambda v: grids.subgrid(v, [1.0, 0.0]), TURNING, "expected a grid"),
    *each("subgrid at", lambda v: grids.subgrid(GRID, v),
          ([0.0, 1.0], [5.0, 4.0], np.linspace(1, 0, 9), [2.0, 0.0], *TURNING[:6]), "expected"),
]  # fmt: skip

STEP_TABLES = [
    *(one for make in (steps.ddpm, steps.ddim, steps.exponential_euler, steps.dpm_solver_2m,
                       steps.diffusion_euler_maruyama, steps.look_ahead)
      for one in [
        *each(f"{make.__name__} on", lambda v, make=make: make(COSINE, v),
              ([0.0, 1.0], [2.0, 0.5], [0.5, -0.5], *TURNING), "expected"),
        row(f"{make.__name__} with arguments swapped", lambda make=make: make(GRID, COSINE),
            "expected"),
        row(f"{make.__name__} without a process", lambda make=make: make(None, GRID),
            "expected a Process"),
    ]),
    *(one for make in (steps.ddim, steps.exponential_euler, steps.dpm_solver_2m,
                       steps.diffusion_euler_maruyama)
      for one in each(f"churn of {make.__name__}",
                      lambda v, make=make: make(COSINE, [0.9, 0.5, 0.1], churn=v),
                      (-0.1, 1.1, NAN, INF, "two", None), "expected churn")),
    *each("euler_maruyama on", steps.euler_maruyama, TURNING, "expected a grid"),
    *each("diffusion coefficient", lambda v: steps.euler_maruyama(GRID, v),
          (0.5, "one", lambda t: t * NAN, lambda t: jnp.zeros(2), lambda t: None, lambda: 1.0),
          "expected"),
    *each("make_steps t", lambda v: steps.make_steps(v, [1.0], [1.0], [0.0]),
          ([NAN], [1.0, 2.0], 1.0, "t", None, [], [[1.0]]), "expected"),
    *each("make_steps gain", lambda v: steps.make_steps([1.0, 0.5], [1.0, 1.0], v, [0.0, 0.0]),
          ([1.0], [1.0, INF], 1.0, "gain", None, [[1.0], [1.0]]), "expected"),
    *each("make_steps noise", lambda v: steps.make_steps([1.0], [1.0], [1.0], v),
          ([NAN], [], 0.0, "noise"), "expected"),
    *each("make_steps push", lambda v: steps.make_steps([1.0], [1.0], [1.0], [0.0], push=v),
          ([NAN], [0.0], 0.0, [[0.0], [0.0]]), "expected"),
    *each("make_steps clock", lambda v: steps.make_steps([1.0], [1.0], [1.0], [0.0], clock=v),
          ([0.0], [0.0, NAN], [0.0, 1.0, 2.0], 3.0), "expected"),
    *each("make_steps ramp", lambda v: steps.make_steps([1.0], [1.0], [1.0], [0.0], ramp=v),
          ([0.0], [[0.0, NAN]], [[1.0, 1.0], [1.0, 1.0]], 3.0, "all"), "expected"),
]  # fmt: skip

NOISES = [
    *each("key of a path", lambda v: brownian_path(v, STEPS, samples=jnp.arange(4)), NO_KEYS,
          "expected a key"),
    *each("samples of a path", lambda v: brownian_path(KEY, STEPS, samples=v),
          (6, 6.0, None, "six", np.float64(3), jnp.arange(3.0), np.array([-1]), np.array([2**33]),
           np.array([True]), np.array([]), [None]), "expected .*sampl|expected an integer"),
    *each("steps of a path", lambda v: brownian_path(KEY, v, samples=jnp.arange(4)),
          (GRID, None, 6, PLAN, "ddpm"), "expected Steps"),
    row("coarse steps not on the fine", lambda: brownian_path(
        KEY, STEPS, steps.ddpm(COSINE, [1.0, 0.55, 0.0]), samples=jnp.arange(4)),
        "expected steps that begin and end"),
    row("coarse steps that are no steps", lambda: brownian_path(
        KEY, STEPS, GRID, samples=jnp.arange(4)), "expected Steps"),
    row("fine and coarse swapped", lambda: brownian_path(
        KEY, steps.ddpm(COSINE, GRID[::2]), STEPS, samples=jnp.arange(4)), "expected steps that"),
    row("coarse steps of another process", lambda: brownian_path(
        KEY, STEPS, steps.ddpm(process.linear(), GRID[::2]), samples=jnp.arange(4)),
        "expected steps that"),
    row("key and steps swapped", lambda: brownian_path(STEPS, KEY, samples=jnp.arange(4)),
        "expected"),
    row("steps with rows left out", lambda: brownian_path(
        KEY, jax.tree.map(lambda column: column[::2], STEPS), samples=jnp.arange(4)),
        "expected steps one after"),
    row("steps traced", lambda: jax.jit(
        lambda s: brownian_path(KEY, s, samples=jnp.arange(4)))(STEPS), "expected steps made"),
    row("a path stored for other samples", lambda: store_path(PATH, X[:2]), "expected a state"),
    *each("key of starts", lambda v: draw_starts(v, jnp.arange(4), (3,)), NO_KEYS,
          "expected a key"),
    *each("samples of starts", lambda v: draw_starts(KEY, v, (3,)),
          (4, None, jnp.asarray(3), jnp.arange(2.0), np.array([-1]), "four", np.zeros((2, 2), int)),
          "expected"),
    *each("shape of starts", lambda v: draw_starts(KEY, jnp.arange(4), v),
          (3.0, (3.5,), (-1,), "shape", None), "expected a shape"),
]  # fmt: skip

CERTAIN = np.tile([1.0, 0.5, 0.25], (6, 1))  # What would be probabilities.
NO_CHANCES = ([[0.0]], [[1.5]], [[-0.1]], [[NAN]], [0.5], 0.5, [], "half", None, [["a"]])
NO_COSTS = ((4.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (NAN, 1.0), (1.0, INF), ((1.0, 2.0),), (), 1.0,
            None, "costs", ("a", "b"))  # fmt: skip
T = STEPS.t

GATE_TABLES = [
    *each("to_logits", gates.to_logits, NO_CHANCES, "expected .*probabilit"),
    *each("table", gates.table, NO_CHANCES, "expected .*probabilit"),
    *each("constant", gates.constant, ([0.0], [1.5], [NAN], [[0.5]], 0.5, [], "half", None),
          "expected .*probabilit"),
    *each("inverse_cost", gates.inverse_cost, NO_COSTS, "expected .*cost"),
    *each("theory", lambda v: gates.theory(v, gamma=2.0), NO_COSTS, "expected .*cost"),
    *each("gamma of theory", lambda v: gates.theory(COSTS, gamma=v), (*NOT_POSITIVE, [2.0]),
          "expected .*gamma"),
    *each("gamma of even", lambda v: gates.even(COSTS, gamma=v), NOT_POSITIVE, "expected .*gamma"),
    *each("certain", lambda v: gates.keep_open(GATES, certain=v).logits((), T),
          (-1, 4, 1.5, "two", None), "expected .*certain"),
    *each("gates to keep open", lambda v: gates.keep_open(v), (None, LOGITS, gates.log_linear),
          "expected Gates"),
    *(case for family in (GATES, gates.log_linear((0.9, 0.5)),
                          gates.piecewise_linear((0.9, 0.5), (0.0, 1.0)))
      for case in (*each("scale", partial(family.logits, family.init(), T), NOT_POSITIVE,
                         "expected a scale"),
                   *each("times of gates", partial(family.logits, family.init()),
                         (None, 0.5, "t"), "expected times"))),
    row("times of a table", lambda: gates.table(CHANCES).logits((), T[:2]), "expected 6 times"),
    *each("sensitivities", lambda v: gates.from_sensitivities(v, COSTS),
          (CHANCES[:, :2], CHANCES[0], [[NAN] * 3], [[-1.0] * 3], None, "v"),
          "expected sensitivities"),
    *each("costs of sensitivities", lambda v: gates.from_sensitivities(CHANCES, v), NO_COSTS,
          "expected"),
    *each("power", lambda v: gates.from_sensitivities(CHANCES, COSTS, power=v),
          (-1.0, NAN, INF, "half", None), "expected a power"),
    *each("start of log_linear", gates.log_linear,
          ((0.0,), (2.0,), (NAN,), (1.0, 1.0), (), 0.5, None, "half", ((0.5,),)), "expected"),
    *each("delta", lambda v: gates.log_linear((0.5,), delta=v), (0.0, -1.0, NAN, INF, "d", None),
          "expected delta"),
    row("log_linear before -delta", lambda: gates.log_linear((0.5,)).logits(
        gates.log_linear((0.5,)).init(), jnp.asarray([-1.0])), "expected times"),
    *each("theta of log_linear", lambda v: gates.log_linear((0.5,)).logits(v, T),
          (None, (), jnp.zeros(2)), "makes theta"),
    *each("knots", lambda v: gates.piecewise_linear((0.5,), v),
          ([0.0], [1.0, 0.0], [0.0, 0.0], [0.0, NAN], [0.0, INF], 0.5, None, "knots", [[0.0, 1.0]]),
          "expected .*knots"),
    *each("start of piecewise_linear", lambda v: gates.piecewise_linear(v, [0.0, 1.0]),
          (0.5, (0.0,), (2.0,), (1.0,), [[0.5]], [[0.5], [1.0]], None, "half"), "expected"),
]  # fmt: skip

NO_LOGITS = (LOGITS[0], CERTAIN, LOGITS.at[0, 0].set(NAN), None, "logits", 3.0, [[0.0]])
DRAWS = [
    *(one for draw in (draws.independent, draws.systematic, draws.midpoint)
      for one in each("openings", lambda v, draw=draw: draw.openings(KEY, v), NO_LOGITS,
                      "expected logits")),
    *(one for draw in (draws.independent, draws.systematic)
      for one in each("key of openings", lambda v, draw=draw: draw.openings(v, LOGITS), NO_KEYS,
                      "expected a key")),
    *each("draw_plan", lambda v: draw_plan(v, LOGITS, KEY), (None, "midpoint", GATES),
          "expected a Draw"),
    *each("logits of draw_plan", lambda v: draw_plan(draws.midpoint, v, None), NO_LOGITS,
          "expected logits"),
    row("logits and key swapped", lambda: draw_plan(draws.independent, KEY, LOGITS), "expected"),
    *each("count", lambda v: plans.draw_plans(draws.independent, LOGITS, KEY, v), NO_COUNTS,
          "expected .*whole number"),
    *each("openings to weigh", lambda v: plans.weigh(v, LOGITS),
          (OPENINGS[:2], OPENINGS.astype(float), None, "open"), "expected openings"),
    *each("logits to weigh", lambda v: plans.weigh(OPENINGS, v), (CERTAIN, None, LOGITS[:2]),
          "expected"),
]  # fmt: skip

PLANS = [
    *each("steps of full", lambda v: plans.full(v, 3, 3), NO_COUNTS, "expected .*whole number"),
    *each("levels of full", lambda v: plans.full(6, v, 1), NO_COUNTS, "expected"),
    *each("level of full", lambda v: plans.full(6, 3, v), (0, 4, -1, 1.5, NAN, "top", None),
          "expected a level"),
    *each("place of a switch", lambda v: plans.switch(6, 3, v, early=1, late=3),
          (-1, 7, 1.5, NAN, "half", None), "expected a switch"),
    *each("level of a switch", lambda v: plans.switch(6, 3, 2, early=v, late=3), (0, 4, 1.5, None),
          "expected a level"),
    *each("by_hand", plans.by_hand, ([1.0], [[NAN]], [[INF]], [], 1.0, None, "w", [[None]]),
          "expected finite weights"),
    *each("trapezoid openings", lambda v: plans.trapezoid(v, STEPS),
          (OPENINGS[:2], OPENINGS.astype(float), LOGITS, None, "open"), "expected openings"),
    *each("trapezoid steps", lambda v: plans.trapezoid(OPENINGS, v), (GRID, None, PLAN),
          "expected Steps"),
    row("trapezoid with arguments swapped", lambda: plans.trapezoid(STEPS, OPENINGS), "expected"),
    *each("remember", lambda v: plans.remember(OPENINGS, v),
          ((1,), (1, 1, -1), (1.5, 0, 0), 1, None, "one"), "expected a count"),
    *each("remember kept", lambda v: plans.remember(v, (1, 1, 1)), (OPENINGS[0], None, "n"),
          "expected kept"),
    *each("beside_next", plans.beside_next, (OPENINGS[0], None, "n"), "expected needed"),
    *each("price", lambda v: price(v, COSTS), (None, LOGITS, STEPS), "expected a Plan"),
    *each("costs of a price", lambda v: price(PLAN, v), ((1.0,), *NO_COSTS), "expected .*cost"),
    *each("expected_price", lambda v: plans.expected_price(draws.midpoint, v, COSTS),
          (LOGITS[:, :2], *NO_LOGITS), "expected"),
    *each("stack_plans", plans.stack_plans,
          ([], PLAN, None, [PLAN, None], [PLAN, plans.full(5, 3, 3)], [PLAN, HELD]), "expected"),
    *each("drop_idle", plans.drop_idle, (None, LOGITS), "expected a Plan"),
    *each("budget", lambda v: fit_budget(GATES, T, COSTS, v, draw=draws.independent),
          (1e9, NAN, INF, -1.0, "much", None, (1.0, 2.0)), "expected a budget"),
    *each("gates of a budget", lambda v: fit_budget(v, T, COSTS, 9.0, draw=draws.independent),
          (None, LOGITS, gates.inverse_cost), "expected Gates"),
    *each("costs of a budget", lambda v: fit_budget(GATES, T, v, 9.0, draw=draws.independent),
          ((1.0,), *NO_COSTS), "expected .*cost"),
    *each("draw of a budget", lambda v: fit_budget(GATES, T, COSTS, 9.0, draw=v),
          (None, "midpoint", GATES), "expected a Draw"),
    *each("times of a budget", lambda v: fit_budget(GATES, v, COSTS, 9.0, draw=draws.midpoint),
          (None, 0.5, STEPS, "t"), "expected"),
    row("a budget traced", lambda: jax.jit(
        lambda b: fit_budget(GATES, T, COSTS, b, draw=draws.midpoint))(9.0), "outside jax.jit"),
]  # fmt: skip

RUNS = [(1.0, 4.0), (2.0, 1.0)]
FRONTIERS = [
    *each("cost_range", lambda v: frontier.cost_range(v, [2.0]),
          ([], [(NAN, 1.0)], [(-1.0, 1.0)], [(1.0, 0.0)], None, "runs", [1.0]), "expected runs"),
    *each("wanted errors", lambda v: frontier.cost_range(RUNS, v),
          ("few", None, ["a"]), "expected errors"),
    *each("own runs", lambda v: frontier.ratio(v, RUNS), ([(0.0, 1.0)], [(-1.0, 1.0)], "runs"),
          "expected runs"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "match"),
    [*PROCESSES, *GRIDS, *STEP_TABLES, *NOISES, *GATE_TABLES, *DRAWS, *PLANS, *FRONTIERS],
)
def test_a_bad_input_is_refused_in_words(call, match):
    refused(call, match)
