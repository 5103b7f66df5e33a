"""Plans in files: the same bits come back, and what is damaged or does not fit is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import draws, gates, plans
from mlem_jax.grids import uniform_grid
from mlem_jax.steps import euler_maruyama

LOGITS = gates.to_logits([[1.0, 0.5, 0.2], [0.7, 0.7, 0.1]])


def some_plan():
    steps = euler_maruyama(uniform_grid(0.0, 1.0, 4))
    return plans.trapezoid(jnp.asarray([[True, True], [True, False]] * 2), steps)


@pytest.mark.parametrize("made", [
    plans.draw_plan(draws.independent, LOGITS, jax.random.key(9)),
    some_plan(),
], ids=["drawn", "remembers"])  # fmt: skip
def test_plans_load_to_the_same_bits(made, tmp_path):
    plans.save_plan(tmp_path / "plan.npz", made)
    loaded = plans.load_plan(tmp_path / "plan.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["plan.npz"]
    assert jax.tree.structure(made) == jax.tree.structure(loaded)
    for before, after in zip(*map(jax.tree.leaves, (made, loaded)), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


def test_no_damaged_byte_of_a_plan_file_goes_unnoticed(tmp_path):
    # Every byte in turn, one bit of it or all: an error that says so, or the same plan.
    file = tmp_path / "plan.npz"
    made = plans.by_hand([[0.0, 1.0]])
    plans.save_plan(file, made)
    whole = file.read_bytes()
    refused = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF if place % 5 == 0 else 1 << place % 8
        file.write_bytes(damaged)
        try:
            loaded = plans.load_plan(file)
        except ValueError:
            refused += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, loaded, made)
    assert refused > len(whole) / 2


def test_a_file_that_is_no_whole_plan_is_refused(tmp_path):
    file = tmp_path / "plan.npz"
    plans.save_plan(file, some_plan())
    whole = file.read_bytes()
    for part in (b"", b"no plan", whole[: len(whole) // 2], whole[:-1], whole[40:]):
        file.write_bytes(part)
        with pytest.raises(ValueError, match=r"expected a plan as save_plan writes it.*plan\.npz"):
            plans.load_plan(file)
    np.savez(file, a=np.ones(2))
    with pytest.raises(ValueError, match=r"expected the arrays .* got \['a'\]"):
        plans.load_plan(file)
    np.savez(file, weights=np.array([{}], object))
    with pytest.raises(ValueError, match="expected a plan as save_plan writes it"):
        plans.load_plan(file)
    with pytest.raises(FileNotFoundError):
        plans.load_plan(tmp_path / "none.npz")


def test_tables_in_a_file_that_do_not_belong_together_are_refused(tmp_path):
    file, made = tmp_path / "plan.npz", some_plan()
    plans.save_plan(file, made)
    with np.load(file) as arrays:
        tables = dict(arrays)
    for name, wrong in (
        ("needed", tables["needed"][:3]),
        ("needed", tables["needed"].astype(float)),
        ("memory_store", tables["memory_store"][:, :1]),
        ("made_for", tables["made_for"][:2]),
        ("weights", tables["weights"][None]),
        ("weights", tables["weights"].astype(complex)),
        ("weights", np.full_like(tables["weights"], np.nan)),
        ("memory_read", np.full_like(tables["memory_read"], np.inf)),
    ):
        np.savez(file, **tables | {name: wrong})
        with pytest.raises(ValueError, match=r"the tables in .*plan\.npz do not belong together"):
            plans.load_plan(file)


def test_a_plan_that_cannot_be_written_leaves_the_old_file_as_it_was(tmp_path):
    file = tmp_path / "plan.npz"
    plans.save_plan(file, some_plan())
    whole = file.read_bytes()
    broken = some_plan()._replace(needed=jnp.ones((3, 2), bool))
    with pytest.raises(ValueError, match=r"expected plan\.needed of shape \[4, 2\]"):
        plans.save_plan(file, broken)
    assert file.read_bytes() == whole
