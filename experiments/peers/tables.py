"""Tables of experiments.peers.compare for results/README.md, from its result, in Markdown."""

from experiments.common.curves import Rows
from experiments.common.method import PROCESSES
from experiments.common.rival_tables import Result, brief, lines, result_of
from experiments.peers.crossings import points
from experiments.peers.distances_to_data import WITHIN
from experiments.peers.figures import judged
from experiments.peers.methods import GROUPS, OURS, PEERS, in_groups

COSTS = (8, 15, 30, 60)
WHICH = ("own", "process", "cost")
NAMES = {"first order": "first order: Euler-Maruyama, DDPM, DDIM, diffrax Euler",
         "DPM-Solver++": "DPM-Solver++ 2M, and its SDE form",
         "switch": "switch of levels"}  # fmt: skip


def peers() -> str:
    """The least error of every group for at most a cost; the best of each column in bold."""
    rows = result_of("peers")["rows"]
    asked = [(process, cost) for process in PROCESSES.values() for cost in COSTS]
    errors = {group: [least([row for row in in_groups(rows, group) if row["process"] == process],
                            cost) for process, cost in asked] for group in GROUPS}  # fmt: skip
    best = [min(own for own in column if own) for column in zip(*errors.values(), strict=True)]
    told = [
        [NAMES.get(group, group),
         *("-" if own is None else f"**{brief(own)}**" if own == least_one else brief(own)
           for own, least_one in zip(found, best, strict=True))]
        for group, found in errors.items()
    ]  # fmt: skip
    return lines(["solver", *(f"{process}: {cost}" if cost == COSTS[0] else str(cost)
                              for process, cost in asked)], told)  # fmt: skip


def over_fitted(*costs: float) -> list[str]:
    """The least error of all peers over that of the plans that were chosen, per process."""
    found = []
    for process in PROCESSES.values():
        rows = [row for row in result_of("peers")["rows"] if row["process"] == process]
        chosen = [row for row in rows if "_top" not in row["parameters"].get("plan", "_top")]
        pairs = [(least(in_groups(rows, *PEERS), cost), least(chosen, cost)) for cost in costs]
        found.append(", ".join(f"{peer / own:.2g}" for peer, own in pairs if peer and own))
    return found


def least(rows: Rows, cost: float) -> float | None:
    """The least error for a cost; None where nothing costs so little."""
    return min((error for paid, error in points(rows) if paid <= WITHIN * cost), default=None)


def distances(metric: str = "frechet") -> str:
    """The best peer's distance to the data, and ours less it, at each cost."""
    result = result_of("peers")
    found = [line for line in result["paired"] if line["metric"] == metric]
    costs = sorted({line["cost"] for line in found})
    asked = [(process, cost) for process in PROCESSES.values() for cost in costs]

    def gap(group: str, process: str, cost: float) -> str:
        asked = group, process, cost
        own = [line for line in found if tuple(line[name] for name in WHICH) == asked]
        return interval(own[0]["difference"], "+.1f") if own else "-"

    header = ["", *(f"{process}: {cost:g}" if cost == costs[0] else f"{cost:g}"
                    for process, cost in asked)]  # fmt: skip
    return lines(header, [
        ["best peer itself", *(interval(of_peer(result, process, cost, metric), ".1f")
                               for process, cost in asked)],
        *([group, *(gap(group, process, cost) for process, cost in asked)] for group in OURS),
    ])  # fmt: skip


def of_peer(result: Result, process: str, cost: float, metric: str) -> dict[str, float]:
    """The distance of the peer that ours are compared with at a cost."""
    asked = process, cost, metric
    name = next(line["best peer"] for line in result["paired"]
                if (line["process"], line["cost"], line["metric"]) == asked)  # fmt: skip
    rows = [row for row in in_groups(result["rows"], name) if row["process"] == process]
    within = [line for line in judged(rows) if line["cost"] <= WITHIN * cost]
    return min(within, key=lambda line: line["mse"])["distances"][metric]


def interval(told: dict[str, float], digits: str) -> str:
    """Mean and half the width of its 95 %."""
    return f"{told['mean']:{digits}} ± {told['half_width']:.1f}"
