"""Bad inputs to learning, pilots, diagnoses and fits, and to every kind of file that is loaded."""

import io
import pickle

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.ladders.recipes import load_recipes
from experiments.ladders.shipped import load
from mlem_jax import (
    Ladder,
    Problem,
    checkpoint,
    diagnosis,
    fitting,
    gates,
    learn,
    load_plan,
    save_plan,
    solve_path,
)
from mlem_jax.evaluate import Batch
from tests.bad_inputs import (
    BATCH,
    CHANCES,
    COSTS,
    GATES,
    INF,
    KEY,
    LADDER,
    LOGITS,
    MULTISTEP,
    NAN,
    NO_COUNTS,
    NO_KEYS,
    NOISELESS,
    ODE,
    PLAN,
    PROBLEM,
    STACKED,
    STEPS,
    Attack,
    X,
    each,
    refused,
    row,
)  # fmt: skip

FREE = gates.log_linear((1.0, 0.5, 0.25))
SGD = optax.sgd(0.1)


def learner(steps=ODE, gates=FREE, optimiser=SGD, penalty=0.1, groups=2, **options):
    return learn.gate_learner(steps, gates, optimiser, penalty=penalty, groups=groups, **options)


def learn_once(ladder=LADDER, batch=BATCH, key=KEY, **options):
    made = learner(**options)
    return made.step(made.init(), ladder, batch, key)


LEARNING = [
    *each("penalty", lambda v: learner(penalty=v), (-1.0, NAN, INF, "much", None),
          "expected a penalty"),
    *each("groups", lambda v: learner(groups=v), NO_COUNTS, "expected .*group"),
    *each("tangents", lambda v: learner(tangents=v), NO_COUNTS, "expected .*tangent"),
    row("one group", lambda: learner(groups=1), "expected at least 2 groups"),
    *each("steps", lambda v: learner(steps=v), (None, X, PLAN), "expected Steps"),
    *each("gates to learn", lambda v: learner(gates=v), (None, LOGITS, gates.log_linear),
          "expected Gates"),
    row("fixed gates", lambda: learner(gates=GATES), "expected gates .*learn"),
    *each("optimiser", lambda v: learner(optimiser=v), (None, "adam", optax.sgd),
          "expected .*optimiser"),
    row("groups that do not cut", lambda: learn_once(groups=3), "expected a batch that is a mult"),
    *each("batch", lambda v: learn_once(batch=v),
          (NOISELESS, None, Batch(NOISELESS, X[:2]), Batch(X, X)), "expected"),
    *each("ladder", lambda v: learn_once(ladder=v),
          (None, Ladder(LADDER.drifts, LADDER.params), Ladder(LADDER.drifts[:2], ()),
           Ladder(LADDER.drifts[:2], LADDER.params[:2], COSTS[:2])), "expected"),
    *each("key", lambda v: learn_once(key=v), NO_KEYS[:4], "expected a key"),
    row("too many directions", lambda: learn.orthogonal_directions(KEY, jnp.zeros(2), 3),
        "expected at most one tangent"),
]  # fmt: skip


def pilot(ladder=LADDER, problem=NOISELESS, steps=ODE, key=KEY, **options):
    return diagnosis.run_pilot(ladder, problem, steps, key, **{"bins": 2} | options)


def diagnose(ladder=LADDER, problem=NOISELESS, steps=ODE, key=KEY, **options):
    return diagnosis.diagnose(ladder, problem, steps, key, **{"bins": 2} | options)


PILOTS = [
    *each("bins", lambda v: pilot(bins=v), (*NO_COUNTS, 7), "expected .*bins"),
    *each("certain", lambda v: pilot(certain=v), (-1, 3, 1.5, NAN, "one", None),
          "expected .*certain"),
    *each("key", lambda v: pilot(key=v), NO_KEYS, "expected a key"),
    row("multistep steps", lambda: pilot(steps=MULTISTEP), "expected one-step"),
    *each("pilot of", lambda v: pilot(ladder=v), (None, LADDER.drifts), "expected a Ladder"),
    *each("pilot problem", lambda v: pilot(problem=v),
          (None, X, Problem(X[:0]), Problem(jnp.asarray(1.0))), "expected"),
    *each("pilot steps", lambda v: pilot(steps=v), (None, X, STEPS), "expected"),
    *each("budget", lambda v: diagnose(budget=v), (0.0, -1.0, NAN, INF, 1e9, "all"),
          "expected a budget"),
    *each("draws", lambda v: diagnose(draws=v), (0, 1, -1, 1.5, "two", None), "expected .*draws"),
    *each("resamples", lambda v: diagnose(resamples=v), (0, 1, 1.5, "two", None),
          "expected .*resamples"),
    *each("certain of a diagnosis", lambda v: diagnose(certain=v), (2, -1, 0.5, None),
          "expected certain"),
    *each("diagnosed", lambda v: diagnose(ladder=v),
          (None, Ladder(LADDER.drifts, LADDER.params), Ladder(LADDER.drifts[:1], LADDER.params[:1],
           (1.0,)), Ladder(LADDER.drifts, LADDER.params, COSTS[::-1])), "expected"),
    *each("coarser", lambda v: diagnose(coarser=v), (ODE, [ODE], 3, [(None, None)]),
          "expected coarser"),
    row("one sample", lambda: diagnose(problem=Problem(X[:1])), "expected at least 2 samples"),
    *each("report", diagnosis.report, (None, LADDER, "diagnosis"), "expected a?.?Diagnosis"),
]  # fmt: skip

FINE = solve_path(LADDER, NOISELESS, ODE, PLAN).states
NEEDED = np.ones((6, 3), bool)


def fit(ladder=LADDER, problem=NOISELESS, steps=ODE, needed=NEEDED, fine=FINE, memory=(0, 0, 0),
        **options):  # fmt: skip
    return fitting.fit_plan(ladder, problem, steps, needed, fine, memory=memory, **options)


SEARCH = fitting.Search({"all": lambda count: ODE}, [(1, 3)], most=6)
DENSITY = fitting.Density(np.linspace(0, 1, 6), np.ones((6, 3)))


def choose(search=SEARCH, budget=10.0, fine=None, density=DENSITY, **options):
    kept = fitting.Fine(ODE, np.arange(7), FINE) if fine is None else fine
    return fitting.choose_plan(LADDER, NOISELESS, kept, density, search, budget, **options)


FITS = [
    *each("needed", lambda v: fit(needed=v),
          (NEEDED[:5], NEEDED[:, :2], NEEDED[0], np.zeros((6, 3), bool), None, "all",
           CHANCES, np.full((6, 3), NAN)), "expected"),
    *each("memory", lambda v: fit(memory=v), ((1,), (0, 0, -1), 1, None, (0.5, 0, 0), "one"),
          "expected a count"),
    *each("kept", lambda v: fit(kept=v, needed=NEEDED & [True, True, False], memory=(1, 1, 0)),
          (NEEDED, NEEDED[:5], NEEDED[0], CHANCES, "all", 1), "expected kept outputs"),
    *each("fine", lambda v: fit(fine=v),
          (FINE[1:], FINE * NAN, FINE + 1.0, FINE[:, :2], None, X, {"a": FINE},
           FINE.astype(jnp.float32)), "expected a fine solution|expected .*fine"),
    *each("ridge", lambda v: fit(ridge=v), (-1.0, NAN, INF, "one", None), "expected .*ridge"),
    *each("held_out", lambda v: fit(held_out=v), (-1, 3, 4, 9, 0.25, NAN, "half", None),
          "expected"),
    *each("chunk", lambda v: fit(chunk=v), NO_COUNTS, "chunk"),
    row("fine along another path", lambda: fit(problem=PROBLEM, steps=STEPS),
        "expected a fine solution along"),
    row("too few samples", lambda: fit(problem=Problem(X[:1]), fine=FINE[:, :1]),
        "expected a pilot of at least"),
    row("no problem", lambda: fit(problem=X), "expected a Problem"),
    row("fit without a ladder", lambda: fit(ladder=None), "expected a Ladder"),
    *each("search", lambda v: choose(search=v),
          (None, [], "all", SEARCH._replace(levels=[(3,)]), SEARCH._replace(levels=[(1, 2)]),
           SEARCH._replace(grids={}), SEARCH._replace(powers=()), SEARCH._replace(memories=[(1,)])),
          "expected"),
    *each("folds", lambda v: choose(folds=v), (0, 1, 99, -2, 2.5, NAN, "half", None),
          "expected 2 folds or more"),
    *each("budget", lambda v: choose(budget=v), (0, -1, NAN, INF, "all", None, 0.1),
          "expected .*budget"),
    *each("fine solution", lambda v: choose(fine=v), (FINE, "fine"), "expected a?.?Fine"),
    *each("density", lambda v: choose(density=v), (None, NEEDED), "expected a?.?Density"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "match"), [*LEARNING, *PILOTS, *FITS])
def test_a_bad_input_is_refused_in_words(call, match):
    refused(call, match)


def stored(**changes):
    """A plan's file, some of its tables replaced, or left out."""
    stream = io.BytesIO()
    save = {f"memory_{name}": each for name, each in PLAN.memory._asdict().items()}
    save |= {"weights": PLAN.weights, "needed": PLAN.needed, "made_for": PLAN.made_for} | changes
    np.savez(stream, **{name: np.asarray(each) for name, each in save.items() if each is not None})
    return stream.getvalue()


GOOD = stored()
FLIPPED = bytearray(GOOD)
FLIPPED[GOOD.index(np.asarray(PLAN.weights).tobytes())] ^= 1
NESTED = np.array([Attack()], object)
FILES = {
    "empty": b"", "text": b"a plan", "half": GOOD[: len(GOOD) // 2], "without its end": GOOD[:-1],
    "a byte flipped": bytes(FLIPPED), "a pickle": pickle.dumps(Attack()),
    "an array": np.lib.format.magic(1, 0), "a zip of nothing": b"PK\x05\x06" + bytes(18),
    "without weights": stored(weights=None), "with another table": stored(more=np.ones(1)),
    "with a pickle inside": stored(weights=NESTED), "weights NaN": stored(weights=CHANCES * NAN),
    "weights of whole numbers": stored(weights=np.ones((6, 3), int)),
    "weights of text": stored(weights=np.full((6, 3), "w")),
    "needed no bool": stored(needed=CHANCES), "needed too short": stored(needed=NEEDED[:2]),
    "memory of another shape": stored(memory_read=np.zeros((5, 2))),
    "memory of a slot that is not there": stored(memory_store=np.zeros((6, 3), np.int32)),
    "memory of one axis": stored(memory_store=np.zeros(6, np.int32)),
    "memory a number": stored(memory_read=np.float64(1)),
    "made for infinity": stored(made_for=np.full((6, 3), INF)),
    "weights a number": stored(weights=1.),
    "weights complex": stored(weights=CHANCES * 1j),
}  # fmt: skip


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_damaged_plan_file_is_refused_by_name(content, tmp_path):
    (tmp_path / "plan.npz").write_bytes(content)
    refused(lambda: load_plan(tmp_path / "plan.npz"), r"plan\.npz")


SAVED = [
    *each("load_plan", load_plan, (None, 3, "",
    "/dev/null/such.npz"), "expected a .*file|no such|No suc"),
    *each("save_plan", lambda v: save_plan("/dev/null/such/plan.npz", v),
          (None, LOGITS, STACKED, PLAN),
          "expected|No such"),
    *each("about", lambda v: checkpoint.save("/dev/null/such", {"a": X}, about=v),
          ({"x": X}, {"x": NAN}, None, "text", 3, {(1, 2): 3}), "expected .about"),
    *each("tree", lambda v: checkpoint.save("/dev/null/such", v, about={}),
          ({"a": 1.0}, {"a": "text"}, "tree", None, {}, 1.0), "expected .*array"),
    *each("restore", lambda v: checkpoint.restore(v, {"a": X}), ("/dev/null/such", "", None, 3),
          "expected a checkpoint"),
    *each("read_about", checkpoint.read_about, ("/dev/null/such", __file__, None),
          "expected a checkpoint"),
    *each("seal", checkpoint.seal, ("/dev/null/such", __file__), "expected a checkpoint"),
    *each("ladder in", load, (None, "/dev/null/such"), "expected"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "match"), SAVED)
def test_a_file_that_is_not_there_or_cannot_be_written_is_told(call, match):
    refused(call, match)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "checkpoint"
    checkpoint.save(folder, {"a": np.ones((2, 3), np.float32)}, about={"x": 1})
    return folder


LIKE = {
    "another shape": {"a": np.ones((3, 2), np.float32)}, "another dtype": {"a": np.ones((2, 3))},
    "another name": {"b": np.ones((2, 3), np.float32)}, "nothing": {}, "None": None,
    "one more": {"a": np.ones((2, 3), np.float32), "b": np.ones(1)},
    "an array": np.ones((2, 3), np.float32),
}  # fmt: skip


@pytest.mark.parametrize("like", LIKE.values(), ids=LIKE)
def test_a_checkpoint_of_another_tree_is_refused(like, kept):
    refused(lambda: checkpoint.restore(kept, like), "another architecture|expected")


LEVEL = "[[level]]\nbase = "
LADDER_FILES = {
    "empty": "", "no TOML": "[[level", "no level": "a = 1", "one table": "[level]\nbase = 4",
    "a number": "level = 3",
    "no tables": "level = []", "of numbers": "level = [4]",
    "more": f"a = 1\n{LEVEL}4", "no base": "[[level]]\nsteps = 3",
    "unknown": f"{LEVEL}4\nwidth = 3",
    "text": f"{LEVEL}'4'", "true": f"{LEVEL}true", "real": f"{LEVEL}4.5", "negative": f"{LEVEL}-4",
    "zero": f"{LEVEL}0", "no steps": f"{LEVEL}4\nsteps = 0", "no batch": f"{LEVEL}4\nbatch = 0",
    "no scales": f"{LEVEL}4\nscales = 0", "no patch": f"{LEVEL}4\npatch = 0",
    "no channels": f"{LEVEL}4\nchannels = 0", "rate 0": f"{LEVEL}4\nlearning_rate = 0.0",
    "rate NaN": f"{LEVEL}4\nlearning_rate = nan",
    "teacher 0": f"{LEVEL}4\nteacher = 0", "its teacher": f"{LEVEL}4\nteacher = 1",
    "no such teacher": f"{LEVEL}4\nteacher = 2", "a list": f"{LEVEL}[4]",
    "date": f"{LEVEL}1979-01-01",
    "ring": f"{LEVEL}4\nteacher = 2\n{LEVEL}8\nteacher = 1", "twice": f"{LEVEL}4\nbase = 4",
}  # fmt: skip


@pytest.mark.parametrize("text", LADDER_FILES.values(), ids=LADDER_FILES)
def test_a_bad_ladder_file_is_refused(text, tmp_path):
    (tmp_path / "ladder.toml").write_text(text)
    refused(lambda: load_recipes(tmp_path / "ladder.toml"), "expected")
