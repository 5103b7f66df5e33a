"""Training cheap networks on what an expensive one said once: its answers along pieces of paths.

Between two runs of an expensive level, a cheaper one need not say what the drift is: the last
output of the expensive one is remembered. It has to say by how much the drift has moved since. So
what is minimised is an error of differences along a path. In the data that a network predicts,
D(x_t, t) = E[x_0 | x_t], the difference is an innovation: D is a martingale of the reverse-time
process, so that the exact D moves by what the path newly tells, and by nothing that was known
before. An error of a cheap network that stays as it is along the path costs nothing then.

Not all of an error stays. What a small network gets wrong at x_t goes with what it got wrong at x_s
the less, the further apart the two are, and a plan's weights allow for that: a fit takes of the
remembered error D_s - D*_s the share that is worth most. So is the loss: of an error at s the share
exp(-fading l) is expected at t, with l the change of the log-SNR from s to t.

A piece of a path is a pair (x_t, x_s), t < s, of the forward process, whose joint law is that of
the reverse-time SDE. One answer of the expensive network may cost more than a step of a cheap one
on it, so answers are asked for once and kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlem_jax.nets.denoise import Images, Network
from mlem_jax.process import Prediction, Process, convert, log_snr, perturb, predict_data
from mlem_jax.types import Params

FADING = 0.7
"""How fast errors of small networks fade along a path: of one, exp(-FADING) is left after a unit of
the log-SNR. On pictures of Earth 0.3 to 1."""

Pairs = Float[Array, "batch 2 height width channels"]
"""Images at the two ends of a piece of a path, the cleaner first."""


class Answers(NamedTuple):
    """What a network says of noisy images at both ends of pieces of paths.

    Attributes:
        x: noisy images.
        t: their times, rising within a pair, none of them 0.
        target: what the network predicts of them.
    """

    x: Pairs
    t: Float[Array, "batch 2"]
    target: Pairs


def ask(
    process: Process,
    network: Network,
    params: Params,
    images: Images,
    t: Float[Array, "batch 2"],
    noise: Pairs,
) -> Answers:
    """network(x_t, t) and network(x_s, s),  x_s = r x_t + sqrt(sigma_s^2 - r^2 sigma_t^2) eps.

    r = alpha_s / alpha_t, and x_t = alpha_t x_0 + sigma_t eps' of another eps'.
    """
    first, second = (t[:, end, None, None, None] for end in (0, 1))
    cleaner = perturb(process, images, noise[:, 0], first)
    kept = process.alpha(second) / process.alpha(first)
    added = process.sigma(second) ** 2 - (kept * process.sigma(first)) ** 2
    noisier = kept * cleaner + jnp.sqrt(jnp.maximum(added, 0)) * noise[:, 1]
    x = jnp.stack([cleaner, noisier], axis=1)
    return Answers(x, t, _at_both(network, params, x, t))


def following_loss(
    process: Process,
    prediction: Prediction,
    network: Network,
    params: Params,
    answers: Answers,
    *,
    plain: float = 0.1,
    fading: float = FADING,
) -> Float[Array, " batch"]:
    """(1 - plain) |e_t - a e_s|^2 / sigma_s^2 + plain mean |e|^2 / sigma^2,  e = D - D*.

    D is the data that the network predicts, D* what the answers say it is; squares are means over
    the image. In units of sigma, errors of the data are errors of v. Between the ends the log-SNR
    changes by l, and a = exp(-fading l).

    Args:
        process: of the answers.
        prediction: what the networks predict.
        network: the one that follows.
        params: its parameters.
        answers: of the one that is followed, a batch of pairs.
        plain: weight of the second term, in which nothing is remembered: it keeps what the network
            says by itself near what the other says.
        fading: by how much the part of an error that stays along a path is less after a unit of the
            log-SNR; 0 if all of it is to stay.
    """
    sigma = process.sigma(answers.t[..., None, None, None])
    errors = _errors(process, prediction, network, params, answers)
    moved = _moved(process, answers, errors, fading) / sigma[:, 1]
    return (1 - plain) * _mean_square(moved) + plain * _mean_square(errors / sigma)


def innovations(
    process: Process, prediction: Prediction, answers: Answers
) -> Float[Array, "batch height width channels"]:
    """D_t - D_s: what the path tells of the data between s and t."""
    at = answers.t[..., None, None, None]
    data = convert(process, prediction, predict_data, answers.x, answers.target, at)
    return data[:, 0] - data[:, 1]


def recovered(
    process: Process,
    prediction: Prediction,
    network: Network,
    params: Params,
    answers: Answers,
    *,
    fading: float = FADING,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """|e_t - a e_s|^2 and |innovation*|^2, of a network and of the answers, as `following_loss`.

    One less the ratio of their means is the share of the innovations that the network recovers, if
    the answer at s is remembered.
    """
    errors = _errors(process, prediction, network, params, answers)
    wanted = innovations(process, prediction, answers)
    return _mean_square(_moved(process, answers, errors, fading)), _mean_square(wanted)


def _moved(
    process: Process, answers: Answers, errors: Pairs, fading: float
) -> Float[Array, "batch height width channels"]:
    """e_t - exp(-fading l) e_s."""
    ends = log_snr(process, answers.t)
    stays = jnp.exp(-fading * (ends[:, 0] - ends[:, 1]))
    return errors[:, 0] - stays[:, None, None, None] * errors[:, 1]


def _errors(
    process: Process, prediction: Prediction, network: Network, params: Params, answers: Answers
) -> Pairs:
    """D - D* at both ends; a conversion is linear, so that of a difference has no state in it."""
    off = _at_both(network, params, answers.x, answers.t) - answers.target
    at = answers.t[..., None, None, None]
    return convert(process, prediction, predict_data, jnp.zeros_like(off), off, at)


def _at_both(network: Network, params: Params, x: Pairs, t: Float[Array, "batch 2"]) -> Pairs:
    """The network at both ends, as one batch."""
    flat = network(params, x.reshape(-1, *x.shape[2:]), t.reshape(-1))
    return flat.reshape(x.shape)


def _mean_square(values: jax.Array) -> Float[Array, " batch"]:
    return jnp.mean(values**2, axis=tuple(range(1, values.ndim)))
