import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlem_jax import checkpoint

# What Orbax leaves half done when a file is damaged is reported by Python as it is collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TREE = {
    "dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)},
    "step": jnp.int32(7),
}


@pytest.fixture
def saved(tmp_path):
    checkpoint.save(tmp_path / "level", TREE, about={"base": 8})
    return tmp_path / "level"


def test_what_is_saved_is_restored_to_the_bit(saved):
    like = jax.eval_shape(lambda: TREE)
    found = checkpoint.restore(saved, like)
    assert jax.tree.structure(found) == jax.tree.structure(TREE)
    for before, after in zip(jax.tree.leaves(TREE), jax.tree.leaves(found), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert checkpoint.read_about(saved) == {"base": 8}


def test_what_a_gpu_saved_is_restored_where_there_is_none(saved):
    file = saved / "tree" / "_sharding"
    stored = file.read_text()
    for value in json.loads(stored).values():
        elsewhere = value.replace("cpu:0", "cuda:0").replace("TFRT_CPU_0", "cuda:0")
        assert elsewhere != value
        stored = stored.replace(json.dumps(value), json.dumps(elsewhere))
    file.write_text(stored)
    found = checkpoint.restore(saved, TREE)
    np.testing.assert_array_equal(found["dense"]["kernel"], TREE["dense"]["kernel"])


def test_saving_again_replaces(saved):
    checkpoint.save(saved, {"other": jnp.zeros(2)}, about={})
    found = checkpoint.restore(saved, {"other": jnp.ones(2)})
    np.testing.assert_array_equal(found["other"], 0)


def test_another_architecture_is_refused_and_its_leaves_named(saved):
    wider = {**TREE, "dense": {"kernel": jnp.zeros((2, 4)), "bias": jnp.zeros(3)}}
    with pytest.raises(
        ValueError, match=r"dense.kernel: expected float64\[2, 4\], got float64\[2, 3\]"
    ):
        checkpoint.restore(saved, wider)
    with pytest.raises(ValueError, match=r"extra: expected float64\[2\], got nothing"):
        checkpoint.restore(saved, {**TREE, "extra": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"step: expected nothing, got int32\[\]"):
        checkpoint.restore(saved, {"dense": TREE["dense"]})


def test_a_missing_checkpoint_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a checkpoint"):
        checkpoint.restore(tmp_path / "none", TREE)
    with pytest.raises(FileNotFoundError, match="found none"):
        checkpoint.read_about(tmp_path)


def test_a_truncated_checkpoint_is_said_to_be_damaged(saved):
    for file in saved.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged or incomplete"):
        checkpoint.restore(saved, TREE)


def test_a_checkpoint_without_its_description_is_said_to_be_damaged(saved):
    shutil.rmtree(saved / "about")
    with pytest.raises(ValueError, match="damaged or incomplete"):
        checkpoint.read_about(saved)


def test_a_checkpoint_does_not_tell_where_it_was_written(tmp_path):
    checkpoint.save(tmp_path / "own", {"a": jnp.ones(2)}, about={})
    for file in (tmp_path / "own").rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes(), file
