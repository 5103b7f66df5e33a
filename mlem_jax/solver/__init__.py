"""The solver: one small step, and executors that run it over tables."""

from mlem_jax.solver.checked import solve_checked
from mlem_jax.solver.executors import Executor, reporting, scan, segments
from mlem_jax.solver.rounds import Round, make_rounds, solve_each
from mlem_jax.solver.solve import Trajectory, solve, solve_chunks, solve_groups, solve_path
from mlem_jax.solver.step import Carry, Table, init_carry, make_table, mlem_step

__all__ = [
    "Carry",
    "Executor",
    "Round",
    "Table",
    "Trajectory",
    "init_carry",
    "make_rounds",
    "make_table",
    "mlem_step",
    "reporting",
    "scan",
    "segments",
    "solve",
    "solve_checked",
    "solve_chunks",
    "solve_each",
    "solve_groups",
    "solve_path",
]
