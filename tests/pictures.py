"""What a figure shows, as far as a test can see it."""

import numpy as np
from PIL import Image


def is_drawn(file):
    """Whether anything is drawn: frames, ticks and words are grey, curves and pictures coloured."""
    pixels = np.asarray(Image.open(file).convert("RGB"), int)
    return np.count_nonzero(np.ptp(pixels, axis=-1) > 64) > 500
