"""The rules for boxes: each declared once, with what it sees and what mends it.

All expressions speak of a frame with ``xmin, ymin, xmax, ymax`` (float64, absolute pixels) and ``width,
height`` of the image as it is shown. Conditions look at the box as delivered, so that one box can break
several rules. Corrections are run for every format in the order of :data:`RULES`: what is no number goes,
then corners are swapped, then clipped, then what has no area left goes. After that no box is invalid.

:data:`ADVISORY_RULES` warn of boxes that are sound but doubtful. They change nothing, and look at measured
columns as well (:mod:`quality.measures`), which :func:`quality.check.check_boxes` adds where they are absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from quality.limits import Limits

Severity = Literal["info", "warning", "error"]
CORNERS = ("xmin", "ymin", "xmax", "ymax")

_x1, _y1, _x2, _y2 = (pl.col(name) for name in CORNERS)
_width, _height = pl.col("width"), pl.col("height")
_missing = pl.any_horizontal(pl.col(name).is_null() for name in CORNERS)
FINITE = pl.all_horizontal(pl.col(name).is_finite() for name in CORNERS)
"""True where all corners are numbers; null where one is missing."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that can be wrong with a box."""

    name: str
    severity: Severity
    documentation: str
    broken: pl.Expr
    """True where a delivered box breaks the rule."""
    correction: Mapping[str, pl.Expr] = field(default_factory=dict)
    """Columns of a sound box from those of the present one; must leave a sound box as it is."""
    word: str = "dropped"
    """What is said to have been done where the correction changed the box."""
    measures: tuple[str, ...] = ()
    """Columns that it looks at beyond corners and image size, see :data:`quality.measures.MEASURES`."""
    observed: pl.Expr | None = None
    """What is said to have been seen, where the corners alone do not say it."""


MISSING_BOX = Rule(
    name="missing_box",
    severity="error",
    documentation="The instance has no box at all.",
    broken=_missing,
)
NOT_FINITE = Rule(
    name="not_finite",
    severity="error",
    documentation="A coordinate is NaN or infinite.",
    broken=~_missing & ~FINITE,
)
INVERTED_BOX = Rule(
    name="inverted_box",
    severity="error",
    documentation="xmax < xmin or ymax < ymin: the corners were given the other way round.",
    broken=FINITE & ((_x2 < _x1) | (_y2 < _y1)),
    correction={
        "xmin": pl.min_horizontal(_x1, _x2),
        "ymin": pl.min_horizontal(_y1, _y2),
        "xmax": pl.max_horizontal(_x1, _x2),
        "ymax": pl.max_horizontal(_y1, _y2),
    },
    word="swapped",
)
NEGATIVE_COORDINATE = Rule(
    name="negative_coordinate",
    severity="error",
    documentation="A coordinate is below zero: the box leaves the image to the left or above.",
    broken=FINITE & pl.any_horizontal(pl.col(name) < 0 for name in CORNERS),
    correction={name: pl.max_horizontal(pl.col(name), 0.0) for name in CORNERS},
    word="clipped",
)
BEYOND_IMAGE = Rule(
    name="beyond_image",
    severity="error",
    documentation="A coordinate is past the right or the lower edge of the image.",
    broken=FINITE & ((pl.max_horizontal(_x1, _x2) > _width) | (pl.max_horizontal(_y1, _y2) > _height)),
    correction={
        "xmin": pl.min_horizontal(_x1, _width.cast(pl.Float64)),
        "ymin": pl.min_horizontal(_y1, _height.cast(pl.Float64)),
        "xmax": pl.min_horizontal(_x2, _width.cast(pl.Float64)),
        "ymax": pl.min_horizontal(_y2, _height.cast(pl.Float64)),
    },
    word="clipped",
)
ZERO_AREA = Rule(
    name="zero_area",
    severity="error",
    documentation="xmax = xmin or ymax = ymin: the box covers nothing.",
    broken=FINITE & ((_x2 == _x1) | (_y2 == _y1)),
)

RULES: tuple[Rule, ...] = (
    MISSING_BOX,
    NOT_FINITE,
    INVERTED_BOX,
    NEGATIVE_COORDINATE,
    BEYOND_IMAGE,
    ZERO_AREA,
)

SOUND = (
    (_x1 >= 0)
    & (_y1 >= 0)
    & (_x2 > _x1)
    & (_y2 > _y1)
    & (_x2 <= _width)
    & (_y2 <= _height)
    & (_x2 < float("inf"))
    & (_y2 < float("inf"))
).fill_null(value=False)
"""True only where a box breaks none of :data:`RULES`: one cheap look that clears nearly all boxes. Where the
image's size is not known it is false, and the rules themselves decide.
"""


def advisory_rules(limits: Limits | None = None) -> tuple[Rule, ...]:
    """The warnings of boxes, with ``limits``. Ignored regions (``ignore``) are no objects and pass."""
    limit = limits or Limits()
    counts = FINITE & ~pl.col("ignore").fill_null(value=False)
    wide, high = _x2 - _x1, _y2 - _y1
    aspect = pl.max_horizontal(wide / high, high / wide)
    beyond = pl.max_horizontal(
        _x1 - pl.col("mask_xmin"),
        _y1 - pl.col("mask_ymin"),
        pl.col("mask_xmax") - _x2,
        pl.col("mask_ymax") - _y2,
    )
    mask_box = ("mask_xmin", "mask_ymin", "mask_xmax", "mask_ymax")
    return (
        Rule(
            name="too_small",
            severity="warning",
            documentation=f"Width or height is below {limit.min_side_px:g} px: too little to learn from.",
            broken=counts & (wide > 0) & (high > 0) & (pl.min_horizontal(wide, high) < limit.min_side_px),
            measures=("ignore",),
        ),
        Rule(
            name="extreme_aspect",
            severity="warning",
            documentation=f"One side is more than {limit.max_aspect:g} times the other.",
            broken=counts & (wide > 0) & (high > 0) & (aspect > limit.max_aspect),
            measures=("ignore",),
        ),
        Rule(
            name="duplicate_box",
            severity="warning",
            documentation=(
                f"An earlier box of the same class in the same image has an IoU of {limit.duplicate_iou:g} "
                "or more with it: one object was labelled twice."
            ),
            broken=pl.col("twin_iou") >= limit.duplicate_iou,
            measures=("twin", "twin_iou"),
            observed=pl.format("IoU {} with instance {}", pl.col("twin_iou").round(4), "twin"),
        ),
        Rule(
            name="unlisted_category",
            severity="warning",
            documentation="The class is not in the data set's list of classes.",
            broken=~pl.col("listed"),
            measures=("listed",),
            observed=pl.format("class {}", "category"),
        ),
        Rule(
            name="malformed_mask",
            severity="warning",
            documentation=(
                "The segmentation is neither polygons of three points or more nor a run-length code that "
                "fits its size."
            ),
            broken=pl.col("mask_kind") == "malformed",
            measures=("mask_kind",),
            observed=pl.col("segmentation").str.slice(0, 80),
        ),
        Rule(
            name="mask_outside_box",
            severity="warning",
            documentation=f"The mask leaves its box by more than {limit.mask_outside_px:g} px.",
            broken=counts & (beyond > limit.mask_outside_px),
            measures=("ignore", *mask_box),
            observed=pl.format(
                "mask {} px outside {}",
                beyond.round(2),
                pl.concat_str([pl.col(name).round(2).cast(pl.String) for name in CORNERS], separator=","),
            ),
        ),
        Rule(
            name="self_intersecting_polygon",
            severity="warning",
            documentation="Two edges of a polygon cross: what is inside is not defined.",
            broken=pl.col("mask_crosses"),
            measures=("mask_crosses",),
            observed=pl.format("{} polygons cross themselves", "mask_crossings"),
        ),
        Rule(
            name="crowd_misuse",
            severity="warning",
            documentation=(
                "iscrowd is set on an instance with polygons: COCO's crowds are run-length masks, and a "
                "polygon outlines one object, which the flag takes out of training and evaluation."
            ),
            broken=pl.col("iscrowd").fill_null(value=False) & (pl.col("mask_kind") == "polygon"),
            measures=("iscrowd", "mask_kind"),
            observed=pl.lit("iscrowd with a polygon"),
        ),
    )


ADVISORY_RULES: tuple[Rule, ...] = advisory_rules()
"""The warnings with the limits of :class:`quality.limits.Limits` as they come."""

FILE_RULES: Mapping[str, tuple[Severity, str]] = {
    "unreadable_file": ("error", "The object could not be read; it is quarantined with the reason."),
    "unknown_image": ("warning", "A label names an image that is not there (yet): the label waits for it."),
    "ambiguous_image": ("warning", "A label fits several images equally well: the label waits."),
    "competing_labels": (
        "warning",
        "Several label files speak of one image: one was chosen, the others wait.",
    ),
    "unknown_category": ("warning", "A class number has no name: no class file of the data set gives one."),
    "several_splits": (
        "warning",
        "An image is in more than one of train, val and test: it counts as the first.",
    ),
    "image_without_label": ("info", "No label file speaks of the image, not even to say that it is empty."),
    "declared_size": ("warning", "The label file declares another size than the image has."),
    "swapped_size": (
        "warning",
        "Declared are the image's width and height swapped: the boxes were drawn before EXIF turned it.",
    ),
    "uniform_image": ("warning", "The image has nearly one colour: a cap, a failed camera, an empty file."),
    "near_duplicate_image": ("info", "Two images of one split show the same."),
    "leaked_image": (
        "warning",
        "Images of different splits show the same: what is measured on one was learnt on the other.",
    ),
    "expectations_not_run": ("error", "A suite of expectations could not be run over its table."),
    "class_drift": ("warning", "The class mix differs from the drops before, or between two splits."),
}
"""Rules about files and sets rather than boxes: severity and documentation."""

MASK_RULES = frozenset({"malformed_mask", "mask_outside_box", "self_intersecting_polygon", "crowd_misuse"})
"""Rules that look into segmentations."""
PIXEL_RULES = frozenset({"uniform_image", "near_duplicate_image", "leaked_image"})
"""Rules that look at pixels."""

VALID_AFTER_CORRECTION = ~_missing & FINITE & (_x2 > _x1) & (_y2 > _y1)
