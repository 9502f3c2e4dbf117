"""Real sets with true masks, as COCO files, in fixed parts.

Penn-Fudan: every other image is trained on, by its boxes; of the rest every other one is for looking at
during a training (validation) and the others are for stating a result (test). The settings of ``mal_masks``
were chosen with an eye on the masks of what is the training part here; the other parts chose nothing.
COCO128: every other image is trained on, the others are held back. Its settings were chosen by the masks of
the training part, of which the training knows the boxes alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.real_data import real_data
from training.mal.coco_file import CocoFile, read_coco

_PENN_FUDAN: dict[str, Callable[[int], bool]] = {
    "train": lambda number: number % 2 == 1,
    "validation": lambda number: number % 4 == 0,
    "test": lambda number: number % 4 == 2,
}
_COCO128: dict[str, Callable[[int], bool]] = {
    "train": lambda number: number % 2 == 0,
    "test": lambda number: number % 2 == 1,
}


def penn_fudan(folder: Path, part: str) -> CocoFile:
    """``train`` (85 images), ``validation`` (43) or ``test`` (42) of Penn-Fudan, with exact masks."""
    from pycocotools import mask as coco_mask

    source = real_data("pennfudan-masks")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, path in enumerate(sorted((source / "PNGImages").glob("*.png"))):
        if not _PENN_FUDAN[part](number):
            continue
        numbers = np.asarray(Image.open(source / "PedMasks" / f"{path.stem}_mask.png"))
        images.append({"id": number, "file_name": path.name})
        for one in range(1, int(numbers.max()) + 1):
            runs = coco_mask.encode(np.asfortranarray(numbers == one, np.uint8))
            segmentation = {"size": runs["size"], "counts": runs["counts"].decode()}
            box = coco_mask.toBbox(runs).tolist()
            annotations.append(_annotation(len(annotations) + 1, number, 1, box, segmentation))
    return _file(folder / f"penn-fudan-{part}.json", images, annotations, source / "PNGImages")


def coco128(folder: Path, part: str) -> CocoFile:
    """``train`` (48 images) or ``test`` (50): the polygons of COCO128; boxes are their extents."""
    source = real_data("coco128-yolo")
    pictures = {path.stem: path for path in (source / "images").rglob("*.jpg")}
    labels = [path for path in sorted((source / "labels-segment").rglob("*.txt")) if path.stem in pictures]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, path in enumerate(labels):
        if not _COCO128[part](number):
            continue
        with Image.open(pictures[path.stem]) as image:
            size = np.array(image.size)
        name = str(pictures[path.stem].relative_to(source / "images"))
        images.append({"id": number, "file_name": name})
        for line in path.read_text().splitlines():
            category, *values = line.split()
            points = np.array(values, float).reshape(-1, 2) * size
            corner, far = points.min(0), points.max(0)
            box = [*corner.tolist(), *(far - corner).tolist()]
            polygon = [points.ravel().tolist()]
            annotations.append(_annotation(len(annotations) + 1, number, int(category), box, polygon))
    return _file(folder / f"coco128-{part}.json", images, annotations, source / "images")


def boxes(data: CocoFile) -> int:
    """How many annotations a set has."""
    return sum(len(image.instances) for image in data.images)


def _annotation(
    number: int, image: int, category: int, box: list[float], segmentation: object
) -> dict[str, Any]:
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": 0, "bbox": box,
        "segmentation": segmentation,
    }  # fmt: skip


def _file(
    path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]], folder: Path
) -> CocoFile:
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return read_coco(path, folder)
