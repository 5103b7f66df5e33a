"""Claims about training on the denoising loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlem_jax import levels
from mlem_jax import process as pr
from mlem_jax.nets import denoise, times
from tests.problems import normals

pytestmark = pytest.mark.usefixtures("others_promote")

COSINE = pr.cosine()
IMAGES = normals(0, 6, 4, 4, 3)
NOISE = normals(1, 6, 4, 4, 3)
T = jnp.linspace(0.05, 0.95, 6)


@pytest.mark.parametrize(
    "prediction",
    [pr.predict_data, pr.predict_noise, pr.predict_v, pr.predict_score, pr.predict_velocity],
)
@pytest.mark.parametrize("process", [COSINE, pr.variance_exploding()])
def test_a_network_that_knows_the_picture_has_no_loss(process, prediction):
    def network(params, x, t):
        at = t[:, None, None, None]
        return pr.convert(process, pr.predict_data, prediction, x, IMAGES, at)

    losses = denoise.denoising_loss(
        process, prediction, network, (), IMAGES, T * process.end, NOISE
    )
    np.testing.assert_allclose(losses, 0, atol=1e-15)


def test_the_loss_of_a_network_that_says_nothing_is_the_target_squared():
    silent = lambda params, x, t: jnp.zeros_like(x)  # noqa: E731
    losses = denoise.denoising_loss(COSINE, pr.predict_noise, silent, (), IMAGES, T, NOISE)
    np.testing.assert_allclose(losses, jnp.mean(NOISE**2, axis=(1, 2, 3)))


def linear(params, x, t):
    return params * x


def test_training_finds_the_best_linear_denoiser_and_the_average_follows():
    # E|w x - x_0|^2 over uniform t is quadratic in w; its minimum is in closed form.
    trainer = denoise.denoising_trainer(
        COSINE, pr.predict_data, linear, optax.adam(3e-2), decay=0.95
    )
    state, step = trainer.init(jnp.asarray(0.0)), jax.jit(trainer.step)
    pictures = normals(2, 256, 8, 8, 3) * 0.5
    for _ in range(300):
        state, _ = step(state, pictures, jax.random.key(0), None)
    t = jnp.linspace(0, 1, 20_001)
    spread = float(jnp.var(pictures))
    alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
    best = jnp.mean(alpha) * spread / jnp.mean(alpha**2 * spread + sigma**2)
    assert float(state.average) == pytest.approx(float(best), rel=0.03)
    assert state.step == 300


def test_a_stopped_and_resumed_run_is_the_unbroken_one():
    trainer = denoise.denoising_trainer(COSINE, pr.predict_data, linear, optax.adam(1e-2))
    step = jax.jit(trainer.step)
    unbroken = trainer.init(jnp.asarray(0.0))
    for _ in range(6):
        unbroken, _ = step(unbroken, IMAGES, jax.random.key(4), None)
    halted = trainer.init(jnp.asarray(0.0))
    for _ in range(3):
        halted, _ = step(halted, IMAGES, jax.random.key(4), None)
    resumed = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), halted)
    for _ in range(3):
        resumed, _ = step(resumed, IMAGES, jax.random.key(4), None)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, unbroken, resumed))


def test_times_are_one_in_each_stratum():
    t = times.stratified_times(jax.random.key(3), 50)
    assert len(np.unique(np.floor(t * 50))) == 50
    assert (t >= 0).all()
    assert (t < 1).all()


def test_times_fall_as_often_as_their_density_says():
    even = (jnp.arange(100_000) + 0.5) / 100_000
    t = times.times_of_density(even, (1.0, 3.0, 0.0, 0.0, 2.0))
    assert (jnp.diff(t) >= 0).all()
    # Areas of the four cells: 2, 3/2, 0, 1.
    found = np.histogram(t, bins=4, range=(0, 1))[0] / len(t)
    np.testing.assert_allclose(found, np.array([2, 1.5, 0, 1]) / 4.5, atol=1e-3)
    first = np.histogram(t, bins=2, range=(0, 0.25))[0]
    assert first[1] / first[0] == pytest.approx(2.5 / 1.5, rel=1e-2)
    np.testing.assert_array_equal(times.times_of_density(even, times.EVEN), even)


def test_a_density_over_time_has_mean_one():
    t = jnp.linspace(0, 1, 10_001)
    density = times.density_at(t, (1.0, 5.0, 2.0))
    assert float(density.mean()) == pytest.approx(1, abs=1e-3)
    assert float(density[5_000] / density[0]) == pytest.approx(5)
    # Straight from 1 to 5 and to 2, whose mean is 13/4.
    np.testing.assert_allclose(times.density_by_band(2, (1.0, 5.0, 2.0)), [12 / 13, 14 / 13])


def test_losses_at_times_of_a_density_are_the_weighted_losses_at_even_times():
    density, even = (1.0, 0.0, 4.0), (jnp.arange(20_000) + 0.5) / 20_000
    drawn = times.times_of_density(even, density) ** 3
    assert float(drawn.mean()) == pytest.approx(
        float((times.density_at(even, density) * even**3).mean()), rel=1e-3
    )


def test_a_network_is_asked_at_the_same_times_in_training_and_in_sampling():
    # The exploding process ends at 80: a network that knows its time must be right in both.
    process = pr.variance_exploding()

    def shrink(params, x, t):
        return x / (1 + jnp.asarray(t).reshape(-1, *(1,) * (x.ndim - 1)) ** 2)

    losses = denoise.loss_by_band(
        process, pr.predict_data, shrink, (), normals(0, 500, 2, 2, 3), jax.random.key(0)
    )
    # E|x/(1+t^2) - x_0|^2 = t^2/(1+t^2) with unit data: nearly 1 beyond the first band.
    assert float(losses[1:].mean()) == pytest.approx(1.0, abs=0.1)
    sampled = levels.data(shrink, process, pr.predict_data)((), jnp.ones((1, 3)), jnp.asarray(80.0))
    np.testing.assert_allclose(sampled, 1 / 6401)


def test_losses_by_band_are_taken_in_their_bands():
    seen = []

    def network(params, x, t):
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), t)
        return x

    jax.block_until_ready(
        denoise.loss_by_band(
            COSINE, pr.predict_data, network, (), IMAGES, jax.random.key(0), bands=4
        )
    )
    jax.effects_barrier()
    bands = np.floor(np.concatenate([t.ravel() for t in seen]) * 4)
    assert np.unique(bands, return_counts=True)[1].tolist() == [6, 6, 6, 6]


@pytest.mark.parametrize("followed", [False, True])
def test_without_mirroring_in_the_data_no_mirrored_picture_reaches_the_network(followed):
    # A process without noise: the network is shown the very pictures that the data gives.
    clean = pr.Process(jnp.ones_like, jnp.zeros_like, end=1.0)
    seen = []

    def network(params, x, t):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return params * x

    trainer = denoise.denoising_trainer(
        clean, pr.predict_data, network, optax.sgd(0.1), teacher=network if followed else None
    )
    state, step = trainer.init(jnp.asarray(0.5)), jax.jit(trainer.step)
    for seed in range(20):
        state, _ = step(state, IMAGES, jax.random.key(seed), jnp.asarray(1.0))
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert len(seen) == (40 if followed else 20)
    for pictures in seen:
        np.testing.assert_array_equal(pictures, IMAGES)
        assert not (pictures == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3)).any()


def test_a_network_that_follows_another_ends_at_it_and_not_at_the_data():
    trainer = denoise.denoising_trainer(
        COSINE, pr.predict_data, linear, optax.adam(3e-2), teacher=linear, decay=0.9
    )
    state, step = trainer.init(jnp.asarray(0.0)), jax.jit(trainer.step)
    for _ in range(300):
        state, loss = step(state, IMAGES, jax.random.key(0), jnp.asarray(2.5))
    assert float(state.average) == pytest.approx(2.5, rel=1e-3)
    assert loss < 1e-5
