"""Segmentations in the form that the page draws: polygons, or run lengths on a grid of bounded size."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from dropmill.page.answers import RunLengths, Shape
from transforms.formats.masks import run_lengths

_MOST_POINTS = 5_000
_MOST_BYTES = 2_000_000


def shape_of(text: str | None, grid: int) -> Shape | None:
    """A segmentation (JSON as in COCO) to draw; None where there is none, or it is none.

    Run lengths are sampled at the middles of a grid of at most ``grid`` cells a side over the whole image,
    from their numbers alone: what a hostile file says of its size is never allocated. Polygons of very many
    points lose some.
    """
    if not text or len(text) > _MOST_BYTES:
        return None
    try:
        value: Any = msgspec.json.decode(text)
        if isinstance(value, list):
            return _of_polygons(value)
        height, width = (int(side) for side in value["size"])
        counts = value["counts"]
        runs = np.asarray(run_lengths(counts) if isinstance(counts, str) else counts, np.int64)
    except (ValueError, TypeError, KeyError, OverflowError, msgspec.DecodeError):
        return None
    if min(height, width) < 1 or runs.ndim != 1 or (runs < 0).any():
        return None
    ends = np.cumsum(runs)
    if not len(ends) or int(ends[-1]) != height * width:
        return None
    return Shape(runs=_sampled(ends, height, width, grid))


def _of_polygons(value: list[Any]) -> Shape | None:
    parts = [part for part in value if isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0]
    every = max(1, math.ceil(sum(len(part) // 2 for part in parts) / _MOST_POINTS))
    polygons = []
    for part in parts:
        points = np.asarray(part, np.float64)
        if points.ndim != 1 or not np.isfinite(points).all():
            continue
        thinned = points.reshape(-1, 2)[::every].round(2)
        if len(thinned) >= 3:
            polygons.append(thinned.ravel().tolist())
    return Shape(polygons=polygons) if polygons else None


def _sampled(ends: np.ndarray[Any, np.dtype[np.int64]], height: int, width: int, grid: int) -> RunLengths:
    shrink = max(1.0, max(height, width) / grid)
    rows, columns = max(1, round(height / shrink)), max(1, round(width / shrink))
    y = ((np.arange(rows) + 0.5) * height / rows).astype(np.int64)
    x = ((np.arange(columns) + 0.5) * width / columns).astype(np.int64)
    places = (x[:, None] * height + y[None, :]).ravel()
    inside = np.searchsorted(ends, places, side="right") % 2 == 1
    changes = np.flatnonzero(np.diff(inside)) + 1
    bounds = np.concatenate([[0], changes, [len(inside)]])
    counts = np.diff(bounds).tolist()
    return RunLengths(width=columns, height=rows, counts=[0, *counts] if inside[0] else counts)
