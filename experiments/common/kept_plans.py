"""Fitted plans as files: the plan, .npz, and beside it a .json that says what it is of.

The .json has a sum of itself and that of the plan, so that no other plan is taken for it.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common import runs, sums
from experiments.common.method import Run, fitted
from experiments.common.samplers import SAMPLERS, Order
from mlem_jax import Plan, Steps, load_plan, save_plan
from mlem_jax.arrays import digest
from mlem_jax.grids import Grid


class KeptPlan(NamedTuple):
    """A plan, and what it has to be run with.

    Attributes:
        plan: of these levels, along these steps.
        levels: of the ladder, 1 the cheapest.
        sampler: its name.
        times: of the steps.
        grid: what kind of times they are.
        order: of the steps.
        cost: in evaluations of the top level.
    """

    plan: Plan
    levels: tuple[int, ...]
    sampler: str
    times: Grid
    grid: str
    order: Order
    cost: float

    @property
    def steps(self) -> Steps:
        """The steps that it was fitted for."""
        return SAMPLERS[self.sampler].table(self.times, self.order)

    def run(self, parameters: dict[str, Any]) -> Run:
        """The plan as a point of the curve of fitted ones."""
        method = fitted(self.levels, self.grid, self.order)
        return Run(method, parameters, self.times, [self.plan])


def write_plan(file: Path, kept: KeptPlan, about: dict[str, Any]) -> None:
    """Write a plan and what it is.

    Args:
        file: ends in .npz.
        kept: the plan.
        about: what else is to be known of it, such as its errors.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.stem}.new.npz")
    try:
        # Both are on disk before one takes its place, so that a full disk costs nothing.
        save_plan(new, kept.plan)
        told = {**about, **kept._asdict(), "times": kept.times.tolist()}
        told |= {sums.PLAN: digest(new)}
        del told["plan"]
        runs.write_whole(new.with_suffix(".json"), sums.dumps(told, indent=1) + "\n")
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    new.replace(file)
    new.with_suffix(".json").replace(file.with_suffix(".json"))


def read_plan(file: Path) -> KeptPlan:
    """A plan that `write_plan` wrote.

    Raises:
        FileNotFoundError: if one of the two files is not there.
        ValueError: if they are not such files, damaged, or not written together.
    """
    beside = file.with_suffix(".json")
    if not beside.exists():
        raise FileNotFoundError(f"expected {beside} beside the plan, which says what it is of; "
                                "python -m experiments.fit writes both")  # fmt: skip
    told = sums.loads(beside.read_bytes(), str(beside))
    if missing := [name for name in (*KeptPlan._fields[1:], sums.PLAN) if name not in told]:
        raise ValueError(f"expected what experiments.fit writes in {beside}, without {missing}")
    plan = load_plan(file)
    if told[sums.PLAN] != digest(file):
        raise ValueError(f"expected the plan that {beside} was written with in {file}, got another "
                         "one: a kill came between the two; fit it again")  # fmt: skip
    named = {name: told[name] for name in KeptPlan._fields[1:]}
    named |= {"levels": tuple(named["levels"]), "times": np.array(named["times"], np.float64)}
    return KeptPlan(plan, **named)
