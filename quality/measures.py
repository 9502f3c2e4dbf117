"""Columns that the advisory rules look at, worked out for a whole frame of boxes at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from quality.masks import measure_masks

TWIN_IOU_FROM = 0.5
"""Pairs of boxes below this IoU are not looked for."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MASK = {
    "mask_kind": pl.String,
    "mask_xmin": pl.Float64,
    "mask_ymin": pl.Float64,
    "mask_xmax": pl.Float64,
    "mask_ymax": pl.Float64,
    "mask_crossings": pl.UInt32,
    "mask_crosses": pl.Boolean,
}
_TWINS = {"twin": pl.Int64, "twin_iou": pl.Float64}

MEASURES = {
    "ignore": "no object to be learnt: KITTI DontCare, VOC difficult, COCO crowd; false where not given",
    "iscrowd": "COCO's flag; false where not given",
    "listed": "the class is in the data set's list; null where there is no list",
    "twin": "instance of the earlier box of the same class and image with the highest IoU",
    "twin_iou": f"that IoU; null below {TWIN_IOU_FROM}",
    "mask_kind": "polygon, rle, malformed; null without a segmentation",
    "mask_xmin": "left end of the mask, pixels; mask_ymin, mask_xmax and mask_ymax likewise",
    "mask_crossings": "polygons of the instance that cross themselves",
    "mask_crosses": "mask_crossings above 0",
}


@dataclass(frozen=True)
class Twins:
    """Pairs of boxes that overlap: row numbers with ``first < second``, and their IoU."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    iou: npt.NDArray[np.float64]


def measure(
    boxes: pl.DataFrame, wanted: Iterable[str], *, categories: Collection[str] | None = None
) -> pl.DataFrame:
    """Add those of ``wanted`` (see :data:`MEASURES`) that ``boxes`` lacks.

    ``boxes`` has the columns of annotations; those that are not needed may be absent. ``categories`` is the
    data set's list of classes.
    """
    missing = set(wanted) - set(boxes.columns)
    for flag in {"ignore", "iscrowd"} & missing:
        boxes = boxes.with_columns(pl.lit(value=False).alias(flag))
    if "listed" in missing:
        listed = (
            pl.lit(None, pl.Boolean) if categories is None else pl.col("category").is_in(list(categories))
        )
        boxes = boxes.with_columns(listed.alias("listed"))
    if missing & _TWINS.keys():
        boxes = boxes.drop(_TWINS, strict=False).with_columns(_twin_columns(boxes))
    if missing & _MASK.keys():
        boxes = boxes.drop(_MASK, strict=False)
        texts = (
            boxes["segmentation"] if "segmentation" in boxes.columns else pl.Series([None], dtype=pl.String)
        )
        if texts.null_count() == len(texts):
            empty = [pl.lit(None, dtype).alias(name) for name, dtype in _MASK.items()]
            boxes = boxes.with_columns(empty)
        else:
            boxes = boxes.hstack(measure_masks(texts))
        if "segmentation" not in boxes.columns:
            boxes = boxes.with_columns(pl.lit(None, pl.String).alias("segmentation"))
    return boxes


def find_twins(boxes: pl.DataFrame, *, min_iou: float = TWIN_IOU_FROM) -> Twins:
    """All pairs of boxes of one data set, image and class whose IoU is ``min_iou`` or more.

    Boxes are sorted by their left edge, and each is compared with the next, the one after that and so on, for
    as long as the left edges are near enough for that IoU: with w the width of the left one, an IoU of t asks
    for an overlap of at least t*w, so the next may start at most (1 - t)*w further on.
    """
    who = [name for name in ("dataset", "sample", "category") if name in boxes.columns]
    sound = pl.all_horizontal(pl.col(name).is_finite() for name in _CORNERS)
    keep = sound & (pl.col("xmax") > pl.col("xmin")) & (pl.col("ymax") > pl.col("ymin"))
    if "ignore" in boxes.columns:
        keep &= ~pl.col("ignore").fill_null(value=False)
    rows = (
        boxes.select(
            pl.struct(who).hash().alias("group"), *_CORNERS, keep.fill_null(value=False).alias("keep")
        )
        .with_row_index("row")
        .filter("keep")
        .sort("group", "xmin")
    )
    group, row = rows["group"].to_numpy(), rows["row"].to_numpy().astype(np.int64)
    x1, y1, x2, y2 = (rows[name].to_numpy() for name in _CORNERS)
    reach = x1 + (1 - min_iou) * (x2 - x1)
    area = (x2 - x1) * (y2 - y1)
    left = np.arange(len(row))
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]] = []
    step = 0
    while len(left):
        step += 1
        left = left[left + step < len(row)]
        right = left + step
        near = (group[left] == group[right]) & (x1[right] <= reach[left])
        left, right = left[near], right[near]
        wide = np.minimum(x2[left], x2[right]) - x1[right]
        high = np.minimum(y2[left], y2[right]) - np.maximum(y1[left], y1[right])
        shared = np.clip(wide, 0, None) * np.clip(high, 0, None)
        iou = shared / (area[left] + area[right] - shared)
        hit = iou >= min_iou
        one, two = row[left[hit]], row[right[hit]]
        found.append((np.minimum(one, two), np.maximum(one, two), iou[hit]))
    if not found:
        return Twins(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    first, second, ious = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Twins(first, second, ious)


def _twin_columns(boxes: pl.DataFrame) -> list[pl.Series]:
    twins = find_twins(boxes)
    # Ascending, so that the last one written for a row is that with the highest IoU.
    order = np.argsort(twins.iou, kind="stable")
    instance = (
        boxes["instance"] if "instance" in boxes.columns else pl.int_range(boxes.height, eager=True)
    ).cast(pl.Int64)
    of = np.full(boxes.height, -1, np.int64)
    iou = np.full(boxes.height, np.nan)
    of[twins.second[order]] = twins.first[order]
    iou[twins.second[order]] = twins.iou[order]
    found = pl.Series(of >= 0)
    rows = pl.select(pl.when(found).then(pl.Series(of))).to_series()
    return [
        instance.gather(rows).alias("twin"),
        pl.select(pl.when(found).then(pl.Series(iou))).to_series().alias("twin_iou"),
    ]
