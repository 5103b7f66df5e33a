"""A script of a user, as short as one can be and do it all."""

import jax
import numpy as np

import mlem_jax as mlem


def drift(params: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
    return -params * x * t


ladder = mlem.Ladder((drift, drift), (0.9, 1.0), (1.0, 8.0))
steps = mlem.steps.euler_maruyama(mlem.grids.uniform_grid(0.0, 1.0, 50), lambda t: 0.1 + t)
samples = np.arange(8)
x = mlem.draw_starts(jax.random.key(0), samples, (3,))
problem = mlem.Problem(x, mlem.brownian_path(jax.random.key(1), steps, samples=samples))
draw = mlem.draws.midpoint
gates = mlem.gates.inverse_cost(ladder.costs)
logits = mlem.fit_budget(gates, steps.t, ladder.costs, 100.0, draw=draw)
plan = mlem.draw_plan(draw, logits, None)
print(mlem.solve(ladder, problem, steps, plan).shape)
