"""How programs that run once or twice are compiled: tests, and the pages of the site."""

import os
from importlib import metadata

_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    # Cut into 32 parts to compile side by side, a program takes a third longer to compile in all.
    "--xla_cpu_parallel_codegen_split_count=1"
)
_KNOWN_TO = ("0.8.", "0.9.", "0.10.")
"""Versions of jaxlib: a flag that XLA does not know would end the process."""


def compile_quickly() -> None:
    """XLA optimises as little as it can, here and in processes from here, unless XLA_FLAGS are set.

    Before the first operation of JAX, which is when XLA reads them.
    """
    if metadata.version("jaxlib").startswith(_KNOWN_TO):
        os.environ.setdefault("XLA_FLAGS", _FLAGS)
