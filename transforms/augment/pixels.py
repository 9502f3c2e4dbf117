"""Bytes to pixels and back: pictures as they are shown, always three channels of eight bits."""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from storage.errors import ConfigError, UnreadableError
from transforms.augment.jpeg_header import ordinary_jpeg
from transforms.images import ImageHeader, inspect_image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
WRITTEN = {".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg", ".png": "png", ".bmp": "bmp", ".webp": "webp"}
"""Suffixes that can be written, and their form."""

MAX_BYTES = 256 << 20
_MAX_PIXELS = 200_000_000
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})


def read_header(data: bytes, path: str) -> ImageHeader:
    """What the header of an image says; raises UnreadableError for what is damaged, cut off or too large."""
    if len(data) > MAX_BYTES:
        raise UnreadableError(path, f"{len(data)} bytes", expected=f"at most {MAX_BYTES}")
    return inspect_image(io.BytesIO(data), path, len(data))


def plain_size(data: bytes, path: str) -> tuple[int, int] | None:
    """Width and height of an image that fast decoders read as it is meant; None for any other.

    Such an image is not turned, has eight bits, and is grey or RGB. Raises UnreadableError as
    :func:`read_header` does.
    """
    quick = ordinary_jpeg(data)
    if quick and 0 < quick[0] * quick[1] <= _MAX_PIXELS and len(data) <= MAX_BYTES:
        return quick
    header = read_header(data, path)
    plain = (
        header.format in {"jpeg", "png"}
        and header.exif_orientation == 1
        and header.bit_depth == 8
        and header.channels in {1, 3}
        # A palette may have transparency, and a grey level too.
        and not (header.format == "png" and b"tRNS" in data[:4096])
    )
    return (header.width, header.height) if plain else None


def decode(data: bytes, path: str) -> Pixels:
    """The pixels ``[height, width, 3]`` RGB of an image as it is shown.

    EXIF turns are applied, CMYK and palettes become RGB, 16 bits are scaled to 8, transparency is dropped.
    Raises UnreadableError for what is no whole image of at most 200 million pixels.
    """
    if plain_size(data, path) is not None:
        import cv2

        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if found is None:
            raise UnreadableError(path, "pixels that cannot be decoded", expected="a whole image")
        return np.asarray(found, np.uint8)
    return _by_pillow(data, path)


def encode(pixels: Pixels, name: str, *, jpeg_quality: int = 95) -> bytes:
    """RGB pixels as the file that its suffix announces. Raises ConfigError for one that is not written."""
    import cv2

    suffix = suffix_of(name)
    settings = {
        "jpeg": [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, 2],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, jpeg_quality],
    }.get(WRITTEN[suffix], [])
    done, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), settings)
    if not done:
        raise ConfigError(f"{name}: {pixels.shape[1]}x{pixels.shape[0]} pixels cannot be written as {suffix}")
    return bytes(data)


def suffix_of(name: str) -> str:
    """The suffix of a file name, small; raises ConfigError where no image is written under such a name."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in WRITTEN:
        raise ConfigError(
            f"{name}: images are not written as {suffix!r}; expected one of {', '.join(WRITTEN)}"
        )
    return suffix


def written_name(name: str) -> str:
    """The name under which an image is written: forms that are not written become PNG."""
    path = PurePosixPath(name)
    return name if path.suffix.lower() in WRITTEN else str(path.with_suffix(".png"))


def _by_pillow(data: bytes, path: str) -> Pixels:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = ImageOps.exif_transpose(image)
            if turned.mode in _SIXTEEN_BIT:
                deep = np.asarray(turned).astype(np.int64)
                grey = (deep.clip(0, 65535) // 257).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(turned.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableError(path, f"{type(error).__name__}: {error}", expected="a readable image") from None
