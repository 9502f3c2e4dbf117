"""COCO segmentations through an affine matrix, cut at a window; polygons stay polygons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from storage.errors import UnreadableError
from transforms.augment.boxes import Floats, Window, move_points
from transforms.augment.geometry import of_pixel_centres
from transforms.formats.masks import Mask, rle_text, run_lengths

_MAX_PIXELS = 200_000_000
_FINER = 4


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A segmentation (COCO's JSON), its extent as corners, and its area in pixels."""

    segmentation: str
    box: tuple[float, float, float, float]
    area: float


def move_segmentation(text: str, matrix: Floats, window: Window, width: int, height: int) -> Shape | None:
    """What of a segmentation lies in ``window`` of an image of ``width`` x ``height`` after ``matrix``.

    None where nothing does. Run lengths are warped with bilinear weights, pixels of half and more count.
    Raises UnreadableError for text that is no segmentation.
    """
    value = decoded(text)
    if isinstance(value, list):
        return _of_polygons(value, matrix, window)
    return _of_runs(value, matrix, window, width, height)


def decoded(text: str) -> list[Floats] | Mask:
    """A segmentation as polygons ``[n, 2]``, or as the pixels ``[height, width]`` of its run lengths.

    Parts of fewer than three points have no area and are left out.
    """
    try:
        value = msgspec.json.decode(text)
        if isinstance(value, list):
            parts = [np.asarray(part, np.float64) for part in value]
            return [part.reshape(-1, 2) for part in parts if part.size >= 6 and part.size % 2 == 0]
        height, width = (int(side) for side in value["size"])
        counts = value["counts"]
        runs = np.asarray(run_lengths(counts) if isinstance(counts, str) else counts, np.int64)
    except (ValueError, TypeError, KeyError, msgspec.DecodeError) as error:
        raise UnreadableError(
            text[:60], f"{type(error).__name__}: {error}", expected="polygons or RLE"
        ) from None
    if min(height, width) < 1 or height * width > _MAX_PIXELS:
        raise UnreadableError(text[:60], f"a mask of {width}x{height}", expected=f"1 to {_MAX_PIXELS} pixels")
    if (runs < 0).any() or runs.sum() != height * width:
        raise UnreadableError(text[:60], f"runs of {runs.sum()} pixels", expected=f"{height * width}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def raster(text: str, matrix: Floats, width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """How much of each output pixel a segmentation covers after ``matrix``: ``[height, width]``, 0 to 255."""
    import cv2

    value = decoded(text)
    if not isinstance(value, list):
        return _warped(value, matrix, width, height)
    canvas = np.zeros((height, width), np.uint8)
    points = [move_points(part, matrix) for part in value]
    if not points:
        return canvas
    every = np.concatenate(points)
    left, top = (int(v) for v in np.floor(every.min(axis=0)).clip(0, (width, height)))
    right, bottom = (int(v) for v in np.ceil(every.max(axis=0)).clip(0, (width, height)))
    if right <= left or bottom <= top:
        return canvas
    # OpenCV fills every pixel that an edge touches, up to one too many on either side: of a finer raster that
    # is little. Corners become its pixel middles, in 1/16 of a fine pixel.
    fine = np.zeros(((bottom - top) * _FINER, (right - left) * _FINER), np.uint8)
    near = [((part - (left, top)) * _FINER - 0.5) * 16 for part in points]
    cv2.fillPoly(fine, [np.rint(part).astype(np.int32) for part in near], 255, shift=4)
    canvas[top:bottom, left:right] = cv2.resize(
        fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA
    )
    return canvas


def ellipse(box: tuple[float, float, float, float]) -> str:
    """The ellipse within a box, as a polygon of 32 points."""
    turn = np.linspace(0, 2 * math.pi, 32, endpoint=False)
    x = (box[0] + box[2]) / 2 + (box[2] - box[0]) / 2 * np.cos(turn)
    y = (box[1] + box[3]) / 2 + (box[3] - box[1]) / 2 * np.sin(turn)
    return _polygon_text([np.stack([x, y], axis=1)])


def clip_polygon(points: Floats, window: Window) -> Floats:
    """The part of a polygon ``[n, 2]`` within a window (Sutherland, Hodgman 1974); empty where there is none.

    The parts of a polygon that leaves and comes back are joined along the window's edge.
    """
    for axis, limit, sign in ((0, window[0], 1), (1, window[1], 1), (0, window[2], -1), (1, window[3], -1)):
        if not len(points):
            break
        depth = sign * (points[:, axis] - limit)
        if (depth >= 0).all():
            continue
        before, before_depth = np.roll(points, 1, axis=0), np.roll(depth, 1)
        crossing = (depth >= 0) != (before_depth >= 0)
        share = np.zeros(len(points))
        np.divide(before_depth, before_depth - depth, out=share, where=crossing)
        met = before + share[:, None] * (points - before)
        met[:, axis] = limit
        both = np.stack([met, points], axis=1).reshape(-1, 2)
        points = both[np.stack([crossing, depth >= 0], axis=1).reshape(-1)]
    return points


def _of_polygons(parts: list[Floats], matrix: Floats, window: Window) -> Shape | None:
    kept, area = [], 0.0
    for part in parts:
        points = clip_polygon(move_points(part, matrix), window)
        size = _polygon_area(points)
        if len(points) >= 3 and size > 0:
            kept.append(points)
            area += size
    if not kept:
        return None
    every = np.concatenate(kept)
    low, high = every.min(axis=0), every.max(axis=0)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return Shape(segmentation=_polygon_text(kept), box=box, area=area)


def _of_runs(mask: Mask, matrix: Floats, window: Window, width: int, height: int) -> Shape | None:
    part = _corner_of(mask, matrix, window, width, height)
    if part is None:
        return None
    pixels, left, top = part
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not rows.size:
        return None
    box = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
    text = rle_text(pixels, left, top, width, height)
    return Shape(
        segmentation=text,
        box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
        area=float(np.count_nonzero(pixels)),
    )


def _corner_of(
    mask: Mask, matrix: Floats, window: Window, width: int, height: int
) -> tuple[Mask, int, int] | None:
    """The moved mask where it can be within the window, and the place of that part."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    corners = move_points(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float), matrix)
    low = np.floor(corners.min(axis=0)) - 1
    high = np.ceil(corners.max(axis=0)) + 1
    left, top = max(int(low[0]), math.floor(window[0]), 0), max(int(low[1]), math.floor(window[1]), 0)
    right = min(int(high[0]), math.ceil(window[2]), width)
    bottom = min(int(high[1]), math.ceil(window[3]), height)
    if right <= left or bottom <= top:
        return None
    # The mask's own part alone is warped: most masks are a small part of their image.
    near = matrix.copy()
    near[:, 2] += matrix[:, :2] @ np.array([x0, y0], float) - np.array([left, top], float)
    pixels = _warped(mask[y0:y1, x0:x1], near, right - left, bottom - top) >= 128
    return pixels, left, top


def _warped(mask: Mask, matrix: Floats, width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    import cv2

    warped = cv2.warpAffine(
        np.ascontiguousarray(mask, np.uint8) * np.uint8(255),
        of_pixel_centres(matrix),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return np.asarray(warped, np.uint8)


def _polygon_area(points: Floats) -> float:
    if len(points) < 3:
        return 0.0
    points = points - points[0]
    after = np.roll(points, -1, axis=0)
    return abs(float((points[:, 0] * after[:, 1] - points[:, 1] * after[:, 0]).sum())) / 2


def _polygon_text(parts: list[Floats]) -> str:
    # A hundredth of a pixel is finer than anybody outlines.
    return msgspec.json.encode([part.round(2).ravel().tolist() for part in parts]).decode()
