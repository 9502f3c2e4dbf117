"""The twelve numbers of COCO's detection evaluation, by pycocotools itself."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from storage.errors import ConfigError
from training.evaluation.detections import Detections, Truth

_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def coco_metrics(
    detections: Mapping[str, Detections], truth: Mapping[str, Truth], categories: Sequence[str]
) -> dict[str, float]:
    """COCO's measures of boxes, -1 where there is no object of a size. Ignored objects are crowds.

    Raises ``ConfigError`` where pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ConfigError("COCO's measures need pycocotools: pip install dropmill[train]") from error
    numbers = {name: number for number, name in enumerate(categories, start=1)}
    images = {name: number for number, name in enumerate(sorted(truth), start=1)}
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for name, number in images.items():
        objects = truth[name]
        for box, category, ignore in zip(objects.boxes, objects.categories, objects.ignore, strict=True):
            x, y, width, height = _xywh(box)
            for one in [str(category)] if category in numbers else list(numbers) * bool(ignore):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": numbers[one],
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "iscrowd": int(ignore),
                    }
                )
        seen = detections.get(name, Detections.empty())
        for box, category, score in zip(seen.boxes, seen.categories, seen.scores, strict=True):
            if category in numbers:
                found.append(
                    {
                        "image_id": number,
                        "category_id": numbers[str(category)],
                        "bbox": list(_xywh(box)),
                        "score": float(score),
                    }
                )
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {
            "info": {},
            "images": [{"id": number} for number in images.values()],
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
            "annotations": annotations,
        }
        gold.createIndex()
        if not found:
            return dict.fromkeys(_NAMES, 0.0 if annotations else -1.0)
        judge = COCOeval(gold, gold.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {name: float(value) for name, value in zip(_NAMES, judge.stats, strict=True)}


def _xywh(box: Any) -> tuple[float, float, float, float]:
    x, y, right, bottom = (float(value) for value in box)
    return x, y, right - x, bottom - y
