"""ODVG: JSON lines of images with detections or grounded phrases, and the label map beside them.

A line is ``{"file_name" or "filename", "height", "width", …}`` with either ``detection`` (``instances`` of
``bbox``, ``label``, ``category``) or ``grounding`` (``caption`` and ``regions`` of ``bbox``, ``phrase``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct

from storage.errors import UnknownFormatError, UnreadableError
from transforms.delivery import DELIVERED_CATEGORIES, Delivery, table
from transforms.formats.coco_columns import Int64, join_members
from transforms.formats.json_text import compact, decode, encode, extras, keys_of, utf8
from transforms.formats.refs import ref_of
from transforms.formats.rows import Row, delivery_of, pixels

EXPECTED = "ODVG: one JSON object a line, with file_name and detection or grounding"
_NUMBER_KEY = re.compile(r"[0-9]{1,9}")
_LONGEST_LINE = 1 << 26
_NOTHING = Raw()


class _Instance(Struct, gc=False):
    bbox: list[float]
    label: Int64 | None = None
    category: str | None = None
    mask: Raw = _NOTHING
    score: float | None = None


class _Region(Struct, gc=False):
    bbox: list[float | list[float]]
    phrase: str | list[str]
    mask: Raw = _NOTHING
    score: float | None = None


class _Detection(Struct):
    instances: list[Raw]


class _Grounding(Struct):
    caption: str
    regions: list[Raw]


class _Line(Struct):
    file_name: str | None = None
    filename: str | None = None
    height: float | None = None
    width: float | None = None
    detection: Raw = _NOTHING
    grounding: Raw = _NOTHING


def read_odvg(data: bytes, path: str) -> Delivery:
    """Read ODVG lines; ``bbox`` is ``xyxy`` in pixels, as delivered; a mask is the ``segmentation``.

    Of a detection, ``category_id`` is the label and ``category`` its name, null where only the label map has
    it. Of a grounding, ``category`` is the phrase; a region of several boxes is a row for each, which
    ``$region`` counts. The attributes of a mention have the caption (as ``caption``), and all keys that no
    column holds; further lines of an image stand below ``$again`` with their number as ``$line``. Raises
    :class:`UnreadableError` with the line.
    """
    labels: list[Row] = []
    mentions: list[Row] = []
    seen: set[str] = set()
    for number, text in enumerate(utf8(data, path).split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            mention, rows = _line(text, path)
        except UnreadableError as error:
            raise UnreadableError(path, error.found, line=number, expected=error.expected) from error
        if mention["ref"] in seen:
            mention["attributes"] = join_members(mention["attributes"][1:-1], f'"$line":{number}')
        seen.add(mention["ref"])
        mentions.append(mention)
        labels.extend({"line": number, **row} for row in rows)
    if not mentions:
        raise UnknownFormatError(path, "no line", expected=EXPECTED)
    return delivery_of("odvg", labels, mentions)


def read_label_map(data: bytes, path: str) -> Delivery | None:
    """Read a label map ``{"0": "person", …}``; None where the file is another JSON."""
    json = utf8(data, path)
    try:
        found = msgspec.json.decode(json, type=dict[str, str])
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    if not found or not all(map(_NUMBER_KEY.fullmatch, found)):
        return None
    rows = [{"category_id": int(key), "category": name} for key, name in found.items()]
    if len({row["category_id"] for row in rows}) < len(rows):
        raise UnreadableError(path, "a label that comes twice", expected="a label map: one name per label")
    return Delivery(kind="classes", format="odvg", categories=table(rows, DELIVERED_CATEGORIES))


def is_odvg(json: bytes) -> bool:
    """Whether the first line of a file is a line of ODVG."""
    first = json.lstrip()[:_LONGEST_LINE].split(b"\n", 1)[0]
    keys = keys_of(first)
    return bool({"file_name", "filename"} & keys and {"detection", "grounding"} & keys)


def _line(text: bytes, path: str) -> tuple[Row, list[Row]]:
    line = decode(text, _Line, path, expected=EXPECTED)
    name = line.file_name if line.file_name is not None else line.filename
    if not name:
        raise UnreadableError(path, "a line without file_name", expected=EXPECTED)
    detected, grounded = bool(bytes(line.detection)), bool(bytes(line.grounding))
    if detected == grounded:
        found = "both detection and grounding" if detected else "neither detection nor grounding"
        raise UnreadableError(path, found, expected=EXPECTED)
    ref = ref_of(name)
    key = "file_name" if line.file_name is not None else "filename"
    further = extras([Raw(text)], _Line.__struct_fields__)[0]
    further_caption = "caption" in keys_of(text)
    members = f'"{key}":{encode(name)}'
    if detected:
        detection = decode(line.detection, _Detection, path, expected=EXPECTED, within="$.detection")
        rows = [_instance(raw, ref, place, path) for place, raw in enumerate(detection.instances)]
        inner = extras([line.detection], _Detection.__struct_fields__)[0]
        members += f',"detection":{{{inner}}}' if inner or further_caption else ""
    else:
        grounding = decode(line.grounding, _Grounding, path, expected=EXPECTED, within="$.grounding")
        rows = [row for place, raw in enumerate(grounding.regions) for row in _region(raw, ref, place, path)]
        inner = extras([line.grounding], _Grounding.__struct_fields__)[0]
        caption = f'"caption":{encode(grounding.caption)}'
        # A caption beside the grounding has the better right to the name.
        if further_caption:
            inner = join_members(caption, inner)[1:-1]
        else:
            members += f",{caption}"
        members += f',"grounding":{{{inner}}}' if inner else ""
    mention = {
        "ref": ref,
        "width": pixels(line.width),
        "height": pixels(line.height),
        "instances": len(rows),
        "attributes": join_members(members, further),
    }
    return mention, rows


def _instance(raw: Raw, ref: str, place: int, path: str) -> Row:
    within = f"$.detection.instances[{place}]"
    found = decode(raw, _Instance, path, expected=EXPECTED, within=within)
    row = _box(found, found.bbox, raw, ref, within, path)
    return {**row, "category_id": found.label, "category": found.category}


def _region(raw: Raw, ref: str, place: int, path: str) -> list[Row]:
    """A row for each box of a region."""
    within = f"$.grounding.regions[{place}]"
    found = decode(raw, _Region, path, expected=EXPECTED, within=within)
    if not found.bbox or not isinstance(found.bbox[0], list):
        return [_of_region(found, found.bbox, "", raw, ref, within, path)]
    mark = f'"$region":{place}'
    return [_of_region(found, box, mark, raw, ref, within, path) for box in found.bbox]


def _of_region(found: _Region, box: object, mark: str, raw: Raw, ref: str, within: str, path: str) -> Row:
    numbers = box if isinstance(box, list) and not any(isinstance(one, list) for one in box) else []
    row = _box(found, numbers, raw, ref, within, path)
    if mark:
        row["attributes"] = join_members((row["attributes"] or "{}")[1:-1], mark)
    if isinstance(found.phrase, str):
        return {**row, "category": found.phrase}
    # Several phrases of one region: all are kept, the first names it.
    if not found.phrase:
        raise UnreadableError(path, f"no phrase at `{within}`", expected=EXPECTED)
    members = join_members((row["attributes"] or "{}")[1:-1], f'"phrase":{encode(found.phrase)}')
    return {**row, "category": found.phrase[0], "attributes": members}


def _box(found: _Instance | _Region, box: Sequence[float], raw: Raw, ref: str, within: str, path: str) -> Row:
    if len(box) != 4:
        raise UnreadableError(
            path,
            f"{len(box)} numbers as bbox at `{within}`",
            expected="ODVG: left, top, right, bottom",
        )
    mask = compact(found.mask) if bytes(found.mask) else ""
    further = extras([raw], type(found).__struct_fields__)[0]
    return {
        "ref": ref,
        "bbox": list(box),
        "score": found.score,
        "segmentation": None if mask in {"", "null"} else mask,
        "attributes": f"{{{further}}}" if further else None,
    }
