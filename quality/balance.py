"""How the classes of a data set are spread, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

BETA = 0.999
"""How much a further box of a class tells: near 1 nearly as much as the first, lower less."""


@dataclass(frozen=True)
class ClassShare:
    """One class: its boxes, the images that show it, its share of all boxes (0 to 1)."""

    category: str
    boxes: int
    images: int
    share: float
    ratio_to_largest: float

    def effective_number(self, beta: float = BETA) -> float:
        """(1 - beta^n) / (1 - beta): what n boxes are worth where they overlap in what they show.

        Cui, Jia, Lin, Song, Belongie: Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019,
        proposition 1.
        """
        # The difference to 1 is tiny where beta is near 1 and n small.
        return -math.expm1(self.boxes * math.log(beta)) / (1 - beta)


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

    @property
    def counts(self) -> dict[str, int]:
        """Boxes of each class."""
        return {entry.category: entry.boxes for entry in self.classes}

    def class_weights(self, beta: float = BETA) -> dict[str, float]:
        """Weights for the loss: the inverse effective number of each class, with a mean of 1 over classes.

        Cui et al. 2019, equation 1: ``beta`` 0 weights all classes alike, near 1 by inverse frequency.
        """
        inverse = {c.category: 1 / c.effective_number(beta) for c in self.classes}
        scale = len(inverse) / sum(inverse.values()) if inverse else 0.0
        return {category: value * scale for category, value in inverse.items()}

    def repeat_factors(self, threshold: float | None = None) -> dict[str, float]:
        """How often an image that shows a class should be drawn: max(1, sqrt(t / f)), f its share of images.

        Gupta, Dollár, Girshick: LVIS, CVPR 2019, section 5.1. ``threshold`` t is by default the median share,
        so that the rarer half of the classes is drawn more often.
        """
        total = sum(entry.images for entry in self.classes)
        if not total:
            return {}
        shares = {entry.category: entry.images / total for entry in self.classes}
        limit = sorted(shares.values())[len(shares) // 2] if threshold is None else threshold
        return {category: max(1.0, math.sqrt(limit / share)) for category, share in shares.items()}


def class_balance(annotations: pl.DataFrame) -> Balance:
    """Count the boxes of each category; ignored regions (``ignore``) are no objects and do not count.

    ``annotations`` needs the columns ``category``, ``sample`` and ``ignore``.
    """
    return balance_of_counts(
        annotations.filter(~pl.col("ignore").fill_null(value=False))
        .group_by("category")
        .agg(pl.len().alias("boxes"), pl.col("sample").n_unique().alias("images"))
    )


def balance_of_counts(counts: pl.DataFrame) -> Balance:
    """The balance of counts: columns ``category, boxes, images``; rows of one category are added up."""
    counts = (
        counts.group_by("category")
        .agg(pl.col("boxes").sum(), pl.col("images").sum())
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


def balances_by(annotations: pl.DataFrame, column: str) -> dict[str, Balance]:
    """The balance for each value of a column such as ``split`` or ``batch``, in its order; nulls are left
    out.
    """
    known = annotations.filter(pl.col(column).is_not_null()).sort(column, maintain_order=True)
    parts = known.partition_by(column, as_dict=True, maintain_order=True)
    return {str(key[0]): class_balance(part) for key, part in parts.items()}


def sampling_probabilities(
    annotations: pl.DataFrame, repeat_factors: Mapping[str, float], samples: pl.Series | None = None
) -> pl.DataFrame:
    """Columns ``sample`` and ``probability`` (sum 1) of drawing each image, by its classes' largest factor.

    ``samples`` names all images, so that those without boxes are drawn as well, with factor 1.
    """
    every = annotations["sample"] if samples is None else samples
    factor = pl.col("category").replace_strict(dict(repeat_factors), default=1.0, return_dtype=pl.Float64)
    highest = (
        annotations.filter(~pl.col("ignore").fill_null(value=False))
        .group_by("sample")
        .agg(factor.max().alias("factor"))
    )
    drawn = (
        pl.DataFrame({"sample": every.unique().sort()})
        .join(highest, on="sample", how="left", maintain_order="left")
        .with_columns(pl.col("factor").fill_null(1.0))
    )
    return drawn.select("sample", (pl.col("factor") / pl.col("factor").sum()).alias("probability"))
