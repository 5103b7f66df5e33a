"""Fills the tables of README.md and results/README.md from the result files beside them.

A table stands between `<!-- NAME -->` and `<!-- end -->`. A test fails where a page disagrees with
its results.
"""

import re
from collections.abc import Callable
from functools import partial
from statistics import median

from experiments.common import timing
from experiments.common.method import PROCESSES
from experiments.common.rival_tables import (
    RESULTS,
    Result,
    brief,
    faces_draws,
    gates,
    lines,
    result_of,
)
from experiments.peers import tables as peer_tables

ROOT = RESULTS.parent
PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")
KINDS = {"mean": "mean over pictures", "median": "median picture"}


def main() -> None:
    """Write every page anew."""
    for page in PAGES:
        page.write_text(filled(page.read_text()))


def filled(page: str) -> str:
    """A page with its tables as the results say them.

    Raises:
        KeyError: if a page names a table that there is none of.
    """

    def table(found: re.Match[str]) -> str:
        name = found.group(1)
        return f"<!-- {name} -->\n{TABLES[name]()}\n<!-- end -->"

    return re.sub(r"<!-- ([\w ]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def quickstart() -> str:
    """Error and seconds at each cost, a column per method."""
    result = result_of("quickstart")
    methods = ("Euler-Maruyama", "DPM-Solver++ 2M", "fitted", "of the paper", "fitted plan")
    header = ["cost", *(f"top level, {name}" for name in methods[:3]), "ML-EM of the paper",
              "**ML-EM, fitted plan**"]  # fmt: skip
    rows = []
    for budget in result["settings"]["budgets"]:
        cells = [f"{budget:g}"]
        for method in methods:
            name = rf"(top level, {budget:g} steps|ML-EM, budget {budget:g}), {re.escape(method)}"
            (row,) = (row for row in result["rows"]
                      if row["shown"] and re.fullmatch(name, row["name"]))  # fmt: skip
            cells.append(f"{brief(row['mse'])}, {row['seconds']:.2f} s")
        rows.append(cells)
    settings = result["settings"]
    reference = result["rows"][0]
    return (
        lines(header, rows) + f"\n\nMean squared error to the reference (which costs "
        f"{reference['cost']:.0f} and took {reference['seconds']:.0f} s), mean over "
        f"{settings['images']} pictures, of which a few\ndominate; ML-EM of the paper is one "
        f"independent draw of the gates of its theory; one timing each, of the\nsolver without "
        f"compilation or noise; {result['machine']}."
    )


def plans() -> str:
    """Of each budget the fitted plan: what the best single network pays for its mean error."""
    result = result_of("fitted")
    budgets = [f"{budget:g}" for budget in result["settings"]["budgets"]]
    rows = []
    for sampler, (best, *_) in result["summary"].items():
        told = [short(own["mean"]) for own in best["plans"]]
        rows.append([PROCESSES[sampler], *told, *["-"] * (len(budgets) - len(told))])
    return lines(["budget", *budgets], rows)


def rivals() -> str:
    """Of each rival the median over budgets."""
    result = result_of("fitted")
    summary = result["summary"]
    header = ["rival", *(f"{PROCESSES[sampler]}, {kind}" for sampler in summary
                         for kind in KINDS.values())]  # fmt: skip
    rows = []
    for own in zip(*summary.values(), strict=True):
        told = [line[kind] for line in own for kind in KINDS]
        if any(told):
            rows.append([own[0]["rival"], *("-" if one is None else one["told"] for one in told)])
    return lines(header, rows)


def errors() -> str:
    """Of each budget the least error of every kind of run, as `cost: mse`."""
    result = result_of("fitted")
    kinds: dict[str, Callable[[Result], bool]] = {
        "one network": lambda row: row["family"] == "single" and row["weights"] != "fitted",
        "one network, fitted": lambda row: row["family"] == "single" and row["weights"] == "fitted",
        "ML-EM of the paper": lambda row: row["family"] == "paper",
        "ML-EM, not fitted": lambda row: row["family"] == "multilevel" and not row["chosen"],
        "ML-EM, fitted": lambda row: row["chosen"],
    }
    rows = []
    for sampler in result["summary"]:
        own = [row for row in result["rows"] if row["sampler"] == sampler]
        for budget in result["settings"]["budgets"]:
            near = [row for row in own if budget in map(row["parameters"].get, ("budget", "steps"))]
            told = [f"{PROCESSES[sampler]}, {budget:g}"]
            for chosen in kinds.values():
                best = min(filter(chosen, near), key=lambda row: row["mse"], default=None)
                told.append("-" if best is None else f"{best['cost']:.1f}: {brief(best['mse'])}")
            if near:
                rows.append(told)
    return lines(["sampler, budget", *kinds], rows)


def accelerator() -> str:
    """Of each level what it takes, and what half precision changes in it."""
    result = result_of("accelerator_cpu")
    settings = result["settings"]
    took = {(row["level"], row["dtype"], row["batch"]): 1e3 * median(row["seconds"]) / row["batch"]
            for row in result["levels"]}  # fmt: skip
    columns = [("float32", batch) for batch in settings["batches"]]
    columns += [("bfloat16", batch) for batch in settings["half_batches"]]
    header = ["level", *(f"{dtype}, batch {batch}" for dtype, batch in columns),
              "bfloat16 changes", "distance to the top"]  # fmt: skip
    rows = []
    for own in result["half_precision"]["evaluations"]:
        each = (took.get((own["level"], *column)) for column in columns)
        rows.append([str(own["level"]), *("-" if ms is None else f"{ms:.2f} ms" for ms in each),
                     brief(own["of_half_precision"]),
                     brief(own["distance_to_top"]) if own["distance_to_top"] else "-"])  # fmt: skip
    scan = result["executors"]["ratio_to_floor"]["scan"]["median"]
    learning = result["learning"]["ratio_to_plain"]["learning, 1 tangent"]["median"]
    return (
        lines(header, rows) + f"\n\nMilliseconds a picture; mean squares; {result['machine']}. "
        f"A fitted plan for a budget of {settings['budget']:g}\ntakes {scan:.2f} times the sum of "
        f"its evaluations, a step of learning {learning:.1f} times a run, and\nthe top is trained "
        f"on {result['training']['images_per_second']:.0f} pictures a second."
    )


def floor() -> str:
    """What `solve` takes over the sum of its evaluations, and the time to a first sample."""
    result = result_of("floor_cpu")
    kinds = ("scan", "scan, nothing remembered", "segments")
    rows = []
    for row in result["rows"]:
        ratios = (row["ratio_to_floor"][kind] for kind in kinds)
        rows.append([f"{row['budget']:g}", str(row["steps"]), *map(timing.told, ratios)])
    starts = {
        name: sum(median([each[part] for each in own]) for part in own[0] if "second" not in part)
        for name, own in result["first_sample"].items()
    }
    return (
        lines(["budget", "steps", *kinds], rows) + "\n\nMedian of paired runs, in brackets least "
        f"and most; {result['machine']}. From `import` to the first\nsample it takes "
        f"{starts['no cache']:.0f} s without JAX's cache of compiled programs, "
        f"{starts['the cache of the last run']:.0f} s with the one of the last run."
    )


def rounds() -> str:
    """How often each level is called and for how many samples, where every sample has a plan."""
    result = result_of("rounds")
    images, pool = result["settings"]["images"], result["settings"]["pool"]
    rows = []
    for row in result["rows"]:
        own, larger = row["calls"]["in rounds"], row["calls"][f"in rounds, {images} of {pool}"]
        ratios = (row["ratio_to_rounds"][kind]
                  for kind in ("one after the other", "all under one plan"))  # fmt: skip
        evaluations = " ".join(map(str, row["evaluations"]))
        rows.append(
            [row["draw"], evaluations, called(own), called(larger), *map(timing.told, ratios)]
        )
    header = ["draw", "evaluations", f"calls in rounds, {images} samples",
              f"calls in rounds, {images} of {pool} at a time", "time one after the other",
              "time all under one plan"]  # fmt: skip
    return lines(header, rows)


def called(own: Result) -> str:
    """Calls of each level, with the mean batch of a call."""
    pairs = zip(own["calls"], own["mean_batch"], strict=True)
    return ", ".join(f"{calls} of {batch:.0f}" for calls, batch in pairs)


def when() -> str:
    """Ratios that were measured for other cases, one rival over one method in each row."""
    recipe = {"gates": "learned", "draw": "independent", "of draws": "best"}
    even = {"gates": "pilot", "draw": "midpoint", "of draws": "median"}
    gains = result_of("particles")["cases"]["stiff core, 1025 rods"]
    at = gains["errors"].index(1e-5)
    rods = ", ".join(f"{gains['gains']['seconds'][name][at]:.0f}"
                     for name in ("Euler-Maruyama", "diffrax"))  # fmt: skip
    earth = "[Earth](results/README.md#fitted-plans)"
    papers = "[Earth](results/README.md#the-papers-gates)"
    rows = [
        ["error of 8 steps of one network, over that of 8 steps with fitted weights",
         *less_error(8.0), earth],
        ["error of the best of diffusers' and diffrax's solvers and a switch of levels, over that "
         "of a fitted plan, for 8 and 30 evaluations", *peer_tables.over_fitted(8, 30),
         "[Earth](results/README.md#beside-the-solvers-of-other-projects)"],
        ["cost of Euler-Maruyama with one network, over that of ML-EM as in the paper (independent "
         "draws, learned gates, best of 15), both on a uniform grid",
         *told_of("Euler-Maruyama, same grid", recipe), papers],
        ["the same, one network on the better of two grids", *told_of("Euler-Maruyama", recipe),
         papers],
        ["cost of Euler-Maruyama with one network, over that of ML-EM with even draws of a pilot's "
         "gates, both on a uniform grid", *told_of("Euler-Maruyama, same grid", even), papers],
        ["time of Euler-Maruyama, and of the best solver of diffrax, over that of ML-EM: a "
         "thousand charged rods with a stiff core, at an error of 1e-5", rods, "-",
         "[rods](results/README.md#levels-that-are-no-networks)"],
    ]  # fmt: skip
    return lines(["ratio", *PROCESSES.values(), "measured on"], rows)


def told_of(rival: str, fields: Result) -> list[str]:
    """What a rival pays, per sampler, for the errors of one method."""
    summary = result_of("error_against_cost")["summary"]
    return [
        short(next(line["ratios"][rival] for line in summary[sampler]
                   if all(line[name] == fields[name] for name in fields)))
        for sampler in PROCESSES
    ]  # fmt: skip


def less_error(count: float) -> list[str]:
    """Least error of one network at so many steps over that with fitted weights, per sampler."""
    rows, found = result_of("fitted")["rows"], []
    for sampler in PROCESSES:
        own = [row for row in rows if row["family"] == "single"
               and (row["sampler"], row["cost"]) == (sampler, count)]  # fmt: skip
        plain, fitted = (min(row["mse"] for row in own if (row["weights"] == "fitted") == whether)
                         for whether in (False, True))  # fmt: skip
        found.append(f"{plain / fitted:.1f}")
    return found


def short(told: Result | None) -> str:
    """A ratio without the number of runs that it rests on."""
    return "-" if told is None else told["told"].rpartition(", ")[0]


TABLES: dict[str, Callable[[], str]] = {
    "quickstart": quickstart,
    "accelerator": accelerator,
    "floor": floor,
    "rounds": rounds,
    "fitted plans": plans,
    "fitted rivals": rivals,
    "fitted errors": errors,
    "when": when,
    "gates": gates,
    "gates on faces": partial(gates, "celeba64/"),
    "draws on faces": faces_draws,
    "peers": peer_tables.peers,
    "distances to data": peer_tables.distances,
}
"""How each table is made."""


if __name__ == "__main__":
    main()
