"""Pictures in: from a folder, a zip or an npz to one uint8 array; and out: grids."""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

# No image at all, cut short, a lying header, a bomb, a damaged member of a zip.
BROKEN = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    zipfile.BadZipFile,
    zlib.error,
)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class Pictures(NamedTuple):
    """Images of one size.

    Attributes:
        images: uint8 [count, size, size, 3].
        skipped: names of the files that could not be read.
    """

    images: np.ndarray
    skipped: tuple[str, ...]


Fit = Callable[[Image.Image, int], np.ndarray]
"""From a picture and a side to uint8 [side, side, 3]."""


def central_square(picture: Image.Image, size: int) -> np.ndarray:
    """The largest square in the middle, scaled to `size`."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    if side != size:
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.uint8)


def load(path: Path, size: int, fit: Fit = central_square) -> Pictures:
    """Every image at `path`, cropped and scaled to `size`.

    Args:
        path: a folder (searched through), a .zip of images, or an .npz with an array `images`
            (or just one array), uint8 [count, height, width, 3].
        size: side of the result in pixels.
        fit: how to crop and scale.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if no image there could be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected a folder, a .zip or an .npz of images, no such {path}")
    if path.suffix == ".npz":
        return Pictures(np.stack([fit(Image.fromarray(x), size) for x in _array(path)]), ())
    images, skipped = [], []
    for name, read in _zipped(path) if path.suffix == ".zip" else _folder(path):
        try:
            with Image.open(io.BytesIO(read())) as picture:
                images.append(fit(picture.convert("RGB"), size))
        except BROKEN:
            skipped.append(name)
    if not images:
        raise ValueError(
            f"expected images ({', '.join(sorted(SUFFIXES))}) in {path}, found none that can be "
            f"read and {len(skipped)} broken: {', '.join(skipped[:5]) or '-'}"
        )
    return Pictures(np.stack(images), tuple(skipped))


def _array(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        name = "images" if "images" in arrays else arrays.files[0]
        images = arrays[name]
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(
            f"expected `images` in {path} to be uint8 [count, height, width, 3], got "
            f"{images.dtype} {list(images.shape)}"
        )
    return images


def _folder(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in SUFFIXES and file.is_file():
            yield str(file.relative_to(path)), file.read_bytes


def _zipped(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if Path(name).suffix.lower() in SUFFIXES and not name.endswith("/"):
                yield name, partial(archive.read, name)


def to_uint8(x: np.ndarray) -> np.ndarray:
    """[-1, 1] to 0..255."""
    return np.clip(np.round((np.asarray(x) + 1) * 127.5), 0, 255).astype(np.uint8)


def grid(images: np.ndarray, columns: int, zoom: int = 3) -> Image.Image:
    """A picture of pictures, row by row, each pixel `zoom` pixels wide."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * columns, height, width, channels), 255, np.uint8)
    canvas[:count] = images
    canvas = canvas.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    picture = Image.fromarray(canvas.reshape(rows * height, columns * width, channels))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
