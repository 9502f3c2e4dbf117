"""Images with their boxes and masks drawn."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import polars as pl

from quality.masks import mask_of
from storage.errors import UnreadableError

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_PALETTE = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#e11d8f", "#2f9e44",
    "#1c7ed6", "#f08c00", "#7048e8", "#0ca678", "#d6336c", "#5c940d", "#c2255c",
)  # fmt: skip
_LARGEST = 4096
_POLYGONS = msgspec.json.Decoder(list[list[float]])


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn: files, and the images that could not be read with their reason."""

    files: tuple[Path, ...]
    failed: tuple[str, ...]


def draw_sample(
    images: pl.DataFrame,
    boxes: pl.DataFrame,
    folder: Path,
    *,
    size: int,
    read: Callable[[str], BinaryIO],
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Drawn:
    """Draw up to ``size`` images (columns ``sample, uri``), chosen by ``seed``, with their boxes and masks.

    Coordinates are pixels of the image as shown. Files are named by the sample, with ``/`` as ``__``; those
    larger than 4096 pixels are drawn smaller. ``read`` opens an image by its ``uri``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = images.filter(pl.col("uri").is_not_null()).sort("sample").select("sample", "uri").rows()
    chosen = sorted(random.Random(seed).sample(rows, min(size, len(rows))))
    by_sample = boxes.filter(pl.col("sample").is_in([sample for sample, _ in chosen])).partition_by(
        "sample", as_dict=True
    )
    files, failed = [], []
    for sample, uri in chosen:
        path = folder / (sample.replace("/", "__") + ".jpg")
        try:
            with read(uri) as file:
                picture = draw_boxes(file, uri, by_sample.get((sample,), boxes.clear()))
            picture.save(path, quality=88)
            files.append(path)
        except (UnreadableError, OSError) as error:
            failed.append(f"{sample}: {error}")
        if progress:
            progress(1)
    return Drawn(files=tuple(files), failed=tuple(failed))


def draw_boxes(file: BinaryIO, path: str, boxes: pl.DataFrame) -> Image.Image:
    """One image in colour with its boxes, classes and polygons. Raises UnreadableError."""
    from PIL import Image, ImageDraw, ImageOps

    try:
        with Image.open(file) as given:
            image = ImageOps.exif_transpose(given).convert("RGB")
    except Exception as error:
        # Image libraries raise nearly anything on hostile bytes.
        raise UnreadableError(path, f"{type(error).__name__}: {error}", expected="an image") from error
    scale = min(1.0, _LARGEST / max(image.size))
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)))
    rows = boxes.sort((pl.col("xmax") - pl.col("xmin")) * (pl.col("ymax") - pl.col("ymin")), descending=True)
    if "segmentation" in rows.columns and rows["segmentation"].null_count() < rows.height:
        veil = image.copy()
        brush = ImageDraw.Draw(veil)
        for category, text in rows.select("category", "segmentation").iter_rows():
            for polygon in _polygons(text):
                brush.polygon([value * scale for value in polygon], fill=colour_of(category))
            mask = mask_of(text) if text and text.startswith("{") else None
            if mask is not None:
                stencil = Image.fromarray(mask.astype("uint8") * 255).resize(veil.size)
                veil.paste(colour_of(category), (0, 0), stencil)
        image = Image.blend(image, veil, 0.4)
    brush = ImageDraw.Draw(image)
    thick = max(2, round(max(image.size) / 500))
    for box in rows.iter_rows(named=True):
        corners = [box[name] for name in ("xmin", "ymin", "xmax", "ymax")]
        if all(value is not None and abs(value) < 1e6 for value in corners):
            _draw_box(brush, image, [value * scale for value in corners], str(box["category"]), thick)
    return image


def colour_of(category: str | None) -> str:
    """The colour of a class: the same in every picture and every run."""
    return _PALETTE[zlib.crc32((category or "").encode()) % len(_PALETTE)]


def _draw_box(
    brush: ImageDraw.ImageDraw, image: Image.Image, corners: Sequence[float], category: str, thick: int
) -> None:
    from PIL import ImageFont

    x1, x2 = sorted((corners[0], corners[2]))
    y1, y2 = sorted((corners[1], corners[3]))
    colour = colour_of(category)
    brush.rectangle((x1, y1, x2, y2), outline=colour, width=thick)
    font = ImageFont.load_default(max(10, round(max(image.size) / 75)))
    left, top, right, bottom = brush.textbbox((0, 0), category, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = max(0.0, min(x1, image.width - wide))
    # Above the box; within it where there is no room above.
    y = y1 - high if y1 >= high else min(max(y1, 0.0), image.height - high)
    brush.rectangle((x, y, x + wide, y + high), fill=colour)
    brush.text((x + 2 - left, y + 2 - top), category, fill="white", font=font)


def _polygons(text: str | None) -> list[list[float]]:
    if not text or not text.startswith("["):
        return []
    try:
        found = _POLYGONS.decode(text)
    except msgspec.DecodeError:
        return []
    return [polygon for polygon in found if len(polygon) >= 6 and len(polygon) % 2 == 0]
