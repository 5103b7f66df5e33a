"""Tables of experiments.ours.fitted for README.md and results/README.md, in Markdown."""

from experiments.common.method import PROCESSES
from experiments.common.rival_tables import brief, lines, result_of, short
from experiments.ours.fitted_rows import CURVES, NEITHER, is_fitted

KINDS = {"mean": "mean over pictures", "median": "median picture"}
COLUMNS = {
    "one network": ("Euler-Maruyama", "DPM-Solver++ 2M", "UniPC"),
    "one network, fitted": ("top level, fitted",),
    "the same, look-ahead": ("top level, fitted, look-ahead",),
    "ML-EM of the paper": ("the paper's ML-EM, best of 15",),
    "ML-EM, not fitted": ("ML-EM, midpoints", "ML-EM, trapezoid"),
    "ML-EM, fitted, no look-ahead": ("ML-EM, fitted, without look-ahead",),
    "chosen plan": ("chosen plan",),
}
"""The curves that a column of the table of errors has the best of."""


def plans() -> str:
    """Of each budget the fitted plan: what the best single network pays for its mean error."""
    result = result_of("fitted")
    budgets = [f"{budget:g}" for budget in result["settings"]["budgets"]]
    rows = []
    for sampler, (best, plain, *rest) in result["summary"].items():
        named = {PROCESSES[sampler]: best}
        if plain["plans"] != best["plans"]:
            (neither,) = (line for line in rest if line["rival"] == NEITHER)
            named[f"{PROCESSES[sampler]}, over one that does not look ahead"] = plain
            named[f"{PROCESSES[sampler]}, where neither does"] = neither
        for name, own in named.items():
            told = [short(each["mean"]) for each in own["plans"]]
            rows.append([name, *told, *["-"] * (len(budgets) - len(told))])
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
    rows = []
    for sampler in result["summary"]:
        own = [row for row in result["rows"] if row["sampler"] == sampler]
        for budget in result["settings"]["budgets"]:
            near = [row for row in own if budget in map(row["parameters"].get, ("budget", "steps"))]
            told = [f"{PROCESSES[sampler]}, {budget:g}"]
            for curves in COLUMNS.values():
                of_column = [row for row in near if any(CURVES[name](row) for name in curves)]
                best = min(of_column, key=lambda row: row["mse"], default=None)
                told.append("-" if best is None else f"{best['cost']:.1f}: {brief(best['mse'])}")
            if near:
                rows.append(told)
    return lines(["sampler, budget", *COLUMNS], rows)


def less_error(count: float, curve: str) -> list[str]:
    """Least error of one network at so many steps over that on one of the curves, per sampler."""
    rows, found = result_of("fitted")["rows"], []
    for sampler in PROCESSES:
        own = [row for row in rows if row["family"] == "single"
               and (row["sampler"], row["cost"]) == (sampler, count)]  # fmt: skip
        plain = min(row["mse"] for row in own if not is_fitted(row))
        ours = min((row["mse"] for row in own if CURVES[curve](row)), default=None)
        found.append("-" if ours is None else f"{plain / ours:.1f}")
    return found
