"""What the pixels of an image say of it: a perceptual hash, a coarse pattern, how much there is to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
import polars as pl

from storage.errors import UnreadableError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 200_000_000
_SIDE = 32
_LOW = 8
_PAIRS_AT_ONCE = 4_000_000
_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Look:
    """One image at a glance, as it is shown."""

    hash: int
    """63 bits: signs of the low frequencies against their median."""
    deviation: float
    """Standard deviation of the grey values, 0 to 127.5."""
    pattern: npt.NDArray[np.int8]
    """The low frequencies ``pattern[63]`` themselves, the largest being 127: how grey is spread, coarsely."""

    def columns(self) -> dict[str, int | float | str]:
        """The look as columns of the table ``images``; the pattern in hexadecimal digits."""
        return {"phash": self.hash, "deviation": self.deviation, "pattern": self.pattern.tobytes().hex()}


LOOK_COLUMNS: Mapping[str, type[pl.DataType]] = {
    "phash": pl.Int64,
    "deviation": pl.Float64,
    "pattern": pl.String,
}


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
    # The first bit is the mean's, so that a hash is never negative as a 64-bit number.
    bits[0] = False
    scaled = (low * _orthonormal())[1:]
    most = np.abs(scaled).max()
    return Look(
        hash=int.from_bytes(np.packbits(bits).tobytes(), "big"),
        deviation=float(pixels.std()),
        pattern=np.round(scaled * (127 / most) if most > 0 else scaled).astype(np.int8),
    )


def looks_frame(looks: Mapping[str, Look]) -> pl.DataFrame:
    """Looks by sample as a frame: ``sample`` and :data:`LOOK_COLUMNS`."""
    rows = [{"sample": sample, **look.columns()} for sample, look in looks.items()]
    return pl.DataFrame(rows, schema={"sample": pl.String, **LOOK_COLUMNS})


def near_hashes(one: pl.Series, two: pl.Series, distance: int) -> tuple[_Rows, _Rows]:
    """Rows of ``one`` and of ``two`` whose hashes differ by ``distance`` bits or less, every pair of them.

    Each is compared with each, some nanoseconds a pair: what is new is few beside what is stored.
    """
    left, right = one.cast(pl.Int64).to_numpy(), two.cast(pl.Int64).to_numpy()
    step = max(1, _PAIRS_AT_ONCE // max(1, len(right)))
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for start in range(0, len(left), step):
        near = np.bitwise_count(left[start : start + step, None] ^ right[None, :]) <= distance
        row, column = np.nonzero(near)
        found.append((row + start, column))
    rows, columns = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(columns)


def likeness(one: pl.Series, two: pl.Series) -> npt.NDArray[np.float64]:
    """Correlation (-1 to 1) of pairs of patterns in hexadecimal digits; 0 where one has no pattern at all."""
    left, right = _patterns(one), _patterns(two)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    product = np.einsum("ij,ij->i", left, right)
    return np.asarray(np.divide(product, norms, out=np.zeros(len(product)), where=norms > 0))


def _patterns(texts: pl.Series) -> npt.NDArray[np.float64]:
    data = bytes.fromhex("".join(texts.to_list()))
    return np.frombuffer(data, np.int8).reshape(len(texts), _LOW * _LOW - 1).astype(np.float64)


@cache
def _orthonormal() -> npt.NDArray[np.float64]:
    """What makes the low frequencies of :func:`_cosines` parts of one orthonormal transform."""
    scale = np.full(_LOW, np.sqrt(2 / _SIDE))
    scale[0] = np.sqrt(1 / _SIDE)
    return np.outer(scale, scale).ravel()


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
