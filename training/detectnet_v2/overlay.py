"""Boxes and names drawn on a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.evaluation.detections import Detections

Colour = tuple[int, int, int]


def draw(
    pixels: NDArray[np.uint8],
    detections: Detections,
    labels: Sequence[str],
    colours: Sequence[Colour],
    *,
    line: int,
    name: str,
) -> bytes:
    """``pixels [H, W, 3]`` with each box and its ``label:confidence``, encoded as the ending of ``name``
    says: PNG, or else JPEG.
    """
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(10, round(min(image.size) / 40)))
    # The surest are drawn last, over the others.
    for row in np.argsort(detections.scores, kind="stable"):
        box, colour = detections.boxes[row], colours[row]
        pen.rectangle([float(value) for value in box], outline=colour, width=max(line, 1))
        text = f"{labels[row]}:{detections.scores[row]:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = float(np.clip(box[0], 0, max(image.width - (right - left) - 2, 0)))
        y = float(box[1]) - (bottom - top) - 4 if box[1] > bottom - top + 4 else float(box[1])
        pen.rectangle((x, y, x + right - left + 2, y + bottom - top + 4), fill=colour)
        dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 140
        pen.text((x + 1 - left, y + 2 - top), text, fill="white" if dark else "black", font=font)
    data = io.BytesIO()
    png = PurePosixPath(name).suffix.lower() == ".png"
    image.save(data, "PNG" if png else "JPEG", **({} if png else {"quality": 92}))
    return data.getvalue()
