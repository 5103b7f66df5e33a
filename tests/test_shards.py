"""Folders of pictures: whole at every moment, the same whoever draws them, damaged never unseen."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import sample
from experiments.common import shards
from experiments.common.processes import Share, join, over_devices

pytestmark = pytest.mark.usefixtures("others_promote")


class Killed(BaseException):
    """What stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture
def quick(monkeypatch):
    """Pictures made of their numbers, in place of a network's."""

    def drawer(settings, source):
        return lambda samples: np.stack([np.full((2, 2, 3), number % 256, np.uint8)
                                         for number in samples])  # fmt: skip

    monkeypatch.setattr(sample, "drawer", drawer)
    monkeypatch.setattr(sample, "source_of", lambda settings: SimpleNamespace(about={}))


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".part"}


def run(folder, **changed):
    sample.main(dataclasses.replace(sample.Settings(out=folder, images=10, shard=3), **changed))


def kill_after(monkeypatch, operations):
    """Die in place of the operation on files after so many; of each write, half is left behind."""
    left = [operations]
    opened, flushed, moved = Path.open, os.fsync, os.replace

    def counted(real, spoil=lambda *given: None):
        def operate(*given, **named):
            if not left[0]:
                spoil(*given)
                raise Killed
            left[0] -= 1
            return real(*given, **named)

        return operate

    monkeypatch.setattr(Path, "open", lambda path, mode="r", *given, **named: (
        counted(opened)(path, mode, *given, **named) if "w" in mode
        else opened(path, mode, *given, **named)
    ))  # fmt: skip
    monkeypatch.setattr(os, "fsync", counted(flushed, lambda file: os.ftruncate(file, 5)))
    monkeypatch.setattr(os, "replace", counted(moved))


def test_killed_at_any_operation_on_files_it_goes_on_to_the_same_bytes(quick, tmp_path):
    run(tmp_path / "whole")
    expected, ended = contents(tmp_path / "whole"), False
    operations = 0
    while not ended:  # Killed a little later each time, in a new folder, and begun again.
        folder = tmp_path / str(operations)
        try:
            with pytest.MonkeyPatch.context() as patch:
                kill_after(patch, operations)
                run(folder)
            ended = True
        except Killed:
            found = contents(folder)
            assert found.items() <= expected.items()
            assert shards.MANIFEST not in found
            run(folder)
        assert contents(folder) == expected
        assert not list(folder.glob("*.part"))
        operations += 1
    assert operations == 1 + 3 * 6  # Settings, four files and the manifest.


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_any_number_of_processes_in_any_order_make_the_same_bytes(quick, processes, tmp_path):
    run(tmp_path / "one")
    for process in reversed(range(processes)):
        assert not (tmp_path / "many" / shards.MANIFEST).exists()
        run(tmp_path / "many", process=process, processes=processes)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    pictures = np.concatenate(list(shards.read_pictures(tmp_path / "many")))
    np.testing.assert_array_equal(pictures[:, 0, 0, 0], np.arange(10))


def test_a_damaged_file_is_an_error_and_is_drawn_again(quick, tmp_path):
    run(tmp_path)
    expected = contents(tmp_path)
    file = tmp_path / "pictures_000000003.npz"
    for place in range(0, len(expected[file.name]), 7):
        damaged = bytearray(expected[file.name])
        damaged[place] ^= 0xFF
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"pictures_000000003.npz as its manifest has it"):
            list(shards.read_pictures(tmp_path))
        run(tmp_path)
        assert contents(tmp_path) == expected
    file.unlink()
    with pytest.raises(ValueError, match=r"pictures_000000003.npz as its manifest has it"):
        list(shards.read_pictures(tmp_path))


def test_before_there_is_a_manifest_a_damaged_picture_is_drawn_again(quick, tmp_path):
    run(tmp_path)
    expected = contents(tmp_path)
    file = tmp_path / "pictures_000000000.npz"
    for content in (b"", expected[file.name][:-30], expected[file.name].replace(b"\1", b"\2"),
                    expected["pictures_000000009.npz"]):  # fmt: skip
        (tmp_path / shards.MANIFEST).unlink()
        file.write_bytes(content)
        with pytest.raises(FileNotFoundError, match=r"expected manifest\.json .* written last"):
            list(shards.read_pictures(tmp_path))
        run(tmp_path)
        assert contents(tmp_path) == expected


@pytest.mark.parametrize("content", [
    "", "[]", '{"files": [{"file": "../settings.json", "sha256": ""}]}', '{"files": [{}]}',
])  # fmt: skip
def test_what_is_no_manifest_is_refused_and_written_anew(quick, content, tmp_path):
    run(tmp_path)
    expected = contents(tmp_path)
    (tmp_path / shards.MANIFEST).write_text(content)
    with pytest.raises(ValueError, match="expected a manifest as exp"):
        list(shards.read_pictures(tmp_path))
    run(tmp_path)
    assert contents(tmp_path) == expected


def test_a_folder_of_other_settings_is_refused(quick, tmp_path):
    run(tmp_path)
    for changed in ({"seed": 1}, {"images": 11}, {"shard": 2}, {"chunk": 2}):
        with pytest.raises(ValueError, match=f"other settings: {next(iter(changed))} "):
            run(tmp_path, **changed)


@pytest.mark.parametrize(("changed", "told"), [
    ({"images": 0}, "expected images of at least 1, got 0"),
    ({"chunk": 0}, "expected chunk of at least 1, got 0"),
    ({"shard": -1}, "expected shard of at least 1, got -1"),
    ({"process": 2, "processes": 2}, "from 0 to 1, counted from 0, got 2 of 2"),
    ({"process": 1}, "--process and --processes together"),
    ({"coordinator": "here:1"}, "or --distributed"),
    ({"process": 0, "processes": 2, "out": Path("a.PNG")}, "expected a folder as --out"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(quick, changed, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        run(tmp_path, **changed)


def test_alone_one_has_all_of_the_work():
    assert join(False, None, None, None) == Share(0, 1)
    assert over_devices(7).mesh.size == 1


def command(ladder, folder, *more):
    return [sys.executable, "-m", "experiments.sample", "--ladder", str(ladder), "--level", "2",
            "--steps", "2", "--images", "98", "--shard", "4", "--chunk", "2",
            "--out", str(folder), *more]  # fmt: skip


def settings(ladder, folder):
    return sample.Settings(ladder=ladder, level=2, steps=2, images=98, shard=4, chunk=2,
                           out=folder)  # fmt: skip


def wait_for_files(folder, count, processes):
    while len(list(folder.glob("*.npz"))) < count:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


def test_killed_in_the_middle_the_same_command_ends_with_the_same_bytes(small_ladder, tmp_path):
    begun = subprocess.Popen(command(small_ladder, tmp_path / "killed"))
    wait_for_files(tmp_path / "killed", 3, [begun])
    begun.send_signal(signal.SIGKILL)
    assert begun.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / shards.MANIFEST).exists()
    with jax.enable_x64(False):
        sample.main(settings(small_ladder, tmp_path / "killed"))
        sample.main(settings(small_ladder, tmp_path / "whole"))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_of_another_chunk_pictures_differ_by_rounding_at_most(small_ladder, tmp_path):
    drawn = []
    with jax.enable_x64(False):
        for chunk in (2, 5):
            given = dataclasses.replace(settings(small_ladder, tmp_path), images=10, chunk=chunk)
            drawn.append(sample.drawer(given, sample.source_of(given))(range(3, 10)).astype(int))
    assert np.abs(drawn[1] - drawn[0]).max() <= 1


@pytest.mark.slow
def test_two_processes_killed_and_resumed_make_the_bytes_of_one(small_ladder, tmp_path):
    folder = tmp_path / "two"

    def start():
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        given = ["--distributed", "--coordinator", f"localhost:{port}", "--processes", "2"]
        # As many devices as one likes in each: here two in the first.
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={{}}"
        return [
            subprocess.Popen(command(small_ladder, folder, *given, "--process", str(number)),
                             env={**os.environ, "XLA_FLAGS": flags.format(2 - number)})
            for number in range(2)
        ]  # fmt: skip

    begun = start()
    wait_for_files(folder, 6, begun)
    for process in begun:
        process.send_signal(signal.SIGKILL)
    assert [process.wait() for process in begun] == [-signal.SIGKILL] * 2
    assert not (folder / shards.MANIFEST).exists()
    assert [process.wait() for process in start()] == [0, 0]
    alone = subprocess.run(command(small_ladder, tmp_path / "one"), check=False)
    assert alone.returncode == 0
    assert contents(folder) == contents(tmp_path / "one")
    assert json.loads((folder / shards.MANIFEST).read_text())["images"] == 98
