"""Timing in turns: what is compared takes turns, so that a drift of the machine meets all of it."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

Name = TypeVar("Name")


def in_turns(kinds: Mapping[Name, Callable[[], Any]], repeats: int) -> dict[Name, list[float]]:
    """Seconds of every repeat of every kind, after one run of each that compiles."""
    seconds: dict[Name, list[float]] = {name: [] for name in kinds}
    for repeat in range(repeats + 1):
        for name, run in kinds.items():
            begun = time.perf_counter()
            jax.block_until_ready(run())
            if repeat:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def paired(seconds: Mapping[str, list[float]], over: str) -> dict[str, dict[str, float]]:
    """Of each kind, its seconds over those of another in the same turn: median, least and most."""
    found = {}
    for name, taken in seconds.items():
        ratios = np.array(taken) / np.array(seconds[over])
        found[name] = {"median": float(np.median(ratios)), "least": float(ratios.min()),
                       "most": float(ratios.max())}  # fmt: skip
    return found


def told(ratio: Mapping[str, float]) -> str:
    """1.03 (0.99-1.06)."""
    return f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f})"
