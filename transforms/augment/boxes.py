"""Boxes through an affine matrix: the extent of what remains of them in view, and how much that is.

Coordinates are pixels with the origin at the outer corner of the top left pixel; a matrix maps input points
``(x, y, 1)`` to output points. A box becomes a parallelogram; its part within the window is a convex polygon,
whose extent is smaller than the clipped extent of the parallelogram wherever a corner is cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Window = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Moved:
    """``boxes [n, 4]``: corners of the extents of the visible parts, NaN where nothing is in view.

    ``visible [n]`` is the part of each object's area that is in view, 0 to 1.
    """

    boxes: Floats
    visible: Floats


def move_boxes(boxes: Floats, matrix: Floats, window: Window) -> Moved:
    """Corners ``boxes [n, 4]`` through ``matrix [2, 3]``, as far as they lie in ``window`` (corners).

    A box without an area has nothing in view.
    """
    count = len(boxes)
    if not count:
        return Moved(np.empty((0, 4)), np.empty(0))
    quads = _quads(boxes, matrix)
    area = np.abs(_area(quads))
    extent = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    visible = (area > 0).astype(np.float64)
    low, high = window[:2], window[2:]
    # Most boxes lie wholly in view, where there is nothing to clip.
    partly = np.flatnonzero(((extent[:, :2] < low) | (extent[:, 2:] > high)).any(axis=1))
    if partly.size:
        extent[partly], inner = _clipped(quads[partly], window)
        share = np.zeros(partly.size)
        np.divide(inner, area[partly], out=share, where=area[partly] > 0)
        visible[partly] = np.minimum(share, 1.0)
    return Moved(np.where(visible[:, None] > 0, extent, np.nan), visible)


def _clipped(quads: Floats, window: Window) -> tuple[Floats, Floats]:
    """Extents ``[n, 4]`` and areas ``[n]`` of the parts of quads within a window."""
    points, there = _vertices(quads, window)
    # Places that hold no vertex repeat one that does, which moves neither the extent nor the area.
    first = np.take_along_axis(points, there.argmax(axis=1)[:, None, None], axis=1)
    points = np.where(there[..., None], points, first)
    inner = np.where(there.any(axis=1), np.abs(_area(_around(points))), 0.0)
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1), inner


def move_points(points: Floats, matrix: Floats) -> Floats:
    """Points ``[..., 2]`` through ``matrix [2, 3]``."""
    moved: Floats = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def cover(boxes: Floats, over: Floats) -> Floats:
    """``[n, m]``: the part of each of ``boxes [n, 4]`` that each of ``over [m, 4]`` covers."""
    low = np.maximum(boxes[:, None, :2], over[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], over[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None]
    share: Floats = np.zeros_like(common)
    np.divide(common, area, out=share, where=area > 0)
    return share


def overlap(one: Floats, other: Floats) -> Floats:
    """``[n, m]``: the intersection over union of boxes."""
    area = (one[:, 2:] - one[:, :2]).prod(axis=1)[:, None]
    common = cover(one, other) * area
    union = area + (other[:, 2:] - other[:, :2]).prod(axis=1)[None] - common
    share: Floats = np.zeros_like(common)
    np.divide(common, union, out=share, where=union > 0)
    return share


def _quads(boxes: Floats, matrix: Floats) -> Floats:
    """The four corners of each box, in turn, moved: ``[n, 4, 2]``."""
    return move_points(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2), matrix)


def _vertices(quads: Floats, window: Window) -> tuple[Floats, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Candidates for the vertices of quad and window in common ``[n, 24, 2]``, and which of them are some.

    They are the corners of the quad in the window, those of the window in the quad, and where edges cross.
    """
    left, top, right, bottom = window
    low, high = np.array([left, top]), np.array([right, bottom])
    inside = ((quads >= low) & (quads <= high)).all(axis=2)

    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)
    edges = np.roll(quads, -1, axis=1) - quads
    to_corner = corners[None, :, None, :] - quads[:, None, :, :]
    side = edges[:, None, :, 0] * to_corner[..., 1] - edges[:, None, :, 1] * to_corner[..., 0]
    within = (side >= 0).all(axis=2) | (side <= 0).all(axis=2)

    crossings, crosses = [], []
    for axis, limit in ((0, left), (0, right), (1, top), (1, bottom)):
        start, step = quads[..., axis], edges[..., axis]
        at = np.full(start.shape, -1.0)
        np.divide(limit - start, step, out=at, where=step != 0)
        point = quads + at[..., None] * edges
        point[..., axis] = limit
        other = 1 - axis
        fits = (at >= 0) & (at <= 1) & (point[..., other] >= low[other]) & (point[..., other] <= high[other])
        crossings.append(point)
        crosses.append(fits)
    points = np.concatenate([quads, np.broadcast_to(corners, (len(quads), 4, 2)), *crossings], axis=1)
    return points, np.concatenate([inside, within, *crosses], axis=1)


def _around(points: Floats) -> Floats:
    """Points of a convex polygon, in turn."""
    away = points - points.mean(axis=1, keepdims=True)
    order = np.argsort(np.arctan2(away[..., 1], away[..., 0]), axis=1)
    return np.take_along_axis(points, order[..., None], axis=1)


def _area(points: Floats) -> Floats:
    """The signed area of polygons ``[n, k, 2]`` (shoelace formula)."""
    # About a point of their own, so that nothing is lost far from the origin.
    points = points - points[:, :1]
    after = np.roll(points, -1, axis=1)
    area: Floats = (points[..., 0] * after[..., 1] - points[..., 1] * after[..., 0]).sum(axis=1) / 2
    return area
