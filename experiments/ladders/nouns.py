"""The 20,000 characters the shipped ladder was trained on, composed from CC0 art of Nouns.

The art is the folder packages/nouns-assets/images of github.com/nounsDAO/nouns-monorepo (the
shipped ladder's: at commit 86a781e): pictures of bodies, accessories, heads and glasses, clear
where they show what is behind. Each character takes one of each at random, before one of two
backgrounds; of those that look the same the first is kept.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from rich.progress import track

from experiments.common import tiny

SIDE = 32
"""Pixels."""
BACKGROUNDS = ((0xD5, 0xD7, 0xE1), (0xE1, 0xD7, 0xD5))
"""Cool and warm."""
LAYERS = ("1-bodies", "2-accessories", "3-heads", "4-glasses")
"""From behind to the front."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Compose characters of 32x32 pixels."""

    art: Path
    """packages/nouns-assets/images of the Nouns project."""
    count: int = 20_000
    """Different characters."""
    seed: int = 0
    """Of the traits."""
    out: Path = Path("runs/nouns32.npz")
    """uint8 `images` [count, 32, 32, 3] and uint16 `seeds` [count, 5], the number of each trait."""
    tiny: bool = False
    """A few, of noise, in seconds: does it run here?"""


def main(settings: Settings) -> None:
    """Compose, write."""
    with tiny.settings_of(settings, shrink) as own:
        compose_all(own)


def shrink(settings: Settings, folder: Path) -> Settings:
    """Two pictures of each kind."""
    for layer in LAYERS:
        for number in range(2):
            tiny.random_picture(folder / "1.0" / layer / f"{number}.png", SIDE, SIDE)
    return dataclasses.replace(settings, art=folder, count=2)


def compose_all(settings: Settings) -> None:
    """Draw traits until there are enough different characters; write.

    Raises:
        ValueError: if the art has not as many.
    """
    layers = [layers_of(settings.art, kind) for kind in LAYERS]
    rng = np.random.default_rng(settings.seed)
    found: dict[bytes, np.ndarray] = {}
    drawn = rng.integers(0, [len(BACKGROUNDS), *map(len, layers)], (2 * settings.count, 5))
    for traits in drawn:
        if len(found) == settings.count:
            break
        found.setdefault(compose(traits, layers).tobytes(), traits)
    if len(found) < settings.count:
        raise ValueError(f"expected {settings.count} different characters, found {len(found)} in "
                         f"{len(drawn)}; ask for fewer with --count")  # fmt: skip
    images = np.stack([np.frombuffer(each, np.uint8).reshape(SIDE, SIDE, 3) for each in found])
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    seeds = np.array(list(found.values()), np.uint16)
    np.savez_compressed(settings.out, images=images, seeds=seeds)
    print(f"wrote {len(images)} characters to {settings.out}")


def layers_of(art: Path, kind: str) -> list[Image.Image]:
    """The pictures of one kind, in the order of their paths.

    Raises:
        FileNotFoundError: if there are none.
    """
    files = sorted(art.glob(f"*/{kind}/*.png"))
    if not files:
        raise FileNotFoundError(
            f"expected pictures in {art}/*/{kind}; give --art the folder packages/nouns-assets/"
            "images of github.com/nounsDAO/nouns-monorepo"
        )
    return [Image.open(file).convert("RGBA") for file in track(files, kind)]


def compose(traits: np.ndarray, layers: list[list[Image.Image]]) -> np.ndarray:
    """uint8 [32, 32, 3]: a background and one of each kind over it."""
    picture = Image.new("RGBA", (SIDE, SIDE), (*BACKGROUNDS[traits[0]], 255))
    for number, kind in zip(traits[1:], layers, strict=True):
        picture.alpha_composite(kind[number])
    return np.asarray(picture.convert("RGB"))


if __name__ == "__main__":
    main(tyro.cli(Settings))
