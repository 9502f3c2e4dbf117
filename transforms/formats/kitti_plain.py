"""KITTI files as their makers write them, in one pass of a pattern: the fast way of :mod:`.kitti`.

A line that fits says its numbers in the words that a writer would choose for them, so there is nothing to
keep beside them. Whatever does not fit, in one line, sends the whole file the slow way.
"""

from __future__ import annotations

import re
from array import array

from transforms.delivery import without_extension
from transforms.formats.gathered import Rows, plain_text

_DECIMALS = r"(-?(?:0|[1-9][0-9]{0,14})\.[0-9]{2})"
_ANY = r"(-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?)"
_LINE = re.compile(
    rf"([A-Za-z_][A-Za-z0-9_-]*) (?:{_DECIMALS}|(-1)) (-?[0-9]) {_ANY} {' '.join([_DECIMALS] * 4)} "
    rf"{' '.join([_ANY] * 7)}\n?"
)
_MINUS_ZERO = re.compile(r" -0(?:\.0*)?(?= |\n|$)")


def plain_kitti(data: bytes, path: str) -> Rows | None:
    """The rows of a KITTI file; None where a line is not of the plain form."""
    text = plain_text(data)
    if not text or text.isspace() or (" -0" in text and _MINUS_ZERO.search(text)):
        return None
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    found = [_LINE.fullmatch(line) for line in lines]
    categories, truncations, occlusions, attributes = [], [], [], []
    boxes = array("d")
    for match in found:
        if match is None:
            return None
        (category, truncated, unknown, occluded, alpha, left, top, right, bottom, h, w, n, x, y, z, ry) = (
            match.groups()
        )
        categories.append(category)
        truncations.append(float(truncated or unknown))
        if truncated == "-1.00":
            return None
        occlusions.append(int(occluded))
        boxes.extend((float(left), float(top), float(right), float(bottom)))
        attributes.append(
            f'{{"alpha":{alpha},"dimensions":[{h},{w},{n}],"location":[{x},{y},{z}],"rotation_y":{ry}}}'
        )
    return Rows(
        form="kitti",
        ref=without_extension(path),
        lines=range(1, len(lines) + 1),
        categories=categories,
        boxes=boxes,
        ignores=[category == "DontCare" for category in categories],
        attributes=attributes,
        truncations=truncations,
        occlusions=occlusions,
    )
