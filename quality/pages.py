"""What a report on a data set shows, chapter by chapter."""

from __future__ import annotations

import polars as pl

from quality.page_kinds import Chapter
from quality.pages_of_boxes import box_area, box_shape, object_count, occlusion, truncation
from quality.pages_of_sets import boxes_per_image, class_balance, image_sizes, invalid_boxes, rule_findings
from quality.review import Review

_MOST_CLASSES = 100


def chapters(review: Review, *, show_all: bool = False) -> list[Chapter]:
    """All chapters that the data has something for, those of TAO's analytics under their names first.

    Counts are of valid boxes, ignored regions among them, as TAO counts. Charts show the first 100 classes
    unless ``show_all``.
    """
    boxes = review.boxes.filter(~review.invalid).with_columns(
        ((pl.col("xmax") - pl.col("xmin")) * (pl.col("ymax") - pl.col("ymin"))).alias("area"),
        ((pl.col("xmax") - pl.col("xmin")) / (pl.col("ymax") - pl.col("ymin"))).alias("aspect"),
        (pl.col("xmax") - pl.col("xmin")).alias("box_width"),
        (pl.col("ymax") - pl.col("ymin")).alias("box_height"),
    )
    most = None if show_all else _MOST_CLASSES
    found = [
        object_count(boxes, most),
        box_area(boxes, most),
        image_sizes(review),
        occlusion(boxes, most),
        truncation(boxes),
        invalid_boxes(review, most),
        box_shape(boxes, most),
        boxes_per_image(boxes, review, most),
        class_balance(review, most),
        rule_findings(review),
    ]
    return [chapter for chapter in found if chapter]
