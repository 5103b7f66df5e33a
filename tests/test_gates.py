import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from mlem_jax import checkpoint, gates

TIMES = jnp.linspace(1.0, 0.0, 6)


def test_log_linear_gates_are_the_sigmoids_of_the_paper():
    family = gates.log_linear_gates((1.0, 0.5, 0.25), delta=0.1)
    theta = gates.LogLinear(jnp.asarray([0.7, -0.4]), jnp.asarray([-1.0, 0.3]))
    p = gates.probabilities(family.logits(theta, TIMES))
    for n, t in enumerate(np.asarray(TIMES)):
        expected = expit([0.7 * np.log(t + 0.1) - 1.0, -0.4 * np.log(t + 0.1) + 0.3])
        np.testing.assert_allclose(p[n], [1.0, *expected], rtol=1e-12)


@pytest.mark.parametrize(
    "family",
    [
        gates.log_linear_gates((1.0, 0.5, 0.25)),
        gates.piecewise_linear_gates((1.0, 0.5, 0.25), (0.0, 0.3, 1.0)),
    ],
)
def test_a_family_starts_where_it_is_told_and_a_certain_gate_stays(family):
    theta = family.init()
    p = gates.probabilities(family.logits(theta, TIMES))
    np.testing.assert_allclose(p, np.tile([1.0, 0.5, 0.25], (6, 1)), rtol=1e-12)
    moved = family.logits(jax.tree.map(lambda leaf: leaf - 3.0, theta), TIMES)
    assert jnp.isposinf(moved[:, 0]).all()
    assert (moved[:, 1:] != family.logits(theta, TIMES)[:, 1:]).all()


def test_a_family_keeps_the_dtype_of_its_parameters():
    with jax.enable_x64(False):
        for family in (
            gates.log_linear_gates((1.0, 0.5)),
            gates.piecewise_linear_gates((1.0, 0.5), (0.0, 1.0)),
        ):
            assert family.logits(family.init(), np.linspace(1, 0, 6)).dtype == jnp.float32


def test_piecewise_linear_gates_go_through_their_knots_and_straight_between():
    family = gates.piecewise_linear_gates((0.5, 0.5), (0.1, 0.5, 0.9))
    theta = jnp.asarray([[0.0, 3.0], [2.0, 1.0], [1.0, 1.0]])
    logits = family.logits(theta, jnp.asarray([1.0, 0.9, 0.7, 0.5, 0.2, 0.1, 0.0]))
    np.testing.assert_allclose(logits[:, 0], [1.0, 1.0, 1.5, 2.0, 0.5, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(logits[:, 1], [1.0, 1.0, 1.0, 1.0, 2.5, 3.0, 3.0], atol=1e-12)


def test_piecewise_linear_gates_start_at_a_table():
    table = [[1.0, 0.9], [1.0, 0.2], [1.0, 0.5]]
    family = gates.piecewise_linear_gates(table, (0.0, 0.3, 1.0))
    p = gates.probabilities(family.logits(family.init(), jnp.asarray([1.0, 0.3, 0.0])))
    np.testing.assert_allclose(p, table[::-1], rtol=1e-12)
    with pytest.raises(ValueError, match="expected a start at each of 2 knots, got 3 rows"):
        gates.piecewise_linear_gates(table, (0.0, 1.0))
    with pytest.raises(ValueError, match="expected levels that start below 1 at all knots, or"):
        gates.piecewise_linear_gates([[1.0, 1.0], [1.0, 0.2]], (0.0, 1.0))


def test_a_shift_is_a_constant_added_to_every_beta():
    family = gates.log_linear_gates((1.0, 0.5, 0.25))
    theta = family.init()._replace(slope=jnp.asarray([0.7, -0.4]))
    shifted = gates.shift_gates(family.logits(theta, TIMES), 1.5)
    own = family.logits(theta._replace(offset=theta.offset + 1.5), TIMES)
    np.testing.assert_allclose(shifted, own, rtol=1e-12)


@pytest.mark.parametrize(
    "family",
    [
        gates.log_linear_gates((1.0, 0.5, 0.25)),
        gates.piecewise_linear_gates((1.0, 0.5, 0.25), (0.0, 0.3, 1.0)),
    ],
)
def test_learned_gates_are_kept_and_restored(family, tmp_path):
    theta = jax.tree.map(lambda leaf: leaf + 0.7, family.init())
    checkpoint.save(tmp_path / "gates", theta, about={"start": [1.0, 0.5, 0.25]})
    restored = checkpoint.restore(tmp_path / "gates", family.init())
    np.testing.assert_array_equal(family.logits(theta, TIMES), family.logits(restored, TIMES))


def test_bad_families_are_refused():
    with pytest.raises(ValueError, match="expected a level to learn, one that starts below 1"):
        gates.log_linear_gates((1.0, 1.0))
    with pytest.raises(ValueError, match=r"expected probabilities in \(0, 1\], got 0\.0 at step 0"):
        gates.log_linear_gates((1.0, 0.0))
    with pytest.raises(ValueError, match="expected at least two knots, rising"):
        gates.piecewise_linear_gates((1.0, 0.5), (0.0, 0.5, 0.5))
    family = gates.log_linear_gates((1.0, 0.5))
    with pytest.raises(ValueError, match=r"expected times above -delta = -0\.1, got -0\.5"):
        family.logits(family.init(), jnp.asarray([1.0, -0.5]))
