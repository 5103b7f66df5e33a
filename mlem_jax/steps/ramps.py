"""Moments of a ramp: how much of the Brownian motion a step takes, from its beginning to its end.

    omega(u) = r_end + (r_begin - r_end) l(u) ,   l(u) = log(u_end / u) / log(u_end / u_begin)

A straight line in the logarithm of the clock, which for a diffusion process is that of the
signal-to-noise ratio, since the predicted data takes up noise in proportion to 1/u. Integrals are
by Gauss and Legendre in l: exact to rounding for steps over which u rises up to a factor e^20.
"""

import numpy as np
from jaxtyping import Float

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(40)


def ramp_means(
    window: Float[np.ndarray, " 2"],
    ramp: Float[np.ndarray, " 2"],
    edges: Float[np.ndarray, " some"],
) -> Float[np.ndarray, "pieces moments"]:
    """Means of omega and of omega^2 over the pieces of a step, between edges of the clock.

    Args:
        window: where the step begins and ends.
        ramp: r_begin and r_end.
        edges: within it, from its beginning to its end.
    """
    if ramp[0] == ramp[1]:
        return np.tile([ramp[0], ramp[0] ** 2], (len(edges) - 1, 1))
    length = np.log(window[1] / window[0])
    places = np.log(window[1] / edges) / length
    low, high = places[1:, None], places[:-1, None]
    place = (low + high) / 2 + (high - low) / 2 * _POINTS
    # du = -u length dl, and u relative to the end of the step.
    mass = _WEIGHTS * np.exp(-place * length)
    omega = ramp[1] + (ramp[0] - ramp[1]) * place
    total = mass.sum(axis=1)
    return np.stack([(mass * omega).sum(axis=1), (mass * omega**2).sum(axis=1)], 1) / total[:, None]
