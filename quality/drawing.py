"""Images with their boxes and masks drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import polars as pl

from quality.masks import mask_of
from storage.errors import UnreadableError

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

# Neighbours differ most: most data sets have few classes.
_PALETTE = (
    "#2f6db5", "#d9480f", "#2b8a3e", "#c2255c", "#7048e8", "#0b7285", "#a86400", "#c92a2a", "#5c940d",
    "#9c36b5", "#1864ab", "#087f5b", "#862e9c", "#d6336c", "#495057", "#e67700",
)  # fmt: skip
_IGNORED = "#868e96"
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
    colours = colours_of(boxes["category"])
    files, failed = [], []
    for sample, uri in chosen:
        path = folder / (sample.replace("/", "__") + ".jpg")
        try:
            with read(uri) as file:
                picture = draw_boxes(file, uri, by_sample.get((sample,), boxes.clear()), colours)
            picture.save(path, quality=88)
            files.append(path)
        except (UnreadableError, OSError) as error:
            failed.append(f"{sample}: {error}")
        if progress:
            progress(1)
    return Drawn(files=tuple(files), failed=tuple(failed))


def draw_boxes(
    file: BinaryIO, path: str, boxes: pl.DataFrame, colours: Mapping[str, str] | None = None
) -> Image.Image:
    """One image in colour with its boxes, classes and masks; ignored regions are grey.

    ``colours`` by class, as :func:`colours_of` gives them for the whole data set. Raises UnreadableError.
    """
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
    known = colours_of(boxes["category"]) if colours is None else colours
    shade = pl.col("category").replace_strict(known, default=_IGNORED, return_dtype=pl.String)
    if "ignore" in rows.columns:
        shade = pl.when(pl.col("ignore").fill_null(value=False)).then(pl.lit(_IGNORED)).otherwise(shade)
    rows = rows.with_columns(shade.alias("colour"))
    if "segmentation" in rows.columns and rows["segmentation"].null_count() < rows.height:
        veil = image.copy()
        brush = ImageDraw.Draw(veil)
        for colour, text in rows.select("colour", "segmentation").iter_rows():
            for polygon in _polygons(text):
                brush.polygon([value * scale for value in polygon], fill=colour)
            mask = mask_of(text) if text and text.startswith("{") else None
            if mask is not None:
                stencil = Image.fromarray(mask.astype("uint8") * 255).resize(veil.size)
                veil.paste(colour, (0, 0), stencil)
        image = Image.blend(image, veil, 0.4)
    brush = ImageDraw.Draw(image)
    thick = max(2, round(max(image.size) / 500))
    for box in rows.iter_rows(named=True):
        corners = [box[name] for name in ("xmin", "ymin", "xmax", "ymax")]
        if all(value is not None and abs(value) < 1e6 for value in corners):
            _draw_box(brush, image, [value * scale for value in corners], box, thick)
    return image


def colours_of(categories: pl.Series) -> dict[str, str]:
    """A colour for each class, by its place among all of them: the same in every picture of a data set."""
    names = categories.drop_nulls().unique().sort()
    return {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(names)}


def _draw_box(
    brush: ImageDraw.ImageDraw,
    image: Image.Image,
    corners: Sequence[float],
    box: Mapping[str, Any],
    thick: int,
) -> None:
    from PIL import ImageFont

    x1, x2 = sorted((corners[0], corners[2]))
    y1, y2 = sorted((corners[1], corners[3]))
    category, colour = str(box["category"]), box["colour"]
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
