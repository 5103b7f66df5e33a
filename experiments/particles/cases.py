"""The cases of `experiments.particles.rods`: what is solved, how finely, and by what."""

from typing import NamedTuple


class Case(NamedTuple):
    """What is solved, how finely, and by what.

    Attributes:
        reaches: neighbours on either side that each level sums over; the last are all of them, so
            there are 2 reach + 1 rods on a ring.
        size: of the core, in lattice spacings; 0 for none.
        fine: steps of the reference; all others divide it.
        alone: steps of Euler-Maruyama with all pairs.
        bases: steps of ML-EM, multiples of `BINS`.
        spent: on all that is above the bottom level, in evaluations of the top.
        peers: solvers of diffrax, with all pairs.
        peer_steps: and their steps.
        errors: mean squares at which prices are told.
    """

    reaches: tuple[int, ...]
    size: float
    fine: int
    alone: tuple[int, ...]
    bases: tuple[int, ...]
    spent: tuple[float, ...]
    peers: tuple[str, ...]
    peer_steps: tuple[int, ...]
    errors: tuple[float, ...]


BINS = 4
"""Of time, with the same gates throughout each."""
STIFF = Case(
    (2, 8, 32, 128, 512), 0.9, 7680, (384, 480, 512, 640, 1920), (512, 960, 1920),
    (5.0, 15.0, 40.0), ("Euler", "SEA", "ShARK"), (384, 480, 640),
    (1e-3, 1e-4, 1e-5, 1e-6),
)  # fmt: skip
SOFT = Case(
    STIFF.reaches, 0.0, 3200, (16, 20, 32, 40, 80, 400), (40, 160, 800),
    (2.5, 7.0, 20.0), ("SEA", "ShARK"), (10, 20, 32, 40, 80),
    (1e-2, 1e-3, 1e-4, 1e-5),
)  # fmt: skip
CASES = {
    "stiff core, 1025 rods": STIFF,
    "no core, 1025 rods": SOFT,
    "no core, 129 rods": SOFT._replace(reaches=(2, 8, 64), bases=(40, 160)),
    "no core, 17 rods": SOFT._replace(reaches=(2, 8), bases=(40, 160)),
}
TINY = {
    "stiff core, 33 rods": STIFF._replace(
        reaches=(2, 4, 16),
        fine=960,
        alone=(480,),
        bases=(480,),
        spent=(10.0,),
        peer_steps=(480,),
        peers=("Euler",),
    ),
}
# Of the same shapes, so that nothing is compiled anew.
TINY["no core, 33 rods"] = TINY["stiff core, 33 rods"]._replace(size=0.0)
