"""The picture of `accelerator`: time per image by batch, and `solve` over the sum of its parts."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(file: Path, result: dict[str, Any]) -> None:
    """Two panels."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), width_ratios=(2, 1))
    rows = result["levels"]
    for number, level in enumerate(sorted({row["level"] for row in rows})):
        for dtype, style in (("float32", "o-"), ("bfloat16", "s:")):
            own = [row for row in rows if (row["level"], row["dtype"]) == (level, dtype)]
            each = [1e3 * np.median(row["seconds"]) / row["batch"] for row in own]
            left.loglog([row["batch"] for row in own], each, style, color=f"C{number}",
                        label=f"level {level}, {dtype}")  # fmt: skip
    left.set_xlabel("batch")
    left.set_ylabel("ms an image")
    left.grid(alpha=0.3, which="both")
    left.legend(fontsize=7, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    ratios = result["executors"]["ratio_to_floor"]
    middles = np.array([own["median"] for own in ratios.values()])
    spread = [middles - [own["least"] for own in ratios.values()],
              np.array([own["most"] for own in ratios.values()]) - middles]  # fmt: skip
    right.barh(list(ratios), middles, xerr=spread, color="C7")
    right.set_xlabel("time over the sum of the parts", fontsize=9)
    right.invert_yaxis()
    right.tick_params(axis="y", labelsize=8)
    figure.suptitle(result["device"], fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
