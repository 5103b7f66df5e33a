"""Faces of CelebA, cropped as in the paper: 64x64 pixels, in one .npz for the other experiments.

CelebA (arXiv:1411.7766) is for non-commercial research and may not be redistributed: get its
aligned faces from its authors, and keep what is made of them to yourself.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from experiments.common import tiny
from experiments.ladders import images

SIDE = 64
"""Pixels."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Crop aligned faces to 64x64."""

    data: Path
    """A folder or a .zip of aligned faces, of 178x218 pixels or of half that."""
    out: Path = Path("runs/celeba64.npz")
    """The faces, uint8 [count, 64, 64, 3]."""
    tiny: bool = False
    """Two of noise, in seconds: does it run here?"""


def main(settings: Settings) -> None:
    """Read, crop, write."""
    with tiny.settings_of(settings, shrink) as own:
        crop_all(own)


def shrink(settings: Settings, folder: Path) -> Settings:
    """Two faces of noise."""
    for number in range(2):
        tiny.random_picture(folder / f"{number}.png", 178, 218)
    return dataclasses.replace(settings, data=folder)


def crop_all(settings: Settings) -> None:
    """Every face."""
    faces = images.load(settings.data, SIDE, fit=crop)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(settings.out, images=faces.images)
    print(f"wrote {len(faces.images)} faces to {settings.out}, skipped {len(faces.skipped)}")


def crop(picture: Image.Image, size: int) -> np.ndarray:
    """The square of 128x128 round (89, 121) in an aligned face of 178x218, or half of it all."""
    half = picture.width / 178
    left, top = round(25 * half), round(57 * half)
    side = round(128 * half)
    if side < size:
        raise ValueError(f"expected an aligned face of 178x218 or 89x109, got {picture.size}")
    picture = picture.crop((left, top, left + side, top + side))
    if side != size:
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.uint8)


if __name__ == "__main__":
    main(tyro.cli(Settings))
