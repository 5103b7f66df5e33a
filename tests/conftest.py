"""Every test runs in double precision, with nothing promoted silently and every type held to.

Most of the time goes into compiling, so XLA optimises as little as it can, unless XLA_FLAGS say
otherwise: `XLA_FLAGS= pytest` compiles as users do. Claims that hang on how operations are fused
are tested so in processes of their own (test_optimised, test_devices).
"""

import gc
import os
from contextlib import contextmanager

import jax
import jaxtyping
import pytest

from experiments.common.compiling import compile_quickly
from tests.typed import check_once_returned

compile_quickly()
# Tracing makes objects by the million, which the collector would look through again and again.
gc.set_threshold(100_000, 50, 50)
jax.config.update("jax_enable_x64", True)  # Identities are tested to 1e-12.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jaxtyping.install_import_hook(
    "mlem_jax", f"{check_once_returned.__module__}.{check_once_returned.__name__}"
)


def pytest_configure(config):
    """Most of the time goes into compiling: what one test has compiled, the others take over."""
    for name, value in {
        "jax_compilation_cache_dir": str(config.cache.mkdir("jax")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        # Where an operation came from costs a twentieth of the time to write down.
        "jax_traceback_in_locations_limit": 0,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # Of what tests start as processes of their own.


@contextmanager
def promoting():
    """As JAX promotes by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def others_promote():
    """Flax and optax mix dtypes and ranks of their own accord, and so do experiments."""
    with promoting():
        yield


@pytest.fixture(scope="module")
def untyped():
    """For input of any type: an answer that is right is not held against an annotation."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def small_ladder(tmp_path):
    """Two random networks in the form of a shipped ladder."""
    from experiments.common import tiny

    with promoting():
        return tiny.random_ladder(tmp_path / "ladder")
