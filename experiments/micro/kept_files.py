"""Every kind of file that is written, and read again later, with a way to write and to read it."""

import operator
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.common import pilots, runs
from experiments.common.kept_plans import KeptPlan, read_plan, write_plan
from experiments.common.samplers import SAMPLERS, fine_grid
from experiments.fit import Errors
from experiments.ladders import answers, images
from experiments.ladders.resume import keep_state, last_state
from experiments.ours import sensitivities
from mlem_jax import Memory, Plan, checkpoint, load_plan, save_plan
from mlem_jax.arrays import write_arrays
from mlem_jax.fitting import Density, Fine
from mlem_jax.nets import Answers

STEPS = 12


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        name: in words.
        path: the file, or a folder of several.
        write: what is of version 0, 1, ... there, in place of, or after, what there is.
        read: what stands there, in a form that can be compared.
        replaced: whether the next version takes the place of the one before.
        same: whether what was read is what was written.
    """

    name: str
    path: Path
    write: Callable[[int], Any]
    read: Callable[[], Any]
    replaced: bool = True
    same: Callable[[Any, Any], bool] = operator.eq


def files_of(kind: Kind) -> list[Path]:
    """The files of a kind; a plan's .json lies beside it."""
    if kind.path.is_dir():
        return sorted(file for file in kind.path.rglob("*") if file.is_file())
    return sorted({file for file in (kind.path, kind.path.with_suffix(".json")) if file.exists()})


def numbers(version: int, *shape: int) -> Any:
    """Of every version others."""
    return np.random.default_rng(version).normal(size=shape).astype(np.float32)


def as_bytes(tree: Any) -> list[Any]:
    """A pytree, to be compared to the bit."""
    leaves = [(path, np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    return [(str(path), leaf.dtype.str, leaf.shape, leaf.tobytes()) for path, leaf in leaves]


def kinds(folder: Path) -> Iterator[Kind]:
    """All of them, each in a place of its own in a folder."""
    yield from of_networks(folder)
    yield from of_fits(folder)
    yield from of_logs(folder)
    yield from of_pictures(folder)


def of_networks(folder: Path) -> Iterator[Kind]:
    """Checkpoints, and what a training keeps."""

    def tree(version: int) -> Any:
        return {"kernel": numbers(version, 3 + version, 50), "bias": numbers(version, 5)}

    def like() -> Any:
        found = checkpoint.read_about(path)
        return jax.eval_shape(lambda: tree(found["version"]))

    path = folder / "network"
    yield Kind(
        "checkpoint",
        path,
        lambda version: checkpoint.save(path, tree(version), about={"version": version}),
        lambda: (checkpoint.read_about(path), as_bytes(checkpoint.restore(path, like()))),
    )
    states, empty = folder / "states", (np.zeros((3, 50), np.float32), np.zeros((), np.int32))
    yield Kind(
        "state of a training",
        states,
        lambda version: keep_state(states, 1, (numbers(version, 3, 50), np.int32(version))),
        lambda: as_bytes(last_state(states, empty)),
    )
    said = folder / "answers.npz"
    yield Kind(
        "answers of a top level",
        said,
        lambda version: write_arrays(said, pairs(version)._asdict()),
        lambda: as_bytes(answers.asked(said, network, None, numbers(0, 1), 1, 0)),
    )


def pairs(version: int) -> Answers:
    """Answers at both ends of three pieces of paths."""
    x, target = (numbers(version + own, 3, 2, 4, 4, 3) for own in (0, 1))
    return Answers(x, numbers(version, 3, 2), target)


def network(params: Any, x: jax.Array, t: jax.Array) -> jax.Array:
    """Never asked: its answers are there."""
    raise AssertionError(params, x, t)


def of_fits(folder: Path) -> Iterator[Kind]:
    """Plans, and what they are fitted on."""
    plan, kept = folder / "plan.npz", folder / "kept.npz"
    yield Kind(
        "plan",
        plan,
        lambda version: save_plan(plan, made_plan(version)),
        lambda: as_bytes(load_plan(plan)),
    )

    def keep(version: int) -> None:
        times = fine_grid(STEPS)
        write_plan(kept, KeptPlan(made_plan(version), (1, 3), "ddpm", times, "uniform", 1, 3.5), {})

    yield Kind("plan with what it is of", kept, keep, lambda: as_bytes(read_plan(kept)))
    table = SAMPLERS["ddpm"].table(fine_grid(STEPS))

    def density(version: int) -> Density:
        return Density(np.asarray(table.t), numbers(version, STEPS, 2).astype(np.float64) ** 2)

    pilot, wanted = folder / "pilot.npz", np.arange(STEPS + 1)
    yield Kind(
        "pilot of a fit",
        pilot,
        lambda version: pilots.write(
            pilot,
            Fine(table, wanted, jnp.asarray(numbers(version, STEPS + 1, 2, 3))),
            density(version),
        ),
        lambda: as_bytes(pilots.read(pilot, table, wanted)),
    )
    measured = folder / "measured.npz"
    yield Kind(
        "sensitivities",
        measured,
        lambda version: sensitivities.write(measured, density(version)),
        lambda: as_bytes(sensitivities.read(measured, table)),
    )


def made_plan(version: int) -> Plan:
    """A plan with memory."""
    store = jnp.full((STEPS, 2), -1, jnp.int32).at[:, 0].set(version % 2 - 1)
    memory = Memory(numbers(version, STEPS, 1), store)
    weights = numbers(version, STEPS, 2)
    return jax.tree.map(jnp.asarray, Plan(weights, weights > 0, memory, numbers(version, STEPS, 3)))


def of_logs(folder: Path) -> Iterator[Kind]:
    """Rows and errors as they come."""
    log, errors, settings = folder / "log.jsonl", folder / "errors.json", folder / "begun"

    def append(version: int) -> None:
        for number in range(1 if version else 20):
            runs.append(log, step=number, error=numbers(version, 3).tolist(), method=f"{number}")

    # At the end a line that is not whole is one that a kill left, and is made again.
    yield Kind(
        "log",
        log,
        append,
        lambda: runs.read_log(log),
        same=lambda found, written: found in (written, written[:-1]),
    )

    def note(version: int) -> None:
        cache = Errors(errors)
        for number in range(3):
            cache[f"candidate {number}, version {version}"] = number / 7

    yield Kind("errors of candidates", errors, note, lambda: dict(Errors(errors)))
    yield Kind(
        "settings of a run",
        settings,
        lambda _: runs.check_settings(settings, {"steps": 3, "rate": 0.1, "data": "set"}),
        partial(runs.check_settings, settings, {"steps": 3, "rate": 0.1, "data": "set"}),
        replaced=False,
    )


def of_pictures(folder: Path) -> Iterator[Kind]:
    """Pictures come from others; what was skipped is told."""

    def picture(version: int) -> Image.Image:
        return Image.fromarray((numbers(version, 16, 16, 3) * 60 + 128).clip(0, 255).astype("u1"))

    def shown(path: Path) -> bytes:
        found = images.load(path, 16)
        if found.skipped:
            raise ValueError(f"expected pictures, skipped {found.skipped}")
        return found.images.tobytes()

    table = folder / "pictures.npz"
    yield Kind(
        "pictures, .npz",
        table,
        lambda version: write_arrays(table, {"images": np.asarray(picture(version))[None]}),
        partial(shown, table),
    )
    zipped = folder / "pictures.zip"

    def zip_up(version: int) -> None:
        with zipfile.ZipFile(zipped, "w") as archive, archive.open("a.png", "w") as member:
            picture(version).save(member, "png")

    yield Kind("pictures, .png in a .zip", zipped, zip_up, partial(shown, zipped), replaced=False)
    for suffix in ("png", "jpg"):
        own = folder / suffix
        yield Kind(
            f"picture, .{suffix}",
            own,
            lambda version, own=own, suffix=suffix: save(picture(version), own, suffix),
            partial(shown, own),
            replaced=False,
        )


def save(picture: Image.Image, folder: Path, suffix: str) -> None:
    """A folder with one picture in it."""
    folder.mkdir(exist_ok=True)
    picture.save(folder / f"a.{suffix}")
