"""How far from the data the pictures of a few methods are, at matched costs, over several seeds.

Of each family the variant is taken that came closest to the exact solution for its cost. Starts are
the same for all methods of a seed, so their differences have less noise than they have themselves;
of two methods on one grid the noise too.
"""

import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.common import runs
from experiments.common.benchmark import Rows, measure_missing
from experiments.common.method import Method, Run, fields, method_of
from experiments.common.samplers import SAMPLERS, path_of
from experiments.ladders import images
from experiments.ladders.features import load_features
from experiments.ladders.shipped import Trained, pick
from experiments.ladders.shown import Symmetries, split, to_unit, turned
from experiments.peers.distances import METRICS, distance_to, interval
from experiments.peers.methods import GROUPS, OURS, by_run, group_of, name_of
from experiments.peers.solvers import Network, Peer
from mlem_jax import Problem, checkpoint, draw_starts, solve
from mlem_jax.noise import store_path

DATA = Run(Method("data against data", ()), {}, np.zeros(0), [])
"""Pictures of the training data, in the stead of drawn ones."""
WITHIN = 1.05
"""What is asked for a cost may cost a little more, ours and others' alike."""
Chosen = dict[tuple[str, float], Run | Peer]
"""By group and cost."""


class Approached(NamedTuple):
    """What distances are taken to.

    Attributes:
        data: the pictures; those held out of training are approached.
        symmetries: in which they were shown in training, and are turned here.
        features: of experiments.ladders.features.
    """

    data: Path
    symmetries: Symmetries
    features: Path


class Sampled(NamedTuple):
    """How much is drawn.

    Attributes:
        costs: at which methods are compared.
        dear: a cost at which the second-order solver is all but exact.
        samples: pictures per seed.
        seeds: how many.
        chunk: pictures at a time.
        seed: the first.
    """

    costs: tuple[float, ...]
    dear: float
    samples: int
    seeds: int
    chunk: int
    seed: int


def choose(rows: Rows, methods: list[Run | Peer], sampled: Sampled) -> Chosen:
    """By group and cost: what has the least error among all that cost no more (see `WITHIN`)."""
    by_name = {name_of(each.method, each.parameters): each for each in methods}
    points = {
        name: (float(np.median([row["cost"] for row in own])),
               float(np.median([row["mse"] for row in own])))
        for name, own in by_run(rows).items()
    }  # fmt: skip
    asked = [(group, cost) for cost in sampled.costs for group in GROUPS]
    found = {}
    for group, cost in [*asked, ("DPM-Solver++", sampled.dear)]:
        within = {name: error for name, (paid, error) in points.items()
                  if group_of(name[0]) == group and paid <= WITHIN * cost}  # fmt: skip
        if within:
            found[group, cost] = by_name[min(within, key=lambda name: within[name])]
    return found


def measured(
    log: Path,
    name: str,
    judged: list[Run | Peer],
    trained: Trained,
    network: Network,
    approached: Approached,
    sampled: Sampled,
    console: Console,
) -> Rows:
    """A row for every method and seed; the data against itself comes first.

    Args:
        log: JSON lines, resumed if they are there.
        name: of the sampler.
        judged: what draws.
        trained: its levels.
        network: the top one, for the peers.
        approached: what distances are taken to.
        sampled: how much is drawn.
        console: for the progress.
    """

    def judge() -> Callable[[Run | Peer], Rows]:
        given = images.load(approached.data, trained.shape[0])
        train, held_out = split(given.images, 1000, given.held_out)
        held_out = turned(held_out, approached.symmetries, seed=0)
        about = checkpoint.read_about(approached.features)
        runs.check_settings(log.with_suffix(""), {"held_out": zlib.crc32(held_out.tobytes()),
                                                  "features": about})  # fmt: skip
        distances = distance_to(np.asarray(to_unit(held_out)), load_features(approached.features))

        def rows(each: Run | Peer) -> Rows:
            found = []
            for draw in range(sampled.seeds):
                begun, key = time.perf_counter(), jax.random.key(sampled.seed + 100 + draw)
                if each is DATA:
                    rng = np.random.default_rng(draw)
                    own = rng.choice(len(train), min(sampled.samples, len(train)), replace=False)
                    shown = turned(train[own], approached.symmetries, seed=draw)
                    pictures = np.asarray(to_unit(shown))
                else:
                    pictures = drawn(each, draw, name, trained, network, key, sampled)
                seconds = time.perf_counter() - begun
                found.append({**fields(each.method), "parameters": each.parameters, "number": draw,
                              **distances(pictures), "seconds": seconds})  # fmt: skip
            return found

        return rows

    return measure_missing(log, [DATA, *judged], judge, console)


def drawn(
    run: Run | Peer,
    draw: int,
    name: str,
    trained: Trained,
    network: Network,
    key: jax.Array,
    sampled: Sampled,
) -> np.ndarray:
    """Pictures of one seed; a method of several plans takes another one for each seed."""
    start_key, path_key = jax.random.split(key)
    sampler, times, parts = SAMPLERS[name], run.times, []
    for first in range(0, sampled.samples, sampled.chunk):
        samples = first + jnp.arange(min(sampled.chunk, sampled.samples - first))
        x = draw_starts(start_key, samples, trained.shape)
        order = 1 if isinstance(run, Peer) else run.method.order
        path = path_of(sampler, path_key, times, times, samples, order)
        noise = None if path is None else jax.jit(store_path)(path, x)
        if isinstance(run, Peer):
            end = run.solver(network, x, noise)
        else:
            ladder = pick(trained, run.method.levels).ladder
            steps = sampler.table(times, order)
            end = solve(ladder, Problem(x, noise), steps, run.plans[draw % len(run.plans)])
        parts.append(np.asarray(end))
    return np.concatenate(parts)


def told(rows: Rows, run: Run | Peer) -> dict[str, dict[str, float]]:
    """The distances of a method: mean over seeds, half width of the 95 % interval."""
    own = _of(rows, run)
    return {metric: interval([row[metric] for row in own]) for metric in METRICS}


def against_the_best_peer(rows: Rows, found: Chosen) -> Rows:
    """ML-EM's distance less that of the peer with the least mean, seed by seed, at every cost.

    Below 0, with an interval that does not reach 0, ML-EM is closer to the data.
    """
    lines = []
    for (group, cost), run in found.items():
        others = [(other, own) for (other, paid), own in found.items()
                  if paid == cost and other not in OURS]  # fmt: skip
        if group not in OURS or not others:
            continue
        for metric in METRICS:
            means = [np.mean([row[metric] for row in _of(rows, own)]) for _, own in others]
            best, peer = others[int(np.argmin(means))]
            pairs = zip(_of(rows, run), _of(rows, peer), strict=True)
            gaps = [ours[metric] - theirs[metric] for ours, theirs in pairs]
            lines.append({"own": group, "cost": cost, "metric": metric, "best peer": best,
                          "difference": interval(gaps)})  # fmt: skip
    return lines


def verdict(line: dict[str, Any]) -> str:
    """A line of `against_the_best_peer` in words."""
    gap = line["difference"]
    closer, farther = (gap["mean"] + gap["half_width"] < 0, gap["mean"] - gap["half_width"] > 0)
    word = "closer" if closer else "farther" if farther else "no difference"
    return f"{word} ({gap['mean']:+.2g} ± {gap['half_width']:.1g}, {line['best peer']})"


def _of(rows: Rows, run: Run | Peer) -> Rows:
    return [row for row in rows
            if (method_of(row), row["parameters"]) == (run.method, run.parameters)]  # fmt: skip
