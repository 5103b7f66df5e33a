"""Drivers of other projects' solvers, distances to data, and the comparison as a user runs it."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import tiny
from experiments.common.curves import by_method
from experiments.common.method import Method, fields, method_of
from experiments.common.samplers import coarse_grids, fine_grid
from experiments.ladders import features as train_features
from experiments.ladders.shipped import PROCESS
from experiments.peers import compare as peers
from experiments.peers import crossings, distances
from experiments.peers import solvers as peer_solvers
from experiments.peers.methods import GROUPS, group_of
from mlem_jax import Ladder, Problem, brownian_path, grids, plans, solve, steps
from mlem_jax.noise import store_path
from tests.pictures import is_drawn

# diffusers hands PyTorch's tensors to numpy in a way that numpy is giving up.
pytestmark = [
    pytest.mark.usefixtures("others_promote"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

FINE = fine_grid(1000)
GRIDS = {"uniform": peer_solvers.even_grid(FINE, 20), "log-SNR": coarse_grids(FINE, 20)["log-SNR"]}


def level(params, x, t):
    """Nonlinear, and neither odd nor even in x."""
    return jnp.tanh(params * x + 0.3 * jnp.cos(3 * t))


NETWORK = peer_solvers.Network(level, jnp.float32(1.3))


@pytest.fixture
def start():
    return jax.random.normal(jax.random.key(0), (3, 4, 4, 3), jnp.float32)


def ours(table, x, noise=None):
    one = Ladder((level,), (NETWORK.args[0],))
    return solve(one, Problem(x, noise), table, plans.full(len(table.t), 1, 1))


def noise_on(grid, x):
    fine, own = (steps.ddpm(PROCESS, each) for each in (FINE, grid))
    return store_path(brownian_path(jax.random.key(1), fine, own, samples=jnp.arange(len(x))), x)


def assert_same(found, expected):
    assert float(jnp.abs(found - expected).max()) < 1e-5


def test_their_ddim_is_ours(start):
    pytest.importorskip("diffusers")
    found = peer_solvers.ddim(FINE, 20)(NETWORK, start, None)
    assert_same(found, ours(steps.ddim(PROCESS, GRIDS["uniform"]), start))


@pytest.mark.parametrize("kind", GRIDS)
def test_their_ddpm_along_our_path_is_ours(start, kind):
    pytest.importorskip("diffusers")
    grid, noise = GRIDS[kind], noise_on(GRIDS[kind], start)
    found = peer_solvers.ddpm(FINE, grid)(NETWORK, start, noise)
    assert_same(found, ours(steps.ddpm(PROCESS, grid), start, noise))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_their_dpm_solver_is_ours_in_both_forms(start, kind, churn):
    pytest.importorskip("diffusers")
    # With their end of the process: ours has an infinite log-SNR at t = 1.
    capped = PROCESS._replace(
        alpha=lambda t: jnp.sqrt(jnp.maximum(PROCESS.alpha(t) ** 2, peer_solvers.FLOOR))
    )
    grid, noise = GRIDS[kind], noise_on(GRIDS[kind], start) if churn else None
    found = peer_solvers.dpm_solver(FINE, grid, noisy=churn > 0)(NETWORK, start, noise)
    assert_same(found, ours(steps.dpm_solver_2m(capped, grid, churn=churn), start, noise))


@pytest.mark.parametrize("kind", GRIDS)
def test_unipc_of_first_order_without_its_corrector_is_ddim(start, kind):
    pytest.importorskip("diffusers")
    grid = GRIDS[kind]
    solver = peer_solvers.unipc(FINE, grid, solver_order=1, disable_corrector=list(range(20)))
    assert_same(solver(NETWORK, start, None), ours(steps.ddim(PROCESS, grid), start))


def test_unipc_is_closer_to_the_fine_solution_than_first_order(start):
    pytest.importorskip("diffusers")
    exact = ours(steps.dpm_solver_2m(PROCESS, FINE), start)
    grid = coarse_grids(FINE, 40)["log-SNR"]
    found = peer_solvers.unipc(FINE, grid)(NETWORK, start, None)
    first = ours(steps.ddim(PROCESS, grid), start)
    assert float(jnp.abs(found - exact).mean()) < 0.3 * float(jnp.abs(first - exact).mean())


def test_diffrax_euler_is_our_euler_maruyama_of_the_ode(start):
    grid = grids.uniform_grid(0.99, 0.01, 20)
    found = peer_solvers.diffrax_euler(grid)(NETWORK, start, None)
    assert_same(found, ours(steps.diffusion_euler_maruyama(PROCESS, grid, churn=0.0), start))


@pytest.mark.parametrize(("solver", "count"), [("diffrax_euler", 8), ("diffrax_heun", 15)])
def test_diffrax_pays_what_is_said(start, solver, count):
    ran = []

    def counted(params, x, t):
        jax.debug.callback(lambda: ran.append(1))
        return level(params, x, t)

    network = peer_solvers.Network(counted, jnp.float32(1.3))
    end = getattr(peer_solvers, solver)(peer_solvers.even_grid(FINE, 8))(network, start, None)
    jax.block_until_ready(end)
    jax.effects_barrier()
    assert len(ran) == count


def test_a_fresh_machine_is_told_in_one_line_what_to_install(monkeypatch):
    monkeypatch.setattr(peer_solvers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="torch, diffusers, diffrax not found; install"):
        peers.main(peers.Settings(tiny=True))


def test_an_even_grid_divides_the_fine_one():
    with pytest.raises(ValueError, match="a count that divides 1000 fine steps, got 7"):
        peer_solvers.even_grid(FINE, 7)


def test_distances_of_normal_features_are_the_closed_forms():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40_000, 3)), 2 * rng.normal(size=(40_000, 3)) + [1, 0, 0]
    assert distances.frechet(a, b) == pytest.approx(1 + 3 * (2 - 1) ** 2, rel=0.02)
    # W2 of each projection: (u_1)^2 + 1, its mean over directions 1/3 + 1.
    directions = rng.normal(size=(3, 400))
    directions /= np.linalg.norm(directions, axis=0)
    found = distances.sorted_distance(a @ directions, b @ directions)
    assert found**2 == pytest.approx(4 / 3, rel=0.03)


def test_the_kernel_distance_of_equal_distributions_is_0_in_the_mean():
    rng = np.random.default_rng(0)
    values = [distances.kernel_mmd(*rng.normal(size=(2, 50, 4))) for _ in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 200**0.5
    assert distances.kernel_mmd(rng.normal(size=(50, 4)), 1 + rng.normal(size=(50, 4))) > 0.3


def test_an_interval_is_students():
    told = distances.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert told["mean"] == 3
    assert told["half_width"] == pytest.approx(2.776 * (2.5 / 5) ** 0.5, rel=1e-3)


def test_a_crossing_is_found_between_the_points():
    def row(family, cost, error):
        return {**fields(Method(family, (1,))), "parameters": {"steps": cost}, "cost": cost,
                "picture_errors": [error, error]}  # fmt: skip

    # error = 8/cost^2 and 1/cost: the first is closer above cost 8.
    own = [row("a", c, 8 / c**2) for c in np.geomspace(2, 32, 201).tolist()]
    theirs = [row("b", c, 1 / c) for c in (1.0, 64.0)]
    found = crossings.crossing(own, theirs)
    assert found["compared"] == [2, 32]
    ((first, last),) = found["closer"]
    assert first == pytest.approx(8, rel=0.03)
    assert last == pytest.approx(32)
    assert found["nearest"]["ratio"] == pytest.approx(8 / 32)
    assert found["surely"] == found["closer"]  # Both pictures say the same.
    assert "at costs 8.1 to 32.0, beyond the noise" in crossings.sentence(found)
    # Of two pictures one says the other way round: closer in the mean, and not for sure.
    split = [row("a", 2.0, 0.3) | {"picture_errors": [0.01, 0.5]}]
    doubtful = crossings.crossing(split, theirs)
    assert doubtful["closer"] == [[2, 2]]
    assert doubtful["surely"] == []
    assert "nowhere" in crossings.sentence(crossings.crossing(theirs, theirs))
    assert crossings.crossing(own, []) is None
    # Of two points alone nothing is known between them.
    ends = crossings.crossing([own[0], own[-1]], theirs)
    assert ends["closer"] == [[pytest.approx(32), pytest.approx(32)]]


def test_the_stored_result_says_what_its_rows_say():
    def rounded(lines):
        told = json.loads(json.dumps(lines), parse_float=lambda told: f"{float(told):.9g}")
        return {(line["own"], line["against"]): line for line in told}

    file = pathlib.Path(peers.__file__).parent.parent.parent / "results" / "peers.json"
    if not file.exists():
        pytest.skip("no result of the shipped ladder yet")
    result = json.loads(file.read_text())
    for process in ("SDE", "ODE"):
        rows, told = ([line for line in result[name] if line["process"] == process]
                      for name in ("rows", "crossings"))  # fmt: skip
        assert rounded(told) == rounded(peers.crossings(process, rows))


def test_features_are_trained_shipped_and_loaded(tmp_path):
    data = tiny.random_pictures(tmp_path / "pictures.npz")
    settings = train_features.Settings(data=data, out=tmp_path / "features", size=8, epochs=1,
                                       batch=8)  # fmt: skip
    with jax.enable_x64(False):
        train_features.main(settings)
        found = train_features.load_features(settings.out)(jnp.zeros((2, 8, 8, 3)))
    assert found.shape == (2, 64)
    assert "right, held out" in (settings.out / "README.md").read_text()
    np.savez(tmp_path / "bare.npz", images=np.zeros((20, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="the row and column of each picture"):
        train_features.main(dataclasses.replace(settings, data=tmp_path / "bare.npz"))


FAMILIES = {"top level", "DPM-Solver++", "UniPC", "DDIM", "DDPM", "diffrax Euler", "diffrax Heun",
            "switch", "ML-EM"}  # fmt: skip
NUMBER = (int, float)
SCHEMA = {"process": str, "sampler": str, "family": str, "levels": list, "grid": str, "order": int,
          "gates": str, "draw": str, "weights": str, "parameters": dict, "number": int,
          "evaluations": list, "cost": NUMBER, "mse": NUMBER, "picture_errors": list,
          "seconds": NUMBER, "best": bool, "distances": (dict, type(None))}  # fmt: skip


@pytest.mark.slow
def test_everything_runs_on_random_networks_and_keeps_its_schema(tmp_path):
    pytest.importorskip("diffusers")
    with jax.enable_x64(False):
        peers.main(peers.Settings(tiny=True, out=tmp_path))
    result = json.loads((tmp_path / "peers.json").read_text())
    assert set(result) == {"machine", "commit", "command", "versions", "settings", "costs",
                           "seconds", "data against data", "crossings", "paired", "conclusions",
                           "rows"}  # fmt: skip
    for row in result["rows"]:
        assert set(row) == set(SCHEMA)
        assert all(isinstance(row[name], kind) for name, kind in SCHEMA.items())
        assert row["cost"] == pytest.approx(np.dot(row["evaluations"], result["costs"]), rel=1e-5)
        for each in (row["distances"] or {}).values():
            assert set(each) == {"mean", "half_width"}
    methods = by_method(result["rows"])
    assert {method.family for method in methods} == FAMILIES
    assert {group_of(method) for method in methods} == set(GROUPS)
    assert any(row["distances"] for row in result["rows"])
    assert set(result["data against data"]) == set(distances.METRICS)
    for line in result["crossings"]:
        assert set(line) == {"process", "own", "against", "compared", "closer", "surely", "nearest"}

    # The same update under two names, along the same path.
    def errors(process, family):
        return [row["mse"] for row in result["rows"] if row["process"] == process
                and method_of(row) == Method(family, (2,))]  # fmt: skip

    for process, family in (("ODE", "DDIM"), ("SDE", "DDPM")):
        assert len(errors(process, family)) == 2
        assert errors(process, family) == pytest.approx(errors(process, "top level"), rel=1e-3)
    assert is_drawn(tmp_path / "peers.png")
