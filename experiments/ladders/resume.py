"""Steps that survive a kill: checkpoints and a log, from which the same command goes on."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.common import runs
from mlem_jax import checkpoint

State = TypeVar("State")


class Pace(NamedTuple):
    """When a run logs, saves and ends.

    Attributes:
        deadline: by `time.monotonic`, after which it stops with a checkpoint.
        checkpoint_minutes: time between checkpoints.
        log_every: steps between lines in the log.
    """

    deadline: float
    checkpoint_minutes: float
    log_every: int


def pace_of(minutes: float | None, checkpoint_minutes: float, log_every: int) -> Pace:
    """A pace from now on; no end without minutes."""
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    return Pace(deadline, checkpoint_minutes, log_every)


def run_steps(
    folder: Path,
    state: State,
    step: Callable[[State, Any], tuple[State, jax.Array]],
    batches: Any,
    steps: int,
    images: int,
    pace: Pace,
) -> State | None:
    """The state after all steps, from the last checkpoint on; None if the deadline came first.

    Args:
        folder: of the checkpoints and of log.jsonl.
        state: before the first step; given up.
        step: `(state, batch) -> (state, losses)`.
        batches: by the number of the step.
        steps: how many.
        images: per step, for the rate.
        pace: when to log, to save and to stop.
    """
    states, log = folder / "checkpoints", folder / "log.jsonl"
    first, state = last_state(states, state)
    runs.cut_log(log, first)
    saved = time.monotonic()
    with progress(folder.name, steps, images, first) as advance:
        for done in range(first + 1, steps + 1):
            state, losses = step(state, batches[done - 1])
            now = time.monotonic()
            if done % pace.log_every == 0 or done == steps:
                told = np.asarray(losses, float)
                runs.append(log, step=done, loss=told.tolist(), rate=advance(done, told.mean()))
            over = now > pace.deadline and done < steps
            if now - saved > 60 * pace.checkpoint_minutes or over or done == steps:
                keep_state(states, done, state)
                saved = now
            if over:
                print("time is up; the same command goes on from here")
                return None
    return state


def last_state(folder: Path, like: State) -> tuple[int, State]:
    """The step that was kept last and the state after it, or 0 and `like`.

    What kills have left half done, in folders with a dot, is taken away.

    Raises:
        ValueError: if it is damaged, or of other shapes.
    """
    for left in folder.glob(".*"):
        shutil.rmtree(left)
    steps = steps_kept(folder)
    if not steps:
        return 0, like
    wanted = named(like)
    try:
        found = checkpoint.restore(folder / str(steps[-1]), wanted)
    except ValueError as error:
        raise ValueError(
            f"{error}; or delete {folder / str(steps[-1])}: the same command then goes on from "
            f"{f'step {steps[-2]}' if len(steps) > 1 else 'the beginning'}, to the same end"
        ) from error
    return steps[-1], jax.tree.unflatten(jax.tree.structure(like), [found[at] for at in wanted])


def keep_state(folder: Path, step: int, state: Any) -> None:
    """A state as a checkpoint, checksums and all, and the one before it; older ones are deleted."""
    checkpoint.save(folder / str(step), named(state), about={"step": step})
    for old in steps_kept(folder)[:-2]:
        shutil.rmtree(folder / str(old))


def steps_kept(folder: Path) -> list[int]:
    """Steps of which there is a checkpoint."""
    return sorted(int(own.name) for own in folder.glob("*") if own.name.isdecimal())


def named(state: Any) -> dict[str, Any]:
    """The leaves of a state by their places in it, which is how they are kept."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@contextmanager
def progress(
    name: str, steps: int, images: int, first: int
) -> Iterator[Callable[[int, float], float]]:
    """A bar with loss, images/s and time left; yields `(steps done, loss) -> images/s`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  {task.fields[state]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(name, total=steps, completed=first, state="compiling")
        last = [time.monotonic(), first]

        def advance(done: int, loss: float) -> float:
            now = time.monotonic()
            rate = (done - last[1]) * images / (now - last[0])
            last[:] = [now, done]
            bar.update(task, completed=done, state=f"loss {loss:.4f}  {rate:.0f} images/s")
            return round(rate, 1)

        yield advance
