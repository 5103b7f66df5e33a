"""Fills the tables of README.md and results/README.md from the result files beside them.

A table stands between `<!-- NAME -->` and `<!-- end -->`. A test fails where a page disagrees with
its results.
"""

import re
from collections.abc import Callable
from functools import partial

from experiments.common.method import PROCESSES
from experiments.common.rival_tables import (
    RESULTS,
    Result,
    brief,
    faces_draws,
    gates,
    lines,
    result_of,
    short,
)
from experiments.micro import tables as micro_tables
from experiments.ours import fitted_tables
from experiments.peers import tables as peer_tables

ROOT = RESULTS.parent
PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")


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
    methods = ("Euler-Maruyama", "DPM-Solver++ 2M", "fitted", "fitted, look-ahead", "of the paper",
               "fitted plan|chosen plan")  # fmt: skip
    header = ["cost", *(f"top level, {name}" for name in methods[:4]), "ML-EM of the paper",
              "**chosen plan**"]  # fmt: skip
    rows = []
    for budget in result["settings"]["budgets"]:
        cells = [f"{budget:g}"]
        for method in methods:
            either = "|".join(map(re.escape, method.split("|")))
            name = rf"(top level, {budget:g} steps|.*, budget {budget:g}), ({either})"
            (row,) = (row for row in result["rows"]
                      if row["shown"] and re.fullmatch(name, row["name"]))  # fmt: skip
            levels = " ".join(map(str, row["levels"]))
            which = f", levels {levels}" if method == methods[-1] else ""
            cells.append(f"{brief(row['mse'])}, {row['seconds']:.2f} s{which}")
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


def diagnosis() -> str:
    """What is predicted of the ladder, what is measured, and what the top level pays for that."""
    rows = []
    for sampler, own in result_of("diagnose")["samplers"].items():
        check, gamma = own["check"], own["gamma"]
        levels = " ".join(map(str, own["advice"]["kept"]))
        rows.append([
            PROCESSES[sampler], f"{gamma['value']:.2f} ({gamma['low']:.2f}-{gamma['high']:.2f})",
            levels, brief(check["predicted"]),
            f"{brief(check['measured'])} ± {brief(check['standard_error'])} at {check['cost']:.0f}",
            f"{brief(check['even'])} at {check['even_cost']:.0f}",
        ])  # fmt: skip
    return lines(["", "gamma", "levels advised", "mse predicted", "measured, independent draws",
                  "midpoint draws"], rows)  # fmt: skip


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
         *fitted_tables.less_error(8.0, "top level, fitted"), earth],
        ["the same, with fitted weights and steps that look ahead at the noise",
         *fitted_tables.less_error(8.0, "top level, fitted, look-ahead"), earth],
        ["error of the best of diffusers' and diffrax's solvers and a switch of levels, over that "
         "of the chosen plan, for 8 and 30 evaluations or up to 5 % more",
         *peer_tables.over_fitted(8, 30),
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


TABLES: dict[str, Callable[[], str]] = {
    "quickstart": quickstart,
    "accelerator": micro_tables.accelerator,
    "floor": micro_tables.floor,
    "rounds": micro_tables.rounds,
    "faults": micro_tables.faults,
    "diagnosis": diagnosis,
    "fitted plans": fitted_tables.plans,
    "fitted rivals": fitted_tables.rivals,
    "fitted errors": fitted_tables.errors,
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
