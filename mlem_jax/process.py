"""Gaussian processes x_t = alpha(t) x_0 + sigma(t) eps, and what a network may predict of them.

A process is its two schedules; all else is derived. Time runs from t = 0, the data, to
t = `end`, the noise, and sampling runs it backwards.

A prediction P is linear in data and noise,  factor P = of_data x_0 + of_noise eps,  and so is the
state,  x = alpha x_0 + sigma eps.  Two equations, two unknowns: from a state and one prediction
follows every other. The `factor` keeps the coefficients finite where P itself grows without bound
(the score at sigma = 0, the velocity of a process whose sigma starts like a square root).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import ArrayLike

from mlem_jax.checks import as_table, is_number
from mlem_jax.types import State, Times


class Process(NamedTuple):
    """A Gaussian process with marginals N(alpha(t) x_0, sigma(t)^2 I).

    Attributes:
        alpha: how much of the data is left at t; falls or stays.
        sigma: standard deviation of the noise at t; rises, 0 at t = 0.
        end: the time at which sampling starts.
    """

    alpha: Callable[[Times], Times]
    sigma: Callable[[Times], Times]
    end: float


def cosine(*, offset: float = 0.008) -> Process:
    """Alpha = cos(u) / cos(u_0), u = pi/2 (t + offset)/(1 + offset), u_0 = u(0), t in [0, 1].

    References:
        Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17.
    """
    _check_numbers("offset >= 0", lambda: offset >= 0, offset=offset)
    start = math.pi / 2 * offset / (1 + offset)

    def alpha(t: Times) -> Times:
        # cos(pi/2 - z) as sin(z): exactly 0 at t = 1.
        return jnp.sin(math.pi / 2 * (1 - t) / (1 + offset)) / math.cos(start)

    def sigma(t: Times) -> Times:
        # cos^2 u_0 - cos^2 u = sin(u - u_0) sin(u + u_0): no cancellation near the data.
        angle = math.pi / 2 * t / (1 + offset)
        return jnp.sqrt(jnp.sin(angle) * jnp.sin(angle + 2 * start)) / math.cos(start)

    return Process(alpha, sigma, end=1.0)


def linear(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """Alpha = exp(-1/2 int_0^t beta), beta(t) = beta_min + t (beta_max - beta_min), t in [0, 1].

    References:
        Song et al. 2021, arXiv:2011.13456, appendix C (the VP process of DDPM).
    """
    _check_numbers(
        "0 <= beta_min <= beta_max, and noise at all",
        lambda: 0 <= beta_min <= beta_max > 0, beta_min=beta_min, beta_max=beta_max,
    )  # fmt: skip

    def integral(t: Times) -> Times:
        return beta_min * t + (beta_max - beta_min) * t**2 / 2

    def alpha(t: Times) -> Times:
        return jnp.exp(-integral(t) / 2)

    def sigma(t: Times) -> Times:
        return jnp.sqrt(-jnp.expm1(-integral(t)))

    return Process(alpha, sigma, end=1.0)


def variance_exploding(*, maximum: float = 80.0) -> Process:
    """Alpha = 1, sigma = t, t in [0, maximum].

    References:
        Karras et al. 2022 (EDM), arXiv:2206.00364, table 1.
    """
    _check_numbers("maximum > 0", lambda: maximum > 0, maximum=maximum)
    return Process(jnp.ones_like, lambda t: t, end=maximum)


def rectified_flow() -> Process:
    """Alpha = 1 - t, sigma = t, t in [0, 1].

    References:
        Liu et al. 2023, arXiv:2209.03003.
    """
    return Process(lambda t: 1 - t, lambda t: t, end=1.0)


def discrete(*, betas: ArrayLike | None = None, alphas_cumprod: ArrayLike | None = None) -> Process:
    """Alpha(i + 1)^2 = alphas_cumprod[i] = prod_{j <= i} (1 - betas[j]), t in [0, count].

    The process of a network trained on `count` steps, usually 1000, from the table that is
    released with it; one of the two forms is given. Training step i is the time t = i + 1, and
    t = 0 is the data; so 50 of 1000 steps at the "trailing" places are `uniform_grid(1000, 0, 50)`,
    and those of any other list of training steps are `grids.index_grid`. A network that takes the
    training step and not t is made a level by `levels.at_steps`. Between steps beta is constant, so
    log alpha is linear; but where a step wipes the data out (beta 1), alpha is linear itself.

    Args:
        betas: variance of the noise that each training step adds, from the cleanest.
        alphas_cumprod: alpha^2 after each training step.

    Raises:
        ValueError: if not one of them is given, or it is no such table: betas in (0, 1], or
            strictly falling alphas_cumprod in [0, 1); 1 or 0 for the last alone.

    References:
        Ho et al. 2020, arXiv:2006.11239, equation 4; Lin et al. 2023, arXiv:2305.08891, on
        schedules whose last step is pure noise.
    """
    fall = _fall_of_steps(betas, alphas_cumprod)
    wiped = np.isinf(fall)
    fall = np.where(wiped, 0.0, fall)
    fallen = np.cumsum(fall) - fall

    def parts(t: Times) -> tuple[Times, Times]:
        """Alpha = exp(-integral / 2) left, as (integral, left)."""
        begun = jnp.clip(jnp.floor(t), 0, len(fall) - 1)
        step, share = begun.astype(jnp.int32), t - begun
        # Copies, because JAX keeps the precision to which it has first rounded an array.
        before, within, whole = (
            jnp.asarray(column.copy(), share.dtype)[step] for column in (fallen, fall, wiped)
        )
        return before + share * within, 1 - share * whole

    def alpha(t: Times) -> Times:
        integral, left = parts(t)
        return jnp.exp(-integral / 2) * left

    def sigma(t: Times) -> Times:
        # 1 - e^-I left^2 without cancellation near the data.
        integral, left = parts(t)
        return jnp.sqrt(-jnp.expm1(-integral) + jnp.exp(-integral) * (1 - left) * (1 + left))

    return Process(alpha, sigma, end=float(len(fall)))


def _fall_of_steps(betas: ArrayLike | None, alphas_cumprod: ArrayLike | None) -> np.ndarray:
    """By how much log alpha^2 falls in each training step; inf where a step wipes the data out."""
    if (betas is None) == (alphas_cumprod is None):
        raise ValueError(
            "expected one of betas and alphas_cumprod, got "
            + ("none" if betas is None else "both; give the one that the network came with")
        )
    name = "alphas_cumprod" if betas is None else "betas"
    table = as_table(alphas_cumprod if betas is None else betas, name)  # pyright: ignore
    if table.ndim != 1 or not len(table):
        raise ValueError(f"expected {name} as a table of numbers, got shape {table.shape}")
    with np.errstate(divide="ignore", invalid="ignore"):  # They are refused below.
        kept = 1 - table if betas is not None else table / np.append(1.0, table[:-1])
    wrong = ~((kept > 0) & (kept < 1))  # NaN is wrong too.
    wrong[-1] &= kept[-1] != 0
    if wrong.any():
        place = int(wrong.argmax())
        wanted = (
            "in (0, 1), the last at most 1" if betas is not None else
            "strictly falling inside (0, 1), the last at least 0"
        )  # fmt: skip
        raise ValueError(
            f"expected {name} {wanted}, from the cleanest step, got {table[place]} at step {place}"
        )
    with np.errstate(divide="ignore"):
        return -np.log1p(-table) if betas is not None else -np.log(kept)


def step_index(t: Times) -> Int[Array, "*times"]:
    """i = round(t) - 1, at least 0: the training step of a `discrete` process nearest to t."""
    return jnp.maximum(jnp.round(t).astype(jnp.int32) - 1, 0)


def perturb(process: Process, data: State, noise: State, t: Times) -> State:
    """x_t = alpha(t) x_0 + sigma(t) eps, t a number or an array that broadcasts to the state."""
    return process.alpha(t) * data + process.sigma(t) * noise


def log_snr(process: Process, t: Times) -> Times:
    """2 log(alpha / sigma); +inf at the data, -inf where alpha is 0."""
    return 2 * (jnp.log(process.alpha(t)) - jnp.log(process.sigma(t)))


class Row(NamedTuple):
    """factor P = of_data x_0 + of_noise eps."""

    of_data: Times
    of_noise: Times
    factor: Times


@runtime_checkable
class Prediction(Protocol):
    """A quantity that a network predicts, as its coefficients in data and noise at time t."""

    def __call__(self, process: Process, t: Times, /) -> Row: ...


def predict_data(_: Process, t: Times) -> Row:
    """x_0."""
    one, zero = jnp.ones_like(t), jnp.zeros_like(t)
    return Row(one, zero, one)


def predict_noise(_: Process, t: Times) -> Row:
    """eps."""
    one, zero = jnp.ones_like(t), jnp.zeros_like(t)
    return Row(zero, one, one)


def predict_v(process: Process, t: Times) -> Row:
    """V = alpha eps - sigma x_0 (Salimans & Ho 2022, arXiv:2202.00512, section 4)."""
    return Row(-process.sigma(t), process.alpha(t), jnp.ones_like(t))


def predict_score(process: Process, t: Times) -> Row:
    """Score of the marginal, -eps / sigma."""
    return Row(jnp.zeros_like(t), -jnp.ones_like(t), process.sigma(t))


def predict_velocity(process: Process, t: Times) -> Row:
    """dx/dt = alpha'(t) x_0 + sigma'(t) eps along the probability-flow ODE.

    Scaled by 1 / (1 + sigma'), which is 0 where sigma starts like a square root.
    """
    alpha_slope = slope(process.alpha, t)
    factor = 1 / (1 + slope(process.sigma, t))
    return Row(alpha_slope * factor, 1 - factor, factor)


def convert(
    process: Process, source: Prediction, target: Prediction, x: State, prediction: State, t: Times
) -> State:
    """Q = ((a' b - a b') x + d' c P) / (d c'),  rows (a, b, c), d = alpha b - sigma a.

    `P` is the source's prediction with row (a, b, c), `Q` the target's with (a', b', c').
    Where the source does not determine the target (the data from the noise at alpha = 0, the noise
    from the data at sigma = 0) or the target has no finite value (the score at sigma = 0), the
    answer is 0, never NaN. v and the velocity determine everything at both ends.

    Raises:
        ValueError: if the prediction has not the state's shape.
    """
    if prediction.shape != x.shape:
        raise ValueError(
            f"expected a prediction of the state's shape {x.shape}, got {prediction.shape}; a "
            "network must return one value for each of the state's"
        )
    if source is target:
        return prediction
    have, want = source(process, t), target(process, t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    have_determinant = alpha * have.of_noise - sigma * have.of_data
    want_determinant = alpha * want.of_noise - sigma * want.of_data
    of_state = want.of_data * have.of_noise - have.of_data * want.of_noise
    of_prediction = want_determinant * have.factor
    return _divide_or_zero(
        of_state * x + of_prediction * prediction, have_determinant * want.factor
    )


def slope(schedule: Callable[[Times], Times], t: Times) -> Times:
    """Derivative of a schedule at t."""
    return jax.jvp(schedule, (t,), (jnp.ones_like(t),))[1]


def _check_numbers(wanted: str, right: Callable[[], bool], **numbers: float) -> None:
    finite = all(is_number(number) and math.isfinite(number) for number in numbers.values())
    if not (finite and right()):
        got = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise ValueError(f"expected {wanted}, all finite, got {got}")


def _divide_or_zero(numerator: State, denominator: Times) -> State:
    # Twice `where`, so that no NaN lurks in a derivative either.
    vanishes = denominator == 0
    return jnp.where(vanishes, 0, numerator / jnp.where(vanishes, 1, denominator))
