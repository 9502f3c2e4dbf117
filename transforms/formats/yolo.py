"""YOLO labels: one text file per image, one object per line, numbers as parts of width and height.

A line is ``class cx cy w h``, the same with a score, or ``class x1 y1 x2 y2 x3 y3 …`` for a polygon.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from storage.errors import UnreadableError
from transforms.delivery import (
    DELIVERED_LABELS,
    DELIVERED_MENTIONS,
    Delivery,
    stem_of,
    table,
    without_extension,
)
from transforms.formats.text import is_number, json_number, lines_of, numbers, shortest, text_of

EXPECTED = "YOLO: class and 4 numbers, a score after them, or class and 3 or more points"
_CLASS = re.compile(r"[0-9]{1,9}(?:\.0*)?")
_NAMES = ("the centre's x", "the centre's y", "width", "height", "score")

# Past the edge by a little is for the rules to judge; this far out, the numbers are pixels.
_FAR_OUT = 10.0


def read_yolo(data: bytes, path: str) -> Delivery:
    """Read a YOLO label file; ``bbox`` is ``cxcywh_norm``, ``category_id`` the number, ``category`` null.

    A polygon becomes ``segmentation`` ``[[x1, y1, …]]`` in parts of the image, and its extent the box. The
    words of a box go to ``attributes`` as ``$written`` where they are not the shortest for their numbers.
    Raises :class:`UnreadableError` with the line for other numbers of columns, and for coordinates in pixels.
    """
    ref = without_extension(path)
    boxes: list[Sequence[float]] = []
    scores: list[float | None] = []
    polygons: list[str | None] = []
    attributes: list[str | None] = []
    classes: list[int] = []
    lines = lines_of(text_of(data, path))
    for line, text in lines:
        words = text.split()
        if not (len(words) in {5, 6} or (len(words) >= 7 and len(words) % 2 == 1)):
            raise UnreadableError(path, f"{len(words)} columns", line=line, expected=EXPECTED)
        if not _CLASS.fullmatch(words[0]):
            raise UnreadableError(path, f"{words[0]!r} as class", line=line, expected="a whole number from 0")
        values = numbers(words[1:], path, line, names=_NAMES if len(words) < 7 else ())
        if far := [value for value in values if abs(value) > _FAR_OUT]:
            raise UnreadableError(
                path, f"the coordinate {far[0]:g}", line=line, expected="YOLO: parts of the image, 0 to 1"
            )
        classes.append(int(float(words[0])))
        boxes.append(values[:4] if len(words) < 7 else _extent(values))
        scores.append(values[4] if len(words) == 6 else None)
        polygons.append(None if len(words) < 7 else _polygon(words[1:], values))
        odd = len(words) < 7 and list(map(shortest, values)) != words[1:]
        attributes.append(f'{{"$written":{msgspec.json.encode(words[1:]).decode()}}}' if odd else None)

    stem, count = stem_of(ref), len(lines)
    labels = {
        "instance": range(count),
        "line": [line for line, _ in lines],
        "format": ["yolo"] * count,
        "ref": [ref] * count,
        "stem": [stem] * count,
        "category_id": classes,
        "bbox": boxes,
        "bbox_mode": ["cxcywh_norm"] * count,
        "iscrowd": [False] * count,
        "ignore": [False] * count,
        "score": scores,
        "segmentation": polygons,
        "attributes": attributes,
    }
    mention = {"kind": "label", "format": "yolo", "ref": ref, "stem": stem, "instances": count}
    return Delivery(
        kind="label",
        format="yolo",
        labels=table(labels, DELIVERED_LABELS),
        mentions=table([mention], DELIVERED_MENTIONS),
    )


def fits_yolo(words: list[str]) -> bool:
    """Whether the words of a line are those of a YOLO object."""
    count = len(words)
    return (
        (count in {5, 6} or (count >= 7 and count % 2 == 1))
        and _CLASS.fullmatch(words[0]) is not None
        and all(is_number(word) and abs(float(word)) <= _FAR_OUT for word in words[1:])
    )


def is_yolo_pose(lines: Sequence[list[str]]) -> bool:
    """Whether all lines are boxes with keypoints of x, y and visibility, of which one at least is visible.

    Some of them have as many columns as a polygon, but no point of a polygon is at twice the image's size.
    """
    if not lines or not all(
        len(words) >= 8 and len(words) % 3 == 2 and all(map(is_number, words)) for words in lines
    ):
        return False
    seen = {float(word) for words in lines for word in words[7::3]}
    return seen <= {0.0, 1.0, 2.0} and 2.0 in seen


def _polygon(words: Sequence[str], values: Sequence[float]) -> str:
    """The points as JSON, with the digits that they came with."""
    legal = (
        word if json_number(word) == word else shortest(value)
        for word, value in zip(words, values, strict=True)
    )
    return f"[[{','.join(legal)}]]"


def _extent(points: Sequence[float]) -> list[float]:
    """The box around a polygon, as centre and size."""
    xs, ys = points[0::2], points[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
