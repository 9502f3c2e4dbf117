"""How the classes of a data set are spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class ClassShare:
    """One class: its boxes, the images that show it, its share of all boxes (0 to 1)."""

    category: str
    boxes: int
    images: int
    share: float
    ratio_to_largest: float


@dataclass(frozen=True)
class Balance:
    """The classes of one data set, most frequent first."""

    classes: tuple[ClassShare, ...]

    @property
    def boxes(self) -> int:
        """All boxes that count."""
        return sum(entry.boxes for entry in self.classes)

    @property
    def imbalance(self) -> float:
        """Boxes of the largest class for each box of the smallest; 1 is even, NaN without boxes."""
        return self.classes[0].boxes / self.classes[-1].boxes if self.classes else math.nan

    @property
    def entropy(self) -> float:
        """Shannon entropy of the shares, as a part of its maximum (0 to 1); 1 where there is one class."""
        if len(self.classes) < 2:
            return 1.0
        return -sum(c.share * math.log(c.share) for c in self.classes) / math.log(len(self.classes))


def class_balance(annotations: pl.DataFrame) -> Balance:
    """Count the boxes of each category; ignored regions (``ignore``) are no objects and do not count.

    ``annotations`` needs the columns ``category``, ``sample`` and ``ignore``.
    """
    counts = (
        annotations.filter(~pl.col("ignore").fill_null(value=False))
        .group_by("category")
        .agg(pl.len().alias("boxes"), pl.col("sample").n_unique().alias("images"))
        .sort(["boxes", "category"], descending=[True, False])
    )
    total = int(counts["boxes"].sum())
    largest = int(counts["boxes"][0]) if total else 0
    return Balance(
        tuple(
            ClassShare(category, boxes, images, boxes / total, largest / boxes)
            for category, boxes, images in counts.iter_rows()
        )
    )
