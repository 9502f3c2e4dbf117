"""Boxes to KITTI label files."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from msgspec import Raw

from transforms.formats.kitti import COLUMNS, canonical, word_of
from transforms.formats.text import is_number
from transforms.writers.collection import Collection
from transforms.writers.written import Written, attributes_of, unsaid

_SAYS = {"truncation", "occlusion", "score", "ignore", "alpha", "dimensions", "location", "rotation_y"}
_IGNORED = "DontCare"

# What stands where a form has nothing to say of a column, as label tools for two dimensions write it.
_ZERO = "0.00"


def write_kitti(collection: Collection) -> Written:
    """One file per image, empty where it has no box: ``<ref>.txt``, with 15 columns, or 16 with a score.

    Boxes are corners in pixels. What came as KITTI keeps its words; a blank in a class is ``%20``. Regions to
    ignore become DontCare; truncated, occluded and the fields of three dimensions are 0 where nothing is
    known of them.
    """
    lines: dict[int, list[str]] = defaultdict(list)
    renamed = blanks = 0
    columns = ("image", "category", "truncation", "occlusion", "ignore", "score", "attributes", *_corners())
    for image, category, *rest in collection.absolute().select(columns).iter_rows():
        truncation, occlusion, ignore, score, attributes, *box = rest
        if box[0] is None:
            continue
        name = _IGNORED if ignore else category or "unknown"
        renamed += bool(ignore) and name != category
        blanks += " " in name
        values = (truncation, occlusion, *box, score)
        lines[image].append(_line(name, values, attributes_of(attributes)))
    files = {
        f"{ref}.txt": "".join(f"{line}\n" for line in lines[image]).encode()
        for image, ref in collection.images.select("image", "ref").iter_rows()
    }
    also = [("classes of regions to ignore, which become DontCare", renamed)]
    also += [("classes with a blank, written as %20", blanks)]
    also += [("several images of one path", collection.images.height - len(files))]
    return Written(files=files, unsaid=unsaid(collection, "kitti", says=_SAYS, also=also))


def _corners() -> tuple[str, ...]:
    return ("xmin", "ymin", "xmax", "ymax")


def _line(category: str, values: tuple[Any, ...], attributes: dict[str, Any]) -> str:
    truncation, occlusion, left, top, right, bottom, score = values
    if truncation is None:
        truncation = _float(attributes.get("truncation"))
    if occlusion is None:
        occlusion = _float(attributes.get("occlusion"))
    written = attributes.get("$written") or {}
    numbers = {
        "truncated": 0.0 if truncation is None else truncation,
        "occluded": int(occlusion or 0),
        "left": left,
        "top": top,
        "right": right,
        "bottom": bottom,
        **({} if score is None else {"score": score}),
    }
    words = {name: _word(name, value, written) for name, value in numbers.items()}
    dimensions = _triple(attributes.get("dimensions"))
    location = _triple(attributes.get("location"))
    words |= dict(zip(COLUMNS[7:10], dimensions, strict=True)) | dict(
        zip(COLUMNS[10:13], location, strict=True)
    )
    words |= {name: _number(attributes.get(name)) for name in ("alpha", "rotation_y")}
    first = written.get("type", "") if isinstance(written, dict) else ""
    if first == "" or word_of(category) == first:
        first = word_of(category)
    return " ".join([first, *(words[name] for name in COLUMNS if name in words)])


def _word(name: str, value: float, written: Any) -> str:
    """The number as it was delivered, where that still is what is meant."""
    word = written.get(name) if isinstance(written, dict) else None
    try:
        if isinstance(word, str) and float(word) == value:
            return word
    except ValueError:
        pass
    return canonical(name, float(value))


def _float(value: Any) -> float | None:
    """A number among the attributes, as another form has passed it on."""
    text = bytes(value).decode() if isinstance(value, Raw) else str(value)
    return float(text) if is_number(text) and not isinstance(value, bool) else None


def _triple(value: Any) -> list[str]:
    if isinstance(value, list) and len(value) == 3:
        return [_number(part) for part in value]
    return [_ZERO] * 3


def _number(value: Any) -> str:
    text = bytes(value).decode() if isinstance(value, Raw) else str(value)
    return text if is_number(text) else _ZERO
