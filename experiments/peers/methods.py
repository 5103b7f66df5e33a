"""What experiments.peers.compare compares, and which methods are one curve together.

ML-EM stands on its own base (first order) and on those of its peers: their two-step table and their
grid in the log-SNR.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax

from experiments.common.benchmark import Benchmark, NoiseAlong, alone, errors_of, noise_of, payable
from experiments.common.benchmark import rows_of as rows_of_run
from experiments.common.curves import Rows
from experiments.common.method import Method, Run, fields, method_of
from experiments.common.samplers import SAMPLERS, coarse_grids
from experiments.ladders.shipped import Trained, pick
from experiments.ours.sensitivities import Piloted, measured_once
from experiments.paper.gates import families
from experiments.peers import solvers
from experiments.peers.solvers import Network, Peer
from mlem_jax import draw_plan, draws, fit_budget, gates, plans
from mlem_jax.grids import Grid

PROCESSES = {"ddpm": "SDE", "ddim": "ODE"}
OURS = ("ML-EM of the paper", "ML-EM")
PEERS = ("first order", "DPM-Solver++", "UniPC", "diffrax Heun", "switch")
GROUPS = (*PEERS, *OURS)
"""Methods that are one curve together, by `group_of`."""
RATIOS = (0.25, 0.5, 0.75)
"""Share of the steps that a switch gives to the small network."""


class Asked(NamedTuple):
    """How many of each method.

    Attributes:
        counts: steps of the top level alone, and of its peers.
        base_steps: of plans of several levels.
        budgets: of ML-EM.
        few: levels of the shorter ladder.
        early: levels a switch begins with.
        draws: of random plans.
        seed: of them.
        pilot: where and on how many pictures the sensitivities are measured.
    """

    counts: tuple[int, ...]
    base_steps: tuple[int, ...]
    budgets: tuple[float, ...]
    few: tuple[int, ...]
    early: tuple[int, ...]
    draws: int
    seed: int
    pilot: Piloted


def group_of(method: Method) -> str:
    """The curve that a method is a part of, whatever its grid."""
    if method.family == "ML-EM":
        return "ML-EM" if method.draw == "midpoint" else "ML-EM of the paper"
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
    found: list[Run | Peer] = [*peers(name, fine, asked.counts, top)]
    for order in (1, 2):
        found += alone(trained, asked.counts, coarse, order=order)
    for count in asked.base_steps:
        for kind, times in coarse(count).items():
            found += switches(top, times, kind, asked)
            found += multilevel(name, trained, times, kind, asked)
    return found


def peers(name: str, fine: Grid, counts: tuple[int, ...], top: int) -> Iterator[Peer]:
    """The solvers of other projects, on their own even timesteps and on the log-SNR grid."""
    noisy = SAMPLERS[name].noisy
    for count in counts:
        steps = {"steps": count}
        if not noisy and (len(fine) - 1) % count == 0:
            even, ddim = solvers.even_grid(fine, count), solvers.ddim(fine, count)
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


def multilevel(name: str, trained: Trained, times: Grid, kind: str, asked: Asked) -> Iterator[Run]:
    """The paper's gates and draws on all levels; pilot gates and even draws on few of them."""
    count, few, sampler = len(times) - 1, pick(trained, asked.few), SAMPLERS[name]
    steps, second = sampler.table(times), sampler.table(times, 2)
    every = tuple(range(1, len(trained.ladder) + 1))
    by_cost = gates.keep_open(gates.inverse_cost(trained.ladder.costs))
    pilot = families(few, measured_once(name, trained, asked.few, steps, asked.pilot))["pilot"]
    keys = jax.random.split(jax.random.key(asked.seed + 1), asked.draws)
    papers = Method("ML-EM", every, kind, 1, "inverse cost", "independent", "impulse")
    ours = Method("ML-EM", asked.few, kind, 1, "pilot", "midpoint", "impulse")
    for budget in asked.budgets:
        own, costs = {"budget": budget, "base": count}, trained.ladder.costs
        if payable(costs, count, budget):
            logits = fit_budget(by_cost, steps.t, costs, budget, draw=draws.independent)
            drawn = [draw_plan(draws.independent, logits, key) for key in keys]
            yield Run(papers, own, times, drawn)
        costs = few.ladder.costs
        if payable(costs, count, budget):
            logits = fit_budget(pilot, steps.t, costs, budget, draw=draws.midpoint)
            yield Run(ours, own, times, [draw_plan(draws.midpoint, logits, None)])
            openings = plans.open_first(draws.midpoint.openings(None, logits))
            held = plans.trapezoid(openings, second)
            yield Run(ours._replace(order=2, weights="trapezoid"), own, times, [held])


def kept_noise() -> NoiseAlong:
    """`noise_of`, each grid's drawn once: most methods share a grid with others."""
    kept: dict[bytes, jax.Array | None] = {}

    def noise_along(benchmark: Benchmark, times: Grid) -> jax.Array | None:
        if (own := times.tobytes()) not in kept:
            kept[own] = noise_of(benchmark, times)
        return kept[own]

    return noise_along


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
    end, seconds = solvers.timed(run, network, judged.x, noise_along(judged, run.times))
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
