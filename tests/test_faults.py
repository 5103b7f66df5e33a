"""Kills, full disks, locked folders and damaged files: nothing is lost, and nothing is silent."""

import ast
import logging
import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

from experiments.common import kept_plans, runs, seal, sums
from experiments.ladders import images
from experiments.micro import damage, kept_files, kills
from mlem_jax import load_plan
from mlem_jax.arrays import read_arrays, write_arrays
from tests.bad_inputs import Attack

# What Orbax leaves half done when it cannot write is reported by Python as it is collected.
pytestmark = [
    pytest.mark.usefixtures("others_promote"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = Path(__file__).parent.parent
NAMES = [kind.name for kind in kept_files.kinds(ROOT)]
REPLACED = [kind.name for kind in kept_files.kinds(ROOT) if kind.replaced]


@pytest.fixture
def folder():
    """One that others may look into, as pytest's may not be."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


def kind_of(name, folder):
    return next(kind for kind in kept_files.kinds(folder) if kind.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_damaged_places_give_an_error_or_the_right_answer(name, tmp_path):
    found = damage.damage(kind_of(name, tmp_path), 100)
    assert found.total() >= 40
    if "jpg" in name:  # It has no checksums: what it shows may differ, but it is shown or refused.
        assert set(found) <= {"error", "right", "silently wrong"}
    else:
        assert set(found) <= {"error", "right"}
        assert found["error"] > 3 * found["right"]


@pytest.mark.parametrize("name", REPLACED)
def test_a_full_disk_and_a_locked_folder_are_told_and_the_old_file_is_whole(name, folder):
    logging.disable(logging.CRITICAL)  # Orbax's own words, in threads.
    kind = kind_of(name, folder)
    kind.write(0)
    largest = max(file.stat().st_size for file in kept_files.files_of(kind))
    for size in (0, 1, largest // 4, largest // 2):
        full = damage.kept_through(kind, lambda size=size: damage.full_after(size))
        assert full == damage.WHOLE, size
    assert damage.kept_through(kind, lambda: damage.locked(folder)) == damage.WHOLE
    kind.write(1)
    kind.read()
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def server():
    with kills.serving() as run:
        yield run


def check_killed(server, activity, folder, count, kinds):
    whole = server(activity, folder / f"{activity}_whole", kills.Moment())
    assert whole.status == 0, whole.told
    moments = kills.draw_moments(np.random.default_rng(0), whole.counts, count, kinds)
    found = kills.killed_at(server, activity, folder / activity, moments)
    assert found.same, found.told
    assert found.killed >= 1


@pytest.mark.parametrize("activity", kills.ACTIVITIES[:3])  # A fit takes too long to compile.
def test_a_run_killed_at_three_moments_ends_with_the_bits_of_an_unbroken_one(
    activity, server, tmp_path
):
    check_killed(server, activity, tmp_path, 3, ("file", "write"))


@pytest.mark.slow
@pytest.mark.parametrize("activity", kills.ACTIVITIES)
def test_a_run_killed_at_twenty_moments_ends_with_the_bits_of_an_unbroken_one(
    activity, server, tmp_path
):
    for number in range(5):
        check_killed(server, activity, tmp_path / f"{number}", 4, ("file", "write", "second"))


def test_a_line_that_a_kill_left_unfinished_is_made_again(tmp_path):
    log = tmp_path / "log.jsonl"
    for number in range(3):
        runs.append(log, step=number)
    whole = log.read_bytes()
    log.write_bytes(whole[:-5])
    assert [line["step"] for line in runs.read_log(log)] == [0, 1]
    runs.append(log, step=2)
    assert log.read_bytes() == whole


def test_a_plan_is_not_read_with_what_another_is_of(tmp_path):
    one, two = (kind_of("plan with what it is of", tmp_path / name) for name in ("one", "two"))
    one.write(0)
    two.write(1)
    (tmp_path / "one" / "kept.npz").write_bytes((tmp_path / "two" / "kept.npz").read_bytes())
    with pytest.raises(ValueError, match=r"expected the plan that .* was written with"):
        one.read()


def test_what_is_older_than_sums_is_refused_until_it_is_sealed(tmp_path):
    plan, log = kind_of("plan with what it is of", tmp_path), kind_of("log", tmp_path)
    for kind in (plan, log):
        kind.write(0)
        before = kind.read()
        file = kind.path.with_suffix(".json") if kind is plan else kind.path
        text = file.read_text()
        file.write_text(re.sub(rf',\s*"({sums.PLAN}|{sums.SUM})": "\w+"', "", text))
        with pytest.raises(ValueError, match=r"older than .*experiments\.common\.seal"):
            kind.read()
        seal.main(seal.Settings((file,)))
        assert file.read_text() == text
        assert kind.read() == before


def test_the_plans_that_come_with_a_ladder_are_whole():
    files = sorted((ROOT / "experiments").glob("*/plans/*.npz"))
    assert len(files) >= 8
    for file in files:
        assert kept_plans.read_plan(file).plan.weights.shape[0] > 1


def test_nothing_here_reads_what_could_run():
    words = re.compile(r"\b(pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal|eval|exec)\b")
    for folder in ("mlem_jax", "experiments"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names] + [getattr(node, "module", "")]
                    assert not any(words.search(name or "") for name in names), file
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    assert called not in ("eval", "exec", "compile"), file
                    assert called != "np.load" or "allow_pickle=False" in ast.unparse(node), file
                    assert not called.endswith(("yaml.load", "torch.load")), file


def test_a_file_with_a_pickle_inside_is_refused_and_not_run(tmp_path):
    file = tmp_path / "evil.npz"
    np.savez(file, images=np.array([Attack()], object), weights=np.array([Attack()], object))
    for read in (load_plan, lambda file: read_arrays(file, "arrays"),
                 lambda file: images.load(file, 8)):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            read(file)
    with pytest.raises(TypeError, match="expected arrays of numbers, got objects in weights"):
        write_arrays(file, {"weights": np.array([Attack()], object)})
