"""Integrators: Euler-Maruyama for any drift, and what is made for a diffusion process.

For `euler_maruyama` F is a drift; for all the others, which know a `Process`, F is the prediction
of the data x_0, which stays finite at both ends of time where score, drift and eps do not.

The generative process with churn c, from 0 (ODE) to 1 (SDE), with f = alpha'/alpha and
g^2 = (sigma^2)' - 2 f sigma^2, run backwards in time:

    dx = [f x - (1 + c^2)/2 g^2 s] dt + c g dW ,    s = (alpha x_0 - x) / sigma^2

References:
    Song et al. 2021, arXiv:2011.13456; arXiv:2603.24594, appendix A.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from mlem_jax.checks import is_number
from mlem_jax.grids import check_grid, check_times, in_double, schedules
from mlem_jax.process import Process, slope
from mlem_jax.steps.table import Steps, make_steps
from mlem_jax.types import Times


def euler_maruyama(times: ArrayLike, noise: Callable[[Times], Times] | None = None) -> Steps:
    """x' = x + dt F + noise(t) sqrt|dt| xi, for any drift F.

    Args:
        times: any grid, in either direction of time; dt is negative where time falls.
        noise: the diffusion coefficient as a function of time; None for an ODE.

    Raises:
        ValueError: if the times turn, or the coefficient is not finite.
        TypeError: if the coefficient is no function of time.
    """
    times = check_grid(times)
    t, dt = times[:-1], np.diff(times)
    deviation = np.zeros_like(t) if noise is None else in_double(noise, t)
    if not np.isfinite(deviation).all():
        raise ValueError("expected a diffusion coefficient that is finite wherever a step starts, "
                         f"got {deviation}")  # fmt: skip
    return make_steps(t, np.ones_like(t), dt, deviation * np.sqrt(np.abs(dt)), clock=times)


def diffusion_euler_maruyama(process: Process, times: ArrayLike, *, churn: float = 1.0) -> Steps:
    """x' = x + dt [f x - (1 + c^2)/2 g^2 s] + c g sqrt|dt| xi, with x_0 for F.

    Euler-Maruyama of the generative process: churn 1 the diffusion SDE, 0 the probability-flow
    ODE. It needs alpha > 0 and sigma > 0 wherever a step starts.

    Raises:
        ValueError: if a step starts at pure noise or pure data, if churn is not in [0, 1], or if
            time does not fall.
    """
    _check_churn(churn)
    times = check_grid(check_times(process, times))
    if times[0] < times[-1]:
        raise ValueError("expected a grid from the noise to the data, got the other direction")
    t, dt = times[:-1], np.diff(times)
    alpha, sigma = schedules(process, t)
    if not (alpha.all() and sigma.all()):
        raise ValueError(
            f"expected alpha > 0 and sigma > 0 wherever a step starts, got alpha {alpha.min()} and "
            f"sigma {sigma.min()} at the least; stop short of the ends, or use ddpm, made for them"
        )
    rate = in_double(lambda t: slope(process.alpha, t), t) / alpha
    squared = 2 * sigma * in_double(lambda t: slope(process.sigma, t), t) - 2 * rate * sigma**2
    pull = (1 + churn**2) / 2 * squared / sigma**2
    deviation = churn * np.sqrt(squared * np.abs(dt))
    return make_steps(t, 1 + dt * (rate + pull), -dt * pull * alpha, deviation, clock=times)


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
    gain = alpha[1:] - alpha[:-1] * scale
    return make_steps(times[:-1], scale, gain, deviation, clock=snr_clock(process, times))


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
    scale, gain, deviation = _exponential(alpha, sigma, churn)
    return make_steps(times[:-1], scale, gain, deviation, clock=snr_clock(process, times))


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
    _check_churn(churn)
    times = check_grid(times)
    alpha, sigma = schedules(process, times)
    with np.errstate(divide="ignore"):
        rise = -np.log(_ratio(alpha, sigma))
    share = np.zeros_like(rise)
    inner = np.isfinite(rise[1:])
    share[1:][inner] = rise[1:][inner] / rise[:-1][inner] / 2
    scale, gain, deviation = _exponential(alpha, sigma, churn)
    return make_steps(
        times[:-1], scale, gain * (1 + share), deviation,
        push=-(gain * share)[:, None], clock=snr_clock(process, times),
    )  # fmt: skip


def _check_churn(churn: float) -> None:
    if not (is_number(churn) and 0 <= churn <= 1):
        raise ValueError(f"expected churn from 0 (ODE) to 1 (SDE), got {churn}")


def _ratio(alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """(alpha_t / sigma_t) / (alpha_s / sigma_s) of every step from t to s, towards the data."""
    if (np.diff(alpha / np.maximum(sigma, 1e-300)) < 0).any() or not sigma[:-1].all():
        raise ValueError("expected a grid from the noise to the data, got the other direction")
    return alpha[:-1] * sigma[1:] / (sigma[:-1] * alpha[1:])


def _exponential(
    alpha: np.ndarray, sigma: np.ndarray, churn: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """scale, gain and noise of `exponential_euler`."""
    shrink = _ratio(alpha, sigma)  # e^-h, 0 where the step starts at noise or ends at data.
    scale = sigma[1:] / sigma[:-1] * shrink ** (churn**2)
    gain = alpha[1:] * (1 - shrink ** (1 + churn**2))
    return scale, gain, sigma[1:] * np.sqrt(1 - shrink ** (2 * churn**2))


def snr_clock(process: Process, times: ArrayLike) -> np.ndarray:
    """alpha^2 / sigma^2: the clock in which the noise of `ddpm` is a plain Brownian motion.

    With x_0 held fixed, y = alpha x / sigma^2 obeys dy = x_0 dSNR + dW(SNR); so in this clock a
    coarse ancestral step is driven by exactly what the fine ones it covers are driven by. It is
    cut off at 1e12, at the data, where the noise has no effect any more.
    """
    alpha, sigma = schedules(process, times)
    return np.minimum((alpha / np.maximum(sigma, 1e-150)) ** 2, 1e12)
