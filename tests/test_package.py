"""What is installed is what is promised: wheel and source build and run outside the repository."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SMOKE = f"""
{(ROOT / "tests" / "user_script.py").read_text()}
from importlib import metadata, resources
assert metadata.version("mlem_jax") == mlem.__version__
assert (resources.files("mlem_jax") / "py.typed").is_file()
for name in dir(mlem):
    getattr(mlem, name)
print(mlem.__file__)
"""


def run(*command, cwd):
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_builds_installs_and_runs_outside_the_repository(kind, tmp_path):
    pytest.importorskip("build", reason="needs build, of the extra dev")
    build = (sys.executable, "-m", "build", f"--{kind}", "--outdir", tmp_path / "dist", ROOT)
    run(*build, cwd=tmp_path)
    (built,) = (tmp_path / "dist").iterdir()
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", built, cwd=tmp_path)
    told = run(python, "-I", "-c", SMOKE, cwd=tmp_path)
    assert str(tmp_path / "clean") in told
