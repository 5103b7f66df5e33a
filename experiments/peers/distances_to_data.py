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

from experiments.common import benchmark as courses
from experiments.ladders import images
from experiments.common import runs
from experiments.common.benchmark import Method
from experiments.peers.distances import METRICS, distance_to, interval
from experiments.ladders.shipped import Ladder
from experiments.peers.methods import FAMILIES, head
from experiments.peers.solvers import Network, Peer
from experiments.common.samplers import SAMPLERS, path_of
from experiments.ladders.features import load_features
from experiments.ladders.train import split, to_unit
from mlem_jax import checkpoint, plan
from mlem_jax.noise import draw_starts, store_path
from mlem_jax.solve import solve

DATA = "data against data"


class Sampled(NamedTuple):
    """How much is drawn.

    Attributes:
        costs: at which methods are compared.
        dear: a cost at which the second-order solver is all but exact.
        samples: pictures a seed.
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


class Judged(NamedTuple):
    """A method, or None for pictures of the training data in its stead."""

    name: str
    parameters: dict[str, Any]
    method: Method | Peer | None


def chosen(
    rows: list[dict[str, Any]], methods: list[Method | Peer], sampled: Sampled
) -> dict[tuple[str, float], Judged]:
    """By family and cost: what has the least error among all that cost no more (by 5 %)."""
    by_name = {(each.name, str(each.parameters)): each for each in methods}
    points: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        points.setdefault((row["method"], str(row["parameters"])), []).append(row)
    asked = [(family, cost) for cost in sampled.costs for family in FAMILIES]
    found = {}
    for family, cost in [*asked, ("dpm-solver", sampled.dear)]:
        within = {
            each: float(np.median([row["mse"] for row in own]))
            for each, own in points.items()
            if head(each[0]) in FAMILIES[family]
            and np.median([row["cost"] for row in own]) <= 1.05 * cost
        }
        if within:
            best = by_name[min(within, key=lambda each: within[each])]
            found[family, cost] = Judged(best.name, best.parameters, best)
    return found


def measured(
    log: Path,
    name: str,
    judged: list[Judged],
    ladder: Ladder,
    network: Network,
    data: Path,
    features: Path,
    sampled: Sampled,
    console: Console,
) -> list[dict[str, Any]]:
    """A row for every method and seed; the data against itself comes first.

    Args:
        log: JSON lines, resumed if they are there.
        name: of the sampler.
        judged: what draws.
        ladder: its levels.
        network: the top one, for the peers.
        data: the pictures; those held out of training are approached.
        features: of experiments.ladders.features.
        sampled: how much is drawn.
        console: for the progress.
    """

    def judge() -> Callable[[Judged], list[dict[str, Any]]]:
        train, held_out = split(images.load(data, ladder.shape[0]).images, 1000)
        about = checkpoint.read_about(features)
        runs.check_settings(log.with_suffix(""), {"held_out": zlib.crc32(held_out.tobytes()),
                                                  "features": about})  # fmt: skip
        distances = distance_to(np.asarray(to_unit(held_out)), load_features(features))

        def rows(each: Judged) -> list[dict[str, Any]]:
            found = []
            for draw in range(sampled.seeds):
                begun, key = time.perf_counter(), jax.random.key(sampled.seed + 100 + draw)
                if each.method is None:
                    rng = np.random.default_rng(draw)
                    own = rng.choice(len(train), min(sampled.samples, len(train)), replace=False)
                    pictures = np.asarray(to_unit(train[own]))
                else:
                    pictures = drawn(each.method, draw, name, ladder, network, key, sampled)
                seconds = time.perf_counter() - begun
                told = {"method": each.name, "parameters": each.parameters, "draw": draw}
                found.append(told | distances(pictures) | {"seconds": seconds})
            return found

        return rows

    return courses.log_missing(log, [Judged(DATA, {}, None), *judged], judge, console)


def drawn(
    method: Method | Peer,
    draw: int,
    name: str,
    ladder: Ladder,
    network: Network,
    key: jax.Array,
    sampled: Sampled,
) -> np.ndarray:
    """Pictures of one seed; a method of several plans takes another one each seed."""
    start_key, path_key = jax.random.split(key)
    parts = []
    for first in range(0, sampled.samples, sampled.chunk):
        samples = first + jnp.arange(min(sampled.chunk, sampled.samples - first))
        x = draw_starts(start_key, samples, ladder.shape)
        path = path_of(SAMPLERS[name], path_key, method.grid, method.grid, samples)
        noise = None if path is None else jax.jit(store_path)(path, x)
        if isinstance(method, Peer):
            end = method.solver(network, x, noise)
        else:
            own = courses.rungs_of(ladder, method.levels)
            table = (method.table or SAMPLERS[name].table)(method.grid)
            each: plan.Plan = method.plans[draw % len(method.plans)]
            end = solve(own.levels, own.params, x, table, each, noise)
        parts.append(np.asarray(end))
    return np.concatenate(parts)


def told(rows: list[dict[str, Any]], each: Judged) -> dict[str, dict[str, float]]:
    """The distances of a method: mean over seeds, half width of the 95 % interval."""
    own = _of(rows, each)
    return {metric: interval([row[metric] for row in own]) for metric in METRICS}


def against_the_best_peer(
    rows: list[dict[str, Any]], found: dict[tuple[str, float], Judged]
) -> list[dict[str, Any]]:
    """ML-EM's distance less that of the peer with the least mean, seed by seed, at every cost.

    Below 0, with an interval that does not reach 0, ML-EM is closer to the data.
    """
    lines = []
    for (family, cost), each in found.items():
        others = [(other, own) for (other, paid), own in found.items()
                  if paid == cost and not other.startswith("ml-em")]  # fmt: skip
        if not family.startswith("ml-em") or not others:
            continue
        for metric in METRICS:
            means = [np.mean([row[metric] for row in _of(rows, own)]) for _, own in others]
            best, peer = others[int(np.argmin(means))]
            pairs = zip(_of(rows, each), _of(rows, peer), strict=True)
            gaps = [ours[metric] - theirs[metric] for ours, theirs in pairs]
            lines.append({"ml-em": family, "cost": cost, "metric": metric, "best peer": best,
                          "difference": interval(gaps)})  # fmt: skip
    return lines


def verdict(line: dict[str, Any]) -> str:
    """A line of `against_the_best_peer` in words."""
    gap = line["difference"]
    closer, farther = (gap["mean"] + gap["half_width"] < 0, gap["mean"] - gap["half_width"] > 0)
    word = "closer" if closer else "farther" if farther else "no difference"
    return f"{word} ({gap['mean']:+.2g} ± {gap['half_width']:.1g}, {line['best peer']})"


def _of(rows: list[dict[str, Any]], each: Judged) -> list[dict[str, Any]]:
    return [row for row in rows
            if row["method"] == each.name and row["parameters"] == each.parameters]  # fmt: skip
