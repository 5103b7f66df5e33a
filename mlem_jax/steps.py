"""Time grids, and the tables of coefficients that make an integrator out of one linear step.

Every one-step method here is linear in the state, in one evaluation F and in one standard normal
vector xi, once the times are known:

    x[n+1] = scale[n] x[n] + gain[n] F(x[n], t[n]) + noise[n] xi[n]

so a method is a table, and the loop that runs it does not know which one it runs. A two-step method
adds previous[n] F(x[n-1], t[n-1]) and costs no more evaluations. For
`euler_maruyama` F is a drift; for all the others, which know a `Process`, F is the prediction of
the data x_0, which stays finite at both ends of time where score, drift and eps do not.

Grids and tables are computed with numpy in double precision before any loop, and only then
rounded: differences of nearby alphas lose half their digits in single precision.

The generative process with churn c, from 0 (ODE) to 1 (SDE), with f = alpha'/alpha and
g^2 = (sigma^2)' - 2 f sigma^2, run backwards in time:

    dx = [f x - (1 + c^2)/2 g^2 s] dt + c g dW ,    s = (alpha x_0 - x) / sigma^2

References:
    Song et al. 2021, arXiv:2011.13456; arXiv:2603.24594, appendix A.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mlem_jax.process import Process, log_snr, slope
from mlem_jax.types import PerStep, Times

Grid = np.ndarray
"""Points in time, float64 [steps + 1], strictly rising or strictly falling."""


class Steps(NamedTuple):
    """x' = scale x + gain F(x, t) + noise xi, one row a step.

    Attributes:
        t: the time at which F is evaluated.
        scale: of the state.
        gain: of F.
        noise: of the standard normal vector; 0 everywhere for an ODE.
        previous: of the F of the step before; None for one-step methods.
    """

    t: PerStep
    scale: PerStep
    gain: PerStep
    noise: PerStep
    previous: PerStep | None = None


def uniform_grid(start: float, end: float, steps: int) -> Grid:
    """t[n] = start + n (end - start) / steps."""
    return check_grid(np.linspace(start, end, steps + 1))


def log_snr_grid(process: Process, start: float, end: float, steps: int) -> Grid:
    """Log SNR(t[n]) uniform from `start` to `end`.

    Raises:
        ValueError: if the log-SNR is infinite at either end; stop short of it.
    """
    ends = _in_double(lambda t: log_snr(process, t), np.array([start, end]))
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


def euler_maruyama(times: ArrayLike, noise: Callable[[Times], Times] | None = None) -> Steps:
    """x' = x + dt F + noise(t) sqrt|dt| xi, for any drift F.

    Args:
        times: any grid, in either direction of time; dt is negative where time falls.
        noise: the diffusion coefficient as a function of time; None for an ODE.
    """
    times = check_grid(times)
    t, dt = times[:-1], np.diff(times)
    deviation = np.zeros_like(t) if noise is None else _in_double(noise, t)
    return _steps(t, np.ones_like(t), dt, deviation * np.sqrt(np.abs(dt)))


def diffusion_euler_maruyama(process: Process, times: ArrayLike, *, churn: float = 1.0) -> Steps:
    """x' = x + dt [f x - (1 + c^2)/2 g^2 s] + c g sqrt|dt| xi, with x_0 for F.

    Euler-Maruyama of the generative process: churn 1 the diffusion SDE, 0 the probability-flow
    ODE. It needs alpha > 0 and sigma > 0 wherever a step starts.

    Raises:
        ValueError: if a step starts at pure noise or pure data, if churn is not in [0, 1], or if
            time does not fall.
    """
    _check_churn(churn)
    times = check_grid(times)
    if times[0] < times[-1]:
        raise ValueError("expected a grid from the noise to the data, got the other direction")
    t, dt = times[:-1], np.diff(times)
    alpha, sigma = schedules(process, t)
    if not (alpha.all() and sigma.all()):
        raise ValueError(
            f"expected alpha > 0 and sigma > 0 wherever a step starts, got alpha {alpha.min()} and "
            f"sigma {sigma.min()} at the least; stop short of the ends, or use ddpm, made for them"
        )
    rate = _in_double(lambda t: slope(process.alpha, t), t) / alpha
    squared = 2 * sigma * _in_double(lambda t: slope(process.sigma, t), t) - 2 * rate * sigma**2
    pull = (1 + churn**2) / 2 * squared / sigma**2
    deviation = churn * np.sqrt(squared * np.abs(dt))
    return _steps(t, 1 + dt * (rate + pull), -dt * pull * alpha, deviation)


def ddpm(process: Process, times: ArrayLike) -> Steps:
    """x' ~ q(x_s | x_t, x_0), ancestral sampling, with x_0 for F: DDIM with churn 1.

    References:
        Ho et al. 2020, arXiv:2006.11239, equations 6 and 7 (the smaller variance).
    """
    return ddim(process, times, churn=1.0)


def ddim(process: Process, times: ArrayLike, *, churn: float = 0.0) -> Steps:
    """x' = alpha_s x_0 + sqrt(sigma_s^2 - c^2) eps + c xi, c = churn x the posterior deviation.

    The noise eps is the one that x and the predicted x_0 imply. Churn (eta in the paper) goes
    from 0, deterministic, to 1, ancestral sampling.

    Raises:
        ValueError: if churn is not in [0, 1].

    References:
        Song et al. 2021, arXiv:2010.02502, equations 12 and 16.
    """
    _check_churn(churn)
    times = check_grid(times)
    alpha, sigma = schedules(process, times)
    shrink = _ratio(alpha, sigma)
    deviation = churn * sigma[1:] * np.sqrt(1 - shrink**2)
    scale = np.sqrt(sigma[1:] ** 2 - deviation**2) / sigma[:-1]
    return _steps(times[:-1], scale, alpha[1:] - alpha[:-1] * scale, deviation)


def exponential_euler(process: Process, times: ArrayLike, *, churn: float = 1.0) -> Steps:
    """x' = sigma_s/sigma_t e^(-c^2 h) x + alpha_s (1 - e^(-(1+c^2) h)) x_0 + ... xi.

    The generative process solved exactly with x_0 held fixed over the step, h being the rise of
    log(alpha/sigma); the noise is sigma_s sqrt(1 - e^(-2 c^2 h)). First-order DPM-Solver++: churn
    0 its ODE form, the same table as `ddim`, churn 1 its SDE form, the same as `ddpm`; between
    them the two differ.

    Raises:
        ValueError: if churn is not in [0, 1].

    References:
        Lu et al. 2022, arXiv:2211.01095, equations 9 and 18.
    """
    _check_churn(churn)
    times = check_grid(times)
    alpha, sigma = schedules(process, times)
    shrink = _ratio(alpha, sigma)  # e^-h, 0 where the step starts at noise or ends at data.
    scale = sigma[1:] / sigma[:-1] * shrink ** (churn**2)
    gain = alpha[1:] * (1 - shrink ** (1 + churn**2))
    return _steps(times[:-1], scale, gain, sigma[1:] * np.sqrt(1 - shrink ** (2 * churn**2)))


def dpm_solver_2m(process: Process, times: ArrayLike, *, churn: float = 0.0) -> Steps:
    """x' as `exponential_euler`, with x_0 + (x_0 - previous x_0) h / (2 h_before) for x_0.

    The prediction is extrapolated to the middle of the step in the log-SNR, h being its rise:
    second order for the cost of the first. DPM-Solver++(2M) with churn 0, its SDE form with churn
    1. The first step has no step before it, and a last one that ends at the data is infinitely long
    in the log-SNR: both are of first order.

    Raises:
        ValueError: if churn is not in [0, 1].

    References:
        Lu et al. 2022, arXiv:2211.01095, algorithm 2 and equation 18.
    """
    first = exponential_euler(process, times, churn=churn)
    alpha, sigma = schedules(process, check_grid(times))
    with np.errstate(divide="ignore"):
        rise = -np.log(_ratio(alpha, sigma))
    share = np.zeros_like(rise)
    inner = np.isfinite(rise[1:])
    share[1:][inner] = rise[1:][inner] / rise[:-1][inner] / 2
    extrapolated = np.asarray(first.gain, np.float64) * share
    gain = np.asarray(first.gain, np.float64) + extrapolated
    return _steps(*first[:2], gain, first.noise, -extrapolated)


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


def _check_churn(churn: float) -> None:
    if not 0 <= churn <= 1:
        raise ValueError(f"expected churn from 0 (ODE) to 1 (SDE), got {churn}")


def _ratio(alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """(alpha_t / sigma_t) / (alpha_s / sigma_s) of every step from t to s, towards the data."""
    if (np.diff(alpha / np.maximum(sigma, 1e-300)) < 0).any() or not sigma[:-1].all():
        raise ValueError("expected a grid from the noise to the data, got the other direction")
    return alpha[:-1] * sigma[1:] / (sigma[:-1] * alpha[1:])


def schedules(process: Process, times: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """alpha and sigma at `times`, in double precision."""
    times = np.asarray(times, np.float64)
    return _in_double(process.alpha, times), _in_double(process.sigma, times)


def _in_double(schedule: Callable[[Times], Times], t: np.ndarray) -> np.ndarray:
    # Now, even while a caller is being traced: tables are constants of the program.
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return np.asarray(schedule(jnp.asarray(t, jnp.float64)), np.float64)


def _time_of_log_snr(process: Process, values: np.ndarray) -> np.ndarray:
    """The times at which a log-SNR that falls in t has these values, by bisection."""
    low, high = np.zeros_like(values), np.full_like(values, process.end)
    for _ in range(60):
        middle = (low + high) / 2
        early = _in_double(lambda t: log_snr(process, t), middle) > values
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    return (low + high) / 2


def _steps(*columns: ArrayLike) -> Steps:
    return Steps(*(jnp.asarray(column, jnp.result_type(float)) for column in columns))
