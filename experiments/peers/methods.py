"""What experiments.peers.compare compares, by name: the head before the first comma says which solver.

ML-EM stands on its own base (first order) and on those of its peers: their two-step table and their
grid in the log-SNR.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import benchmark as courses
from experiments.peers.compare import solvers as peer_solvers
from experiments.common.benchmark import Course, Method, NoiseAlong
from experiments.ours.sensitivities import Piloted, effects_on
from experiments.paper.gates import families, stacked_logits
from experiments.ladders.shipped import Ladder
from experiments.peers.solvers import Network, Peer
from experiments.quickstart import coarse_grids
from experiments.common.samplers import SAMPLERS, two_step
from mlem_jax import draws, plan
from mlem_jax.evaluate import square_errors
from mlem_jax.hold import open_first, trapezoid_plan
from mlem_jax.stack import Stack, stack_shares
from mlem_jax.steps import Grid

PROCESSES = {"ddpm": "SDE", "ddim": "ODE"}
FAMILIES = {
    "first order": ("euler", "ddpm", "ddim", "diffrax euler"),
    "dpm-solver": ("dpm-solver", "sde-dpm-solver", "two-step"),
    "unipc": ("unipc",),
    "diffrax heun": ("diffrax heun",),
    "switch": ("switch", "switch on two-step"),
    "ml-em of the paper": ("ml-em of the paper",),
    "ml-em": ("ml-em", "ml-em on two-step"),
    "ml-em stacked": ("ml-em stacked on two-step",),
}
"""Heads of names that are one curve together; those of ML-EM are the last three."""
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
        pilot: where and on how many pictures the effects are measured.
    """

    counts: tuple[int, ...]
    base_steps: tuple[int, ...]
    budgets: tuple[float, ...]
    few: tuple[int, ...]
    early: tuple[int, ...]
    draws: int
    seed: int
    pilot: Piloted


def head(name: str) -> str:
    """What a method is, whatever its grid and levels."""
    return name.split(",")[0]


def methods_of(
    name: str, ladder: Ladder, stack: Stack, fine: Grid, asked: Asked
) -> list[Method | Peer]:
    """All methods of one sampler."""
    found: list[Method | Peer] = [*peers(name, fine, asked.counts)]
    top = len(ladder.losses)
    for count in asked.counts:
        for kind, grid in coarse_grids(fine, count).items():
            alone, own = [plan.full_plan(count, 1, 1)], {"steps": count}
            found.append(Method(f"euler, {kind}", own, grid, alone, (top,)))
            found.append(Method(f"two-step, {kind}", own, grid, alone, (top,), two_step(name)))
    for count in asked.base_steps:
        for kind, grid in coarse_grids(fine, count).items():
            found += switches(name, ladder, grid, kind, asked)
            found += multilevel(name, ladder, grid, kind, asked)
            found += stacked(name, ladder, stack, grid, kind, asked)
    return found


def peers(name: str, fine: Grid, counts: tuple[int, ...]) -> Iterator[Peer]:
    """The solvers of other projects, on their own even timesteps and on the log-SNR grid."""
    for count in counts:
        own = {"steps": count}
        noisy = SAMPLERS[name].noisy
        if not noisy and (len(fine) - 1) % count == 0:
            even = peer_solvers.even_grid(fine, count)
            yield Peer("ddim, uniform", own, even, count, peer_solvers.ddim(fine, count))
        for kind, grid in coarse_grids(fine, count).items():
            dpm_solver = peer_solvers.dpm_solver(fine, grid, noisy=noisy)
            if noisy:
                ddpm = peer_solvers.ddpm(fine, grid)
                yield Peer(f"ddpm, {kind}", own, grid, count, ddpm)
                yield Peer(f"sde-dpm-solver, {kind}", own, grid, count, dpm_solver)
                continue
            yield Peer(f"dpm-solver, {kind}", own, grid, count, dpm_solver)
            yield Peer(f"unipc, {kind}", own, grid, count, peer_solvers.unipc(fine, grid))
            euler = peer_solvers.diffrax_euler(grid)
            yield Peer(f"diffrax euler, {kind}", own, grid, count, euler, compiled=True)
            if (half := (count + 1) // 2) >= 3:
                shorter = coarse_grids(fine, half)[kind]
                heun = peer_solvers.diffrax_heun(shorter)
                yield Peer(f"diffrax heun, {kind}", {"steps": half}, shorter, 2 * half - 1, heun,
                           compiled=True)  # fmt: skip


def switches(name: str, ladder: Ladder, grid: Grid, kind: str, asked: Asked) -> Iterator[Method]:
    """From a smaller level to the top, at several ratios, of first and of second order."""
    count, top = len(grid) - 1, len(ladder.losses)
    for early in asked.early:
        for ratio in RATIOS:
            at = round(ratio * count)
            each = [plan.switch_plan(count, 2, at, early=1, late=2)]
            own, both = {"ratio": ratio, "base": count}, (early, top)
            yield Method(f"switch, level {early}, {kind}", own, grid, each, both)
            two = f"switch on two-step, level {early}, {kind}"
            yield Method(two, own, grid, each, both, two_step(name))


def multilevel(name: str, ladder: Ladder, grid: Grid, kind: str, asked: Asked) -> Iterator[Method]:
    """The paper's gates and draws on all levels; pilot gates and even draws on few of them."""
    count, few = len(grid) - 1, courses.rungs_of(ladder, asked.few)
    effects = effects_on(name, few, asked.few, grid, asked.pilot)
    papers = families(ladder, count, np.ones((count, len(ladder.losses))))["inverse cost"]
    pilot, two = families(few, count, effects)["pilot"], two_step(name)
    keys = jax.random.split(jax.random.key(asked.seed + 1), asked.draws)
    for budget in asked.budgets:
        own = {"budget": budget, "base": count}
        if courses.payable(ladder, count, budget):
            logits = plan.fit_budget(papers, ladder.levels.costs, budget)
            drawn = [plan.draw_plan(draws.independent, logits, key) for key in keys]
            yield Method(f"ml-em of the paper, {kind}", own, grid, drawn)
        if courses.payable(few, count, budget):
            logits = plan.fit_budget(pilot, few.levels.costs, budget)
            middle = plan.draw_plan(draws.midpoint, logits, None)
            yield Method(f"ml-em, {kind}", own, grid, [middle], asked.few)
            fires = open_first(draws.midpoint(None, logits))
            held = trapezoid_plan(fires, two(grid))
            yield Method(f"ml-em on two-step, {kind}", own, grid, [held], asked.few, two)


def stacked(
    name: str, ladder: Ladder, stack: Stack, grid: Grid, kind: str, asked: Asked
) -> Iterator[Method]:
    """The stacked ladder of all levels, held, on the two-step table."""
    count, table = len(grid) - 1, SAMPLERS[name].table(grid)
    shares = stack_shares(stack, table.t)
    effects, two = effects_on(name, ladder, (), grid, asked.pilot), two_step(name)
    for budget in asked.budgets:
        if courses.payable(ladder, count, budget):
            logits = stacked_logits(ladder, effects, shares, budget)
            fires = open_first(draws.midpoint(None, logits))
            held = trapezoid_plan(fires, two(grid), shares)
            own = {"budget": budget, "base": count}
            title = f"ml-em stacked on two-step, {kind}"
            yield Method(title, own, grid, [held], (), two, "stacked top")


def kept_noise() -> NoiseAlong:
    """`courses.noise_of`, each grid's drawn once: most methods share a grid with others."""
    kept: dict[bytes, jax.Array | None] = {}

    def noise_along(course: Course, grid: Grid) -> jax.Array | None:
        own = grid.tobytes()
        if own not in kept:
            kept[own] = courses.noise_of(course, grid)
        return kept[own]

    return noise_along


def rows_of(
    method: Method | Peer,
    ladder: Ladder,
    network: Network,
    judged: Course,
    noise_along: NoiseAlong,
) -> list[dict[str, Any]]:
    """Rows as `courses.rows_of` makes them, for peers too."""
    if isinstance(method, Method):
        return courses.rows_of(method, ladder, judged, None, noise_along)
    noise = noise_along(judged, method.grid)
    end, seconds = peer_solvers.timed(method, network, judged.x, noise)
    errors = np.asarray(square_errors(end, judged.references["top"]))
    return [{
        "sampler": judged.sampler,
        "method": method.name,
        "draw": 0,
        "parameters": method.parameters,
        "evaluations": [0] * (len(ladder.losses) - 1) + [method.evaluations],
        "cost": float(method.evaluations),
        "mse": float(errors.mean()),
        "picture_errors": [float(f"{error:.4g}") for error in errors],
        "seconds": seconds,
        "best": False,
    }]  # fmt: skip
