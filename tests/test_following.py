"""Following an expensive network along paths: the pairs, the loss, and what is recovered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import process as pr
from mlem_jax.nets import denoise, following

COSINE = pr.cosine()
KEYS = jax.random.split(jax.random.key(3), 5)
SHAPE = (4, 6, 6, 2)
IMAGES = jax.random.normal(KEYS[0], SHAPE)
NOISE = jax.random.normal(KEYS[1], (4, 2, *SHAPE[1:]))
T = jnp.array([[0.1, 0.2], [0.3, 0.7], [0.5, 0.52], [0.9, 0.95]])
PREDICTIONS = [pr.predict_data, pr.predict_noise, pr.predict_v, pr.predict_score,
               pr.predict_velocity]  # fmt: skip


def data_of(params, x, t):
    """Some denoiser."""
    return params * jnp.tanh(x) * jnp.cos(t)[:, None, None, None]


def network_of(prediction):
    """The same denoiser, as a network that predicts something else."""

    def network(params, x, t):
        at = t[:, None, None, None]
        return pr.convert(COSINE, pr.predict_data, prediction, x, data_of(params, x, t), at)

    return network


def asked(prediction, params=1.0):
    return following.ask(COSINE, network_of(prediction), params, IMAGES, T, NOISE)


def test_both_ends_have_the_law_of_the_process_and_the_innovation_tells_nothing_old():
    # Data of variance 1, for which D(x, t) = alpha x / (alpha^2 + sigma^2). A state is linear in
    # data and two noises, so that three calls say with which factors, and these all covariances.
    def factors(of_data, of_first, of_second):
        ones = jnp.ones((len(T), 1, 1, 1))
        noise = jnp.stack([of_first * ones, of_second * ones], axis=1)

        def nothing(_, x, t):
            return x

        return following.ask(COSINE, nothing, None, of_data * ones, T, noise).x[..., 0, 0, 0]

    columns = np.stack([factors(1, 0, 0), factors(0, 1, 0), factors(0, 0, 1)], axis=-1)
    alpha, sigma = np.asarray(COSINE.alpha(T)), np.asarray(COSINE.sigma(T))
    np.testing.assert_allclose(columns[..., 0], alpha, rtol=1e-12)
    np.testing.assert_allclose((columns[..., 1:] ** 2).sum(-1), sigma**2, rtol=1e-12)
    best = columns * (alpha / (alpha**2 + sigma**2))[..., None]
    innovation = best[:, 0] - best[:, 1]
    np.testing.assert_allclose((innovation * columns[:, 1]).sum(-1), 0, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_that_of_the_predicted_data_whatever_a_network_predicts(prediction):
    answers = asked(prediction)
    loss = following.following_loss(COSINE, prediction, network_of(prediction), 0.3, answers,
                                    plain=0.25, fading=0.4)  # fmt: skip
    error = -0.7 * jnp.tanh(answers.x) * jnp.cos(T)[..., None, None, None]
    sigma = COSINE.sigma(T)[..., None, None, None]
    change = pr.log_snr(COSINE, T[:, 0]) - pr.log_snr(COSINE, T[:, 1])
    stays = jnp.exp(-0.4 * change)[:, None, None, None]
    moved = ((error[:, 0] - stays * error[:, 1]) / sigma[:, 1]) ** 2
    plain = (error / sigma) ** 2
    by_hand = 0.75 * moved.mean((1, 2, 3)) + 0.25 * plain.mean((1, 2, 3, 4))
    np.testing.assert_allclose(loss, by_hand, rtol=1e-9)


def test_without_differences_the_loss_is_the_squared_distance_of_v():
    answers = asked(pr.predict_v)
    loss = following.following_loss(COSINE, pr.predict_v, network_of(pr.predict_v), 0.3, answers,
                                    plain=1.0)  # fmt: skip
    ends = [
        denoise.denoising_loss(
            COSINE, pr.predict_v, network_of(pr.predict_v), 0.3, IMAGES, T[:, 0], NOISE[:, 0],
            lambda x, t: network_of(pr.predict_v)(1.0, x, t),
        ),
        ((network_of(pr.predict_v)(0.3, answers.x[:, 1], T[:, 1]) - answers.target[:, 1]) ** 2)
        .mean((1, 2, 3)),
    ]  # fmt: skip
    np.testing.assert_allclose(loss, sum(ends) / 2, rtol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_an_error_that_stays_along_the_path_costs_nothing_but_its_plain_part(prediction):
    answers = asked(prediction)

    def off(params, x, t):
        at = t[:, None, None, None]
        return pr.convert(COSINE, pr.predict_data, prediction, x, data_of(1.0, x, t) + params, at)

    stays = {"fading": 0.0}
    loss = following.following_loss(COSINE, prediction, off, 0.4, answers, plain=0.0, **stays)
    np.testing.assert_allclose(loss, 0, atol=1e-20)
    plain = following.following_loss(COSINE, prediction, off, 0.4, answers, **stays)
    np.testing.assert_allclose(plain, 0.1 * (0.16 / COSINE.sigma(T) ** 2).mean(1), rtol=1e-9)


def test_what_is_recovered_is_told_by_the_loss_and_is_all_for_the_network_itself():
    answers, network = asked(pr.predict_v), network_of(pr.predict_v)
    missed, whole = following.recovered(COSINE, pr.predict_v, network, 0.3, answers)
    loss = following.following_loss(COSINE, pr.predict_v, network, 0.3, answers, plain=0.0)
    np.testing.assert_allclose(missed, loss * COSINE.sigma(T[:, 1]) ** 2, rtol=1e-9)
    missed, _ = following.recovered(COSINE, pr.predict_v, network, 0.3, answers, fading=0.0)
    # D is 0.3 of the other's, so 0.7 of every innovation are missed.
    np.testing.assert_allclose(missed, 0.49 * whole, rtol=1e-9)
    missed, _ = following.recovered(COSINE, pr.predict_v, network, 1.0, answers)
    np.testing.assert_allclose(missed, 0, atol=1e-20)
