"""COCO JSON: instances, keypoints and stuff files, lists of images only, and results.

Large files are the rule, so the decoding is typed and the columns are built whole: no dictionary per box.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import accumulate
from typing import BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Raw, Struct

from storage.errors import UnknownFormatError, UnreadableError
from storage.memory import no_garbage_collection
from transforms.delivery import (
    DELIVERED_CATEGORIES,
    DELIVERED_MENTIONS,
    Delivery,
    stem_of,
    table,
    without_extension,
)
from transforms.formats.coco_columns import (
    Annotation,
    Int64,
    Owner,
    PlainAnnotation,
    Refs,
    has_shape,
    join_members,
    labels_table,
    plain_table,
)
from transforms.formats.coco_images import EXPECTED, Images, read_images, records
from transforms.formats.coco_plain import PlainColumns, plain_columns
from transforms.formats.coco_scan import MARK, SLICE_BYTES, Scan, ScanError, scan
from transforms.formats.json_text import decode, encode, extras, utf8
from transforms.kept_memory import keep_freed_memory

_THREADS = 2
_TABLE_ENTRIES_AN_ID = 16

_plain = msgspec.json.Decoder(list[PlainAnnotation])
_NULL = Raw(b"null")
_STARTS_LIST = re.compile(rb"[ \t\r\n]*\[")


class _Category(Struct, gc=False):
    id: Int64
    name: str


class _File(Struct):
    images: Raw
    annotations: Raw = Raw()
    categories: Raw = Raw()


def read_coco(data: bytes, path: str) -> Delivery:
    """Read a COCO file; ``bbox`` is ``xywh`` in pixels, as delivered, and crowds have ``ignore``.

    ``segmentation`` is the JSON text of the file without white space. ``attributes`` keep id, area and all
    keys that have no column: of annotations, images (in the mentions) and categories; what else the file says
    of itself (info, licenses) is a mention of kind ``file``. An annotation of an image that the file does not
    list has the ref ``image_id:<id>``. Files without ``annotations`` (and those without any category and
    annotation) only list images: their mentions have ``instances`` null. A member that is null says nothing,
    as one that is absent.

    Raises :class:`UnreadableError` for what is not COCO or contradicts itself, with the place in the
    document, and :class:`UnknownFormatError` for captions, panoptic files and image labels, which have no
    boxes.
    """
    json = utf8(data, path)
    try:
        with no_garbage_collection():
            return _read_results(json, path) if _STARTS_LIST.match(json) else _read_file(json, path)
    except (ValueError, OverflowError, RecursionError) as error:
        # What no type has asked for is decoded late: keys without a column, segmentations.
        raise UnreadableError(path, str(error), expected=EXPECTED) from error


def read_coco_chunks(
    file: BinaryIO,
    path: str,
    *,
    slice_bytes: int = SLICE_BYTES,
    otherwise: Callable[[bytes, str], Delivery] = read_coco,
) -> Iterator[Delivery]:
    """Read a COCO file of any size in parts; together they are what :func:`read_coco` gives.

    ``file`` must be seekable. Each part has the labels of a slice of the annotations; the last has the
    mentions and categories. While the file is read, slices that are plain become columns, which wait for the
    list of images; the text in memory is that of a few slices. A file that has no annotations to cut is read
    whole, by the function ``otherwise``.
    """
    keep_freed_memory()
    with no_garbage_collection(), ThreadPoolExecutor(_THREADS) as pool:
        ahead = _Ahead(pool)
        try:
            found = scan(file, slice_bytes=slice_bytes, seen=ahead.take)
        except ScanError:
            found = None
        if found is None or not found.slices:
            # Small, damaged, or another form: read as a whole it gives its rows or its error.
            file.seek(0)
            yield otherwise(file.read(), path)
            return
        try:
            yield from _parts(file, found, ahead, path)
        except _NotInPartsError:
            file.seek(0)
            otherwise(file.read(), path)
            raise UnreadableError(path, "a file that changes while it is read", expected=EXPECTED) from None
        except (ValueError, OverflowError, RecursionError) as error:
            raise UnreadableError(path, str(error), expected=EXPECTED) from error


_Held = tuple[pa.Table, Sequence[Annotation], list[str] | None]
_Placed = tuple[pa.Table, Owner]


class _NotInPartsError(Exception):
    """A part is damaged; reading the whole says where."""


class _Ahead:
    """Slices of which other threads make columns, while the file is read on."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._columns: deque[Future[PlainColumns | None]] = deque()
        self._rows: deque[Future[_Placed | None]] = deque()

    def take(self, text: bytes, count: int) -> None:
        """Add a slice; waits while there are many whose text is still held."""
        if len(self._columns) >= _THREADS:
            self._columns[-_THREADS].result()
        self._columns.append(self._pool.submit(plain_columns, text, count))

    def place(self, around: _Around, counts: Iterable[int]) -> None:
        """Let the other threads find the images of all slices, which have so many annotations each."""
        firsts = accumulate(counts, initial=0)
        while self._columns:
            self._rows.append(self._pool.submit(_placed, self._columns.popleft(), around, next(firsts)))

    def next(self) -> _Placed | None:
        """The rows of the next slice; None where it is not plain."""
        return self._rows.popleft().result()


def _placed(columns: Future[PlainColumns | None], around: _Around, first: int) -> _Placed | None:
    # These wait in the queue behind the columns of all slices, so that nobody waits for what comes later.
    plain = columns.result()
    return None if plain is None else around.plain_rows(plain, first=first)


def _parts(file: BinaryIO, found: Scan, ahead: _Ahead, path: str) -> Iterator[Delivery]:
    around = _Around.of(found.outline, path) if found.outline is not None else _Around.of_results()
    if found.outline is not None and around.marked != Raw(MARK):
        raise _NotInPartsError
    first = 0
    waiting: list[_Held] | None = []
    ahead.place(around, (count for _, _, count in found.slices))
    for start, length, _ in found.slices:
        placed = ahead.next()
        if placed is not None:
            labels, owner = placed
            around.count(owner)
            for held, _, _ in waiting or ():
                yield Delivery(kind="label", format="coco", labels=held)
            waiting = None
            first += labels.num_rows
            yield Delivery(kind="label", format="coco", labels=labels)
            continue
        file.seek(start)
        try:
            annotations, more = _decode_list(b"[" + file.read(length) + b"]", path)
        except UnreadableError as error:
            raise _NotInPartsError from error
        labels = around.rows(annotations, more, path, first=first)
        first += len(annotations)
        if waiting is not None and not any(map(has_shape, annotations)):
            waiting.append((labels, annotations[:1], more))
            continue
        for held, _, _ in waiting or ():
            yield Delivery(kind="label", format="coco", labels=held)
        waiting = None
        yield Delivery(kind="label", format="coco", labels=labels)
    if waiting:
        _refuse_without_boxes(waiting[0][1], waiting[0][2], path)
    mentions, categories = around.tables(only_listed=False)
    yield Delivery(kind="label", format="coco", mentions=mentions, categories=categories)


def _read_file(json: bytes, path: str) -> Delivery:
    around = _Around.of(json, path)
    annotations, more = (
        _decode_list(around.marked, path, within="$.annotations") if around.marked else ([], None)
    )
    _refuse_without_boxes(annotations, more, path)
    labels = around.rows(annotations, more, path)
    only_listed = around.marked is None or not (annotations or around.names)
    mentions, categories = around.tables(only_listed=only_listed)
    return Delivery(kind="label", format="coco", labels=labels, mentions=mentions, categories=categories)


def _read_results(json: bytes, path: str) -> Delivery:
    """Results name images and categories by number only."""
    annotations, more = _decode_list(json, path)
    if not annotations:
        raise UnknownFormatError(path, "an empty list", expected=EXPECTED)
    _refuse_without_boxes(annotations, more, path)
    around = _Around.of_results()
    labels = around.rows(annotations, more, path)
    mentions, _ = around.tables(only_listed=False)
    return Delivery(kind="label", format="coco", labels=labels, mentions=mentions)


class _Around:
    """What stands around the annotations of a file: images, categories, and the file itself."""

    def __init__(
        self,
        marked: Raw | None,
        images: Images,
        categories: tuple[dict[int | None, str], pa.Table],
        document: str | None,
        path: str,
    ) -> None:
        self.marked = marked
        self.names, self._categories = categories
        self._images = images
        # Annotations of images that are not listed add an image each, after those that are.
        self._index, self._ref = images.index, list(images.ref)
        self._listed, self._known = len(self._ref), len(self._index)
        self._aliases = self._known > self._listed
        self._first_id: dict[int, int | str] = {}
        for image_id, place in self._index.items() if self._aliases else ():
            self._first_id.setdefault(place, image_id)
        self._counts = np.zeros(self._listed, np.int64)
        self._listed_refs = Refs.of(self._ref)
        self._refs: Refs | None = self._listed_refs
        self._by_id = _PlacesById.of(self._index)
        self._document = document
        self._path = path

    @classmethod
    def of(cls, json: bytes, path: str) -> _Around:
        """Of a document; ``marked`` are the bytes of its annotations."""
        found = decode(json, _File, path, expected=EXPECTED)
        document = extras([Raw(json)], _File.__struct_fields__)[0]
        marked = (
            None if not memoryview(found.annotations) or found.annotations == _NULL else found.annotations
        )
        categories = _categories(found.categories, path)
        return cls(
            marked, read_images(found.images, path), categories, f"{{{document}}}" if document else None, path
        )

    @classmethod
    def of_results(cls) -> _Around:
        """Of a list of results, which says nothing of images and categories but their ids."""
        return cls(None, Images.none(), ({}, DELIVERED_CATEGORIES.empty_table()), None, "")

    def rows(
        self, annotations: Sequence[Annotation], more: list[str] | None, path: str, *, first: int = 0
    ) -> pa.Table:
        """The labels of some annotations, in their order."""
        index = self._index
        ids = [a.image_id for a in annotations]
        places = list(map(index.get, ids))
        if None in places:
            # The place of an image that is not listed follows all before it.
            listed = self._known - self._listed
            places = [index.setdefault(image_id, len(index) - listed) for image_id in ids]
            refs = self._ref
            refs += [f"image_id:{image_id}" for image_id in list(index)[listed + len(refs) :]]
            self._refs = None
            self._counts.resize(len(refs))
        owner = np.array(places, np.int64)
        self.count(owner)
        if self._aliases:
            more = self._with_image_ids(annotations, more, owner)
        return labels_table(annotations, more, owner, self._columns_of_refs(), self.names, path, first=first)

    def plain_rows(self, columns: PlainColumns, *, first: int) -> _Placed | None:
        """The labels of some annotations that are plain, with the places of their images, which are not
        counted yet; None where an image has several ids or is not listed.

        Other threads may call it while this one goes on.
        """
        if self._aliases or self._by_id is None:
            return None
        owner = self._by_id.places(columns.image_id)
        if owner is None:
            return None
        return plain_table(columns, owner, self._listed_refs, self.names, first=first), owner

    def count(self, owner: Owner) -> None:
        """Count the annotations of images, given the image of each."""
        self._counts += np.bincount(owner, minlength=len(self._counts))

    def tables(self, *, only_listed: bool) -> tuple[pa.Table, pa.Table]:
        """Mentions and categories, once all annotations have been seen."""
        refs = self._columns_of_refs()
        count, images = len(self._ref), self._images

        def said_of(listed: pa.Array) -> pa.Array:
            return pa.concat_arrays([listed, pa.nulls(count - self._listed, listed.type)])

        mentions: dict[str, object] = {
            "kind": pa.repeat("label", count),
            "format": pa.repeat("coco", count),
            "ref": refs.ref,
            "stem": refs.stem,
            "width": said_of(images.width),
            "height": said_of(images.height),
            "attributes": said_of(images.attributes),
        }
        if not only_listed:
            mentions["instances"] = self._counts
        said = table(mentions, DELIVERED_MENTIONS)
        if self._document is not None:
            ref = without_extension(self._path)
            row = {
                "kind": "file",
                "format": "coco",
                "ref": ref,
                "stem": stem_of(ref),
                "attributes": self._document,
            }
            said = pa.concat_tables([said, table([row], DELIVERED_MENTIONS)])
        return said, self._categories

    def _columns_of_refs(self) -> Refs:
        if self._refs is None:
            self._refs = Refs.of(self._ref)
        return self._refs

    def _with_image_ids(
        self, annotations: Sequence[Annotation], more: list[str] | None, owner: Owner
    ) -> list[str]:
        """Keep the id of an image that has several, where it is not the first."""
        texts = more or [""] * len(annotations)
        return [
            text
            if self._first_id.get(place, a.image_id) == a.image_id
            else join_members(text, f'"image_id":{encode(a.image_id)}')[1:-1]
            for text, a, place in zip(texts, annotations, owner.tolist(), strict=True)
        ]


class _PlacesById:
    """The places of images by ids that are whole numbers: a table, or where ids lie far apart, a search."""

    def __init__(self, ids: Owner, places: Owner) -> None:
        order = np.argsort(ids)
        self._ids, self._places = ids[order], places[order]
        self._table: Owner | None = None
        if len(ids) and self._ids[0] >= 0 and self._ids[-1] < _TABLE_ENTRIES_AN_ID * len(ids):
            self._table = np.full(int(self._ids[-1]) + 1, -1)
            self._table[self._ids] = self._places

    @classmethod
    def of(cls, index: Mapping[int | str, int]) -> _PlacesById | None:
        """None where some ids are no whole numbers of 64 bits."""
        if not set(map(type, index)) <= {int}:
            return None
        try:
            ids, places = (np.fromiter(values, np.int64, len(index)) for values in (index, index.values()))
        except OverflowError:
            return None
        return cls(ids, places)

    def places(self, ids: Owner) -> Owner | None:
        """Of each id the place; None where one is not known."""
        if not len(self._ids):
            return None
        if self._table is not None:
            if ids.min() < 0 or ids.max() >= len(self._table):
                return None
            found = self._table.take(ids)
            return None if (found < 0).any() else found
        at = np.searchsorted(self._ids, ids).clip(max=len(self._ids) - 1)
        return None if (self._ids[at] != ids).any() else self._places[at]


def _decode_list(
    json: bytes | Raw, path: str, *, within: str = "$"
) -> tuple[Sequence[Annotation], list[str] | None]:
    """Annotations, and their further keys as JSON text, where any has some.

    Nearly all files have the standard keys alone: those take one pass.
    """
    try:
        return _plain.decode(json), None
    except (msgspec.DecodeError, RecursionError, ValueError):
        # Further keys, or a mistake, which the next pass will name.
        raws = decode(json, list[Raw], path, expected=EXPECTED, within=within)
        return _decode_annotations(raws, path, within=within)


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


def _categories(data: Raw, path: str) -> tuple[dict[int | None, str], pa.Table]:
    names: dict[int | None, str] = {}
    if not memoryview(data) or data == _NULL:
        return names, DELIVERED_CATEGORIES.empty_table()
    found, more = records(data, _Category, path, within="$.categories")
    for category in found:
        if names.setdefault(category.id, category.name) != category.name:
            twice = f"the category id {category.id} for {names[category.id]!r} and {category.name!r}"
            raise UnreadableError(path, twice, expected="one name per id")
    columns = {
        "category_id": [category.id for category in found],
        "category": [category.name for category in found],
        "attributes": [join_members("", text) if text else None for text in more],
    }
    return names, table(columns, DELIVERED_CATEGORIES)
