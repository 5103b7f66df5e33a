"""Claims about several devices, run by `test_devices` in a process that has eight of them."""

import dataclasses
import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mlem_jax import draws, gates, plans, process
from mlem_jax.fitting import fit_plan
from mlem_jax.grids import uniform_grid
from mlem_jax.ladder import Ladder
from mlem_jax.nets import denoising_trainer
from mlem_jax.noise import brownian_path, store_path
from mlem_jax.problem import Problem, shard_problem, sharding_of
from mlem_jax.solver import segments, solve, solve_chunks, solve_groups, solve_path
from mlem_jax.solver.solve import _solve_groups, stacked_tables
from mlem_jax.steps import euler_maruyama
from tests.problems import normals

AUTO = AxisType.Auto
MESH = jax.make_mesh((8,), ("samples",), axis_types=(AUTO,))
OVER = NamedSharding(MESH, PartitionSpec("samples"))
COUNT, STEPS = 16, euler_maruyama(uniform_grid(0.0, 1.0, 6), lambda t: 0.3 + t)
PATH = brownian_path(jax.random.key(2), STEPS, samples=jnp.arange(COUNT))
# Enough entries a device for the widest vectors of a CPU: what is left over rounds in its own way.
X = normals(1, COUNT, 16)
LOGITS = gates.to_logits(np.tile([1.0, 0.6, 0.3], (6, 1)))
PLAN = plans.draw_plan(draws.independent, LOGITS, jax.random.key(4))
COLLECTIVES = r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"


def shown(params, x, t, label):
    return params * jnp.sin(x + t) + label[:, None]


def network(params, x, t):
    return jnp.tanh(x @ params[0] + t) @ params[1]


LADDER = Ladder((shown,) * 3, tuple(map(jnp.asarray, (0.6, 0.9, 1.0))), (1.0, 4.0, 16.0))
NETWORKS = Ladder((network,) * 2, tuple(
    tuple(normals(width, *shape) / 8 for shape in ((16, width), (width, 16))) for width in (8, 64)
))  # fmt: skip
PROBLEMS = {
    "path": Problem(X, PATH, normals(5, COUNT)),
    "stored": Problem(X, store_path(PATH, X), normals(5, COUNT)),
}
PLAIN = PROBLEMS["stored"]._replace(condition=None)
SOLVERS = {
    "solve": solve,
    "segments": partial(solve, executor=segments),
    "solve_path": lambda *given: solve_path(*given, keep=[0, 3, 6]).states,
    "solve_chunks": partial(solve_chunks, chunk=8),
}


def compiled(function, *given):
    return jax.jit(function).lower(*given).compile().as_text()


@pytest.mark.parametrize(("name", "noise"), [
    ("solve", "path"), ("segments", "stored"), ("solve_path", "stored"), ("solve_chunks", "stored"),
])  # fmt: skip
def test_eight_devices_give_the_bits_of_one(name, noise):
    run, problem = SOLVERS[name], PROBLEMS[noise]
    spread = run(LADDER, shard_problem(problem, OVER), STEPS, PLAN)
    assert len(spread.sharding.device_set) == 8
    assert not spread.sharding.is_fully_replicated
    np.testing.assert_array_equal(spread, run(LADDER, problem, STEPS, PLAN))


@pytest.mark.parametrize("run", [solve, solve_path, partial(solve_chunks, chunk=8)])
def test_the_program_of_eight_devices_has_conds_and_no_collective(run):
    problem = shard_problem(PROBLEMS["stored"], OVER)
    text = compiled(lambda ladder, problem: run(ladder, problem, STEPS, PLAN), LADDER, problem)
    assert re.findall(COLLECTIVES, text) == []
    assert text.count(" conditional(") == 3


@pytest.mark.parametrize("chunk", [12, 40])
def test_chunks_that_do_not_fit_the_devices_give_the_same_samples(chunk):
    problem = PROBLEMS["stored"]
    spread = solve_chunks(LADDER, shard_problem(problem, OVER), STEPS, PLAN, chunk=chunk)
    whole = solve(LADDER, problem, STEPS, PLAN)
    np.testing.assert_allclose(spread, whole, rtol=1e-13)


@pytest.mark.parametrize("groups", [2, 16])
def test_groups_under_plans_of_their_own_give_the_bits_of_one_device(groups):
    problem = PROBLEMS["stored"]
    made = plans.draw_plans(draws.independent, LOGITS, jax.random.key(5), groups)
    spread = solve_groups(LADDER, shard_problem(problem, OVER), STEPS, made)
    np.testing.assert_array_equal(spread, solve_groups(LADDER, problem, STEPS, made))


def test_each_device_runs_its_own_groups_and_sends_nothing():
    made = plans.draw_plans(draws.independent, LOGITS, jax.random.key(5), 16)
    problem = shard_problem(PROBLEMS["stored"], OVER)
    tables = stacked_tables(LADDER, problem, STEPS, made)
    text = _solve_groups.lower(LADDER, problem, tables, sharding_of(problem)).compile().as_text()
    assert re.findall(COLLECTIVES, text) == []
    assert text.count(" conditional(") == 3


def test_networks_give_the_bits_of_one_device_that_is_given_as_many_at_a_time():
    plan = plans.draw_plan(draws.midpoint, LOGITS[:, :2], None)
    spread = solve(NETWORKS, shard_problem(PLAIN, OVER), STEPS, plan)
    alone = solve_chunks(NETWORKS, PLAIN, STEPS, plan, chunk=COUNT // 8)
    np.testing.assert_array_equal(spread, alone)


def test_a_level_may_have_its_parameters_on_two_devices():
    mesh = jax.make_mesh((4, 2), ("samples", "model"), axis_types=(AUTO, AUTO))
    over = NamedSharding(mesh, PartitionSpec("samples"))
    columns, rows = (NamedSharding(mesh, PartitionSpec(*spec))
                     for spec in ((None, "model"), ("model", None)))  # fmt: skip
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = tuple(jax.device_put(NETWORKS.params, ((everywhere,) * 2, (columns, rows))))
    assert params[1][0].addressable_shards[0].data.shape == (16, 32)
    ladder = Ladder(NETWORKS.drifts, params)
    plan = plans.draw_plan(draws.midpoint, LOGITS[:, :2], None)
    problem = shard_problem(PLAIN, over)
    whole = solve(NETWORKS, PLAIN, STEPS, plan)
    np.testing.assert_allclose(solve(ladder, problem, STEPS, plan), whole, rtol=1e-12)
    text = compiled(lambda *given: solve(*given, STEPS, plan), ladder, problem)
    assert text.count(" conditional(") == 2
    assert set(re.findall(COLLECTIVES, text)) == {"all-reduce"}  # Of the level's own product.
    made = plans.draw_plans(draws.midpoint, LOGITS[:, :2], None, 4)
    np.testing.assert_allclose(solve_groups(ladder, problem, STEPS, made), whole, rtol=1e-12)


@pytest.mark.slow
def test_a_fit_on_eight_devices_is_that_of_one_to_rounding():
    problem = PLAIN
    fine = solve_path(NETWORKS, problem, STEPS, plans.full(6, 2, 2)).states
    fits = [
        fit_plan(NETWORKS, each, STEPS, PLAN.needed[:, :2], fine, memory=(1, 1), chunk=8)
        for each in (problem, shard_problem(problem, OVER))
    ]
    for name in ("weights", "needed"):
        np.testing.assert_allclose(*(getattr(fit.plan, name) for fit in fits), atol=1e-8)
    np.testing.assert_allclose(fits[1].error, fits[0].error, rtol=1e-8)


@pytest.mark.usefixtures("others_promote")
def test_training_on_four_devices_has_the_losses_of_one():
    mesh = jax.make_mesh((4,), ("images",), axis_types=(AUTO,), devices=jax.devices()[:4])
    over, everywhere = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in (("images",), ()))

    def tinted(params, x, t):
        return params["gain"] * jnp.tanh(x) + params["shift"] * t[:, None, None, None]

    trainer = denoising_trainer(process.cosine(), process.predict_v, tinted, optax.sgd(0.1))
    params = {"gain": jnp.float32(0.5), "shift": jnp.zeros(3, jnp.float32)}
    images = normals(3, 3, 8, 4, 4, 3).astype(jnp.float32)
    step = jax.jit(trainer.step)
    one, four = trainer.init(params), jax.device_put(trainer.init(params), everywhere)
    for batch in images:
        one, loss = step(one, batch, jax.random.key(0), None)
        four, spread = step(four, jax.device_put(batch, over), jax.random.key(0), None)
        np.testing.assert_allclose(spread, loss, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), four.params, one.params)
    assert four.params["shift"].sharding.is_fully_replicated


@pytest.mark.slow
@pytest.mark.usefixtures("others_promote")
def test_levels_trained_and_resumed_on_four_devices_have_the_losses_of_one(tmp_path, monkeypatch):
    from experiments.common import tiny
    from experiments.ladders import train

    def losses(out, steps):
        given = train.shrink(train.Settings(data=Path(), tiny=True), tmp_path)
        for count in steps:
            train.train_levels(
                dataclasses.replace(
                    given, out=out, ladder=tiny.recipes(tmp_path / "own.toml"), minutes=count
                )
            )
        logs = [(out / f"level_{level}" / "log.jsonl").read_text() for level in (1, 2)]
        return [json.loads(line).get("loss", []) for log in logs for line in log.splitlines()]

    with jax.enable_x64(False):
        four = losses(tmp_path / "four", [1e-9] * 3 + [None])  # Killed thrice, after a step each.
        monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        one = losses(tmp_path / "one", [None])
    assert len(four) == len(one) == 6
    for spread, alone in zip(four, one, strict=True):
        np.testing.assert_allclose(spread, alone, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("others_promote")
def test_the_page_on_machines_does_what_it_says():
    page = (Path(__file__).parent.parent / "docs" / "machines.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    assert "(32, 32, 3)" in code
    found = {}
    with jax.enable_x64(False):
        exec(code.replace("(32, 32, 3)", "(2,)"), found)
    assert len(found["ends"]) == 64 * 8
    assert len(found["ends"].sharding.device_set) == 8


def test_what_cannot_be_spread_is_refused():
    problem = PROBLEMS["path"]
    with pytest.raises(TypeError, match=r"expected a sharding of the batch, NamedSharding"):
        shard_problem(problem, jax.devices()[0])
    for spec in ((), (None,), ("samples", None)):
        with pytest.raises(ValueError, match="expected a sharding of the batch alone"):
            shard_problem(problem, NamedSharding(MESH, PartitionSpec(*spec)))
    explicit = jax.make_mesh((8,), ("samples",), axis_types=(AxisType.Explicit,))
    with pytest.raises(ValueError, match=r"whose axes are automatic, got .*axis_types="):
        shard_problem(problem, NamedSharding(explicit, PartitionSpec("samples")))
    few = Problem(X[:9])
    with pytest.raises(ValueError, match=r"on each of 8 devices, got 9; give 16 and drop"):
        shard_problem(few, OVER)
    assert sharding_of(few) is None
