"""What experiments.peers.compare compares, and which methods are one curve together.

Fitted plans are those that experiments.ours.fitted keeps: of the top level alone and of several
levels, each on the grid and of the order that was best for its budget.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.common.benchmark import Benchmark, NoiseAlong, alone, errors_of, payable
from experiments.common.benchmark import rows_of as rows_of_run
from experiments.common.curves import Rows
from experiments.common.kept_plans import read_plan
from experiments.common.method import Method, Run, fields, method_of
from experiments.common.samplers import SAMPLERS, coarse_grids
from experiments.ladders.shipped import Trained
from experiments.peers import solvers
from experiments.peers.solvers import Network, Peer
from mlem_jax import draw_plan, draws, fit_budget, gates, plans
from mlem_jax.grids import Grid

OURS = ("ML-EM of the paper", "top level, fitted", "ML-EM, fitted")
PEERS = ("first order", "DPM-Solver++", "UniPC", "diffrax Heun", "switch")
GROUPS = (*PEERS, *OURS)
"""Methods that are one curve together, by `group_of`."""
RATIOS = (0.25, 0.5, 0.75)
"""Share of the steps that a switch gives to the small network."""


class Asked(NamedTuple):
    """How many of each method.

    Attributes:
        counts: steps of the top level alone, and of its peers.
        base_steps: of switches and of the paper's plans.
        budgets: of the paper's plans.
        early: levels a switch begins with.
        draws: of random plans.
        seed: of them.
        plans: folder of fitted plans.
        even: points even in time, for solvers that choose theirs among such.
    """

    counts: tuple[int, ...]
    base_steps: tuple[int, ...]
    budgets: tuple[float, ...]
    early: tuple[int, ...]
    draws: int
    seed: int
    plans: Path
    even: Grid


def group_of(method: Method) -> str:
    """The curve that a method is a part of, whatever its grid."""
    if method.weights == "fitted":
        return f"{method.family}, fitted"
    if method.family == "ML-EM":
        return "ML-EM of the paper"
    if method.family == "switch":
        return "switch"
    if method.order == 1:
        return "first order"
    return "DPM-Solver++" if method.family == "top level" else method.family


def in_groups(rows: Rows, *groups: str) -> Rows:
    """The rows of some curves."""
    return [row for row in rows if group_of(method_of(row)) in groups]


def by_run(rows: Rows) -> dict[tuple[Method, str], Rows]:
    """The rows of each point, of all its draws."""
    found: dict[tuple[Method, str], Rows] = {}
    for row in rows:
        found.setdefault(name_of(method_of(row), row["parameters"]), []).append(row)
    return found


def name_of(method: Method, parameters: dict[str, Any]) -> tuple[Method, str]:
    """What tells one point from the others."""
    return method, str(parameters)


def all_methods(name: str, trained: Trained, fine: Grid, asked: Asked) -> list[Run | Peer]:
    """Everything that is compared for one sampler."""
    coarse, top = partial(coarse_grids, fine), len(trained.ladder)
    found: list[Run | Peer] = [*peers(name, fine, asked, top)]
    for order in (1, 2):
        found += alone(trained, asked.counts, coarse, order=order)
    for count in asked.base_steps:
        for kind, times in coarse(count).items():
            found += switches(top, times, kind, asked)
            found += papers(name, trained, times, kind, asked)
    return [*found, *fitted(name, asked.plans)]


def peers(name: str, fine: Grid, asked: Asked, top: int) -> Iterator[Peer]:
    """The solvers of other projects, on their own even timesteps and on the log-SNR grid."""
    noisy = SAMPLERS[name].noisy
    for count in asked.counts:
        steps = {"steps": count}
        if not noisy and (len(asked.even) - 1) % count == 0:
            even, ddim = solvers.even_grid(asked.even, count), solvers.ddim(asked.even, count)
            yield Peer(Method("DDIM", (top,)), steps, even, count, ddim)
        for kind, times in coarse_grids(fine, count).items():
            first = partial(Method, levels=(top,), grid=kind, order=1)
            second = partial(Method, levels=(top,), grid=kind, order=2)
            if noisy:
                yield Peer(first("DDPM"), steps, times, count, solvers.ddpm(fine, times))
            dpm_solver = solvers.dpm_solver(fine, times, noisy=noisy)
            yield Peer(second("DPM-Solver++"), steps, times, count, dpm_solver)
            if noisy:
                continue
            yield Peer(second("UniPC"), steps, times, count, solvers.unipc(fine, times))
            euler = solvers.diffrax_euler(times)
            yield Peer(first("diffrax Euler"), steps, times, count, euler, compiled=True)
            if (half := (count + 1) // 2) >= 3:
                shorter = coarse_grids(fine, half)[kind]
                heun = solvers.diffrax_heun(shorter)
                yield Peer(second("diffrax Heun"), {"steps": half}, shorter, 2 * half - 1, heun,
                           compiled=True)  # fmt: skip


def switches(top: int, times: Grid, kind: str, asked: Asked) -> Iterator[Run]:
    """From a smaller level to the top, at several ratios, of first and of second order."""
    count = len(times) - 1
    for early in asked.early:
        for ratio in RATIOS:
            plan = plans.switch(count, 2, round(ratio * count), early=1, late=2)
            for order in (1, 2):
                method = Method("switch", (early, top), kind, order)
                yield Run(method, {"ratio": ratio, "base": count}, times, [plan])


def papers(name: str, trained: Trained, times: Grid, kind: str, asked: Asked) -> Iterator[Run]:
    """All levels, gates of inverse cost, independent draws."""
    costs, count, steps = trained.ladder.costs, len(times) - 1, SAMPLERS[name].table(times)
    by_cost = gates.keep_open(gates.inverse_cost(costs))
    keys = jax.random.split(jax.random.key(asked.seed + 1), asked.draws)
    levels = tuple(range(1, len(costs) + 1))
    method = Method("ML-EM", levels, kind, 1, "inverse cost", "independent", "impulse")
    for budget in asked.budgets:
        if payable(costs, count, budget):
            logits = fit_budget(by_cost, steps.t, costs, budget, draw=draws.independent)
            drawn = [draw_plan(draws.independent, logits, key) for key in keys]
            yield Run(method, {"budget": budget, "base": count}, times, drawn)


def fitted(name: str, folder: Path) -> Iterator[Run]:
    """The plans that were kept for one sampler."""
    for file in sorted(folder.glob(f"{name}_*.npz")):
        yield read_plan(file).run({"plan": file.stem})


def rows_of(
    run: Run | Peer,
    trained: Trained,
    network: Network,
    judged: Benchmark,
    noise_along: NoiseAlong,
) -> Rows:
    """Rows as `benchmark.rows_of` makes them, for peers too."""
    if isinstance(run, Run):
        return rows_of_run(run, trained, judged, None, noise_along)
    end, seconds = solvers.timed(run, network, judged.x, noise_along(judged, run.times, 1))
    return [{
        "sampler": judged.sampler,
        **fields(run.method),
        "parameters": run.parameters,
        "number": 0,
        "evaluations": [0] * (len(trained.ladder) - 1) + [run.evaluations],
        "cost": float(run.evaluations),
        **errors_of(end, judged),
        "seconds": seconds,
        "best": False,
    }]  # fmt: skip
