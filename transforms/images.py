"""Size, channels and orientation of images from their headers, and whether their files are whole."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from storage.errors import UnreadableError
from transforms.image_structure import Structure, structure_of

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_SIGNATURES = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
)
_FIRST = frozenset([*(signature[:1] for signature, _ in _SIGNATURES), b"R", b"B", b"P"])
_PORTABLE_MAP = re.compile(rb"P[1-6](?:\s+|\s*#[^\n]*\n\s*)+[0-9]+\s+[0-9]+\s")
_BRANDS = {
    b"avif": "avif",
    b"avis": "avif",
    b"heic": "heic",
    b"heix": "heic",
    b"hevc": "heic",
    b"mif1": "heic",
}
_BMP_HEADER_SIZES = {12, 16, 40, 52, 56, 64, 108, 124}

_PILLOW_FORMATS = {
    "jpeg": ["JPEG"],
    "png": ["PNG"],
    "gif": ["GIF"],
    "tiff": ["TIFF"],
    "webp": ["WEBP"],
    "bmp": ["BMP"],
    "ppm": ["PPM"],
    "jpeg2000": ["JPEG2000"],
    "avif": ["AVIF"],
}
_CHANNELS = {"P": 3, "PA": 4}  # a palette holds colours
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258

# Pillow's limit on pixels and Python's warning filters belong to the process.
_process_settings = threading.Lock()


class ImageHeader(NamedTuple):
    """What the header of an image says.

    ``width`` and ``height`` are pixels of the image as shown, after the EXIF orientation
    (1 to 8; 1 where there is none or no legal one). ``bit_depth`` counts the bits of one channel.
    """

    format: str
    width: int
    height: int
    channels: int
    bit_depth: int
    exif_orientation: int


def inspect_image(
    file: BinaryIO,
    path: str,
    size_bytes: int,
    *,
    max_pixels: int = 200_000_000,
    head: bytes = b"",
    kind: str | None = None,
) -> ImageHeader:
    """Read the header of an image and check that the file is whole, without decoding where that can be.

    Pixels are decoded where the structure leaves a doubt. ``file`` is at any position and stays open;
    ``head`` is what has been read of its beginning, and ``kind`` what :func:`is_image` saw there. Raises
    :class:`UnreadableError` for what is damaged, cut off, of no known form or larger than ``max_pixels``;
    errors of ``file`` itself pass through as they are.
    """
    source = _Source(file, head)
    try:
        return _inspect(source, path, size_bytes, max_pixels, kind or _kind_of(source, path))
    except (UnreadableError, MemoryError):
        source.raise_own_failure()
        raise
    except Exception as error:
        # Image libraries raise nearly anything on hostile bytes: struct.error, KeyError, ZeroDivisionError, …
        source.raise_own_failure()
        raise UnreadableError(path, f"{type(error).__name__}: {error}", expected="an image") from error


def is_image(head: bytes) -> str | None:
    """The form of image that the first bytes (64 or more) announce, or None."""
    if head[:1] not in _FIRST and head[4:8] != b"ftyp":
        return None
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    # "BM" and "P5" can begin a text as well, so more of the header has to fit.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    return "ppm" if _PORTABLE_MAP.match(head) else None


def _kind_of(source: _Source, path: str) -> str:
    head = source.at(0, 64)
    if not head:
        raise UnreadableError(path, "an empty file", expected="an image")
    kind = is_image(head)
    if kind is None:
        raise UnreadableError(path, f"the first bytes {head[:8]!r}", expected="an image")
    return kind


def _inspect(source: _Source, path: str, size_bytes: int, max_pixels: int, kind: str) -> ImageHeader:
    if kind not in _PILLOW_FORMATS:
        raise UnreadableError(path, f"a {kind.upper()} image", expected="JPEG, PNG, TIFF, WebP, BMP or GIF")

    structure = structure_of(kind, source.at, size_bytes)
    if structure.broken:
        raise UnreadableError(path, structure.broken, expected=f"a whole {kind.upper()} file")
    if structure.size and structure.channels and structure.bit_depth and not structure.doubtful:
        width, height = structure.size
        if width * height > max_pixels:
            raise _too_large(path, f"{width}x{height} pixels", max_pixels)
        return ImageHeader(
            format=kind,
            width=width,
            height=height,
            channels=structure.channels,
            bit_depth=structure.bit_depth,
            exif_orientation=1,
        )
    with _open(source, kind, path, max_pixels) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise _too_large(path, f"{width}x{height} pixels", max_pixels)
        if min(width, height) <= 0:
            raise UnreadableError(path, f"{width}x{height} pixels", expected="an image with pixels")
        doubt = structure.doubtful
        if kind == "tiff":
            doubt = _tiff_doubt(image, path, size_bytes)
        header = _header(image, structure, _orientation(image, structure.exif))
        if doubt:
            _decode(image, path, doubt)
    return header


def _header(image: ImageFile, structure: Structure, orientation: int) -> ImageHeader:
    width, height = image.size
    # Pillow gives the size of a TIFF as shown already.
    if orientation >= 5 and image.format != "TIFF":
        width, height = height, width
    return ImageHeader(
        format=(image.format or "").lower(),
        width=width,
        height=height,
        channels=_CHANNELS.get(image.mode) or len(image.getbands()),
        bit_depth=structure.bit_depth or _bit_depth(image),
        exif_orientation=orientation,
    )


def _bit_depth(image: ImageFile) -> int:
    if image.mode in {"P", "PA"}:
        return 8
    if image.format == "TIFF":
        bits = _tiff_tag(image, _BITS_PER_SAMPLE)
        return bits[0] if bits else 1
    if image.mode == "1":
        return 1
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return 16
    return 32 if image.mode in {"I", "F"} else 8


def _orientation(image: ImageFile, late_exif: bytes | None) -> int:
    """The EXIF orientation. A broken EXIF block does not make an image unreadable: it is then 1."""
    from PIL.Image import Image

    try:
        if image.format == "TIFF":
            value = (_tiff_tag(image, _ORIENTATION) or [1])[0]
        else:
            if late_exif:
                image.info.setdefault("exif", b"Exif\0\0" + late_exif)
            # PNG files override this method: theirs decodes the image to look for EXIF behind the pixels.
            value = Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - see inspect_image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _tiff_doubt(image: ImageFile, path: str, size_bytes: int) -> str | None:
    """Compare where strips or tiles lie with the size of the file."""
    for offsets_tag, counts_tag in ((273, 279), (324, 325)):
        offsets, counts = _tiff_tag(image, offsets_tag), _tiff_tag(image, counts_tag)
        if offsets and len(offsets) == len(counts):
            needed = max(offset + count for offset, count in zip(offsets, counts, strict=True))
            if needed <= size_bytes:
                return None
            found = f"cut off: {size_bytes} bytes where its directory asks for {needed}"
            raise UnreadableError(path, found, expected="a whole TIFF file")
    return "the directory does not say where the pixels are"


def _tiff_tag(image: ImageFile, tag: int) -> list[int]:
    value: Any = image.tag_v2.get(tag, ())  # type: ignore[attr-defined]
    return [int(part) for part in (value if isinstance(value, tuple) else (value,))]


def _decode(image: ImageFile, path: str, doubt: str) -> None:
    try:
        image.load()
    except Exception as error:
        raise UnreadableError(path, f"{doubt}; {error}", expected="a whole image") from error


@contextmanager
def _open(source: _Source, kind: str, path: str, max_pixels: int) -> Iterator[ImageFile]:
    from PIL import Image, ImageFile, UnidentifiedImageError

    with _process_settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        # Pillow refuses images of more than twice its limit as soon as it has seen their size.
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = (max_pixels + 1) // 2, False
        try:
            source.seek(0)
            with Image.open(cast("IO[bytes]", source), formats=_PILLOW_FORMATS[kind]) as image:
                yield image
        except Image.DecompressionBombError as error:
            raise _too_large(path, str(error), max_pixels) from error
        except UnidentifiedImageError as error:
            raise UnreadableError(
                path, "a damaged header", expected=f"a whole {kind.upper()} file"
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _too_large(path: str, found: str, max_pixels: int) -> UnreadableError:
    return UnreadableError(path, found, expected=f"at most {max_pixels} pixels")


class _Source:
    """The file, with its own failures remembered: a network that fails is not an image that is broken."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self._file = file
        self._head = head
        self._failure: Exception | None = None

    def at(self, offset: int, count: int) -> bytes:
        if offset + count <= len(self._head):
            return self._head[offset : offset + count]
        self.seek(offset)
        return self.read(count)

    def read(self, count: int = -1) -> bytes:
        try:
            return self._file.read(count)
        except Exception as error:
            self._failure = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        # A seek to where a broken header points is the image's fault, not the file's.
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def raise_own_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
