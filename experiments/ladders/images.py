"""Pictures in: from a folder, a zip or an npz to one uint8 array; and out: grids.

A picture comes in as a viewer shows it: turned as its EXIF says, over white where it is
transparent, 16 bits a channel scaled to 8, the first frame of several. One whose values have no
range that could be known is skipped, and so is one that is damaged or too large; each skipped file
is listed with its reason. Colour profiles are not applied.
"""

import io
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mlem_jax.arrays import read_arrays

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
MOST_BYTES = 2**28
"""Of one file, taken out of its zip: 256 MiB."""
MOST_PIXELS = 2**26
"""Of one picture, read off its header before it is decoded: 67 million, 200 MB decoded."""
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
"""Tags of TIFF."""
WHITE_IS_ZERO = 0
"""Of PHOTOMETRIC."""


class Pictures(NamedTuple):
    """Images of one size.

    Attributes:
        images: uint8 [count, size, size, 3].
        skipped: the files that could not be read, each as "name: reason".
        held_out: bool [count], which of them are never to be trained on; None where it is not said.
    """

    images: np.ndarray
    skipped: tuple[str, ...] = ()
    held_out: np.ndarray | None = None


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
            (or just one array), uint8 [count, height, width, 3], and perhaps bool `held_out`
            [count].
        size: side of the result in pixels.
        fit: how to crop and scale; a picture that it refuses by a ValueError is skipped.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if no image there could be read, or `path` is a damaged or another file.
    """
    if size < 1:
        raise ValueError(f"expected a side of at least 1 pixel, got {size}")
    if not path.exists():
        raise FileNotFoundError(f"expected a folder, a .zip or an .npz of images, no such {path}")
    if path.suffix.lower() == ".npz":
        arrays, held_out = _arrays(path)
        fitted = np.stack([fit(Image.fromarray(x), size) for x in arrays])
        return Pictures(fitted, held_out=held_out)
    images, skipped = [], []
    for name, read in _folder(path) if path.is_dir() else _zipped(path):
        try:
            images.append(fit(decode(read()), size))
        except Exception as error:  # Decoders raise whatever damaged bytes lead them to.
            skipped.append(f"{name}: {_reason(error)}")
    if not images:
        raise ValueError(
            f"expected images ({', '.join(sorted(SUFFIXES))}) in {path}, found none that can be "
            f"read and {len(skipped)} broken: {'; '.join(skipped[:5]) or '-'}"
        )
    return Pictures(np.stack(images), tuple(skipped))


def decode(data: bytes) -> Image.Image:
    """A file's bytes as the RGB picture that a viewer shows.

    Raises:
        ValueError: if it has too many pixels, or values of which nobody knows what white is.
        Exception: whatever Pillow raises for what is damaged or no picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        opened = Image.open(io.BytesIO(data))
    with opened as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} pixels, more than {MOST_PIXELS}")
        return ImageOps.exif_transpose(_to_rgb(picture))


def _to_rgb(picture: Image.Image) -> Image.Image:
    deep = picture.mode in ("I", "F") or picture.mode.startswith("I;")
    if deep:
        shown = Image.fromarray(_to_8_bits(picture)).convert("RGB")
        shown.info["exif"] = picture.getexif().tobytes()
        return shown
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    clear = picture.convert("RGBA")
    shown = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    shown.info["exif"] = picture.getexif().tobytes()
    return shown


def _to_8_bits(picture: Image.Image) -> np.ndarray:
    """Round(255 value / white) of grey values deeper than 8 bits, uint8 [height, width].

    White is 1 for floats, 2^bits - 1 for the bits that the file says it has, else 2^16 - 1.
    """
    tags = getattr(picture, "tag_v2", {})
    if picture.has_transparency_data:
        raise ValueError("16-bit grey with a transparent value")
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise ValueError("16-bit or float grey in which 0 is white")
    values = np.asarray(picture, np.float64)
    if picture.mode == "F":
        white = 1.0
    elif picture.mode == "I" and picture.format == "TIFF":
        raise ValueError("whole numbers of 32 bits or with a sign, white unknown")
    else:
        white = 2.0 ** int(tags.get(BITS_PER_SAMPLE, (16,))[0]) - 1
    if not ((values >= 0) & (values <= white)).all():
        raise ValueError(f"values from {values.min():g} to {values.max():g}, expected from 0, "
                         f"black, to {white:g}, white")  # fmt: skip
    return np.round(values * (255 / white)).astype(np.uint8)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no picture"  # Its own words show a place in memory.
    told = (str(error).splitlines() or [""])[0]
    return told if isinstance(error, ValueError) and told else f"{type(error).__name__}: {told}"


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Pictures, and which are held out."""
    try:
        arrays = read_arrays(path, "pictures")
    except ValueError as error:
        raise ValueError(f"expected an .npz of pictures, got {path}, which is no .npz or a damaged "
                         f"one ({error})") from error  # fmt: skip
    images, held_out = (
        arrays.get("images", next(iter(arrays.values()), None)),
        arrays.get("held_out"),
    )
    if images is None:
        raise ValueError(f"expected an array `images` in {path}, found no array at all")
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not images.size:
        raise ValueError(
            f"expected `images` in {path} to be uint8 [count, height, width, 3], got "
            f"{images.dtype} {list(images.shape)}"
        )
    if held_out is not None and (held_out.dtype != bool or held_out.shape != images.shape[:1]):
        raise ValueError(
            f"expected `held_out` in {path} to be bool [{len(images)}], one for each picture, got "
            f"{held_out.dtype} {list(held_out.shape)}"
        )
    return images, held_out


def _folder(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in SUFFIXES and file.is_file():
            yield str(file.relative_to(path)), partial(_read_file, file)


def _read_file(file: Path) -> bytes:
    _check_bytes(file.stat().st_size)
    return file.read_bytes()


def _zipped(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    try:
        opened = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"expected a folder, a .zip or an .npz of images, got {path}, which is no zip or a "
            f"damaged one ({error})"
        ) from error
    with opened as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            if Path(member.filename).suffix.lower() in SUFFIXES and not member.is_dir():
                yield member.filename, partial(_read_member, archive, member)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.flag_bits & 1:
        raise ValueError("encrypted")
    _check_bytes(member.file_size)
    with archive.open(member) as stream:
        # With a count, no more than this is inflated, even if the zip lies.
        return stream.read(member.file_size + 1)


def _check_bytes(count: int) -> None:
    if count > MOST_BYTES:
        raise ValueError(f"{count} bytes, more than {MOST_BYTES}")


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
