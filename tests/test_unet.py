"""Claims about the family of networks."""

import collections
from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax.levels import in_dtype
from mlem_jax.nets import unet
from tests.problems import normals

pytestmark = pytest.mark.usefixtures("others_promote")

SMALL = unet.Architecture(base=4, middle=1, bottom=1, scales=2, patch=2)


def test_the_three_forms_of_the_filter_agree():
    x, taps = normals(0, 2, 6, 8, 3), normals(1, 3, 3, 3)
    expected = unet.depthwise_shifts(x, taps)
    np.testing.assert_allclose(unet.depthwise_convolution(x, taps), expected, atol=1e-12)
    np.testing.assert_allclose(unet.depthwise_trained(x, taps), expected, atol=1e-12)


def test_the_trained_filter_has_the_gradient_of_the_plain_one():
    x, taps = normals(0, 2, 6, 8, 3), normals(1, 3, 3, 3)
    plain, trained = (
        jax.grad(lambda x, taps, f=f: jnp.sum(jnp.sin(f(x, taps))), argnums=(0, 1))(x, taps)
        for f in (unet.depthwise_shifts, unet.depthwise_trained)
    )
    for expected, found in zip(plain, trained, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_patches_are_taken_apart_and_put_together():
    x = normals(0, 2, 4, 6, 3)
    deep = unet._space_to_depth(x, 2)
    assert deep.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(deep[0, 0, 0].reshape(2, 2, 3), x[0, :2, :2])
    np.testing.assert_array_equal(unet._depth_to_space(deep, 2), x)


def random_params(network, x):
    # Not `init`: its zeros would hide most of the network.
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 4), shapes)


def dtypes_of_products(jaxpr):
    """Of the products in a jaxpr and in everything inside it."""
    found = collections.Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found[equation.outvars[0].aval.dtype.name] += 1
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found += dtypes_of_products(inner)
    return found


def test_a_network_in_half_precision_multiplies_in_it_all_but_the_time():
    network, x = unet.UNet(SMALL, unet.depthwise_shifts), normals(0, 1, 8, 8, 3)
    params = random_params(network, x)
    half, t = in_dtype(network.apply, jnp.bfloat16), jnp.asarray(0.5)
    jaxpr = jax.make_jaxpr(half)(params, x, t).jaxpr
    # Two of the embedding; three a block, and one each to come in, go down, go up and come out.
    assert dtypes_of_products(jaxpr) == {"float64": 2, "bfloat16": 3 * 3 + 4}
    found, whole = (jax.jit(run)(params, x, t) for run in (half, network.apply))
    off = jnp.abs(found - whole).max() / jnp.abs(whole).max()
    assert 0 < off < 0.05


@pytest.mark.parametrize("patch", [1, 2])
def test_a_network_sees_and_writes_every_pixel(patch):
    network = unet.UNet(SMALL._replace(patch=patch), unet.depthwise_shifts)
    x = normals(0, 1, 8, 8, 3)
    params = random_params(network, x)
    pixel = jax.grad(lambda x: network.apply(params, x, jnp.zeros(1))[0, 4, 4].sum())
    middle = jax.jit(pixel)(x)
    assert (jnp.abs(middle).sum(-1) > 0).all()


def test_one_time_serves_a_batch_as_well_as_one_each():
    network = unet.UNet(SMALL, unet.depthwise_shifts)
    x = normals(0, 3, 8, 8, 3)
    params = random_params(network, x)
    run = jax.jit(network.apply)
    one = run(params, x, jnp.asarray(0.3))
    np.testing.assert_allclose(run(params, x, jnp.full(3, 0.3)), one, atol=1e-12)
    other = run(params, x, jnp.array([0.3, 0.9, 0.3]))
    assert jnp.abs(other[1] - one[1]).max() > 1e-3


def test_the_filter_for_sampling_has_a_forward_mode():
    network = unet.UNet(SMALL, unet.default_depthwise())
    x, direction = normals(0, 1, 8, 8, 3), normals(1, 1, 8, 8, 3)
    params = random_params(network, x)
    run = jax.jit(lambda x: network.apply(params, x, jnp.zeros(1)))
    slope = jax.jit(partial(jax.jvp, run))((x,), (direction,))[1]
    difference = (run(x + 1e-6 * direction) - run(x - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(slope, difference, atol=1e-6)


def test_widths_double_from_scale_to_scale():
    shapes = jax.eval_shape(
        unet.UNet(unet.Architecture(base=8, scales=3), unet.depthwise_shifts).init,
        jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros(1),
    )  # fmt: skip
    widths = [shapes["params"][f"Block_{i}"]["FactoredFilter_0"]["taps"].shape[-1]
              for i in range(5)]  # fmt: skip
    assert widths == [8, 16, 32, 16, 8]


def test_sides_that_do_not_halve_are_refused():
    network = unet.UNet(SMALL, unet.depthwise_shifts)
    with pytest.raises(ValueError, match=r"sides divisible by 4 .*got shape \(1, 10, 8, 3\)"):
        network.init(jax.random.key(0), jnp.zeros((1, 10, 8, 3)), jnp.zeros(1))
