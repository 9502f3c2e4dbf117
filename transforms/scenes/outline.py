"""Masks as COCO writes them: exact polygons along pixel edges, or run lengths where a mask has holes."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Mask: TypeAlias = npt.NDArray[np.bool_]
Segmentation: TypeAlias = list[list[int]] | dict[str, list[int]]
_Corner: TypeAlias = tuple[int, int]


def segmentation_of(mask: Mask, left: int, top: int, width: int, height: int) -> Segmentation:
    """COCO segmentation of a cropped mask whose first pixel is (left, top) of a ``width`` x ``height`` image.

    Polygons ``[[x1, y1, ...], ...]`` in pixel edges, one per 4-connected part. Polygons cannot say a hole, so
    a mask with holes becomes uncompressed RLE ``{"counts", "size": [height, width]}`` (COCO's mask API:
    column by column, the first run is of zeros).
    """
    loops = _loops(mask)
    if any(_signed_area(loop) < 0 for loop in loops):
        whole = np.zeros((height, width), dtype=np.bool_)
        whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        return {"counts": _runs(whole), "size": [height, width]}
    return [[value for x, y in loop for value in (x + left, y + top)] for loop in loops]


def _runs(mask: Mask) -> list[int]:
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate([[0] if not flat[0] else [0, 0], changes, [flat.size]])
    counts: list[int] = np.diff(bounds).tolist()
    return counts


def _loops(mask: Mask) -> list[list[_Corner]]:
    """Closed outlines with the mask on the right hand: clockwise (as seen, y down) except around holes."""
    padded = np.pad(mask, 1).astype(np.int8)
    starts: dict[_Corner, list[_Corner]] = defaultdict(list)
    # A step down the rows is +1 where the mask begins: its upper edge, which runs to the right.
    for y, row in enumerate(np.diff(padded[:, 1:-1], axis=0)):
        for first, last, step in _stretches(row):
            begin, end = ((first, y), (last, y)) if step > 0 else ((last, y), (first, y))
            starts[begin].append(end)
    # Along the columns +1 is a left edge, which runs upwards.
    for x, column in enumerate(np.diff(padded[1:-1], axis=1).T):
        for first, last, step in _stretches(column):
            begin, end = ((x, last), (x, first)) if step > 0 else ((x, first), (x, last))
            starts[begin].append(end)
    loops = []
    while starts:
        begin = next(iter(starts))
        loop, here, towards = [begin], begin, starts[begin][0]
        while True:
            starts[here].remove(towards)
            if not starts[here]:
                del starts[here]
            if towards == begin and not _goes_on(here, begin, starts.get(begin)):
                break
            loop.append(towards)
            here, towards = towards, _right_turn(here, towards, starts[towards])
        loops.append(loop)
    return loops


def _goes_on(here: _Corner, begin: _Corner, left_over: list[_Corner] | None) -> bool:
    """Whether an outline only passes the corner where it began, as where two pixels touch at a corner."""
    return left_over is not None and _turn(here, begin, left_over[0]) > 0


def _right_turn(before: _Corner, here: _Corner, ends: list[_Corner]) -> _Corner:
    return max(ends, key=lambda end: _turn(before, here, end))


def _turn(a: _Corner, b: _Corner, c: _Corner) -> int:
    """Above 0 for a turn to the right, y down."""
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])


def _stretches(steps: npt.NDArray[np.int8]) -> list[tuple[int, int, int]]:
    """Maximal runs of equal steps that are not zero: (first, one past the last, step)."""
    bounds = np.flatnonzero(np.diff(steps, prepend=0, append=0))
    return [(int(first), int(last), int(steps[first])) for first, last in pairwise(bounds) if steps[first]]


def _signed_area(loop: list[_Corner]) -> int:
    """Twice the area, above 0 for clockwise loops, y down."""
    points = np.array(loop)
    following = np.roll(points, -1, 0)
    return int((points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum())
