"""Grids: points in time, and the schedules of a process at them.

All of it is numpy in double precision, before any loop: differences of nearby alphas lose half
their digits in single precision.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mlem_jax.checks import as_table, check_kind, is_count, is_number
from mlem_jax.process import Process, log_snr
from mlem_jax.types import Times

Grid = np.ndarray
"""Points in time, float64 [steps + 1], strictly rising or strictly falling."""

ROUNDING = 1e-6
"""By how much of its span a range may be overstepped: single precision rounds that far."""


def uniform_grid(start: float, end: float, steps: int) -> Grid:
    """t[n] = start + n (end - start) / steps."""
    return check_grid(_even(start, end, steps))


def log_snr_grid(
    process: Process, start: float, end: float, steps: int, *, growth: float = 1.0
) -> Grid:
    """Log SNR(t[n]) uniform from `start` to `end`, or in steps that grow by a constant factor.

    Args:
        process: of the log-SNR.
        start: the first time.
        end: the last.
        steps: how many.
        growth: so many times as long as the first step is the last, in the log-SNR.

    Raises:
        ValueError: if the log-SNR is infinite at either end (stop short of it), or if an end is
            no time of the process, or if the growth is not positive.
    """
    if not (is_number(growth) and 0 < growth < np.inf):
        raise ValueError(f"expected a growth > 0, 1 for even steps, got {growth!r}")
    ends = in_double(lambda t: log_snr(process, t), check_times(process, [start, end]))
    if not np.isfinite(ends).all():
        raise ValueError(
            f"expected start and end with a finite log-SNR, got {ends.tolist()} at {start} and "
            f"{end}; stop short of the pure data and the pure noise"
        )
    places = _even(0.0, 1.0, steps)
    if growth != 1 and steps > 1:
        each = growth ** (np.arange(steps) / (steps - 1))
        places = np.append(0, np.cumsum(each)) / each.sum()
    inner = time_of_log_snr(process, (ends[0] + (ends[1] - ends[0]) * places)[1:-1])
    return check_grid(np.concatenate([[start], inner, [end]]))


def karras_grid(
    process: Process, start: float, end: float, steps: int, *, rho: float = 7.0
) -> Grid:
    """(sigma/alpha)(t[n])^(1/rho) uniform from `start` to `end`.

    Raises:
        ValueError: if sigma/alpha is infinite at either end, if an end is no time of the process,
            or if rho is not positive.

    References:
        Karras et al. 2022, arXiv:2206.00364, equation 5.
    """
    if not (is_number(rho) and 0 < rho < np.inf):
        raise ValueError(f"expected rho > 0, and finite, got {rho}; 7 is usual")
    alpha, sigma = schedules(process, [start, end])
    if not alpha.all():
        raise ValueError(f"expected start and end with alpha > 0, got alpha {alpha.tolist()}")
    low, high = (sigma / alpha) ** (1 / rho)
    ratios = _even(low, high, steps)[1:-1] ** rho
    return check_grid(
        np.concatenate([[start], time_of_log_snr(process, -2 * np.log(ratios)), [end]])
    )


def index_grid(indices: ArrayLike) -> Grid:
    """t[n] = indices[n] + 1, and 0, the data, at the end: for a `process.discrete`.

    Args:
        indices: falling training steps, as the `timesteps` of other projects' schedulers, each
            evaluated once.

    Raises:
        ValueError: if they are no whole numbers from 0 that strictly fall.
    """
    indices = as_table(indices, "training steps")
    whole = indices.ndim == 1 and len(indices) > 0 and (indices == np.round(indices)).all()
    if not whole or indices[-1] < 0 or not (np.diff(indices) < 0).all():
        raise ValueError(
            "expected training steps, whole numbers from 0 that strictly fall, got "
            f"{indices.tolist()}; the data comes after the last of them by itself"
        )
    return check_grid(np.append(indices + 1.0, 0.0))


def subgrid(fine: ArrayLike, times: ArrayLike) -> Grid:
    """The points of `fine` nearest to `times`, no point twice: a coarse grid on a fine one.

    Raises:
        ValueError: if `times` has more points than `fine`, reaches beyond it, or runs the other
            way.
    """
    fine, times = check_grid(fine), check_grid(times)
    count = len(times)
    if count > len(fine):
        raise ValueError(f"expected at most {len(fine)} points, as in the fine grid, got {count}")
    if (fine[-1] > fine[0]) != (times[-1] > times[0]):
        raise ValueError(
            f"expected times in the direction of the fine grid, {fine[0]} to {fine[-1]}, got "
            f"{times[0]} to {times[-1]}; reverse one of them"
        )
    times = _within(times, fine.min(), fine.max(), "the fine grid's range")
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
        ValueError: if it is not one-dimensional, has fewer than two points, turns, or is infinite.
    """
    times = as_table(times, "a grid")
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"expected a grid of at least 2 points, got shape {times.shape}")
    rises = np.diff(times)
    if not ((rises > 0).all() or (rises < 0).all()):
        turn = int(np.flatnonzero(~(rises * np.sign(times[-1] - times[0]) > 0))[0])
        raise ValueError(
            "expected a grid that strictly rises or strictly falls, got "
            f"{times[turn]} then {times[turn + 1]} at point {turn}; sort it and drop repetitions"
        )
    if not np.isfinite(times[[0, -1]]).all():
        raise ValueError(f"expected a grid of finite times, got {times[0]} to {times[-1]}")
    return times


def check_times(process: Process, times: ArrayLike) -> np.ndarray:
    """`times` in double precision, inside the process: what rounding put outside is put back.

    Raises:
        ValueError: if one is below 0 or beyond the end of the process.
    """
    check_kind(process, Process, "make one with the functions of mlem_jax.process")
    if not 0 < process.end < np.inf:
        raise ValueError(f"expected a process with a positive, finite end, got {process.end}")
    times = as_table(times, "a grid")
    return _within(times, 0.0, process.end, "the times of the process")


def schedules(process: Process, times: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma at `times`, in double precision.

    Raises:
        ValueError: if a time is below 0 or beyond the end of the process.
    """
    times = check_times(process, times)
    return in_double(process.alpha, times), in_double(process.sigma, times)


def in_double(schedule: Callable[[Times], Times], t: np.ndarray) -> np.ndarray:
    """A function of time at `t`, in double precision, whatever JAX's own is set to."""
    if not callable(schedule):
        raise TypeError(f"expected a function of time, got {schedule!r}; a constant is one too, "
                        "lambda t: 0.5")  # fmt: skip
    # Now, even while a caller is being traced: tables are constants of the program. And without
    # jit: a numpy array that a function closes over, such as the points of `jnp.interp`, is rounded
    # for good where JAX first compiles it in single precision, and then no longer fits.
    with jax.ensure_compile_time_eval(), jax.enable_x64(True), jax.disable_jit():
        try:
            found = as_table(schedule(jnp.asarray(t, jnp.float64)), "values of a function of time")
        except Exception as error:
            raise TypeError(f"expected a function of time, of arrays of it too, got {schedule!r}, "
                            f"of which {type(error).__name__}: {error}") from error  # fmt: skip
    if found.shape not in ((), np.shape(t)):
        raise ValueError(f"expected one value for each time, {list(np.shape(t))}, or a constant, "
                         f"of a function of time, got {list(found.shape)}")  # fmt: skip
    return found


def _even(start: float, end: float, steps: int) -> np.ndarray:
    """`steps` + 1 numbers, evenly from `start` to `end`."""
    if not is_count(steps):
        raise ValueError(f"expected a whole number of steps, at least 1, got {steps!r}")
    if not (is_number(start) and is_number(end)):
        raise TypeError(f"expected start and end as numbers, got {start!r} and {end!r}")
    if not np.isfinite([start, end]).all():
        raise ValueError(f"expected a grid of finite times, got {start} to {end}")
    return np.linspace(start, end, steps + 1)


def _within(times: np.ndarray, low: float, high: float, what: str) -> np.ndarray:
    margin = ROUNDING * (high - low)
    outside = ~((times >= low - margin) & (times <= high + margin))  # NaN is outside too.
    if outside.any():
        raise ValueError(
            f"expected times within {what}, {low} to {high}, got {times[outside].flat[0]}; make "
            "the grid between these two"
        )
    return np.clip(times, low, high)


def time_of_log_snr(process: Process, values: np.ndarray) -> np.ndarray:
    """The times at which a log-SNR that falls in t has these values, each by 12 cuts into 32."""
    low, high = np.zeros_like(values), np.full_like(values, process.end)
    each = np.arange(len(values))
    for _ in range(12):
        times = np.linspace(low, high, 33, axis=1)
        inner = in_double(lambda t: log_snr(process, t), times[:, 1:-1].ravel())
        early = (inner.reshape(len(values), 31) > values[:, None]).sum(1)
        low, high = times[each, early], times[each, early + 1]
    return (low + high) / 2
