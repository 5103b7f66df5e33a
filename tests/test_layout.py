"""Claims about the project itself: imports, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mlem_jax

PACKAGE = Path(__file__).parent.parent / "mlem_jax"
ON_DEMAND = {"flax", "orbax", "optax", "matplotlib"}


def names():
    """Every module of the library, in words such as `plans.memory`."""
    return sorted(
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        for file in PACKAGE.rglob("*.py")
        if file.name != "__init__.py"
    )


def imported(module: str) -> set[str]:
    """Modules and packages of the library that a module imports, wherever in it."""
    found = set()
    file = PACKAGE / (module.replace(".", "/") + ".py")
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlem_jax"):
            inner = node.module.partition(".")[2]
            found |= {inner} if inner else {alias.name for alias in node.names}
    return found


def rises(graph: dict[str, set[str]]) -> list[str]:
    """What is left when modules without imports are taken away again and again: the cycles."""
    left = {name: own & set(graph) for name, own in graph.items()}
    while free := [name for name, own in left.items() if not own]:
        left = {name: own - set(free) for name, own in left.items() if name not in free}
    return sorted(left)


def test_modules_import_one_another_one_way():
    assert rises({name: imported(name) for name in names()}) == []


def test_packages_import_one_another_one_way():
    packages: dict[str, set[str]] = {}
    for name in names():
        own = name.partition(".")[0]
        packages.setdefault(own, set()).update(each.partition(".")[0] for each in imported(name))
    for own, others in packages.items():
        others.discard(own)
    assert rises(packages) == []


def test_nothing_below_the_plan_knows_a_probability_and_nothing_above_it_a_loop():
    for name in names():
        room = name.partition(".")[0]
        if room == "solver":
            assert not any(each.startswith(("gates", "draws")) for each in imported(name)), name
        if room in ("gates", "draws", "plans", "steps"):
            assert not any(each.startswith("solver") for each in imported(name)), name


def test_nothing_in_the_library_knows_the_experiments():
    for name in names():
        tree = ast.parse((PACKAGE / (name.replace(".", "/") + ".py")).read_text())
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any((module or "").startswith("experiments") for module in modules), name


def test_the_top_level_is_small_and_all_of_it_is_there():
    assert len(mlem_jax.__all__) <= 36
    assert len(set(mlem_jax.__all__)) == len(mlem_jax.__all__)
    for name in dir(mlem_jax):
        assert getattr(mlem_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'solv'"):
        _ = mlem_jax.solv


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_types_are_shipped():
    # That they are complete for a user, CI sees: pyright is strict with tests/user_script.py.
    assert (PACKAGE / "py.typed").exists()


def test_importing_needs_no_library_for_networks():
    ran = run_python(f"import sys, mlem_jax; print(*{ON_DEMAND!r} & {{*sys.modules}})")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []
