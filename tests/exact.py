"""Sums over every draw of the gates: expectations without Monte Carlo error."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from mlem_jax import gates, plans
from mlem_jax.draws import spread_openings
from mlem_jax.evaluate import Batch, square_errors
from mlem_jax.grids import uniform_grid
from mlem_jax.ladder import pick_levels
from mlem_jax.noise import brownian_path
from mlem_jax.problem import Problem
from mlem_jax.solver import solve
from mlem_jax.steps import euler_maruyama
from tests.problems import normals, wavy_ladder

KEY = jax.random.key(0)


def every_draw(logits):
    """Pairs (probability, openings) over all draws of independent gates, certain ones open."""
    p = expit(np.asarray(logits))
    choices = [(True,) if open_ == 1 else (True, False) for open_ in p.ravel()]
    for bits in itertools.product(*choices):
        openings = np.array(bits).reshape(p.shape)
        yield float(np.prod(np.where(openings, p, 1 - p))), jnp.asarray(openings)


def every_offset(logits):
    """Pairs (probability, openings) over all systematic draws of one level, constant between the
    offsets at which a sum of probabilities passes a whole number.
    """
    due = np.cumsum(expit(np.asarray(logits))[:, 0])
    edges = np.sort(np.concatenate([[0, 1], np.ceil(due) - due]))
    offsets = (edges[1:] + edges[:-1]) / 2
    openings = _spread(jnp.asarray(offsets)[:, None], logits)
    return list(zip(np.diff(edges), openings, strict=True))


_spread = jax.jit(jax.vmap(spread_openings, (0, None)))


def every_systematic_draw(logits):
    """Pairs (probability, openings) over all systematic draws, offsets independent by level."""
    columns = [every_offset(logits[:, k : k + 1]) for k in range(logits.shape[1])]
    for chosen in itertools.product(*columns):
        chance = float(np.prod([chance for chance, _ in chosen]))
        yield chance, jnp.concatenate([openings for _, openings in chosen], axis=1)


@cache
def known_draws(count, levels, start, *, noisy=True):
    """A nonlinear ladder of `levels` on `count` steps from t = 1 to the data."""
    steps = euler_maruyama(uniform_grid(1.0, 0.0, count), lambda t: (0.5 + t) * float(noisy))
    ladder = pick_levels(wavy_ladder(), range(4 - levels, 4))
    path = brownian_path(KEY, steps, samples=jnp.arange(2)) if noisy else None
    batch = Batch(Problem(normals(0, 2, 3), path), normals(1, 2, 3))
    family = gates.log_linear(start)
    theta = family.init()
    tilt = jnp.linspace(-0.4, 0.3, len(theta.slope))
    return ladder, steps, family, theta._replace(slope=tilt), batch


def exact_gradient(ladder, steps, family, theta, batch):
    """d/dtheta sum_B P(B; theta) error(B; theta), by plain differentiation of the whole sum."""
    slope = _slope_of_sum(
        ladder, batch, steps, family, theta, all_openings(family, theta, steps)[1]
    )
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(slope)])


def all_openings(family, theta, steps):
    """Probabilities [draws] and openings [draws, steps, levels]."""
    chances, draws = zip(*every_draw(jax.jit(family.logits)(theta, steps.t)), strict=True)
    return np.array(chances), np.stack(draws)


@partial(jax.jit, static_argnums=3)
def _slope_of_sum(ladder, batch, steps, family, theta, draws):
    def expectation(theta):
        logits = family.logits(theta, steps.t)
        p = gates.to_probabilities(logits)

        def portion(openings):
            chance = jnp.prod(jnp.where(openings, p, 1 - p))
            end = solve(ladder, batch.problem, steps, plans.weigh(openings, logits))
            return chance * square_errors(end, batch.reference).mean()

        return jax.vmap(portion)(draws).sum()

    return jax.grad(expectation)(theta)
