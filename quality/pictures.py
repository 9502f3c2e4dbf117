"""What the pixels of an image say of it: a perceptual hash, a thumbnail, and how much there is to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from storage.errors import UnreadableError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 200_000_000
_SIDE = 32
_LOW = 8


@dataclass(frozen=True, kw_only=True)
class Look:
    """One image at a glance. ``thumbnail[32, 32]`` is grey (0 to 255), as the image is shown."""

    hash: int
    """64 bits: signs of the low frequencies against their median."""
    deviation: float
    """Standard deviation of the grey values, 0 to 127.5."""
    thumbnail: npt.NDArray[np.uint8]


def look_at(file: BinaryIO, path: str) -> Look:
    """Look at an image. Raises UnreadableError where it cannot be decoded.

    The hash is that of Zauner (Implementation and Benchmarking of Perceptual Image Hash Functions, 2010,
    section 3.2.1): 8x8 low frequencies of the cosine transform of a 32x32 grey image, without the mean.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels")
            # JPEG is decoded small at once, which is several times faster than decoding it whole.
            image.draft("L", (4 * _SIDE, 4 * _SIDE))
            shown = ImageOps.exif_transpose(image)
            grey = _grey(shown).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    except Exception as error:
        # Image libraries raise nearly anything on hostile bytes.
        raise UnreadableError(path, f"{type(error).__name__}: {error}", expected="an image") from error
    pixels = np.asarray(grey, np.float64)
    low = (_cosines() @ pixels @ _cosines().T)[:_LOW, :_LOW].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False
    return Look(
        hash=int.from_bytes(np.packbits(bits).tobytes(), "big"),
        deviation=float(pixels.std()),
        thumbnail=np.asarray(grey, np.uint8),
    )


def same_pictures(
    looks: Mapping[str, Look], *, distance: int, likeness: float
) -> list[tuple[str, str, int, float]]:
    """Pairs of images that show the same: names, bits between their hashes, correlation of thumbnails.

    Hashes within ``distance`` bits share at least one of ``distance + 1`` pieces of the hash, so only
    images with a piece in common are compared. A near hash alone is not enough, since plain scenes share
    their low frequencies: the thumbnails must have a correlation of ``likeness`` (Pearson, -1 to 1) as well.
    """
    names = sorted(looks)
    if len(names) < 2:
        return []
    hashes = np.array([looks[name].hash for name in names], np.uint64)
    one, two = _near_pairs(hashes, distance)
    flat = np.stack([looks[name].thumbnail.ravel() for name in names]).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1)
    # Images of one colour have no pattern that could be alike.
    sound = (norm[one] > 0) & (norm[two] > 0)
    one, two = one[sound], two[sound]
    alike = np.einsum("ij,ij->i", flat[one], flat[two]) / (norm[one] * norm[two])
    bits = _bits(hashes[one] ^ hashes[two])
    return [
        (names[a], names[b], int(d), float(c))
        for a, b, d, c in zip(one, two, bits, alike, strict=True)
        if c >= likeness
    ]


def _near_pairs(
    hashes: npt.NDArray[np.uint64], distance: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows ``one < two`` whose hashes differ by ``distance`` bits or less."""
    edges = np.linspace(0, 64, distance + 2).astype(int)
    found: set[tuple[int, int]] = set()
    for low, high in pairwise(edges):
        piece = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(piece, kind="stable")
        piece, sorted_hashes = piece[order], hashes[order]
        left = np.arange(len(order))
        step = 0
        while len(left):
            step += 1
            left = left[left + step < len(order)]
            left = left[piece[left] == piece[left + step]]
            near = left[_bits(sorted_hashes[left] ^ sorted_hashes[left + step]) <= distance]
            # The sort is stable, so the first of a pair stays the first.
            found.update(zip(order[near].tolist(), order[near + step].tolist(), strict=True))
    pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _bits(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Bits that are set in each value."""
    bits = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1)
    return np.asarray(bits.sum(axis=1, dtype=np.int64))


@cache
def _cosines() -> npt.NDArray[np.float64]:
    """The matrix of the cosine transform (type II) of 32 values."""
    place = np.arange(_SIDE)
    return np.cos(np.pi / _SIDE * np.outer(place, place + 0.5))


def _grey(image: Image.Image) -> Image.Image:
    """The first picture of the file in 8 bits of grey, transparency over black."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        finite = np.nan_to_num(values)
        # Depth images and 16-bit scans use what part of their range they like.
        low, high = float(finite.min()), float(finite.max())
        scaled = (finite - low) * (255 / (high - low)) if high > low else np.zeros_like(finite)
        return Image.fromarray(scaled.astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        shown = image.convert("RGBA")
        shown = Image.alpha_composite(Image.new("RGBA", shown.size, "black"), shown)
        return shown.convert("L")
    return image.convert("L")
