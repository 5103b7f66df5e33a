"""A method, in fields: what a row of a result is about, and what is printed of it.

Rows of result files carry the fields; labels are made from them and never read back. Beside them a
row has `sampler`, `parameters` of its point, `number` of its draw, and what was measured.
"""

from typing import Any, NamedTuple

from experiments.common.samplers import Order
from mlem_jax import Plan
from mlem_jax.grids import Grid

PROCESSES = {"ddpm": "SDE", "ddim": "ODE"}
"""What a sampler solves, by its name."""


class Method(NamedTuple):
    """What distinguishes one curve from another.

    Attributes:
        family: `top level` or `level` for one network at every step, `switch`, or `ML-EM`; of the
            solvers of other projects their names.
        levels: of the ladder that it uses, 1 the cheapest.
        grid: kind of time grid, `uniform`, `log-SNR` or `stretched log-SNR`, or a reference's.
        order: of the step table, 1 (Euler-Maruyama), 2 (DPM-Solver++ 2M) or `look-ahead`.
        gates: `inverse cost`, `theory`, `pilot`, `learned`; empty where nothing is drawn.
        draw: `independent`, `systematic`, `midpoint`; empty where nothing is drawn.
        weights: `impulse`, `trapezoid` or `fitted`; empty for one network, unless fitted.
    """

    family: str
    levels: tuple[int, ...]
    grid: str = "uniform"
    order: Order = 1
    gates: str = ""
    draw: str = ""
    weights: str = ""


class Run(NamedTuple):
    """One point of a curve, in as many draws as it has plans.

    Attributes:
        method: whose point it is.
        parameters: what distinguishes the points of a curve, such as steps or a budget.
        times: the grid it steps through.
        plans: its draws, of the ladder of `method.levels`.
    """

    method: Method
    parameters: dict[str, Any]
    times: Grid
    plans: list[Plan]


def fitted(levels: tuple[int, ...], grid: str, order: Order) -> Method:
    """The method of a plan with fitted weights, of one network or of several levels."""
    family = "ML-EM" if len(levels) > 1 else "top level"
    return Method(family, levels, grid, order, weights="fitted")


def fields(method: Method) -> dict[str, Any]:
    """What a row of a result begins with."""
    return {**method._asdict(), "levels": list(method.levels)}


def method_of(row: dict[str, Any]) -> Method:
    """The method of a row, from its fields."""
    named = {name: row[name] for name in Method._fields}
    return Method(**{**named, "levels": tuple(row["levels"])})


def select(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """The rows whose fields have these values."""
    values = {name: list(value) if isinstance(value, tuple) else value
              for name, value in wanted.items()}  # fmt: skip
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def label(method: Method) -> str:
    """`ML-EM, levels 2 4, pilot, midpoint, second order, log-SNR`; for tables and legends."""
    levels = " ".join(map(str, method.levels))
    named = {"top level": "top level", "level": f"level {levels}"}
    first = named.get(method.family, f"{method.family}, levels {levels}")
    drawn = [word for word in (method.gates, method.draw, method.weights)
             if word and word != "impulse"]  # fmt: skip
    order = {1: [], 2: ["second order"], "look-ahead": ["look-ahead"]}[method.order]
    return ", ".join([first, *drawn, *order, method.grid])
