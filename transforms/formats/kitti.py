"""KITTI object labels: one text file per image, one object per line, 15 columns or 16 with a score.

Columns, by the read-me of the KITTI object development kit: type, truncated, occluded, alpha, four numbers of
the 2-D box (left, top, right, bottom in pixels, 0-based), three dimensions (height, width, length in metres),
three of the location (x, y, z in camera coordinates, metres), rotation_y, and in results the score.
"""

from __future__ import annotations

import re

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
from transforms.formats.text import (
    is_number,
    json_number,
    lines_of,
    numbers,
    shortest,
    text_of,
    two_decimals,
)

COLUMNS = (
    *("truncated", "occluded", "alpha", "left", "top", "right", "bottom"),
    *("height", "width", "length", "x", "y", "z", "rotation_y", "score"),
)
_OWN_COLUMNS = {"truncated", "occluded", "left", "top", "right", "bottom", "score"}
EXPECTED = "KITTI: 15 columns, or 16 with a score"
_MAX_INT32 = 2**31 - 1
_ESCAPED = re.compile("%(20|25)")


def name_of(word: str) -> str:
    """The class that a first column names: ``%20`` is a blank, which has no other place in a KITTI file."""
    return _ESCAPED.sub(lambda found: " " if found.group(1) == "20" else "%", word)


def word_of(name: str) -> str:
    """The first column for a class: blanks as ``%20``, so that :func:`name_of` gives back the name."""
    return re.sub("%(?=20|25)", "%25", name).replace(" ", "%20")


def canonical(name: str, value: float) -> str:
    """How KITTI's own files write the number of a column."""
    if name == "occluded" or (name == "truncated" and value == -1):
        return str(int(value))
    return shortest(value) if name == "score" else two_decimals(value)


def read_kitti(data: bytes, path: str) -> Delivery:
    """Read a KITTI label file; ``bbox`` is ``xyxy`` in pixels, as delivered, DontCare has ``ignore``.

    ``attributes`` keeps alpha, dimensions, location and rotation_y with the digits that the file has, and as
    ``$written`` those words that no writer of ours would choose for their number. Raises
    :class:`UnreadableError` with the line for another number of columns, and for what is not a finite number.
    """
    ref = without_extension(path)
    rows = [_row(line, text.split(), path) for line, text in lines_of(text_of(data, path))]
    stem, count = stem_of(ref), len(rows)
    labels = {
        "instance": range(count),
        "line": [row["line"] for row in rows],
        "format": ["kitti"] * count,
        "ref": [ref] * count,
        "stem": [stem] * count,
        "category": [row["category"] for row in rows],
        "bbox": [row["bbox"] for row in rows],
        "bbox_mode": ["xyxy"] * count,
        "truncation": [row["truncation"] for row in rows],
        "occlusion": [row["occlusion"] for row in rows],
        "iscrowd": [False] * count,
        "ignore": [row["category"] == "DontCare" for row in rows],
        "score": [row["score"] for row in rows],
        "attributes": [row["attributes"] for row in rows],
    }
    mention = {"kind": "label", "format": "kitti", "ref": ref, "stem": stem, "instances": count}
    return Delivery(
        kind="label",
        format="kitti",
        labels=table(labels, DELIVERED_LABELS),
        mentions=table([mention], DELIVERED_MENTIONS),
    )


def fits_kitti(words: list[str]) -> bool:
    """Whether the words of a line are those of a KITTI object."""
    return len(words) in {15, 16} and not is_number(words[0]) and all(map(is_number, words[1:]))


def _row(line: int, words: list[str], path: str) -> dict[str, object]:
    spaced = len(words) >= 16 and not is_number(words[1])
    if len(words) not in {15, 16} or spaced:
        hint = " (a class name with a space in it?)" if spaced else ""
        raise UnreadableError(path, f"{len(words)} columns{hint}", line=line, expected=EXPECTED)
    values = numbers(words[1:], path, line, names=COLUMNS)
    truncated, occluded = values[0], values[1]
    if not occluded.is_integer() or abs(occluded) > _MAX_INT32:
        raise UnreadableError(
            path, f"{words[2]} as occluded", line=line, expected="a whole number, 0 to 3 or -1"
        )
    alpha, height, width, length, x, y, z, rotation_y = map(json_number, (words[3], *words[8:15]))
    category = name_of(words[0])
    odd = {
        name: word
        for name, word, value in zip(COLUMNS, words[1:], values, strict=False)
        if name in _OWN_COLUMNS and canonical(name, value) != word
    }
    if word_of(category) != words[0]:
        odd["type"] = words[0]
    written = f',"$written":{msgspec.json.encode(odd).decode()}' if odd else ""
    return {
        "line": line,
        "category": category,
        "bbox": values[3:7],
        "truncation": truncated,
        "occlusion": int(occluded),
        "score": values[14] if len(values) == 15 else None,
        "attributes": f'{{"alpha":{alpha},"dimensions":[{height},{width},{length}],'
        f'"location":[{x},{y},{z}],"rotation_y":{rotation_y}{written}}}',
    }
