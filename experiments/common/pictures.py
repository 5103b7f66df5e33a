"""What methods drew, as rows of pictures."""

from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np

from experiments.ladders import images

matplotlib.use("Agg")
from matplotlib import pyplot as plt


class Strip(NamedTuple):
    """One row of pictures.

    Attributes:
        name: of the method.
        cost: in evaluations of the top level.
        mse: to the reference.
        pictures: in [-1, 1], [pictures, height, width, channels].
    """

    name: str
    cost: float
    mse: float
    pictures: np.ndarray


def picture_rows(file: Path, strips: list[Strip], columns: int = 12) -> None:
    """One row of pictures per method, its name, cost and error beside it."""
    figure, axes = plt.subplots(len(strips), 1, figsize=(9.4, 0.78 * len(strips)), squeeze=False)
    for axis, (name, cost, mse, pictures) in zip(axes[:, 0], strips, strict=True):
        shown = images.to_uint8(pictures[:columns])
        axis.imshow(np.concatenate(list(shown), axis=1), interpolation="nearest")
        axis.set_ylabel(f"{name}\ncost {cost:.1f}, mse {mse:.1e}", rotation=0, ha="right",
                        va="center", fontsize=8)  # fmt: skip
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, hspace=0.06)
    figure.savefig(file, dpi=110, bbox_inches="tight")  # Makes room for the labels.
    plt.close(figure)
