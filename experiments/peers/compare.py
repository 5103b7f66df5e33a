"""Where does ML-EM pay against the solvers other projects offer, and where not?

diffusers' DPM-Solver++ (2M, and its SDE form), UniPC, DDIM and DDPM, diffrax's Euler and Heun, and
the switch from a small network to the large one at several ratios, beside Euler-Maruyama, our
two-step solver, the paper's ML-EM and fitted plans: all driven by the same levels, from the same
starts and along the same Brownian paths. First the distance to the exact solution of the top
level's own SDE or ODE, for the cost paid; then, given the pictures (`--data`), distances to the
data over several seeds. What is compared is the cost, evaluations times the stored cost of one; the
seconds of a peer are those of its loop in Python too. Killed at any moment, the same command goes
on. Writes results/peers.json and .png.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro
from rich.console import Console

from experiments.common import runs, tiny
from experiments.common.benchmark import kept_noise, make_benchmark, measure_missing, part_of
from experiments.common.curves import Rows, by_method
from experiments.common.method import PROCESSES, label
from experiments.common.samplers import fine_grid, reference_grid
from experiments.ladders.shipped import SHIPPED, Trained, load
from experiments.ladders.shown import Symmetries
from experiments.peers import distances_to_data, figures
from experiments.peers.crossings import crossing, sentence
from experiments.peers.distances_to_data import DATA, Approached, Sampled
from experiments.peers.methods import (
    OURS,
    PEERS,
    Asked,
    all_methods,
    by_run,
    in_groups,
    name_of,
    rows_of,
)
from experiments.peers.solvers import missing, top_network, versions

APART = ("data", "features", "symmetries")
"""Settings that the distances to the exact solution do not depend on."""
EVERY = "every peer"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost, and distance to the data, beside the solvers of other projects."""

    data: Path | None = None
    """The pictures the levels were trained on, for distances to those held out; default: none."""
    ladder: Path = SHIPPED
    """Folder of trained levels."""
    plans: Path = SHIPPED / "plans"
    """Folder of plans fitted to it, as experiments.ours.fitted keeps them."""
    features: Path = SHIPPED / "features"
    """What experiments.ladders.features wrote, for the distances."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """ddpm the SDE, ddim the ODE."""
    symmetries: Symmetries = "eight"
    """In which the levels were shown the pictures: those held out are turned likewise."""
    early: tuple[int, ...] = (1, 3)
    """Levels a switch begins with."""
    images: int = 16
    """Pictures that judge the distance to the exact solution."""
    reference_steps: int = 400
    """Steps even in time of what is taken to be exact, which cuts those at both ends finer."""
    counts: tuple[int, ...] = (5, 8, 10, 15, 20, 30, 40, 60)
    """Steps of the top level alone and of the peers."""
    base_steps: tuple[int, ...] = (16, 40, 100)
    """Steps of the paper's ML-EM and of the switch."""
    budgets: tuple[float, ...] = (5.0, 8.0, 15.0, 30.0, 60.0)
    """Expected cost of the paper's ML-EM, in evaluations of the top level."""
    draws: int = 3
    """Draws of the paper's random plans."""
    judged_at: tuple[float, ...] = (8.0, 15.0)
    """Costs at which distances to the data are taken."""
    dear: float = 60.0
    """Cost of a further row, all but exact."""
    samples: int = 100
    """Pictures a distance to the data is taken of."""
    seeds: int = 5
    """Such sets; their spread is the noise of the metric."""
    seed: int = 0
    """Of the starts, the Brownian paths and the gates."""
    tiny: bool = False
    """Everything on two random networks, in seconds: does it run here? The numbers mean nothing."""
    runs: Path = Path("runs/peers")
    """Rows as they come, resumed if they are there."""
    out: Path = Path("results")
    """Where peers.json and peers.png go."""


class Found(NamedTuple):
    """What one sampler's methods did.

    Attributes:
        rows: one per draw of every method.
        crossings: where ML-EM is closer to the exact solution than others.
        paired: how much closer to the data than the best peer.
        data: distances of the data to itself, if there is data.
    """

    rows: Rows
    crossings: Rows
    paired: Rows
    data: dict[str, dict[str, float]] | None


def main(settings: Settings) -> None:
    """Run all that is not in the log yet; then compare, write and draw."""
    if told := missing():
        raise SystemExit(told)
    with tiny.settings_of(settings, made_tiny) as asked:
        run(asked)


def made_tiny(settings: Settings, folder: Path) -> Settings:
    """The same on random networks and pictures, with as little as there can be of everything."""
    return dataclasses.replace(
        settings, data=tiny.random_pictures(folder / "pictures.npz"),
        ladder=tiny.random_ladder(folder / "ladder"),
        plans=tiny.random_plans(folder / "plans", fine_grid(4), 4.0),
        features=tiny.random_features(folder / "features"), early=(1,), images=8,
        reference_steps=24, counts=(4, 8), base_steps=(8,), budgets=(3.0, 5.0), draws=2,
        judged_at=(5.0,), dear=8.0, samples=8, seeds=2, runs=folder / "runs",
    )  # fmt: skip


def run(settings: Settings) -> None:
    """The experiment itself."""
    console = Console(width=150)
    trained = load(settings.ladder)
    about = {"costs": trained.ladder.costs, "losses": trained.losses,
             "fine": len(reference_grid(settings.reference_steps))}  # fmt: skip
    runs.check_settings(settings.runs, runs.recorded(settings, APART) | about)
    if settings.data is None:
        console.print("no distances to the data: give the pictures with --data PICTURES")
    found = {name: measured(name, trained, settings, console) for name in settings.samplers}
    data = next((own.data for own in found.values()), None)
    for name, own in found.items():
        process = PROCESSES[name]
        console.print(figures.shown_errors(process, own.rows))
        console.print(figures.shown_groups(process, own.rows))
        if data:
            console.print(figures.shown_distances(process, own.rows, data))
        console.print(figures.shown_crossings(process, own.crossings))
    told = [line for name, own in found.items() for line in conclusions(PROCESSES[name], own)]
    console.print("\n".join(told))
    result = {
        "costs": trained.ladder.costs,
        "seconds": "of the solver; for diffusers with the loop in Python round it",
        "data against data": data,
        "crossings": [line for own in found.values() for line in own.crossings],
        "paired": [line for own in found.values() for line in own.paired],
        "versions": versions(),
        "conclusions": told,
        "rows": [row for own in found.values() for row in own.rows],
    }

    def draw(file: Path) -> None:
        figures.draw(file, result["rows"], result["crossings"], data)

    runs.finish("peers", settings, result, draw, apart=APART, console=console)


def measured(name: str, trained: Trained, settings: Settings, console: Console) -> Found:
    """Rows, crossings and distances of one sampler."""
    fine, network = reference_grid(settings.reference_steps), top_network(trained.ladder)
    methods = all_methods(name, trained, fine, asked_of(settings))

    def judge() -> Any:
        samples = part_of(0, settings.images)
        judged = make_benchmark(name, trained, fine, samples, settings.seed)
        noise_along = kept_noise(judged)
        return lambda run: rows_of(run, trained, network, judged, noise_along)

    rows = measure_missing(settings.runs / f"{name}.jsonl", methods, judge, console)
    rows = [{"process": PROCESSES[name], **row, "distances": None} for row in rows]
    lines = crossings(PROCESSES[name], rows)
    if settings.data is None:
        return Found(rows, lines, [], None)
    sampled = Sampled(settings.judged_at, settings.dear, settings.samples, settings.seeds,
                      min(50, settings.samples), settings.seed)  # fmt: skip
    chosen = distances_to_data.choose(rows, methods, sampled)
    judged = {name_of(each.method, each.parameters): each for each in chosen.values()}
    drawn = distances_to_data.measured(
        settings.runs / f"{name}_distances.jsonl", name, list(judged.values()), trained, network,
        Approached(settings.data, settings.symmetries, settings.features), sampled, console,
    )  # fmt: skip
    own = by_run(rows)
    for run_name, each in judged.items():
        for row in own[run_name]:
            row["distances"] = distances_to_data.told(drawn, each)
    paired = [{"process": PROCESSES[name], **line}
              for line in distances_to_data.against_the_best_peer(drawn, chosen)]  # fmt: skip
    return Found(rows, lines, paired, distances_to_data.told(drawn, DATA))


def asked_of(settings: Settings) -> Asked:
    """How many of each method."""
    return Asked(settings.counts, settings.base_steps, settings.budgets, settings.early,
                 settings.draws, settings.seed, settings.plans,
                 fine_grid(settings.reference_steps))  # fmt: skip


def crossings(process: str, rows: Rows) -> Rows:
    """Each of our groups, and each of its methods alone, against each group of peers."""
    own = {group: in_groups(rows, group) for group in OURS}
    own |= {label(method): each for method, each in by_method(in_groups(rows, *OURS)).items()}
    theirs = {group: in_groups(rows, group) for group in PEERS} | {EVERY: in_groups(rows, *PEERS)}
    return [
        {"process": process, "own": name, "against": against, **found}
        for name, each in own.items()
        for against, others in theirs.items()
        if (found := crossing(each, others))
    ]


def conclusions(process: str, own: Found) -> list[str]:
    """Sentences: at which costs ML-EM is closer to the exact solution, and to the data."""
    lines = [f"{process}, to its exact solution: {line['own']} is closer than every peer "
             f"{sentence(line)}"
             for line in own.crossings
             if line["against"] == EVERY and line["own"] in OURS]  # fmt: skip
    for group in dict.fromkeys(line["own"] for line in own.paired):
        told = [f"{line['metric']} at cost {line['cost']:g}: {distances_to_data.verdict(line)}"
                for line in own.paired if line["own"] == group]  # fmt: skip
        lines.append(f"{process}, to the data: {group}, beside the best peer, in "
                     f"{'; '.join(told)}")  # fmt: skip
    return lines


if __name__ == "__main__":
    main(tyro.cli(Settings))
