"""Training one network on the denoising loss: the loss, one step, the average of parameters.

Every random number of step n is drawn from `fold_in(key, n)`, so a run that was stopped and
resumed draws what an unbroken run would have drawn. This module is a leaf: the experiments use it
to make levels, the solver never sees it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mlem_jax.nets.times import EVEN, stratified_times, times_of_density
from mlem_jax.process import Prediction, Process, perturb
from mlem_jax.types import Key, Params

Images = Float[Array, "batch height width channels"]
Network = Callable[[Params, Images, Float[Array, " batch"]], Images]
"""A drift that takes one time for each image."""
Teacher = Callable[[Images, Float[Array, " batch"]], Images]
"""A trained network with its parameters, to be followed by a cheaper one."""


class TrainState(NamedTuple):
    """All that the next training step needs.

    Attributes:
        params: parameters as the optimiser has them.
        average: exponential moving average of the parameters; what one samples with.
        optimiser: state of the Optax optimiser.
        step: steps done.
    """

    params: Params
    average: Params
    optimiser: Any
    step: Int[Array, ""]


class Trainer(NamedTuple):
    """A pair of pure functions, as in Optax.

    Attributes:
        init: parameters to the state before the first step.
        step: `(state, images, key, teacher_params) -> (state, loss)`, to be jitted; the last are
            None where there is no teacher. Of images spread over devices by `jax.device_put`, and
            a state that lies on each of them, the loss and its gradient are those of one device,
            but for rounding: the same times and noise are drawn.
    """

    init: Callable[[Params], TrainState]
    step: Callable[[TrainState, Images, Key, Params], tuple[TrainState, Float[Array, ""]]]


def denoising_loss(
    process: Process,
    prediction: Prediction,
    network: Network,
    params: Params,
    images: Images,
    t: Float[Array, " batch"],
    noise: Images,
    teacher: Teacher | None = None,
) -> Float[Array, " batch"]:
    """Mean over the image of (factor (network(alpha x_0 + sigma eps, t) - target))^2, for each.

    The factor is the prediction's own (see `process.Row`): 1 for data, noise and v; sigma for the
    score, whose loss is so the usual weighted one, finite at t = 0. The target is what images and
    noise say, or what the teacher says of their mixture; then the loss is the squared distance to
    the teacher, on which the variance of the multilevel sum hangs.
    """
    at = t[:, None, None, None]
    row = prediction(process, at)
    x = perturb(process, images, noise, at)
    if teacher is None:
        target = row.of_data * images + row.of_noise * noise
    else:
        target = row.factor * teacher(x, t)
    return jnp.mean((row.factor * network(params, x, t) - target) ** 2, axis=(1, 2, 3))


def denoising_trainer(
    process: Process,
    prediction: Prediction,
    network: Network,
    optimiser: optax.GradientTransformation,
    *,
    teacher: Network | None = None,
    density: Sequence[float] = EVEN,
    decay: float = 0.999,
) -> Trainer:
    """Params <- optimiser(grad E loss);  average <- d average + (1 - d) params.

    Args:
        process: the process whose states are denoised.
        prediction: what the network predicts.
        network: `(params, images, t) -> images`; differentiated in reverse mode.
        optimiser: any Optax optimiser.
        teacher: followed instead of the data, if given; its parameters are given to each step.
        density: how often each time is drawn, in shares of the process's end (see `times`); what is
            minimised is the loss weighted by it.
        decay: of the average; smaller in the first steps, min(decay, (1 + n) / (10 + n)), so that
            the initial parameters are soon forgotten.
    """

    def step(
        state: TrainState, images: Images, key: Key, teacher_params: Params
    ) -> tuple[TrainState, Float[Array, ""]]:
        time_key, noise_key = jax.random.split(jax.random.fold_in(key, state.step))
        t = process.end * times_of_density(stratified_times(time_key, len(images)), density)
        noise = jax.random.normal(noise_key, images.shape, images.dtype)
        followed = None if teacher is None else partial(teacher, teacher_params)

        def objective(params: Params) -> Float[Array, ""]:
            losses = denoising_loss(
                process, prediction, network, params, images, t, noise, followed
            )
            return losses.mean()

        return descend(optimiser, state, objective, decay=decay)

    return Trainer(partial(begin, optimiser), step)


def begin(optimiser: optax.GradientTransformation, params: Params) -> TrainState:
    """The state before the first step."""
    average = jax.tree.map(jnp.copy, params)  # Its own buffers: both may be donated.
    return TrainState(params, average, optimiser.init(params), jnp.zeros((), jnp.int32))


def descend(
    optimiser: optax.GradientTransformation,
    state: TrainState,
    objective: Callable[[Params], Float[Array, ""]],
    *,
    decay: float = 0.999,
) -> tuple[TrainState, Float[Array, ""]]:
    """One step on a loss of the parameters, and that loss; `decay` as in `denoising_trainer`."""
    loss, gradient = jax.value_and_grad(objective)(state.params)
    updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    forget = 1 - jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    average = optax.incremental_update(params, state.average, forget)
    return TrainState(params, average, optimiser_state, state.step + 1), loss


def loss_by_band(
    process: Process,
    prediction: Prediction,
    network: Network,
    params: Params,
    images: Images,
    key: Key,
    *,
    teacher: Teacher | None = None,
    bands: int = 10,
    chunk: int = 50,
) -> Float[Array, "bands images"]:
    """Losses of every image at one random time in each band of t, clean to noisy.

    They are to the data, or to a teacher. Band b holds the times in [b / bands, (b + 1) / bands) of
    the process's end. The same key gives every network the same times and noise, so differences
    between networks are not blurred by them. Networks see `chunk` images at a time, to bound the
    memory.
    """

    def one_image(given: tuple[Array, Array, Array]) -> Float[Array, ""]:
        image, t, noise = jax.tree.map(lambda part: part[None], given)
        return denoising_loss(process, prediction, network, params, image, t, noise, teacher)[0]

    def one_band(band: Int[Array, ""]) -> Float[Array, " images"]:
        time_key, noise_key = jax.random.split(jax.random.fold_in(key, band))
        t = process.end * (band + jax.random.uniform(time_key, (len(images),))) / bands
        noise = jax.random.normal(noise_key, images.shape, images.dtype)
        return jax.lax.map(one_image, (images, t, noise), batch_size=chunk)

    return jax.lax.map(one_band, jnp.arange(bands))
