"""What the tests of the solver share: three levels on twelve steps, a problem and a drawn plan."""

import jax
import jax.numpy as jnp
import numpy as np

from mlem_jax import draws, gates, plans
from mlem_jax.grids import uniform_grid
from mlem_jax.noise import brownian_path
from mlem_jax.problem import Problem
from mlem_jax.steps import euler_maruyama
from tests.problems import normals, wavy_ladder

KEY = jax.random.key(1)
GRID = uniform_grid(0.0, 1.0, 12)
STEPS = euler_maruyama(GRID, lambda t: 0.5 + t)
LADDER = wavy_ladder()
X = normals(0, 4, 3)
PATH = brownian_path(KEY, STEPS, samples=jnp.arange(4))
PROBLEM = Problem(X, PATH)
LOGITS = gates.to_logits(np.tile([1.0, 0.5, 0.25], (12, 1)))
DRAWN = plans.draw_plan(draws.independent, LOGITS, jax.random.key(2))
