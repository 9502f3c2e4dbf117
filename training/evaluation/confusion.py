"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.average_precision import Evaluation
from training.evaluation.detections import Detections, Truth
from training.evaluation.matching import box_iou

NOTHING = "(nothing)"


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """``counts [classes + 1, classes + 1]``: rows are what is there, columns what was found; the last row is
    found where nothing is, the last column is there and not found.
    """

    classes: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    iou: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"classes": [*self.classes, NOTHING], "iou": self.iou, "counts": self.counts.tolist()}


def confusion(
    detections: Mapping[str, Detections],
    truth: Mapping[str, Truth],
    evaluation: Evaluation,
    *,
    iou: float = 0.5,
) -> Confusion:
    """Pair detections and objects of any class, the largest overlap first, from ``iou`` on.

    Detections count from the score on that gives their class its best F1 in ``evaluation``. Ignored objects,
    and detections that lie on them, count nowhere.
    """
    names = tuple(evaluation.categories)
    index = {name: number for number, name in enumerate(names)}
    least = {name: score.threshold for name, score in evaluation.categories.items()}
    nothing = len(names)
    counts = np.zeros((nothing + 1, nothing + 1), np.int64)
    for image, objects in truth.items():
        found = detections.get(image, Detections.empty())
        sure = [
            (threshold := least.get(str(name))) is not None and score >= threshold
            for name, score in zip(found.categories, found.scores, strict=True)
        ]
        found = found.select(np.array(sure, bool))
        overlap = box_iou(objects.boxes, found.boxes)
        free = np.ones(len(found), bool)
        left = np.array([str(name) in index for name in objects.categories], bool) & ~objects.ignore
        for flat in np.argsort(-overlap, axis=None, kind="stable"):
            row, column = divmod(int(flat), max(len(found), 1))
            if overlap[row, column] < iou:
                break
            if left[row] and free[column]:
                left[row] = free[column] = False
                counts[index[str(objects.categories[row])], index[str(found.categories[column])]] += 1
        ignored = overlap[objects.ignore].max(axis=0, initial=0.0) >= iou if len(found) else np.zeros(0, bool)
        for name in found.categories[free & ~ignored]:
            counts[nothing, index[str(name)]] += 1
        for name in objects.categories[left]:
            counts[index[str(name)], nothing] += 1
    return Confusion(classes=names, counts=counts, iou=iou)
