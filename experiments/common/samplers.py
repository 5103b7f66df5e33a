"""The two samplers of the paper, as tables and the paths that suit them."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from experiments.ladders.shipped import PROCESS
from mlem_jax import steps
from mlem_jax.noise import BrownianPath, brownian_path, snr_clock
from mlem_jax.steps import Grid, Steps
from mlem_jax.types import Key


class Sampler(NamedTuple):
    """How pictures are drawn.

    Attributes:
        table: from a grid to the steps.
        noisy: whether a Brownian path drives them.
    """

    table: Callable[[Grid], Steps]
    noisy: bool


SAMPLERS = {
    "ddpm": Sampler(lambda grid: steps.ddpm(PROCESS, grid), noisy=True),
    "ddim": Sampler(lambda grid: steps.ddim(PROCESS, grid), noisy=False),
}


def two_step(name: str) -> Callable[[Grid], Steps]:
    """The two-step solver of a sampler."""
    churn = 1.0 if SAMPLERS[name].noisy else 0.0
    return lambda grid: steps.dpm_solver_2m(PROCESS, grid, churn=churn)


def path_of(
    sampler: Sampler, key: Key, fine: Grid, grid: Grid, samples: jax.Array
) -> BrownianPath | None:
    """The path of `key` over the steps of `grid`, whose points are points of `fine`."""
    if not sampler.noisy:
        return None
    return brownian_path(key, snr_clock(PROCESS, fine), snr_clock(PROCESS, grid), samples=samples)
