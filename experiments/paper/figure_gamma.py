"""gamma, the exponent of cost against error of a ladder: by losses and by distances to its top.

error_k ~ cost_k^(-1/gamma) (arXiv:2603.24594, section 2), in FLOPs and in measured time, with error
either the root of what the held-out loss of a level lies above the top's, or its root-mean-square
distance to the top along the top's own path.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from experiments.common.samplers import SAMPLERS, fine_grid, path_of
from experiments.ladders.shipped import Trained
from mlem_jax import Ladder, Problem, draw_starts, plans, solve_path
from mlem_jax.diagnosis import Interval, fit_gamma, resample

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TIMES = 20
"""States along the path at which levels are compared."""


def measured(
    trained: Trained, directory: Path, sampler: str, images: int, base_steps: int, seed: int
) -> dict[str, Any]:
    """Costs, errors and the gamma of each pair of them, with its interval over samples."""
    card = json.loads((directory / "card.json").read_text())["levels"]
    costs = {
        "FLOPs": [row["megaflops_per_image"] for row in card],
        "time": [row["milliseconds_per_image"] for row in card],
    }
    squares = distances(trained, sampler, images, base_steps, seed)
    weights = resample(jax.random.key(seed), images, 1000)
    errors = {
        "distance to the top": np.sqrt(weights @ squares),
        "loss above the top's": losses_above(card, seed),
    }
    fits = [
        {"cost": cost, "error": error, **told(fit_gamma(paid, found))}
        for cost, paid in costs.items()
        for error, found in errors.items()
    ]
    return {
        "costs": costs,
        "errors": {name: found[0].tolist() for name, found in errors.items()},
        "gamma": fits,
    }


def told(fit: Interval) -> dict[str, float | None]:
    """As JSON has it, which knows no NaN: None where there are too few levels for a line."""
    return {name: None if np.isnan(value) else value for name, value in fit._asdict().items()}


def distances(
    trained: Trained, sampler: str, images: int, base_steps: int, seed: int
) -> np.ndarray:
    """Mean squares [images, levels] of f^k - f^K at `TIMES` states of the top level's path."""
    own, ladder, times = SAMPLERS[sampler], trained.ladder, fine_grid(base_steps)
    start_key, path_key = jax.random.split(jax.random.key(seed))
    samples = jnp.arange(images)
    x, steps = draw_starts(start_key, samples, trained.shape), own.table(times)
    problem = Problem(x, path_of(own, path_key, times, times, samples))
    top = plans.full(base_steps, len(ladder), len(ladder))
    compared = np.arange(0, base_steps, max(1, base_steps // TIMES))
    states = solve_path(ladder, problem, steps, top, keep=compared).states

    @jax.jit
    def apart(ladder: Ladder, states: jax.Array, t: jax.Array) -> jax.Array:
        def at(given: tuple[jax.Array, jax.Array]) -> jax.Array:
            said = [
                drift(params, *given)
                for drift, params in zip(ladder.drifts, ladder.params, strict=True)
            ]
            return jnp.stack([((one - said[-1]) ** 2).mean(axis=(1, 2, 3)) for one in said], 1)

        return jax.lax.map(at, (states, t)).mean(axis=0)

    return np.asarray(apart(ladder, states, steps.t[compared]), np.float64)


def losses_above(card: list[dict[str, Any]], seed: int, resamples: int = 1000) -> np.ndarray:
    """Root of loss_k - loss_K; first as measured, then as far off as the standard errors say."""
    losses = np.array([row["held_out_loss"] for row in card])
    spread = np.array([row["held_out_standard_error"] for row in card])
    normals = np.random.default_rng(seed).normal(size=(resamples, len(card)))
    drawn = losses + np.concatenate([np.zeros((1, len(card))), normals * spread])
    return np.sqrt(np.maximum(drawn - drawn[:, -1:], 0))


def draw(file: Path, samplers: dict[str, dict[str, Any]]) -> None:
    """Error against cost with the fitted lines, one panel per sampler and measure of cost."""
    figure, axes = plt.subplots(
        1, 2 * len(samplers), figsize=(7.6 * len(samplers), 3.4), sharey=True, squeeze=False
    )
    panels = [(name, cost) for name in samplers for cost in ("FLOPs", "time")]
    for axis, (name, cost) in zip(axes[0], panels, strict=True):
        own = samplers[name]
        for number, (kind, errors) in enumerate(own["errors"].items()):
            fit = next(f for f in own["gamma"] if (f["cost"], f["error"]) == (cost, kind))
            paid, found = np.array(own["costs"][cost])[:-1], np.array(errors)[:-1]
            label = kind
            if fit["value"] is not None:
                label += f"\ngamma {fit['value']:.1f} ({fit['low']:.1f} to {fit['high']:.1f})"
            axis.loglog(paid, found, f"C{number}o", label=label)
            if fit["value"] is None:
                continue
            level = np.exp(np.mean(np.log(found) + np.log(paid) / fit["value"]))
            axis.loglog(paid, level * paid ** (-1 / fit["value"]), f"C{number}-", linewidth=1)
        axis.set_title(name.upper())
        axis.set_xlabel({"FLOPs": "MFLOP per image", "time": "milliseconds per image"}[cost])
        axis.minorticks_off()  # Their labels would run into each other.
        paid = own["costs"][cost][:-1]
        axis.set_xticks(paid, [f"{value:.2g}" for value in paid])
        axis.set_yticks(shares := (0.05, 0.1, 0.2, 0.4, 0.8), [f"{value:g}" for value in shares])
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    axes[0][0].set_ylabel("error of a level, root mean square")
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)
