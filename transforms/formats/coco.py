"""COCO JSON: instances, keypoints and stuff files, lists of images only, and results.

Large files are the rule, so the decoding is typed and the columns are built whole: no dictionary per box.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta, Raw, Struct

from storage.errors import UnknownFormatError, UnreadableError
from transforms.delivery import (
    DELIVERED_CATEGORIES,
    DELIVERED_LABELS,
    DELIVERED_MENTIONS,
    Delivery,
    stem_of,
    table,
)
from transforms.formats.json_text import compact, decode, extras, utf8
from transforms.formats.refs import ref_of

EXPECTED = "COCO JSON: an object with images, annotations and categories, or a list of results"
_MAX_INT32 = 2**31 - 1
_PART = 65_536
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

_NOTHING = Raw()
_STARTS_LIST = re.compile(rb"[ \t\r\n]*\[")


class _Annotation(Struct, gc=False):
    image_id: int | str
    id: int | str | None = None
    category_id: _Int64 | None = None
    bbox: list[float] | None = None
    segmentation: Raw = _NOTHING
    area: int | float | None = None
    iscrowd: bool | int = 0
    score: float | None = None


class _PlainAnnotation(_Annotation, gc=False, forbid_unknown_fields=True):
    """An annotation that has no other key."""


class _Image(Struct, gc=False):
    id: int | str
    file_name: str
    width: int | float | None = None
    height: int | float | None = None


class _Category(Struct, gc=False):
    id: _Int64
    name: str


class _PlainFile(Struct):
    images: list[Raw]
    annotations: list[_PlainAnnotation] | None = None
    categories: list[Raw] = []


class _File(Struct):
    images: list[Raw]
    annotations: list[Raw] | None = None
    categories: list[Raw] = []


def read_coco(data: bytes, path: str) -> Delivery:
    """Read a COCO file; ``bbox`` is ``xywh`` in pixels, as delivered, and crowds have ``ignore``.

    ``segmentation`` is the JSON text of the file without white space. ``attributes`` keep id, area and all
    keys that have no column: of annotations, images (in the mentions) and categories. An annotation of an
    image that the file does not list has the ref ``image_id:<id>``. Files without ``annotations`` (and those
    without any category and annotation) only list images: their mentions have ``instances`` null.

    Raises :class:`UnreadableError` for what is not COCO or contradicts itself, with the place in the
    document, and :class:`UnknownFormatError` for captions, panoptic files and image labels, which have no
    boxes.
    """
    json = utf8(data, path)
    try:
        with _no_garbage_collection():
            return _read_results(json, path) if _STARTS_LIST.match(json) else _read_file(json, path)
    except (ValueError, OverflowError, RecursionError) as error:
        # What no type has asked for is decoded late: keys without a column, segmentations.
        raise UnreadableError(path, str(error), expected=EXPECTED) from error


def _read_file(json: bytes, path: str) -> Delivery:
    found, annotations, more = _decode_file(json, path)
    _refuse_without_boxes(annotations, more, path)
    images, image_attributes = _images(found.images, path)
    names, categories = _categories(found.categories, path)
    only_listed = found.annotations is None or not (annotations or names)

    # Annotations of images that are not listed add an image each, after those that are.
    index = {image_id: place for place, image_id in enumerate(images)}
    owner = np.fromiter(
        (index.setdefault(a.image_id, len(index)) for a in annotations), np.int64, len(annotations)
    )
    unlisted = len(index) - len(images)
    refs = [ref_of(image.file_name) for image in images.values()]
    refs += [f"image_id:{image_id}" for image_id in list(index)[len(images) :]]
    mentions: dict[str, object] = {
        "kind": ["label"] * len(refs),
        "format": ["coco"] * len(refs),
        "ref": refs,
        "stem": [stem_of(ref) for ref in refs],
        "width": [_size(i.width, f"width of image {i.id}", path) for i in images.values()]
        + [None] * unlisted,
        "height": [_size(i.height, f"height of image {i.id}", path) for i in images.values()]
        + [None] * unlisted,
        "attributes": image_attributes + [None] * unlisted,
    }
    if not only_listed:
        mentions["instances"] = np.bincount(owner, minlength=len(refs))
    return Delivery(
        kind="label",
        format="coco",
        labels=_labels(annotations, more, owner, refs, names, path),
        mentions=table(mentions, DELIVERED_MENTIONS),
        categories=categories,
    )


def _read_results(json: bytes, path: str) -> Delivery:
    """Results name images and categories by number only."""
    annotations: Sequence[_Annotation]
    try:
        annotations, more = msgspec.json.decode(json, type=list[_PlainAnnotation]), None
    except (msgspec.DecodeError, RecursionError, ValueError):
        raws = decode(json, list[Raw], path, expected=EXPECTED)
        annotations, more = _decode_annotations(raws, path, within="$")
    if not annotations:
        raise UnknownFormatError(path, "an empty list", expected=EXPECTED)
    _refuse_without_boxes(annotations, more, path)
    index: dict[int | str, int] = {}
    owner = np.fromiter(
        (index.setdefault(a.image_id, len(index)) for a in annotations), np.int64, len(annotations)
    )
    refs = [f"image_id:{image_id}" for image_id in index]
    mentions = {
        "kind": ["label"] * len(refs),
        "format": ["coco"] * len(refs),
        "ref": refs,
        "stem": [stem_of(ref) for ref in refs],
        "instances": np.bincount(owner),
    }
    return Delivery(
        kind="label",
        format="coco",
        labels=_labels(annotations, more, owner, refs, {}, path),
        mentions=table(mentions, DELIVERED_MENTIONS),
    )


def _decode_file(
    json: bytes, path: str
) -> tuple[_PlainFile | _File, Sequence[_Annotation], list[str] | None]:
    """The file, its annotations, and their further keys as JSON text, where any has some.

    Nearly all files have the standard keys alone: those take one pass.
    """
    try:
        plain = msgspec.json.decode(json, type=_PlainFile)
        return plain, plain.annotations or [], None
    except (msgspec.DecodeError, RecursionError, ValueError):
        # Further keys, or a mistake, which the next pass will name.
        found = decode(json, _File, path, expected=EXPECTED)
        return found, *_decode_annotations(found.annotations or [], path, within="$.annotations")


def _decode_annotations(raws: list[Raw], path: str, *, within: str) -> tuple[list[_Annotation], list[str]]:
    annotation = msgspec.json.Decoder(_Annotation)
    decoded = []
    for place, raw in enumerate(raws):
        try:
            decoded.append(annotation.decode(raw))
        except (msgspec.DecodeError, RecursionError, ValueError):
            decode(raw, _Annotation, path, expected=EXPECTED, within=f"{within}[{place}]")
            raise
    return decoded, extras(raws, _Annotation.__struct_fields__)


def _refuse_without_boxes(annotations: Sequence[_Annotation], more: list[str] | None, path: str) -> None:
    if not annotations or any(a.bbox or compact(a.segmentation) not in {"", "null"} for a in annotations):
        return
    keys = ",".join(more or ())
    what = "image labels"
    if '"segments_info":' in keys:
        what = "panoptic segmentation"
    elif '"caption":' in keys:
        what = "captions"
    raise UnknownFormatError(
        path, f"recognised as COCO {what}, which is not read", expected="annotations with boxes"
    )


def _images(raws: list[Raw], path: str) -> tuple[dict[int | str, _Image], list[str]]:
    """Images by id, and what has no column as JSON."""
    images: dict[int | str, _Image] = {}
    rows = []
    for place, raw in enumerate(raws):
        image = decode(raw, _Image, path, expected=EXPECTED, within=f"$.images[{place}]")
        if (other := images.setdefault(image.id, image)) is image:
            rows.append(place)
        elif other.file_name != image.file_name:
            found = f"the image id {image.id} for {other.file_name!r} and {image.file_name!r}"
            raise UnreadableError(path, found, expected="one image per id")
    more = extras((raws[place] for place in rows), _Image.__struct_fields__)
    attributes = [
        _object(f'"id":{_json(image.id)},"file_name":{_json(image.file_name)}', text)
        for image, text in zip(images.values(), more, strict=True)
    ]
    return images, attributes


def _categories(raws: list[Raw], path: str) -> tuple[dict[int | None, str], pa.Table]:
    names: dict[int | None, str] = {}
    found = [
        decode(raw, _Category, path, expected=EXPECTED, within=f"$.categories[{place}]")
        for place, raw in enumerate(raws)
    ]
    for category in found:
        if names.setdefault(category.id, category.name) != category.name:
            twice = f"the category id {category.id} for {names[category.id]!r} and {category.name!r}"
            raise UnreadableError(path, twice, expected="one name per id")
    columns = {
        "category_id": [category.id for category in found],
        "category": [category.name for category in found],
        "attributes": [
            _object("", text) if text else None for text in extras(raws, _Category.__struct_fields__)
        ],
    }
    return names, table(columns, DELIVERED_CATEGORIES)


def _labels(
    annotations: Sequence[_Annotation],
    more: list[str] | None,
    owner: np.ndarray[tuple[int], np.dtype[np.int64]],
    refs: list[str],
    names: Mapping[int | None, str],
    path: str,
) -> pa.Table:
    """One row per annotation, built in parts so that the Python values of one part only are alive at a
    time.
    """
    all_refs = pa.array(refs, pa.string())
    all_stems = pa.array([stem_of(ref) for ref in refs], pa.string())
    tables = [DELIVERED_LABELS.empty_table()]
    for start in range(0, len(annotations), _PART):
        part = annotations[start : start + _PART]
        count = len(part)
        owners = pa.array(owner[start : start + count])
        crowd = pa.array([bool(a.iscrowd) for a in part], pa.bool_())
        columns = {
            "instance": np.arange(start, start + count),
            "format": pa.repeat("coco", count),
            "ref": all_refs.take(owners),
            "stem": all_stems.take(owners),
            "category_id": [a.category_id for a in part],
            "category": [names.get(a.category_id) for a in part],
            "bbox": _boxes(part, start, path),
            "bbox_mode": pa.repeat("xywh", count),
            "iscrowd": crowd,
            "ignore": crowd,
            "score": [a.score for a in part],
            "segmentation": _segmentations(part),
            "attributes": _attributes(part, more and more[start : start + count]),
        }
        tables.append(table(columns, DELIVERED_LABELS))
    return pa.concat_tables(tables)


def _segmentations(annotations: Sequence[_Annotation]) -> pa.Array | pa.ChunkedArray:
    """``segmentation`` as text without white space; null where there is none."""
    texts = pa.array([memoryview(a.segmentation) for a in annotations], pa.string())
    spaced = pc.match_substring_regex(texts, "[ \n]")
    if pc.any(spaced).as_py():
        rows = zip(annotations, spaced.to_pylist(), texts.to_pylist(), strict=True)
        texts = pa.array([compact(a.segmentation) if wide else text for a, wide, text in rows], pa.string())
    return pc.if_else(pc.is_in(texts, pa.array(["", "null"])), None, texts)


def _boxes(annotations: Sequence[_Annotation], start: int, path: str) -> pa.Array:
    """``bbox`` as a list column; null where there is none, or an empty one."""
    count = len(annotations)
    lengths = np.fromiter((len(a.bbox) if a.bbox else 0 for a in annotations), np.int64, count)
    if (bad := np.flatnonzero((lengths != 4) & (lengths != 0))).size:
        place = int(bad[0])
        found = f"{lengths[place]} numbers as bbox of annotation {start + place}, counted from 0"
        raise UnreadableError(path, found, expected="COCO: x, y, width, height")
    values = np.fromiter(
        chain.from_iterable(a.bbox or () for a in annotations), np.float64, int(lengths.sum())
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=pa.array(lengths == 0))


def _attributes(annotations: Sequence[_Annotation], more: list[str] | None) -> list[str]:
    # The two usual keys are written without a loop over keys: this runs once per box.
    own = [
        f'"id":{a.id},"area":{a.area}'
        if type(a.id) is int and a.area is not None
        else ",".join(
            f'"{key}":{_json(value)}' for key, value in (("id", a.id), ("area", a.area)) if value is not None
        )
        for a in annotations
    ]
    if more is None:
        return [f"{{{text}}}" for text in own]
    return [_object(text, further) for text, further in zip(own, more, strict=True)]


def _object(members: str, further: str) -> str:
    return f"{{{members},{further}}}" if members and further else f"{{{members}{further}}}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _size(value: float | None, what: str, path: str) -> int | None:
    if value is None:
        return None
    if value != int(value) or not 0 <= value <= _MAX_INT32:
        raise UnreadableError(path, f"{value} as {what}", expected="a whole number of pixels")
    return int(value)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A million small lists make the collector walk them again and again, and none of them is garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
