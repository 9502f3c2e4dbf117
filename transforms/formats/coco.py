"""COCO JSON: instances, keypoints and stuff files, lists of images only, and results.

Large files are the rule, so the decoding is typed and the columns are built whole: no dictionary per box.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Raw, Struct

from storage.errors import UnknownFormatError, UnreadableError
from transforms.delivery import DELIVERED_CATEGORIES, DELIVERED_MENTIONS, Delivery, stem_of, table
from transforms.formats.coco_columns import (
    Annotation,
    Int64,
    Owner,
    PlainAnnotation,
    has_shape,
    join_members,
    labels_table,
)
from transforms.formats.json_text import decode, extras, utf8
from transforms.formats.refs import ref_of, tidy

EXPECTED = "COCO JSON: an object with images, annotations and categories, or a list of results"
_MAX_INT32 = 2**31 - 1

_STARTS_LIST = re.compile(rb"[ \t\r\n]*\[")


class _Image(Struct, gc=False):
    id: int | str
    file_name: str
    width: int | float | None = None
    height: int | float | None = None


class _Category(Struct, gc=False):
    id: Int64
    name: str


class _PlainFile(Struct):
    images: list[Raw]
    annotations: list[PlainAnnotation] | None = None
    categories: list[Raw] | None = None


class _File(Struct):
    images: list[Raw]
    annotations: list[Raw] | None = None
    categories: list[Raw] | None = None


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
    index, columns = _images(found.images, path)
    names, categories = _categories(found.categories or [], path)
    only_listed = found.annotations is None or not (annotations or names)

    # Annotations of images that are not listed add an image each, after those that are.
    refs, listed = columns["ref"], len(index)
    owner = _owners(annotations, index, len(refs))
    refs += [f"image_id:{image_id}" for image_id in list(index)[listed:]]
    more_refs = len(refs) - len(columns["width"])
    mentions: dict[str, object] = {
        "kind": ["label"] * len(refs),
        "format": ["coco"] * len(refs),
        "ref": refs,
        "stem": [stem_of(ref) for ref in refs],
        **{name: columns[name] + [None] * more_refs for name in ("width", "height", "attributes")},
    }
    if not only_listed:
        mentions["instances"] = np.bincount(owner, minlength=len(refs))
    return Delivery(
        kind="label",
        format="coco",
        labels=labels_table(annotations, more, owner, refs, names, path),
        mentions=table(mentions, DELIVERED_MENTIONS),
        categories=categories,
    )


def _read_results(json: bytes, path: str) -> Delivery:
    """Results name images and categories by number only."""
    annotations: Sequence[Annotation]
    try:
        annotations, more = msgspec.json.decode(json, type=list[PlainAnnotation]), None
    except (msgspec.DecodeError, RecursionError, ValueError):
        raws = decode(json, list[Raw], path, expected=EXPECTED)
        annotations, more = _decode_annotations(raws, path, within="$")
    if not annotations:
        raise UnknownFormatError(path, "an empty list", expected=EXPECTED)
    _refuse_without_boxes(annotations, more, path)
    index: dict[int | str, int] = {}
    owner = _owners(annotations, index, 0)
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
        labels=labels_table(annotations, more, owner, refs, {}, path),
        mentions=table(mentions, DELIVERED_MENTIONS),
    )


def _decode_file(json: bytes, path: str) -> tuple[_PlainFile | _File, Sequence[Annotation], list[str] | None]:
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


def _decode_annotations(raws: list[Raw], path: str, *, within: str) -> tuple[list[Annotation], list[str]]:
    annotation = msgspec.json.Decoder(Annotation)
    decoded = []
    for place, raw in enumerate(raws):
        try:
            decoded.append(annotation.decode(raw))
        except (msgspec.DecodeError, RecursionError, ValueError):
            decode(raw, Annotation, path, expected=EXPECTED, within=f"{within}[{place}]")
            raise
    return decoded, extras(raws, Annotation.__struct_fields__)


def _refuse_without_boxes(annotations: Sequence[Annotation], more: list[str] | None, path: str) -> None:
    if not annotations or any(map(has_shape, annotations)):
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


def _owners(annotations: Sequence[Annotation], index: dict[int | str, int], refs: int) -> Owner:
    """The place of each annotation's image; those that ``index`` lacks are added, from ``refs`` on."""
    listed = len(index)
    places = (index.setdefault(a.image_id, refs + len(index) - listed) for a in annotations)
    return np.fromiter(places, np.int64, len(annotations))


def _images(raws: list[Raw], path: str) -> tuple[dict[int | str, int], dict[str, list[Any]]]:
    """Places of the images by their ids, and the columns of the images in the order of places.

    Records of one file under several ids share a place, for it is one image.
    """
    images = [
        decode(raw, _Image, path, expected=EXPECTED, within=f"$.images[{place}]")
        for place, raw in enumerate(raws)
    ]
    places: dict[str, int] = {}
    index: dict[int | str, int] = {}
    columns: dict[str, list[Any]] = {"ref": [], "width": [], "height": [], "attributes": []}
    names: list[str] = []
    more = extras(raws, _Image.__struct_fields__)
    for image, ref, further in zip(images, _refs([i.file_name for i in images]), more, strict=True):
        place = places.setdefault(ref, len(places))
        if index.setdefault(image.id, place) != place:
            found = f"the image id {image.id} for {names[index[image.id]]!r} and {image.file_name!r}"
            raise UnreadableError(path, found, expected="one image per id")
        members = f'"id":{_json(image.id)},"file_name":{_json(image.file_name)}'
        attributes = join_members(members, further)
        if place == len(names):
            names.append(image.file_name)
            columns["ref"].append(ref)
            columns["width"].append(_size(image.width, f"width of image {image.id}", path))
            columns["height"].append(_size(image.height, f"height of image {image.id}", path))
            columns["attributes"].append(attributes)
        elif columns["attributes"][place] != attributes:
            columns["attributes"][place] = f'{columns["attributes"][place][:-1]},"again":{attributes}}}'
    return index, columns


def _refs(names: Sequence[str]) -> list[str]:
    """Refs of file names; of names that differ in the extension alone, the first in order loses its own."""
    owners: dict[str, str] = {}
    for name in sorted(names):
        owners.setdefault(ref_of(name), tidy(name))
    return [ref if owners[ref := ref_of(name)] == tidy(name) else tidy(name) for name in names]


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
            join_members("", text) if text else None for text in extras(raws, _Category.__struct_fields__)
        ],
    }
    return names, table(columns, DELIVERED_CATEGORIES)


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


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
