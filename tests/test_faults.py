import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import plan
from mlem_jax.faults import solve_checked
from mlem_jax.levels import Levels
from mlem_jax.solve import solve
from tests.problems import wavy
from tests.test_solve import DRAWN, LEVELS, PARAMS, PATH, STEPS, X


def test_a_nan_is_found_and_placed():
    def sick(params, x, t):
        return jnp.where(t > 0.4, jnp.nan, params) * x

    levels = Levels((wavy, sick), (1.0, 2.0))
    full = plan.full_plan(12, 2, 2)
    with pytest.raises(FloatingPointError, match="level 2 returned NaN or infinity at step 5, t ="):
        solve_checked(levels, PARAMS[:2], X, STEPS, full, PATH)
    with pytest.raises(FloatingPointError, match=r"level 1 has a parameter .*\['kernel'\]"):
        solve_checked(levels, ({"kernel": jnp.array(np.nan)}, PARAMS[1]), X, STEPS, full, PATH)
    healthy = solve_checked(LEVELS, PARAMS, X, STEPS, DRAWN, PATH)
    np.testing.assert_allclose(healthy, solve(LEVELS, PARAMS, X, STEPS, DRAWN, PATH), atol=1e-14)
