"""Integrators as tables: one row per step, made from a grid of times before any loop."""

from mlem_jax.steps.integrators import (
    ddim,
    ddpm,
    diffusion_euler_maruyama,
    dpm_solver_2m,
    euler_maruyama,
    exponential_euler,
    snr_clock,
)
from mlem_jax.steps.look_ahead import look_ahead
from mlem_jax.steps.table import Steps, goes_ahead, make_steps

__all__ = [
    "Steps",
    "ddim",
    "ddpm",
    "diffusion_euler_maruyama",
    "dpm_solver_2m",
    "euler_maruyama",
    "exponential_euler",
    "goes_ahead",
    "look_ahead",
    "make_steps",
    "snr_clock",
]
