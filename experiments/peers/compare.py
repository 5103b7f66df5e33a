"""Where does ML-EM pay against the solvers other projects offer, and where not?

diffusers' DPM-Solver++ (2M, and its SDE form), UniPC, DDIM and DDPM, diffrax's Euler and Heun, and
the switch from a small network to the large one at several ratios, beside Euler-Maruyama, our
two-step solver and ML-EM, which also stands on its peers' grid and step table: all driven by the
same levels, from the same starts and along the same Brownian paths. First the distance to the exact
solution of the top level's own SDE or ODE, for the cost paid (of the stacked ladder, to that of its
own top); then, given the pictures (`--data`),
distances to the data over several seeds. What is compared is the cost, evaluations times the stored
cost of one; the seconds of a peer are those of its loop in Python too. Killed at any moment, the
same command goes on. Writes results/peers.json and .png.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console

from experiments.common import benchmark as courses
from experiments.peers.compare import distances_to_data as peer_distances
from experiments.peers.compare import figures as peer_figures
from experiments.peers.compare import solvers as peer_solvers
from experiments.common import runs
from experiments.common import tiny
from experiments.common.benchmark import Method
from experiments.peers.crossings import compare, sentence
from experiments.ours.sensitivities import Piloted
from experiments.ladders.shipped import SHIPPED, Ladder, load
from experiments.common.machine import provenance
from experiments.peers.distances_to_data import DATA, Judged, Sampled
from experiments.peers.methods import FAMILIES, PROCESSES, Asked, kept_noise, methods_of, rows_of
from experiments.peers.solvers import missing, top_network
from mlem_jax.plan import Plan
from mlem_jax.stack import load_stack, stack_shares, stack_top
from mlem_jax.steps import Steps

PILOT_STEPS = 100
"""Of the run that measures the effects."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Error against cost, and distance to the data, beside the solvers of other projects."""

    data: Path | None = None
    """The pictures the levels were trained on, for distances to those held out; default: none."""
    ladder: Path = SHIPPED
    """Folder of trained levels, with stack.npz of experiments.stack beside them."""
    features: Path = SHIPPED / "features"
    """What experiments.ladders.features wrote, for the distances."""
    samplers: tuple[Literal["ddpm", "ddim"], ...] = ("ddpm", "ddim")
    """ddpm the SDE, ddim the ODE."""
    few: tuple[int, ...] = (2, 4)
    """Levels of ML-EM with pilot gates."""
    early: tuple[int, ...] = (2, 3)
    """Levels a switch begins with."""
    images: int = 16
    """Pictures that judge the distance to the exact solution."""
    reference_steps: int = 1000
    """Steps of the fine grid, on which the top level is taken to be exact."""
    counts: tuple[int, ...] = (5, 8, 10, 15, 20, 30, 50, 100)
    """Steps of the top level alone and of the peers."""
    base_steps: tuple[int, ...] = (16, 40, 100)
    """Steps of ML-EM and of the switch."""
    budgets: tuple[float, ...] = (5.0, 8.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0)
    """Expected cost of ML-EM, in evaluations of the top level."""
    draws: int = 3
    """Draws of the paper's random plans."""
    judged_at: tuple[float, ...] = (8.0, 15.0, 30.0)
    """Costs at which distances to the data are taken."""
    dear: float = 100.0
    """Cost of a further row, all but exact."""
    samples: int = 200
    """Pictures a distance to the data is taken of."""
    seeds: int = 5
    """Such sets; their spread is the noise of the metric."""
    pilot_images: int = 8
    """Pictures of the pilot run that sets the gates."""
    seed: int = 0
    """Of the starts, the Brownian paths and the gates."""
    tiny: bool = False
    """Everything on two random networks, in seconds: does it run here? The numbers mean nothing."""
    runs: Path = Path("runs/peers")
    """Rows as they come, resumed if they are there."""
    out: Path = Path("results")
    """Where peers.json and peers.png go."""


def main(settings: Settings) -> None:
    """Run all that is not in the log yet; then compare, write and draw."""
    if told := missing():
        raise SystemExit(told)
    with tempfile.TemporaryDirectory() as folder:
        run(made_tiny(settings, Path(folder)) if settings.tiny else settings)


def made_tiny(settings: Settings, folder: Path) -> Settings:
    """The same on random networks and pictures, with as little as there can be of everything."""
    return dataclasses.replace(
        settings, data=tiny.random_pictures(folder / "pictures.npz"),
        ladder=tiny.random_ladder(folder / "ladder"),
        features=tiny.random_features(folder / "features"), few=(1, 2), early=(1,), images=8,
        reference_steps=24, counts=(4, 8), base_steps=(8,), budgets=(3.0, 5.0), draws=2,
        judged_at=(5.0,), dear=8.0, samples=8, seeds=2, pilot_images=2, runs=folder / "runs",
    )  # fmt: skip


def run(settings: Settings) -> None:
    """The experiment itself."""
    console = Console(width=150)
    ladder = load(settings.ladder)
    determining = {name: value for name, value in runs.recorded(settings).items()
                   if name not in ("runs", "out", "samplers", "data", "features")}  # fmt: skip
    about = {"costs": ladder.levels.costs, "losses": ladder.losses}
    runs.check_settings(settings.runs, determining | about)
    if settings.data is None:
        console.print("no distances to the data: give the pictures with --data PICTURES")
    result = {name: judged_sampler(name, ladder, settings, console) for name in settings.samplers}
    data = next((own["data"] for own in result.values()), None)
    for name, own in result.items():
        console.print(peer_figures.shown_errors(name, own["rows"]))
        console.print(peer_figures.shown_families(PROCESSES[name], own["rows"]))
        if data:
            console.print(peer_figures.shown_distances(name, own["distances"], data))
        console.print(peer_figures.shown_crossings(name, own["crossings"]))
        for line in conclusions(name, own):
            console.print(line)
    settings.out.mkdir(parents=True, exist_ok=True)
    whole = {
        **provenance("experiments.peers.compare"), "settings": determining, "costs": ladder.levels.costs,
        "seconds": "of the solver; for diffusers with the loop in Python round it",
        "data against data": data,
        "crossings": [each for own in result.values() for each in own["crossings"]],
        "paired": [each for own in result.values() for each in own["paired"]],
        "versions": peer_solvers.versions(),
        "conclusions": [line for name, own in result.items() for line in conclusions(name, own)],
        "rows": [row for own in result.values() for row in own["rows"]],
    }  # fmt: skip
    (settings.out / "peers.json").write_text(json.dumps(whole, indent=1) + "\n")
    peer_figures.draw(str(settings.out / "peers.png"), result, data)
    console.print(f"wrote {settings.out}/peers.json and .png")


def judged_sampler(
    name: str, ladder: Ladder, settings: Settings, console: Console
) -> dict[str, Any]:
    """Rows, crossings and distances of one sampler."""
    fine = courses.fine_grid(settings.reference_steps)
    stack, network = load_stack(settings.ladder / "stack.npz"), top_network(ladder)
    methods = methods_of(name, ladder, stack, fine, asked_of(settings))

    def judge() -> Any:
        def targets(table: Steps) -> dict[str, Plan]:
            top = courses.top_target(table, ladder)
            return {"top": top, "stacked top": stack_top(stack_shares(stack, table.t))}

        samples = courses.part_of(0, settings.images)
        judged = courses.course_of(name, ladder, fine, samples, settings.seed, targets)
        noise_along = kept_noise()
        return lambda method: rows_of(method, ladder, network, judged, noise_along)

    rows = courses.log_missing(settings.runs / f"{name}.jsonl", methods, judge, console)
    targets = {each.name: each.target for each in methods if isinstance(each, Method)}
    rows = [{"process": PROCESSES[name], **row, "target": targets.get(row["method"], "top"),
             "distances": None} for row in rows]  # fmt: skip
    result = {"rows": rows, "crossings": crossings(name, rows), "distances": [], "paired": [],
              "data": None}  # fmt: skip
    if settings.data is not None:
        sampled = Sampled(settings.judged_at, settings.dear, settings.samples, settings.seeds,
                          min(50, settings.samples), settings.seed)  # fmt: skip
        found = peer_distances.chosen(rows, methods, sampled)
        judged = list({str(each[:2]): each for each in found.values()}.values())
        measured = peer_distances.measured(
            settings.runs / f"{name}_distances.jsonl", name, judged, ladder, network,
            settings.data, settings.features, sampled, console,
        )  # fmt: skip
        paired = peer_distances.against_the_best_peer(measured, found)
        result |= {
            "distances": [with_distances(rows, measured, *each) for each in found.items()],
            "paired": [{"process": PROCESSES[name], **line} for line in paired],
            "data": peer_distances.told(measured, Judged(DATA, {}, None)),
        }
    return result


def asked_of(settings: Settings) -> Asked:
    """How many of each method."""
    pilot = Piloted(settings.runs, settings.pilot_images, PILOT_STEPS)
    return Asked(settings.counts, settings.base_steps, settings.budgets, settings.few,
                 settings.early, settings.draws, settings.seed, pilot)  # fmt: skip


def with_distances(
    rows: list[dict[str, Any]],
    measured: list[dict[str, Any]],
    at: tuple[str, float],
    each: Judged,
) -> dict[str, Any]:
    """A line for the table of distances; the rows of the method get them too."""
    own = [row for row in rows if (row["method"], row["parameters"]) == each[:2]]
    distances = peer_distances.told(measured, each)
    for row in own:
        row["distances"] = distances
    return {
        "family": at[0], "method": each.name, "parameters": each.parameters,
        "cost": float(np.median([row["cost"] for row in own])),
        "mse": float(np.median([row["mse"] for row in own])), "distances": distances,
    }  # fmt: skip


def crossings(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each form of ML-EM, and each of its bases and grids alone, against each family of peers."""
    own = [family for family in FAMILIES if family.startswith("ml-em")]
    single = [each for family in own for each in peer_figures.names_of(rows, family)]
    peers = [family for family in FAMILIES if not family.startswith("ml-em")]
    lines = []
    for each in [*own, *single]:
        names = peer_figures.names_of(rows, each) if each in own else [each]
        for against in [*peers, "every peer"]:
            found = compare(rows, names, peer_figures.names_of(rows, against))
            if found:
                lines.append({"process": PROCESSES[name], "ml-em": each, "against": against,
                              **found})  # fmt: skip
    return lines


def conclusions(name: str, own: dict[str, Any]) -> list[str]:
    """Sentences: at which costs ML-EM is closer to the exact solution, and to the data."""
    lines = [f"{PROCESSES[name]}, to its exact solution: {line['ml-em']} is closer than every peer "
             f"{sentence(line)}"
             for line in own["crossings"]
             if line["against"] == "every peer" and line["ml-em"] in FAMILIES]  # fmt: skip
    for family in dict.fromkeys(line["ml-em"] for line in own["paired"]):
        told = [f"{line['metric']} at cost {line['cost']:g}: {peer_distances.verdict(line)}"
                for line in own["paired"] if line["ml-em"] == family]  # fmt: skip
        lines.append(f"{PROCESSES[name]}, to the data: {family}, beside the best peer, in "
                     f"{'; '.join(told)}")  # fmt: skip
    return lines


if __name__ == "__main__":
    main(tyro.cli(Settings))
