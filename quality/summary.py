"""The summary of a validation: counts, percentages, and the classes in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from quality.review import Review

TOO_MANY_PERCENT = 5.0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts of annotations; one annotation may be both out of bounds and inverted."""

    total: int
    invalid: int
    out_of_bounds: int
    inverted: int
    zero_area: int
    no_box: int
    """Annotations without a box, or with NaN or infinity in it."""
    tags: tuple[tuple[str, float], ...]
    """Classes of the valid annotations, ignored regions among them, in percent, most frequent first."""

    def percent(self, count: int) -> float:
        """``count`` in percent of all annotations, two decimals; 0 where there are none."""
        return round(100 * count / self.total, 2) if self.total else 0.0

    def lines(self) -> list[str]:
        """The summary as text."""
        share = self.percent(self.invalid)
        found = [
            f"Number of total annotations : {self.total}",
            f"Number of invalid annotations : {self.invalid}",
        ]
        if share > TOO_MANY_PERCENT:
            found.append(
                f"WARNING: {share}% of all annotations are invalid: correct them before training on them "
                "(apply_correction=True)"
            )
        else:
            found.append(f"Number of invalid annotations are {share} of total annotations,")
        words = {"out of bound": self.out_of_bounds, "inverted": self.inverted}
        found += [
            f"Number and Percent of annotations with {word} coordinates {count}, {self.percent(count)}%"
            for word, count in words.items()
        ]
        if self.zero_area:
            found.append(
                f"Number and Percent of annotations with zero area {self.zero_area}, "
                f"{self.percent(self.zero_area)}%"
            )
        if self.no_box:
            found.append(
                f"Number and Percent of annotations without a box of four numbers {self.no_box}, "
                f"{self.percent(self.no_box)}%"
            )
        found.append("Review below table to find if data for object tags is imbalanced")
        return found + tag_table(self.tags)


def summarise(review: Review) -> Summary:
    """Summarise a review. Counts are of boxes as delivered, whether or not they were corrected."""
    boxes = review.boxes
    valid = boxes.filter(~review.invalid)
    tags = (
        valid.group_by("category")
        .len()
        .sort(["len", "category"], descending=[True, False])
        .select("category", 100 * pl.col("len") / max(valid.height, 1))
    )
    outside = boxes["broke_negative_coordinate"] | boxes["broke_beyond_image"]
    return Summary(
        total=boxes.height,
        invalid=int(review.invalid.sum()),
        out_of_bounds=int(outside.sum()),
        inverted=int(boxes["broke_inverted_box"].sum()),
        zero_area=int(boxes["broke_zero_area"].sum()),
        no_box=int((boxes["broke_missing_box"] | boxes["broke_not_finite"]).sum()),
        tags=tuple((str(name), float(percent)) for name, percent in tags.iter_rows()),
    )


def tag_table(tags: Sequence[tuple[str, float]]) -> list[str]:
    """Classes and percentages as aligned lines, numbered from 0."""
    head, number = "Object_tags", "Percentage"
    wide = max([len(head), *(len(name) for name, _ in tags)])
    rows = [(str(i), name, f"{percent:.6f}") for i, (name, percent) in enumerate(tags)]
    index = max([1, *(len(i) for i, _, _ in rows)])
    last = max([len(number), *(len(value) for _, _, value in rows)])
    lines = [f"{'':{index}} {head:>{wide}}  {number:>{last}}"]
    return lines + [f"{i:<{index}} {name:>{wide}}  {value:>{last}}" for i, name, value in rows]
