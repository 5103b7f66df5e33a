"""The two samplers of the paper: their grids, their tables, and the paths that drive them."""

from functools import cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ladders.shipped import PROCESS
from mlem_jax import Steps, brownian_path, grids, process, steps
from mlem_jax.grids import Grid
from mlem_jax.noise import BrownianPath
from mlem_jax.types import Key

Order = Literal[1, 2, "look-ahead"]
"""Of a step table: DDPM or DDIM, DPM-Solver++ 2M, or DDPM that looks ahead."""


class Sampler(NamedTuple):
    """How pictures are drawn.

    Attributes:
        churn: 1 for the SDE, 0 for the ODE.
    """

    churn: float

    @property
    def noisy(self) -> bool:
        """Whether a Brownian path drives it."""
        return self.churn > 0

    def table(self, times: Grid, order: Order = 1) -> Steps:
        """The steps along a grid: DDPM or DDIM, or at order 2 DPM-Solver++ 2M of the same churn."""
        if order == "look-ahead":
            if not self.noisy:
                raise ValueError("expected a sampler with noise for steps that look ahead at it, "
                                 "got the ODE's")  # fmt: skip
            return steps.look_ahead(PROCESS, times)
        make = {1: steps.ddim, 2: steps.dpm_solver_2m}[order]
        return make(PROCESS, times, churn=self.churn)


SAMPLERS = {"ddpm": Sampler(churn=1.0), "ddim": Sampler(churn=0.0)}


GROWTHS = {"log-SNR": 1.0, "stretched log-SNR": 2.0}
"""How the steps of a grid grow in the log-SNR, from the first to the last."""


def path_of(
    sampler: Sampler, key: Key, fine: Grid, times: Grid, samples: jax.Array, order: Order = 1
) -> BrownianPath | None:
    """The path of `key` over the steps of `times`, whose points are points of `fine`."""
    if not sampler.noisy:
        return None
    steps = sampler.table(times, order)
    if np.array_equal(fine, times):
        return brownian_path(key, steps, samples=samples)
    return brownian_path(key, sampler.table(fine), steps, samples=samples)


def fine_grid(count: int) -> Grid:
    """The finest grid, uniform in time."""
    return grids.uniform_grid(PROCESS.end, 0.0, count)


REFERENCE = "even, cut"
"""What `reference_grid` is called in results."""


@cache  # Seconds to make, and asked for by checks of settings and by every sampler.
def reference_grid(count: int) -> Grid:
    """`fine_grid`, each step cut evenly in the log-SNR into pieces of 20 / count at most.

    Even in time, the log-SNR changes fast at both ends, where a solution makes nearly all of its
    error (results/README).
    """
    return cut_grid(fine_grid(count), 20 / count)


def cut_grid(times: Grid, longest: float) -> Grid:
    """Each step but the first and the last, which have no log-SNR at one end, cut evenly in it.

    Args:
        times: from the noise to the data.
        longest: that a piece may be, in the log-SNR.
    """
    values = grids.in_double(lambda t: process.log_snr(PROCESS, t), times[1:-1])
    pieces = np.maximum(np.ceil(np.diff(values) / longest - 1e-9), 1).astype(int)
    cut = [grids.log_snr_grid(PROCESS, begin, end, int(count))[1:] if count > 1 else [end]
           for begin, end, count in zip(times[1:-2], times[2:-1], pieces, strict=True)]  # fmt: skip
    return np.concatenate([times[:2], *cut, times[-1:]])


def coarse_grids(fine: Grid, count: int) -> dict[str, Grid]:
    """Grids of `count` steps on points of the fine one, with its ends."""
    # The log-SNR is infinite at both ends: it is spread over the range of Karras et al. (sigma
    # from 80 to 0.002) as far as the fine grid has it, and the ends are one step more each.
    log_snr = np.array(process.log_snr(PROCESS, jnp.asarray(fine[1:-1])))
    within = (log_snr >= -2 * np.log(80.0)) & (log_snr <= -2 * np.log(0.002))
    first, last = fine[1:-1][within][[0, -1]]
    found = {"uniform": grids.uniform_grid(fine[0], fine[-1], count)}
    for name, growth in GROWTHS.items():
        inner = grids.log_snr_grid(PROCESS, first, last, count - 2, growth=growth)
        found[name] = np.concatenate([fine[:1], inner, fine[-1:]])
    return {name: grids.subgrid(fine, times) for name, times in found.items()}
