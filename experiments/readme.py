"""Fills the tables of README.md and results/README.md from the result files beside them.

A table stands between `<!-- NAME -->` and `<!-- end -->`. A test fails where a page disagrees with
its results.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")
Result = dict[str, Any]
PROCESSES = {"ddpm": "SDE", "ddim": "ODE"}
KINDS = {"mean": "mean picture", "median": "median picture"}


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


def result_of(name: str) -> Result:
    """A result file."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def lines(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


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
        f"{settings['images']} pictures; seconds of the\nsolver without compilation; "
        f"{result['machine']}."
    )


def plans() -> str:
    """Of each budget the fitted plan: what the best single network pays for its error."""
    result = result_of("fitted")
    header = ["budget", *(f"{PROCESSES[sampler]}, {kind}" for sampler in result["summary"]
                          for kind in KINDS.values())]  # fmt: skip
    best = {sampler: lines[0] for sampler, lines in result["summary"].items()}
    rows = []
    for number, budget in enumerate(result["settings"]["budgets"]):
        each = (line["plans"][number : number + 1] for line in best.values())
        told = [short(own[0][kind]) if own else "-" for own in each for kind in KINDS]
        rows.append([f"{budget:g}", *told])
    whole = [short(line[kind]) for line in best.values() for kind in KINDS]
    return lines(header, [*rows, ["median", *whole]])


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
        told = (f"{own['median']:.2f} ({own['least']:.2f}-{own['most']:.2f})" for own in ratios)
        rows.append([f"{row['budget']:g}", str(row["steps"]), *told])
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


def when() -> str:
    """What was measured for cases that a reader may be in."""
    recipe = {"gates": "learned", "draw": "independent", "of draws": "best"}
    even = {"gates": "learned", "draw": "systematic", "of draws": "median"}
    gains = result_of("particles")["cases"]["stiff core, 1025 rods"]
    rods = (gains["gains"]["seconds"][name][gains["errors"].index(1e-5)]
            for name in ("Euler-Maruyama", "diffrax"))  # fmt: skip
    characters = "[characters](results/README.md#the-papers-gates)"
    earth = "[Earth](results/README.md#fitted-plans)"
    rows = [
        ["an SDE at few evaluations: a fitted plan", "the first rows above", earth],
        ["an ODE, or many evaluations: a fitted plan", "the last rows above", earth],
        ["one network, no ladder: its steps fitted, 8 of them",
         both("error {} times smaller", less_error(8.0)), earth],
        ["ML-EM as in the paper: learned gates, best of 15 draws",
         both("few steps of one network pay {} times its cost", told_of("Euler-Maruyama", recipe)),
         characters],
        ["even draws instead of independent ones",
         both("independent draws pay {} times their cost", told_of("inverse cost or theory", even)),
         characters],
        ["levels that are no networks: a thousand rods",
         "Euler-Maruyama takes {:.0f} times as long, the best of diffrax {:.0f}".format(*rods),
         "[rods](results/README.md#levels-that-are-no-networks)"],
    ]  # fmt: skip
    return lines(["case", "at equal error, or equal cost", "measured on"], rows)


def told_of(rival: str, fields: Result) -> dict[str, str]:
    """What a rival pays, per sampler, for the errors of one method on the characters."""
    summary = result_of("error_against_cost")["summary"]
    return {
        sampler: short(next(line["ratios"][rival] for line in lines
                            if all(line[name] == fields[name] for name in fields)))
        for sampler, lines in summary.items()
    }  # fmt: skip


def less_error(count: float) -> dict[str, str]:
    """Least error of one network at so many steps over that with fitted weights, per sampler."""
    result, found = result_of("fitted"), {}
    for sampler in result["summary"]:
        own = [row for row in result["rows"] if row["family"] == "single"
               and (row["sampler"], row["cost"]) == (sampler, count)]  # fmt: skip
        plain, fitted = (min(row["mse"] for row in own if (row["weights"] == "fitted") == whether)
                         for whether in (False, True))  # fmt: skip
        found[sampler] = f"{plain / fitted:.1f}"
    return found


def both(sentence: str, told: dict[str, str]) -> str:
    """A sentence for the SDE and the ODE."""
    return "; ".join(f"{PROCESSES[name]}: {sentence.format(own)}" for name, own in told.items())


def short(told: Result | None) -> str:
    """A ratio without the number of runs that it rests on."""
    return "-" if told is None else told["told"].rpartition(", ")[0]


def brief(error: float) -> str:
    """4.1e-2."""
    mantissa, exponent = f"{error:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


TABLES: dict[str, Callable[[], str]] = {
    "quickstart": quickstart,
    "accelerator": accelerator,
    "floor": floor,
    "fitted plans": plans,
    "fitted rivals": rivals,
    "fitted errors": errors,
    "when": when,
}
"""How each table is made."""


if __name__ == "__main__":
    main()
