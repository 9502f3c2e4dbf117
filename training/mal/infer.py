"""COCO in, COCO with masks out: every annotation stays, under its own id, with all that it had."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import UnreadableError
from training.mal.coco_file import CocoFile, Passed, read_coco, truth
from training.mal.evaluate import Overlap, chunks, iou, mask_metrics
from training.samples import load_image
from transforms.masks.crops import Window
from transforms.masks.labeler import BoxedImage, Labeler


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """What came out: the file, how many annotations got a mask, those that did not (and why), and metrics
    where the input has true masks.
    """

    path: Path
    masks: int
    passed: tuple[Passed, ...]
    metrics: dict[str, float]


def annotate(
    labeler: Labeler,
    ann_path: str | Path,
    image_dir: str | Path,
    out: Path,
    *,
    load_mask: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Annotated:
    """Write the COCO file ``ann_path`` with a mask for each box, as encoded run lengths.

    ``area`` becomes the mask's; every other key of an annotation stays as it was. Boxes that leave the image
    get the mask of what is within it. Annotations that can have no mask keep what they had and are
    ``passed``. With ``load_mask`` the given segmentations are compared with the new ones: each annotation
    gets ``iou``. ``progress`` is told images done and all. Raises ``UnreadableError``.
    """
    coco = read_coco(ann_path, image_dir)
    passed = list(coco.passed)
    overlaps = []
    masks = done = 0
    for some in chunks(coco.images):
        readable = []
        for one in some:
            try:
                readable.append((one, BoxedImage(load_image(one.sample), one.sample.boxes)))
            except UnreadableError as error:
                passed += [
                    Passed(
                        instance.place, _annotation(coco, instance.place).get("id"), one.sample.id, str(error)
                    )
                    for instance in one.instances
                ]
        for (one, _), windows in zip(readable, labeler.label([boxed for _, boxed in readable]), strict=True):
            width, height = one.sample.width, one.sample.height
            for instance, window in zip(one.instances, windows, strict=True):
                annotation = _annotation(coco, instance.place)
                if load_mask:
                    overlap = iou(window, truth(instance, width, height, coco.path))
                    overlaps.append(Overlap(instance.category, instance.area, overlap))
                    annotation["iou"] = round(overlap, 6)
                annotation["segmentation"] = segmentation(window, width, height)
                annotation["area"] = window.area
                masks += 1
        done += len(some)
        if progress is not None:
            progress(done, len(coco.images))
    _write(out, coco.document)
    passed.sort(key=lambda one: one.place)
    return Annotated(path=out, masks=masks, passed=tuple(passed), metrics=mask_metrics(overlaps))


def segmentation(window: Window, width: int, height: int) -> dict[str, Any]:
    """A window as COCO's segmentation of the whole image: size and encoded counts."""
    from transforms.formats.masks import encoded_counts, run_counts

    counts = run_counts(window.mask, window.left, window.top, width, height)
    return {"size": [height, width], "counts": encoded_counts(counts)}


def _annotation(coco: CocoFile, place: int) -> dict[str, Any]:
    found: dict[str, Any] = coco.document["annotations"][place]
    return found


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
