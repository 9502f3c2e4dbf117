"""Truth and detections as COCO's containers, and drawn on pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.samples import Sample, load_image
from training.zoo.data import speaks_of_all
from training.zoo.predict import Found

# Colours that tell apart on photographs, one class after the other.
_COLOURS = (
    (230, 60, 50), (40, 120, 230), (30, 160, 80), (240, 160, 20), (150, 70, 200), (20, 170, 190),
    (220, 80, 160), (120, 130, 30),
)  # fmt: skip


def coco_truth(samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
    """A ground truth of samples: images are numbered from 1 in their order, classes too.

    Ignored objects are crowds; those that speak of all classes are one of each. Areas are those of the masks
    where there are any.
    """
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    annotations: list[dict[str, Any]] = []
    for image, sample in enumerate(samples, start=1):
        for place, name in enumerate(sample.categories):
            ignored = bool(sample.ignore[place])
            every = ignored and speaks_of_all(name)
            for one in numbers.values() if every else [numbers[name]] if name in numbers else []:
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image, "category_id": one}
                    | _shape(sample, place, crowd=ignored)
                )
    return {
        "info": {},
        "images": [
            {"id": number, "file_name": one.file_name, "width": one.width, "height": one.height}
            for number, one in enumerate(samples, start=1)
        ],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "annotations": annotations,
    }


def coco_results(
    found: Iterable[tuple[Any, Found]], *, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Detections by image id as COCO's list of results; classes are numbered from 1 unless told otherwise."""
    rows = []
    for image, one in found:
        sizes = one.boxes[:, 2:] - one.boxes[:, :2]
        for place in range(len(one)):
            label = int(one.labels[place])
            row = {
                "image_id": image,
                "category_id": label + 1 if category_ids is None else category_ids[label],
                "bbox": [*one.boxes[place, :2].tolist(), *sizes[place].tolist()],
                "score": float(one.scores[place]),
            }
            if one.masks is not None:
                row["segmentation"] = one.masks[place]
            rows.append(row)
    return rows


def draw(
    pixels: NDArray[np.uint8], found: Found, classes: Sequence[str], truth: Sample | None = None
) -> Image.Image:
    """A picture with masks, boxes, names and scores; the truth as thin white boxes where it is given."""
    canvas = pixels.astype(np.float32)
    if found.masks is not None:
        from pycocotools import mask as coco_mask

        for label, runs in zip(found.labels.tolist(), found.masks, strict=True):
            inside = coco_mask.decode(runs).astype(bool)
            canvas[inside] = 0.55 * canvas[inside] + 0.45 * np.array(_colour(label), np.float32)
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    width = max(1, round(max(image.size) / 400))
    for box in truth.boxes.tolist() if truth is not None else []:
        pen.rectangle(box, outline=(255, 255, 255), width=1)
    for box, score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    ):
        colour = _colour(label)
        pen.rectangle(box, outline=colour, width=width)
        text = f"{classes[label]} {score:.2f}"
        place = (box[0] + width, max(0.0, box[1] - 12))
        pen.rectangle(pen.textbbox(place, text), fill=colour)
        pen.text(place, text, fill=(255, 255, 255))
    return image


def save_drawn(
    folder: Path, pairs: Iterable[tuple[Sample, Found]], classes: Sequence[str], *, score: float
) -> int:
    """Draw samples into PNG files named as they are; the number of pictures."""
    count = 0
    for sample, found in pairs:
        target = folder / f"{sample.id.replace('/', '_')}.png"
        folder.mkdir(parents=True, exist_ok=True)
        draw(load_image(sample), found.above(score), classes, sample).save(target)
        count += 1
    return count


def _shape(sample: Sample, place: int, *, crowd: bool) -> dict[str, Any]:
    xmin, ymin, xmax, ymax = sample.boxes[place].tolist()
    found: dict[str, Any] = {
        "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
        "area": (xmax - xmin) * (ymax - ymin),
        "iscrowd": int(crowd),
    }
    text = sample.shapes[place] if sample.shapes else None
    shape: Mapping[str, Any] | list[Any] | None = json.loads(text) if text else None
    if shape:
        found["segmentation"] = shape
        found["area"] = _area(shape, sample.height, sample.width)
    else:
        found["segmentation"] = [[xmin, ymin, xmax, ymin, xmax, ymax, xmin, ymax]]
    return found


def _area(shape: Any, height: int, width: int) -> float:
    from pycocotools import mask as coco_mask

    runs = shape
    if isinstance(shape, list):
        runs = coco_mask.merge(coco_mask.frPyObjects(shape, height, width))
    elif isinstance(shape["counts"], list):
        runs = coco_mask.frPyObjects(shape, height, width)
    return float(coco_mask.area(runs))


def _colour(label: int) -> tuple[int, int, int]:
    return _COLOURS[label % len(_COLOURS)]
