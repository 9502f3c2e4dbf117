"""One picture of what a spec makes of a few images: each before and after, with boxes and masks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from storage.errors import ConfigError
from transforms.augment.boxes import Floats
from transforms.augment.generate import Work, read_local
from transforms.augment.masks import raster
from transforms.augment.opencv import render
from transforms.augment.pixels import Pixels, decode
from transforms.augment.plan import Plan
from transforms.augment.sample import LabelledImage, Placed

_COLOURS = ("#ff5050", "#ffd23c", "#50dc78", "#5ab4ff", "#f078f0", "#ff9b3c", "#3ce6dc", "#b4ff5a")
_GAP = 6
_MASK = 0.4  # how much of a mask's colour is laid over its pixels


def draw_sheet(work: Work, path: Path, *, count: int, cell: int = 480) -> int:
    """Draw up to ``count`` outputs into one PNG, beside the images that they were made from.

    ``cell`` is the longer side of each picture in pixels. Outputs are taken evenly from all that there are.
    Returns how many were drawn; raises ConfigError where there is none.
    """
    if not work.plans:
        raise ConfigError("there is nothing to draw: no image has a label")
    step = max(len(work.plans) / count, 1.0)
    chosen = sorted({int(i * step) for i in range(min(count, len(work.plans)))})
    pairs = [_pair(work.plans[i], work.placed[i], work.images, cell) for i in chosen]
    columns = max(1, round(math.sqrt(len(pairs) / 1.6)))
    rows = [pairs[i : i + columns] for i in range(0, len(pairs), columns)]
    widths = [max(row[c].width for row in rows if c < len(row)) for c in range(columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    sheet = Image.new(
        "RGB", (sum(widths) + _GAP * (columns + 1), sum(heights) + _GAP * (len(rows) + 1)), "#202020"
    )
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        left = _GAP
        for picture, width in zip(row, widths, strict=False):
            sheet.paste(picture, (left, top))
            left += width + _GAP
        top += height + _GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    sheet.save(part, format="PNG", compress_level=3)
    part.replace(path)
    return len(pairs)


def _pair(plan: Plan, placed: Placed, images: Mapping[str, LabelledImage], cell: int) -> Image.Image:
    """The image and the output, side by side, with a line of text below."""
    pixels = {
        layer.sample: decode(read_local(images[layer.sample].uri), layer.sample) for layer in plan.layers
    }
    own = images[plan.sample]
    objects = own.objects
    before = _drawn(pixels[plan.sample], objects.boxes, objects.categories, objects.segmentations, cell)
    after = _drawn(render(plan, pixels), placed.boxes, placed.categories, placed.segmentations, cell)
    height = max(before.height, after.height)
    joined = Image.new("RGB", (before.width + after.width + 2, height + 16), "#000000")
    joined.paste(before, (0, 0))
    joined.paste(after, (before.width + 2, 0))
    ImageDraw.Draw(joined).text((3, height + 2), _caption(plan), fill="#d0d0d0")
    return joined


def _caption(plan: Plan) -> str:
    first, colour, kernel = plan.layers[0].affine(), plan.colour, plan.kernel
    mirrored = bool(np.linalg.det(first[:, :2]) < 0)
    turn = math.degrees(math.atan2(first[1, 0], -first[0, 0] if mirrored else first[0, 0]))
    said = [plan.name, f"turn {turn:.0f}{' mirrored' if mirrored else ''}"]
    if colour.changes:
        said.append(
            f"hue {colour.hue:.0f} sat {colour.saturation:.2f} "
            f"con {colour.contrast:.2f} off {colour.offset:.0f}"
        )
    if kernel.blurs:
        said.append(f"blur {kernel.sigma:.1f}")
    pasted = sum(layer.instance is not None for layer in plan.layers)
    if len(plan.layers) - pasted > 1:
        said.append(f"{len(plan.layers) - pasted} images")
    if pasted:
        said.append(f"{pasted} pasted")
    return "  ".join(said)


def _drawn(
    pixels: Pixels, boxes: Floats, categories: tuple[str, ...], outlines: tuple[str | None, ...], cell: int
) -> Image.Image:
    height, width = pixels.shape[:2]
    factor = cell / max(width, height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = np.asarray(Image.fromarray(pixels).resize(size), np.float32).copy()
    scale = np.array([[size[0] / width, 0, 0], [0, size[1] / height, 0]])
    for category, outline in zip(categories, outlines, strict=True):
        if outline is not None:
            share = raster(outline, scale, *size)[..., None] / np.float32(255) * _MASK
            picture += share * (np.array(_rgb(category), np.float32) - picture)
    image = Image.fromarray(picture.round().astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for box, category in zip(boxes, categories, strict=True):
        left, top, right, bottom = (
            float(v) * s for v, s in zip(box, (size[0] / width, size[1] / height) * 2, strict=True)
        )
        pen.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=_colour(category))
        pen.text((left + 2, top - 11 if top > 11 else top + 1), category, fill=_colour(category))
    return image


def _colour(category: str) -> str:
    # The same class has the same colour on every sheet.
    return _COLOURS[hashlib.blake2b(category.encode(), digest_size=2).digest()[0] % len(_COLOURS)]


def _rgb(category: str) -> tuple[int, int, int]:
    text = _colour(category)
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
