"""The rules for boxes: each declared once, with what it sees and what mends it.

All expressions speak of a frame with ``xmin, ymin, xmax, ymax`` (float64, absolute pixels) and ``width,
height`` of the image as it is shown. Conditions look at the box as delivered, so that one box can break
several rules. Corrections are run for every format in the order of :data:`RULES`: what is no number goes,
then corners are swapped, then clipped, then what has no area left goes. After that no box is invalid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

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
}
"""Rules about files rather than boxes: severity and documentation."""

VALID_AFTER_CORRECTION = ~_missing & FINITE & (_x2 > _x1) & (_y2 > _y1)
