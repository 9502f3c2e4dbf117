"""Bytes of pictures and masks, and how they come to lie under their names."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from transforms.scenes.compose import SceneObject
from transforms.scenes.config import SceneConfig
from transforms.scenes.defects import cut_short, random_bytes, turned_for_storage

ImageFormat: TypeAlias = Literal["jpeg", "png"]

_QUALITY = 92
_VOC_VOID = 255


def image_bytes(
    picture: Image.Image, image_format: ImageFormat, kind: str | None, rng: np.random.Generator
) -> bytes:
    """An encoded picture, or what a planted defect of ``kind`` makes of it."""
    if kind == "corrupt_image":
        return random_bytes(rng)
    exif = Image.Exif()
    if kind == "exif_orientation":
        picture, exif = turned_for_storage(picture, rng)
    buffer = io.BytesIO()
    if image_format == "jpeg":
        picture.save(buffer, format="JPEG", quality=_QUALITY, exif=exif)
    else:
        picture.save(buffer, format="PNG", compress_level=3, exif=exif)
    data = buffer.getvalue()
    return cut_short(data, rng) if kind == "truncated_image" else data


def voc_masks(objects: Iterable[SceneObject], config: SceneConfig) -> bytes:
    """Object numbers from 1 as a palette PNG: VOC's SegmentationObject."""
    numbers = np.zeros((config.height, config.width), dtype=np.uint8)
    for number, item in enumerate(objects, start=1):
        xmin, ymin, xmax, ymax = item.box
        numbers[ymin:ymax, xmin:xmax][item.mask] = number
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette(_voc_palette())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever sees a part of it under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(data)
    partial.replace(path)


def _voc_palette() -> bytes:
    """VOC's colour map: bit k of a channel's high end comes from bit 3k (+ channel) of the number."""
    numbers = np.arange(_VOC_VOID + 1)
    channels = [sum(((numbers >> (3 * k + c)) & 1) << (7 - k) for k in range(3)) for c in range(3)]
    return np.stack(channels, 1).astype(np.uint8).tobytes()
