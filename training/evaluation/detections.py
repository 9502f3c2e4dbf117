"""What a detector said about one image, and what is true of it.

Boxes are corners ``xmin, ymin, xmax, ymax`` in absolute pixels of the image, origin at the outer corner of
the top left pixel, x to the right, y down. The arrays are copies and read only: two parts of a program can
share them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.errors import DropmillError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Names = npt.NDArray[np.str_]

EVERY_CATEGORY = "*"
"""Category of an ignored region where no detection counts, whatever its class (KITTI calls it DontCare)."""


class EvaluationError(DropmillError):
    """Detections or truth that cannot be measured: wrong shapes, numbers that are not finite."""


@dataclass(frozen=True, eq=False, init=False)
class Detections:
    """The detections of one image: boxes (n, 4), scores (n,), categories (n,), in any order.

    Scores need not be probabilities: DBSCAN gives sums of coverage that pass 1. Raises
    :class:`EvaluationError` where lengths differ or a number is not finite.
    """

    boxes: Floats
    scores: Floats
    categories: Names

    def __init__(self, boxes: npt.ArrayLike, scores: npt.ArrayLike, categories: Iterable[str]) -> None:
        names = _names(categories)
        _set(self, "boxes", _boxes(boxes, len(names), "detections"))
        values = np.array(scores, dtype=np.float64).reshape(-1)
        if len(values) != len(names) or not np.isfinite(values).all():
            raise EvaluationError(
                f"detections: {len(values)} scores for {len(names)} categories, "
                f"{int((~np.isfinite(values)).sum())} of them not finite; expected one finite score per box"
            )
        _set(self, "scores", values)
        _set(self, "categories", names)

    @classmethod
    def empty(cls) -> Detections:
        """No detection at all."""
        return cls(np.zeros((0, 4)), [], [])

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: npt.NDArray[Any]) -> Detections:
        """The detections at ``rows``: indices in the wanted order, or a mask."""
        return Detections(self.boxes[rows], self.scores[rows], self.categories[rows])

    def by_score(self) -> Detections:
        """Best first; equal scores keep their order."""
        return self.select(np.argsort(-self.scores, kind="stable"))


@dataclass(frozen=True, eq=False, init=False)
class Truth:
    """The labelled objects of one image: boxes (n, 4), categories (n,), ignore (n,), crowd (n,).

    ``ignore`` marks what is neither to be found nor to be blamed: KITTI DontCare, VOC difficult, COCO crowd.
    ``crowd`` marks, among these, regions that hold any number of objects: there a detection is measured by
    the share of *its own* area that lies inside (as COCO does), not by IoU. Crowd implies ignore. A
    category of ``EVERY_CATEGORY``, or ``DontCare`` in any case, says that the region speaks of all classes;
    it is a crowd and ignored without being marked.
    """

    boxes: Floats
    categories: Names
    ignore: Bools
    crowd: Bools

    def __init__(
        self,
        boxes: npt.ArrayLike,
        categories: Iterable[str],
        ignore: npt.ArrayLike | None = None,
        crowd: npt.ArrayLike | None = None,
    ) -> None:
        names = _names(categories)
        everywhere = np.array([_speaks_of_all(name) for name in names], dtype=np.bool_)
        regions = _flags(crowd, len(names), "crowd") | everywhere
        _set(self, "boxes", _boxes(boxes, len(names), "truth"))
        _set(self, "categories", np.where(everywhere, EVERY_CATEGORY, names) if len(names) else names)
        _set(self, "ignore", _flags(ignore, len(names), "ignore") | regions)
        _set(self, "crowd", regions)

    @classmethod
    def empty(cls) -> Truth:
        """A negative sample: an image that is known to hold nothing."""
        return cls(np.zeros((0, 4)), [])

    def __len__(self) -> int:
        return len(self.categories)


def _speaks_of_all(category: str) -> bool:
    return category == EVERY_CATEGORY or category.casefold() == "dontcare"


def _names(categories: Iterable[str]) -> Names:
    return np.array(list(categories), dtype=np.str_).reshape(-1)


def _flags(values: npt.ArrayLike | None, length: int, name: str) -> Bools:
    if values is None:
        return np.zeros(length, dtype=np.bool_)
    flags = np.array(values, dtype=np.bool_).reshape(-1)
    if len(flags) != length:
        raise EvaluationError(f"truth: {len(flags)} values in {name} for {length} boxes")
    return flags


def _boxes(values: npt.ArrayLike, length: int, what: str) -> Floats:
    boxes = np.array(values, dtype=np.float64)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.shape != (length, 4):
        raise EvaluationError(
            f"{what}: boxes have shape {boxes.shape}; expected ({length}, 4), one per category"
        )
    if not np.isfinite(boxes).all():
        row = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
        raise EvaluationError(f"{what}: box {row} is {boxes[row].tolist()}; expected finite numbers")
    return boxes


def _set(target: Detections | Truth, name: str, values: npt.NDArray[Any]) -> None:
    values.setflags(write=False)
    object.__setattr__(target, name, values)
