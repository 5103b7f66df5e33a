"""Events: the limit of ever smaller steps, in which what counts is when a level runs.

With probabilities in proportion to the step, p_k = lambda_k dt, the evaluations of a level do not
depend on the number of steps: as dt -> 0 the openings of gate k become events in time at the rate
lambda_k(t), and each adds an impulse of weight 1/lambda_k of its difference Delta_k,

    dx = a x dt + g sum_k Delta_k dmu_k + sigma dW ,  mu_k = sum over events of (1/lambda_k) delta .

Nothing happens to F between two events, so a step goes from one to the next. There are as many
steps as events, and the cost is that of the evaluations, chosen by the rates: there is no step
count to choose. Independent draws become Poisson processes, systematic ones evenly spread events.

Where a step starts, r_k = 1 / (lambda_k span) turns the step's gain into the impulse. An
integrator that solves the linear part exactly has, with Phi' = a Phi and the clock u' = g / Phi,

    (x / Phi)' = F u' ,  so  x' = (Phi[n+1] / Phi[n]) x + Phi[n+1] (u[n+1] - u[n]) F ,

while an impulse moves x / Phi by u'(t_n) F / lambda: the span is (u[n+1] - u[n]) / u'(t_n), the
length of the step as it would be had g / Phi stayed what it is at the start. For Euler-Maruyama of
F alone it is the length of the step itself.

    events = even_events(key, rates, uniform_grid(1.0, 0.1, 64))
    plan = event_plan(events, table_spans(partial(ddim, process), events.times))
    x = solve(levels, params, x, ddim(process, events.times), plan)

Events are concrete numpy tables, as their number depends on chance; a solve is compiled anew for
each number of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from mlem_jax.plan import Plan, drop_idle, weigh_ratios
from mlem_jax.steps import Grid, Steps, check_grid
from mlem_jax.types import Key


class Events(NamedTuple):
    """Which levels run when, in continuous time.

    Attributes:
        times: the start, every event of any level, the end: the grid of the steps [steps + 1].
        fires: whether gate k opens where the step starts [steps, levels]. The first step starts at
            no event; there only levels of infinite rate run.
        rates: lambda_k where the step starts [steps, levels], per unit of |time|.
    """

    times: Grid
    fires: Bool[np.ndarray, "steps levels"]
    rates: Float[np.ndarray, "steps levels"]


def poisson(key: Key, rates: ArrayLike, times: ArrayLike) -> Events:
    """mu_k a Poisson process of rate lambda_k, independent over levels: `independent` as dt -> 0.

    Args:
        key: of the events; never the one the noise is drawn with.
        rates: of each level in each cell of the grid [cells, levels], in events per unit of
            |time|. Infinite where the level runs at each event of any other, as a certain gate.
        times: the grid [cells + 1], rising or falling.

    Raises:
        ValueError: if the table does not fit the grid or holds a rate that is not positive.
    """
    rates, times = _check_rates(rates, times)
    chance = _generator(key)
    due = _due(rates, times)
    positions = [np.sort(chance.uniform(0, total, chance.poisson(total))) for total in due[-1]]
    return _events(positions, due, rates, times)


def even_events(key: Key | None, rates: ArrayLike, times: ArrayLike) -> Events:
    """Level k runs where int lambda_k passes i - U_k, i = 1, 2, ...: `systematic` as dt -> 0.

    One U a level, uniform on [0, 1); without a key U = 1/2, which is `midpoint` as dt -> 0.
    Arguments and errors as for `poisson`.
    """
    rates, times = _check_rates(rates, times)
    levels = rates.shape[1]
    offsets = np.full(levels, 0.5) if key is None else _generator(key).random(levels)
    due = _due(rates, times)
    positions = [
        np.arange(1, total + offset) - offset
        for total, offset in zip(due[-1], offsets, strict=True)
    ]
    return _events(positions, due, rates, times)


def event_plan(events: Events, spans: ArrayLike | None = None) -> Plan:
    """r_k = 1 / (lambda_k span) at each event of level k, 1 for an infinite rate; idle levels drop.

    Args:
        events: from `poisson` or `even_events`.
        spans: the length of each step in the clock in which the integrator's gain is exact
            [steps]: `table_spans`. By default in time, for `euler_maruyama(events.times)`.

    Raises:
        ValueError: if the spans are not one positive number a step.
    """
    spans = np.abs(np.diff(events.times)) if spans is None else np.asarray(spans, np.float64)
    if spans.shape != (len(events.fires),) or not ((spans > 0) & np.isfinite(spans)).all():
        raise ValueError(
            f"expected one positive span for each of {len(events.fires)} steps, got {spans}; make "
            "them with table_spans over events.times"
        )
    finite = np.isfinite(events.rates)
    impulses = 1 / (np.where(finite, events.rates, 1) * spans[:, None])
    ratios = np.where(events.fires, np.where(finite, impulses, 1.0), 0.0)
    ratios = jnp.asarray(ratios, jnp.result_type(float))
    return drop_idle(weigh_ratios(jnp.asarray(events.fires), ratios))


def table_spans(table: Callable[[Grid], Steps], times: ArrayLike) -> Float[np.ndarray, " steps"]:
    """span[n] = (u[n+1] - u[n]) / u'(t[n]), u read off the gains of whole and of tiny steps.

    gain / scale of a step is Phi where it starts times the way of the clock u, so steps from the
    same point compare ways whatever Phi is.

    Args:
        table: makes the integrator for any grid, such as `partial(ddim, process)`.
        times: the grid of the steps, `events.times`.

    Raises:
        ValueError: if a step's scale is 0, so that it forgets every impulse before it, as the last
            step of `ddim` to the data and the first of `ddpm` from pure noise do.
    """
    times = check_grid(times)
    dt = np.diff(times)
    whole = _read(table, times)
    if not whole.scale.all():
        n = int(np.flatnonzero(whole.scale == 0)[0])
        raise ValueError(
            f"expected steps that keep part of the state, got scale 0 from {times[n]} to "
            f"{times[n + 1]}; leave that step out of the events and take it with one level alone"
        )
    tiny = np.sign(dt) * np.minimum(1e-5 * abs(times[-1] - times[0]), np.abs(dt) / 4)
    start = times[:-1]
    tripled = np.stack([start, start + tiny, start + 2 * tiny], axis=1).ravel()
    scale, gain = _read(table, np.append(tripled, times[-1]))
    first = gain[::3] / scale[::3]
    second = gain[1::3] / (scale[1::3] * scale[::3])
    slope = (3 * first - second) / (2 * tiny)  # At the start, to second order.
    return np.abs(whole.gain / (whole.scale * slope))


class _Linear(NamedTuple):
    scale: np.ndarray
    gain: np.ndarray


def _read(table: Callable[[Grid], Steps], times: Grid) -> _Linear:
    # In double precision: the gains of tiny steps are compared with each other.
    with jax.enable_x64(True):
        steps = table(times)
        if steps.previous is not None:
            raise ValueError("expected one-step steps for events, got a two-step method; give its "
                             "one-step form, exponential_euler")  # fmt: skip
        return _Linear(np.asarray(steps.scale), np.asarray(steps.gain))


def _check_rates(rates: ArrayLike, times: ArrayLike) -> tuple[np.ndarray, Grid]:
    table, times = np.asarray(rates, np.float64), check_grid(times)
    if table.ndim != 2 or len(table) != len(times) - 1:
        raise ValueError(f"expected rates [cells, levels] for {len(times) - 1} cells of the grid, "
                         f"got shape {table.shape}")  # fmt: skip
    if not (table > 0).all():
        cell, k = np.argwhere(~(table > 0))[0]  # NaN is wrong as well.
        raise ValueError(
            f"expected positive rates, got {table[cell, k]} in cell {cell}, level {k + 1}; a level "
            "that is never to be used is left out of the ladder instead"
        )
    return table, times


def _generator(key: Key | None) -> np.random.Generator:
    """Of numpy, since shapes that depend on chance would be compiled anew at each draw."""
    if key is None:
        raise ValueError("expected a key for random events, got None; only even_events needs none")
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _due(rates: np.ndarray, times: Grid) -> np.ndarray:
    """int lambda_k from the start to each point of the grid; infinite rates add no events."""
    cells = np.where(np.isfinite(rates), rates, 0.0) * np.abs(np.diff(times))[:, None]
    return np.concatenate([np.zeros_like(cells[:1]), np.cumsum(cells, axis=0)])


def _events(positions: list[np.ndarray], due: np.ndarray, rates: np.ndarray, times: Grid) -> Events:
    """The events of each level where its rate has added up to its positions."""
    sign, length = np.sign(times[-1] - times[0]), abs(times[-1] - times[0])
    passed = np.abs(times - times[0])
    own = [np.interp(at, column, passed) for at, column in zip(positions, due.T, strict=True)]
    when = np.concatenate([np.zeros(1), *own])
    which = np.repeat(np.arange(-1, len(own)), [1, *map(len, own)])
    # What differs by rounding is one event, and none is at the end, where no step starts.
    apart = 1e-12 * length
    order = np.argsort(when, kind="stable")
    order = order[when[order] < length - apart]
    when, which = when[order], which[order]
    new = np.diff(when, prepend=-1.0) > apart
    points, group = when[new], np.cumsum(new) - 1
    cell = np.clip(np.searchsorted(passed, points, side="right") - 1, 0, len(rates) - 1)
    fires = np.isinf(rates[cell])
    fires[group[which >= 0], which[which >= 0]] = True
    grid = np.append(times[0] + sign * points, times[-1])
    return Events(check_grid(grid), fires, rates[cell])
