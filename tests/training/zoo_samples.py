"""Small pictures of bright blocks, for the tests of the zoo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from training.samples import Sample


def blocks(folder: Path, count: int, *, width: int = 96, height: int = 64, first: int = 0) -> list[Sample]:
    """Pictures with one or two blocks, of the classes red and blue, with their polygons."""
    samples = []
    for number in range(first, first + count):
        draw = np.random.default_rng(number)
        pixels = draw.integers(0, 60, (height, width, 3), np.uint8)
        boxes, names, shapes = [], [], []
        for half in range(1 + number % 2):
            side = int(draw.integers(18, 30))
            x = int(draw.integers(0, width // 2 - side)) + half * width // 2
            y = int(draw.integers(0, height - side))
            red = bool(draw.integers(2))
            pixels[y : y + side, x : x + side] = (230, 40, 40) if red else (40, 40, 230)
            boxes.append([x, y, x + side, y + side])
            names.append("red" if red else "blue")
            shapes.append(json.dumps([[x, y, x + side, y, x + side, y + side, x, y + side]]))
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        samples.append(
            Sample(
                id=str(number), uri=str(path), width=width, height=height, split=None,
                boxes=np.array(boxes, np.float64), categories=tuple(names),
                ignore=np.zeros(len(names), bool), shapes=tuple(shapes),
            )
        )  # fmt: skip
    return samples
