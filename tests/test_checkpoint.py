import json
import os
import shutil
from pathlib import Path

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
    checkpoint.seal(saved)
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
    with pytest.raises(ValueError, match=r"damaged or incomplete: tree/.*d/\w+ is not as it was"):
        checkpoint.restore(saved, TREE)
    checkpoint.seal(saved)  # By someone who thinks it good.
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


def contents(folder):
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder): file.read_bytes() for file in files}


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
def test_a_flipped_byte_in_any_file_is_an_error_that_names_it(saved, place):
    files = [file for file in saved.rglob("*") if file.is_file() and file.stat().st_size]
    assert len(files) > 6
    for file in files:
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[int(place * (len(whole) - 1))] ^= 0x10
        file.write_bytes(flipped)
        name = r"\S+" if file.name == "SHA256SUMS" else file.relative_to(saved).as_posix()
        for read in (lambda: checkpoint.restore(saved, TREE), lambda: checkpoint.read_about(saved)):
            with pytest.raises(ValueError, match=f"damaged or incomplete: {name} is "):
                read()
        file.write_bytes(whole)
    checkpoint.restore(saved, TREE)


def test_every_single_bit_of_the_checksums_counts(saved):
    file = saved / "SHA256SUMS"
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="damaged or incomplete"):
            checkpoint.read_about(saved)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="SHA256SUMS is not as it was written"):
        checkpoint.read_about(saved)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="is not in SHA256SUMS"):
        checkpoint.read_about(saved)


def test_a_file_too_few_or_too_many_is_named(saved):
    (saved / "README.md").write_text("A card beside it is welcome.")
    (saved / "tree" / ".DS_Store").write_text("And so is what a file manager leaves.")
    checkpoint.restore(saved, TREE)
    (saved / "tree" / "more").write_text("from another checkpoint")
    with pytest.raises(ValueError, match="tree/more is not in SHA256SUMS"):
        checkpoint.restore(saved, TREE)
    (saved / "tree" / "more").unlink()
    (saved / "tree" / "_sharding").unlink()
    with pytest.raises(ValueError, match="tree/_sharding is missing"):
        checkpoint.restore(saved, TREE)


def test_a_checkpoint_without_checksums_is_refused_and_can_be_sealed(saved):
    (saved / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=r"found none: .* write them with mlem_jax.checkpoint.sea"):
        checkpoint.restore(saved, TREE)
    checkpoint.seal(saved)
    checkpoint.restore(saved, TREE)
    with pytest.raises(FileNotFoundError, match="expected a checkpoint"):
        checkpoint.seal(saved.parent)


def test_what_cannot_be_written_leaves_the_old_one_and_nothing_else(saved, monkeypatch):
    before = contents(saved.parent)
    with pytest.raises(TypeError, match=r"`about` to be what JSON can hold.*ndarray"):
        checkpoint.save(saved, TREE, about={"costs": np.ones(2)})
    with pytest.raises(TypeError, match=r"a pytree of arrays, got str at dense.bias"):
        checkpoint.save(saved, {"dense": {"bias": "zeros"}}, about={})
    rename = os.rename

    def failing(source, target):
        if Path(target) == saved and Path(source).name == "new":
            raise OSError("no space left")
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.os, "rename", failing)
        with pytest.raises(OSError, match="no space left"):
            checkpoint.save(saved, {"other": jnp.zeros(2)}, about={})
    assert contents(saved.parent) == before
    assert [path.name for path in saved.parent.iterdir()] == ["level"]


def test_a_card_in_the_folder_stays_and_a_stranger_is_not_replaced(saved):
    (saved / "README.md").write_text("card")
    checkpoint.save(saved, {"other": jnp.zeros(2)}, about={})
    assert (saved / "README.md").read_text() == "card"
    checkpoint.restore(saved, {"other": jnp.zeros(2)})
    with pytest.raises(FileExistsError, match="folder of its own"):
        checkpoint.save(saved.parent, TREE, about={})
    checkpoint.restore(saved, {"other": jnp.zeros(2)})


def test_a_checkpoint_is_replaced_where_a_link_points(saved, tmp_path):
    (tmp_path / "link").symlink_to(saved)
    checkpoint.save(tmp_path / "link", {"other": jnp.zeros(2)}, about={})
    assert (tmp_path / "link").is_symlink()
    checkpoint.restore(saved, {"other": jnp.zeros(2)})


SHIPPED = sorted(
    file.parent
    for part in ("experiments", "results")
    for file in (Path(__file__).parent.parent / part).rglob("_CHECKPOINT_METADATA")
)


def test_the_shipped_checkpoints_are_whole():
    assert len(SHIPPED) >= 7
    for directory in SHIPPED:
        assert checkpoint.read_about(directory)
