"""Time grids: points in time, computed in double precision before any loop.

References:
    Karras et al. 2022, arXiv:2206.00364, section 3, on where the points should lie.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mlem_jax.process import Process, log_snr
from mlem_jax.types import Times

Grid = np.ndarray
"""Points in time, float64 [steps + 1], strictly rising or strictly falling."""


def uniform_grid(start: float, end: float, steps: int) -> Grid:
    """t[n] = start + n (end - start) / steps."""
    return check_grid(np.linspace(start, end, steps + 1))


def log_snr_grid(process: Process, start: float, end: float, steps: int) -> Grid:
    """Log SNR(t[n]) uniform from `start` to `end`.

    Raises:
        ValueError: if the log-SNR is infinite at either end; stop short of it.
    """
    ends = in_double(lambda t: log_snr(process, t), np.array([start, end]))
    if not np.isfinite(ends).all():
        raise ValueError(
            f"expected start and end with a finite log-SNR, got {ends.tolist()} at {start} and "
            f"{end}; stop short of the pure data and the pure noise"
        )
    inner = _time_of_log_snr(process, np.linspace(ends[0], ends[1], steps + 1)[1:-1])
    return check_grid(np.concatenate([[start], inner, [end]]))


def karras_grid(
    process: Process, start: float, end: float, steps: int, *, rho: float = 7.0
) -> Grid:
    """(sigma/alpha)(t[n])^(1/rho) uniform from `start` to `end`.

    Raises:
        ValueError: if sigma/alpha is infinite at either end.

    References:
        Karras et al. 2022, arXiv:2206.00364, equation 5.
    """
    alpha, sigma = schedules(process, np.array([start, end]))
    if not alpha.all():
        raise ValueError(f"expected start and end with alpha > 0, got alpha {alpha.tolist()}")
    low, high = (sigma / alpha) ** (1 / rho)
    ratios = np.linspace(low, high, steps + 1)[1:-1] ** rho
    return check_grid(
        np.concatenate([[start], _time_of_log_snr(process, -2 * np.log(ratios)), [end]])
    )


def subgrid(fine: ArrayLike, times: ArrayLike) -> Grid:
    """The points of `fine` nearest to `times`, no point twice: a coarse grid on a fine one.

    Raises:
        ValueError: if `times` has more points than `fine`.
    """
    fine, times = check_grid(fine), check_grid(times)
    count = len(times)
    if count > len(fine):
        raise ValueError(f"expected at most {len(fine)} points, as in the fine grid, got {count}")
    nearest = nearest_points(fine, times)
    room = np.arange(count)
    # Forwards every index at least one past its neighbour, then the same from the end.
    nearest = np.maximum.accumulate(nearest - room) + room
    last = len(fine) - 1
    nearest = np.minimum(nearest, last - room[::-1])
    return fine[nearest]


def nearest_points(fine: Grid, times: Grid) -> np.ndarray:
    """Index of the point of `fine` nearest to each of `times`."""
    sign = np.sign(fine[-1] - fine[0])
    right = np.clip(np.searchsorted(sign * fine, sign * times), 1, len(fine) - 1)
    is_left = np.abs(times - fine[right - 1]) <= np.abs(fine[right] - times)
    return right - is_left


def check_grid(times: ArrayLike) -> Grid:
    """`times` as a grid.

    Raises:
        ValueError: if it is not one-dimensional, has fewer than two points, or turns.
    """
    times = np.asarray(times, np.float64)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"expected a grid of at least 2 points, got shape {times.shape}")
    rises = np.diff(times)
    if not ((rises > 0).all() or (rises < 0).all()):
        turn = int(np.flatnonzero(~(rises * np.sign(times[-1] - times[0]) > 0))[0])
        raise ValueError(
            "expected a grid that strictly rises or strictly falls, got "
            f"{times[turn]} then {times[turn + 1]} at point {turn}; sort it and drop repetitions"
        )
    return times


def schedules(process: Process, times: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma at `times`, in double precision."""
    times = np.asarray(times, np.float64)
    return in_double(process.alpha, times), in_double(process.sigma, times)


def in_double(schedule: Callable[[Times], Times], t: np.ndarray) -> np.ndarray:
    # Now, even while a caller is being traced: tables are constants of the program.
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return np.asarray(schedule(jnp.asarray(t, jnp.float64)), np.float64)


def _time_of_log_snr(process: Process, values: np.ndarray) -> np.ndarray:
    """The times at which a log-SNR that falls in t has these values, by bisection."""
    low, high = np.zeros_like(values), np.full_like(values, process.end)
    for _ in range(60):
        middle = (low + high) / 2
        early = in_double(lambda t: log_snr(process, t), middle) > values
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    return (low + high) / 2
