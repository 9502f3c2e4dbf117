"""Annotations of a COCO file to the columns of the table of labels, without a dictionary per box."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta, Raw, Struct

from storage.errors import UnreadableError
from transforms.delivery import DELIVERED_LABELS, stem_of, table
from transforms.formats.coco_plain import PlainColumns
from transforms.formats.json_text import compact, encode

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Owner = np.ndarray[tuple[int], np.dtype[np.int64]]
"""Per annotation, the place of its image among the refs."""

_PART = 65_536
_NO_OR_YES = (0, 1)
_SPACE = re.compile(rb"[ \t\r\n]")
_IS_SPACE = np.isin(np.arange(256), list(b" \t\r\n"))
_NOTHING = Raw()


class Annotation(Struct, gc=False):
    """An annotation or a result. What is not named here goes to ``attributes`` with its own text."""

    image_id: int | str
    id: int | str | None = None
    category_id: Int64 | None = None
    bbox: list[float] | None = None
    segmentation: Raw = _NOTHING
    area: int | float | None = None
    iscrowd: bool | int | None = None
    score: float | None = None


class PlainAnnotation(Annotation, gc=False, forbid_unknown_fields=True):
    """An annotation that has no other key."""


@dataclass(frozen=True)
class Refs:
    """The images of a file by their places, as columns: refs and stems."""

    ref: pa.Array
    stem: pa.Array

    @classmethod
    def of(cls, refs: list[str]) -> Refs:
        """Columns of a list of refs."""
        column = pa.array(refs, pa.string())
        if not pc.any(pc.match_substring(column, "/")).as_py():
            return cls(column, column)
        return cls(column, pa.array(list(map(stem_of, refs)), pa.string()))


def labels_table(
    annotations: Sequence[Annotation],
    more: list[str] | None,
    owner: Owner,
    refs: Refs,
    names: Mapping[int | None, str],
    path: str,
    *,
    first: int = 0,
) -> pa.Table:
    """One row per annotation; built in parts, so that few Python values are alive at a time.

    ``more`` are further members of each, as JSON without braces; ``first`` is the place of the first
    annotation in its file.
    """
    tables = [DELIVERED_LABELS.empty_table()]
    for start in range(0, len(annotations), _PART):
        part = annotations[start : start + _PART]
        count = len(part)
        owners = pa.array(owner[start : start + count])
        crowd = pa.array([bool(a.iscrowd) for a in part], pa.bool_())
        ids = [a.category_id for a in part]
        scores = [a.score for a in part]
        columns = {
            "instance": np.arange(first + start, first + start + count),
            "format": pa.repeat("coco", count),
            "ref": refs.ref.take(owners),
            "stem": refs.stem.take(owners),
            "category_id": ids,
            "category": _names(ids, names),
            "bbox": _boxes(part, first + start, path),
            "bbox_mode": pa.repeat("xywh", count),
            "iscrowd": crowd,
            "ignore": crowd,
            "score": pa.nulls(count, pa.float64()) if set(scores) == {None} else scores,
            "segmentation": _segmentations(part),
            "attributes": _attributes(part, more and more[start : start + count]),
        }
        tables.append(table(columns, DELIVERED_LABELS))
    return pa.concat_tables(tables)


def plain_table(
    columns: PlainColumns, owner: Owner, refs: Refs, names: Mapping[int | None, str], *, first: int
) -> pa.Table:
    """The same of annotations that are in columns already."""
    count, owners = len(owner), pa.array(owner)
    numbers = [number for number in names if number is not None]
    known = pa.array([names[number] for number in numbers], pa.string())
    made = {
        "instance": np.arange(first, first + count),
        "format": pa.repeat("coco", count),
        "ref": refs.ref.take(owners),
        "stem": refs.stem.take(owners),
        "category_id": columns.category_id,
        "category": known.take(pc.index_in(columns.category_id, pa.array(numbers, pa.int64()))),
        "bbox": columns.bbox,
        "bbox_mode": pa.repeat("xywh", count),
        "iscrowd": columns.iscrowd,
        "ignore": columns.iscrowd,
        "score": pa.nulls(count, pa.float64()) if columns.score is None else columns.score,
        "segmentation": pa.nulls(count, pa.string())
        if columns.segmentation is None
        else columns.segmentation,
        "attributes": columns.attributes,
    }
    return table(made, DELIVERED_LABELS)


def _names(ids: Sequence[int | None], names: Mapping[int | None, str]) -> pa.Array:
    different = list(set(ids))
    place = {category_id: index for index, category_id in enumerate(different)}
    texts = pa.array(list(map(names.get, different)), pa.string())
    return texts.take(pa.array(np.fromiter(map(place.__getitem__, ids), np.int32, len(ids))))


def _segmentations(annotations: Sequence[Annotation]) -> pa.Array:
    """``segmentation`` as text without white space; null where there is none."""
    raws: list[Raw | bytes] = [a.segmentation for a in annotations]
    text, ends = _joined(raws)
    if found := _SPACE.search(text):
        signs = np.frombuffer(text, np.uint8)
        blanks = np.flatnonzero(_IS_SPACE[signs[found.start() :]]) + found.start()
        for row in np.unique(np.searchsorted(ends, blanks, side="right")).tolist():
            raws[row] = _without_space(bytes(raws[row]))
        text, ends = _joined(raws)
    lengths = np.diff(ends, prepend=0)
    # No shape is as long as "null", which is none.
    is_none = (lengths == 0) | (lengths == len(b"null"))
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    array = pa.StringArray.from_buffers(len(raws), pa.py_buffer(offsets), pa.py_buffer(text))
    if not is_none.any():
        return array
    none = pc.or_(pc.equal(array, ""), pc.equal(array, "null"))
    return pc.if_else(none, pa.scalar(None, pa.string()), array)


def _joined(raws: Sequence[Raw | bytes]) -> tuple[bytes, Owner]:
    """All texts as one, and the place after each."""
    lengths = np.fromiter((memoryview(raw).nbytes for raw in raws), np.int64, len(raws))
    return b"".join(raws), np.cumsum(lengths)


def _without_space(text: bytes) -> bytes:
    # Lists of numbers have no blank that says something; where there is a string, it may.
    return text.translate(None, b" \t\r\n") if b'"' not in text else compact(Raw(text)).encode()


def _boxes(annotations: Sequence[Annotation], start: int, path: str) -> pa.Array:
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


def _attributes(annotations: Sequence[Annotation], more: list[str] | None) -> list[str] | pa.Array:
    if more is None:
        areas = [a.area for a in annotations]
        crowds = {a.iscrowd for a in annotations}
        usual = {type(a.id) for a in annotations} == {int} and None not in areas and crowds <= {0, 1}
        if usual and all(a.bbox for a in annotations):
            return _ids_and_areas(annotations)
    own = list(map(_own_attributes, annotations))
    if more is None:
        return own
    return [join_members(text[1:-1], further) for text, further in zip(own, more, strict=True)]


def _ids_and_areas(annotations: Sequence[Annotation]) -> pa.Array:
    """``{"id":7,"area":1.5}`` for each, written by one call: this is done for every box."""
    pairs = msgspec.json.encode([(a.id, a.area) for a in annotations])
    # Numbers hold no bracket and no comma, so each of these stands where an object ends or its area begins.
    text = pairs[1:-1].replace(b"],[", b"}{").replace(b",", b',"area":')
    text = b'{"id":' + text[1:-1].replace(b"}{", b'}{"id":') + b"}"
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("}")) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.StringArray.from_buffers(len(annotations), pa.py_buffer(offsets), pa.py_buffer(text))


def _own_attributes(a: Annotation) -> str:
    """The same for annotations that may lack a usual key: an ``iscrowd`` of null says that there was none."""
    if type(a.id) is int and a.area is not None and a.iscrowd in _NO_OR_YES and a.bbox:
        return encode({"id": a.id, "area": a.area})

    members: dict[str, object] = {
        name: value for name, value in (("id", a.id), ("area", a.area)) if value is not None
    }
    # Results have neither id nor iscrowd.
    result = a.iscrowd is None and a.id is None and a.score is not None
    if a.iscrowd not in {0, 1} and not result:
        members["iscrowd"] = a.iscrowd
    if a.bbox is not None and not a.bbox:
        members["bbox"] = a.bbox
    return encode(members)


def has_shape(annotation: Annotation) -> bool:
    """Whether an annotation says where its object is."""
    return bool(annotation.bbox) or compact(annotation.segmentation) not in {"", "null"}


def join_members(members: str, further: str) -> str:
    """A JSON object of two lists of members, either of which may be empty."""
    return f"{{{members},{further}}}" if members and further else f"{{{members}{further}}}"
