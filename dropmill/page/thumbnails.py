"""Pictures of images at a few sizes: made once for each version of an image, kept in a bounded folder.

Images come from the bucket and are hostile: their header is looked at before a pixel is decoded, forms and
pixels are bounded, and what is delivered is always a JPEG that was written here.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from storage.errors import DropmillError, UnreadableError
from storage.object_store import ObjectInfo, ObjectStore
from transforms.images import inspect_image

log = logging.getLogger(__name__)

SIZES = (256, 512, 1600)
"""Longest sides, in pixels."""
_MOST_PIXELS = 200_000_000
_MOST_DECODED = 40_000_000
_MOST_BYTES = 300_000_000
_AT_ONCE = 2
_SCHEMES = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
# Of the pictures that some cameras put into one file, the first is a JPEG.
_PILLOW = {"mpo": "JPEG"}


class NoPictureError(DropmillError):
    """An image of which no picture can be made now: gone, replaced, damaged or too large."""


class Thumbnails:
    """A folder of pictures, the least recently used of which go first."""

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int = 500_000_000,
        bucket: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Images lie below the URL ``bucket``, or anywhere where none is given."""
        self._folder = folder / "thumbnails"
        self._most = most_bytes
        self._bucket = bucket
        self._options = dict(options or {})
        self._lock = threading.Lock()
        self._decoding = threading.BoundedSemaphore(_AT_ONCE)
        self._making: dict[str, threading.Lock] = {}
        self._sizes: OrderedDict[str, int] | None = None
        self._bytes = 0

    def picture(self, uri: str, version: str, size_bytes: int, size: int) -> bytes:
        """A JPEG of one version of an image, its longest side at most ``size`` pixels, turned as EXIF says.

        Raises NoPictureError.
        """
        name = hashlib.sha256(f"{uri}\n{version}\n{size}".encode()).hexdigest() + ".jpg"
        if (kept := self._kept(name)) is not None:
            return kept
        with self._lock:
            mine = self._making.setdefault(name, threading.Lock())
        # Whoever asks for the same picture meanwhile finds it made.
        with mine:
            try:
                if (kept := self._kept(name)) is not None:
                    return kept
                with self._decoding:
                    made = self._make(uri, version, size_bytes, size)
                self._keep(name, made)
            finally:
                with self._lock:
                    self._making.pop(name, None)
        return made

    def _make(self, uri: str, version: str, size_bytes: int, size: int) -> bytes:
        folder, _, name = uri.rpartition("/")
        scheme = folder.partition("://")[0]
        outside = self._bucket is not None and not uri.startswith(self._bucket.rstrip("/") + "/")
        if outside or scheme not in _SCHEMES:
            raise NoPictureError(f"{uri}: lies outside of the bucket, so it is not opened")
        if size_bytes > _MOST_BYTES:
            raise NoPictureError(f"{uri}: {size_bytes} bytes, more than {_MOST_BYTES} that are shown")
        # The address is spelt as its store spells it, so it is taken as it is.
        store = ObjectStore(folder, self._options)
        try:
            info = store.head(name)
            if info is None or info.version != version:
                raise NoPictureError(f"{uri}: removed or replaced since; the next batch will tell")
            return _picture(store, info, uri, size)
        except NoPictureError:
            raise
        except (UnreadableError, FileNotFoundError) as error:
            raise NoPictureError(f"{uri}: cannot be shown: {error}") from error

    def _kept(self, name: str) -> bytes | None:
        with self._lock:
            sizes = self._index()
            if name not in sizes:
                return None
            sizes.move_to_end(name)
        try:
            path = self._folder / name
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def _keep(self, name: str, data: bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = self._folder / f".{name}.{os.getpid()}.tmp"
            partial.write_bytes(data)
            partial.replace(self._folder / name)
        except OSError as error:
            log.warning("picture not kept", extra={"why": str(error)})
            return
        with self._lock:
            sizes = self._index()
            self._bytes += len(data) - sizes.pop(name, 0)
            sizes[name] = len(data)
            while self._bytes > self._most and len(sizes) > 1:
                oldest, size = sizes.popitem(last=False)
                self._bytes -= size
                (self._folder / oldest).unlink(missing_ok=True)

    def _index(self) -> OrderedDict[str, int]:
        """Names and bytes of what is kept, the least recently used first."""
        if self._sizes is None:
            found = []
            for path in self._folder.glob("*.jpg"):
                try:
                    stat = path.stat()
                except OSError:
                    continue
                found.append((stat.st_mtime_ns, path.name, stat.st_size))
            self._sizes = OrderedDict((name, size) for _, name, size in sorted(found))
            self._bytes = sum(self._sizes.values())
        return self._sizes


def _picture(store: ObjectStore, info: ObjectInfo, uri: str, size: int) -> bytes:
    with store.open(info.key, at=info) as file:
        header = inspect_image(file, uri, info.size_bytes, max_pixels=_MOST_PIXELS)
        pixels = header.width * header.height
        # A JPEG is decoded at an eighth of its size where that is enough; others only as a whole.
        if pixels > _MOST_DECODED and header.format not in {"jpeg", "mpo"}:
            raise NoPictureError(f"{uri}: {pixels} pixels, more than {_MOST_DECODED} that are shown")
        file.seek(0)
        try:
            with Image.open(file, formats=[_PILLOW.get(header.format, header.format.upper())]) as image:
                image.draft("RGB", (size, size))
                if image.size[0] * image.size[1] > _MOST_DECODED:
                    raise NoPictureError(f"{uri}: {pixels} pixels, more than are shown")
                turned = _eight_bits(ImageOps.exif_transpose(image))
                turned.thumbnail((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
                out = io.BytesIO()
                turned.convert("RGB").save(out, "JPEG", quality=82)
        except NoPictureError:
            raise
        except Exception as error:
            # Image libraries raise nearly anything on hostile bytes.
            raise NoPictureError(f"{uri}: {type(error).__name__}: {error}") from error
    return out.getvalue()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pixels of more than eight bits, from their darkest to their brightest."""
    if not image.mode.startswith(("I", "F")):
        return image
    grey = image.convert("F")
    low, high = grey.getextrema()
    if not (isinstance(low, float) and isinstance(high, float)):
        return image
    span = (high - low) or 1.0
    return grey.point(lambda value: value * (255.0 / span) - low * 255.0 / span).convert("L")
