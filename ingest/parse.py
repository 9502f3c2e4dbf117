"""Objects to Arrow tables: the body of the Ray tasks. It reads, and does nothing else."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import pyarrow as pa

from ingest.events import DatasetRule, Event
from quality.pictures import look_at
from storage import schemas
from storage.errors import StoreError, SupersededError, UnreadableError
from storage.object_store import ObjectInfo, ObjectStore
from transforms.delivery import Delivery, stem_of, without_extension
from transforms.formats.detect import plain_rows, read_label, read_label_parts
from transforms.formats.garbage import no_garbage_collection
from transforms.formats.gathered import Gathered, Rows
from transforms.images import inspect_image, is_image
from transforms.normalise import dataset_path

_HEAD_BYTES = 64
_LARGE_JSON_BYTES = 32_000_000

# Pictures that are labels of other pictures, under their names: VOC's, Penn-Fudan's, Cityscapes' and the
# like.
MASK_FOLDER = re.compile(
    r"(^|/)(Segmentation(Class|Object)\w*|PedMasks|panoptic_\w+|(gt|instance|semantic)?_?masks?)/",
    re.IGNORECASE,
)
_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is too much for one object."""

    max_image_pixels: int = 200_000_000
    """Larger images are quarantined from their header, before memory is taken."""
    max_label_bytes: int = 4_000_000_000
    """Larger label files are quarantined unread."""
    look_at_pixels: bool = False
    """Decode images, for their perceptual hash; those that cannot be decoded are quarantined."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How reading one object ended. ``superseded``: it is no longer the version that was planned, or is
    gone. ``unread``: the store did not give it; ``blame`` says that it answers for it otherwise.
    """

    event: Event
    state: str  # done, quarantined, superseded, unread
    kind: str = "other"
    format: str = "other"
    error: str | None = None
    blame: bool = False


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What some objects say. The tables have all columns but ``batch``."""

    outcomes: tuple[Outcome, ...] = ()
    images: pa.Table = field(default_factory=schemas.without(schemas.IMAGES, "batch").empty_table)
    mentions: pa.Table = field(default_factory=schemas.without(schemas.MENTIONS, "batch").empty_table)
    categories: pa.Table = field(default_factory=schemas.without(schemas.CATEGORIES, "batch").empty_table)
    labels: pa.Table = field(default_factory=schemas.without(schemas.LABELS, "batch").empty_table)


@dataclass(frozen=True, slots=True)
class _Simple:
    """An object whose rows wait for those of the others: a table for each would take most of the time."""

    outcome: Outcome
    dataset: str
    image: dict[str, Any] | None = None
    rows: Rows | None = None


_PARTS = ("images", "mentions", "categories", "labels")


def parse_objects(store: ObjectStore, events: Sequence[Event], rule: DatasetRule, limits: Limits) -> Parsed:
    """Read and parse the objects of put events; each is read at its planned version or not at all."""
    # Rows of many objects wait for each other, and none of them is garbage.
    with no_garbage_collection():
        read = [_parse_object(store, event, rule, limits) for event in events]
    parsed = merge([part for part in read if isinstance(part, Parsed)])
    simple = [part for part in read if isinstance(part, _Simple)]
    outcomes = tuple(
        o for part in read for o in (part.outcomes if isinstance(part, Parsed) else [part.outcome])
    )
    return replace(merge([parsed, _of_simple(simple)]) if simple else parsed, outcomes=outcomes)


def merge(parts: Sequence[Parsed]) -> Parsed:
    """Several results as one."""
    if not parts:
        return Parsed()
    tables = {name: pa.concat_tables([getattr(part, name) for part in parts]) for name in _PARTS}
    return Parsed(outcomes=tuple(outcome for part in parts for outcome in part.outcomes), **tables)


def _of_simple(simple: Sequence[_Simple]) -> Parsed:
    """The tables of many objects, built once."""
    images = [part.image for part in simple if part.image is not None]
    gathered = Gathered()
    datasets: dict[str, list[str]] = {"labels": [], "mentions": [], "categories": []}
    for part in simple:
        if part.rows is not None:
            gathered.add(part.outcome.event.key, part.rows)
            datasets["mentions"].append(part.dataset)
            datasets["labels"] += [part.dataset] * len(part.rows.lines)
    tables = {
        name: rows.append_column("dataset", pa.array(datasets[name], pa.string()))
        for name, rows in gathered.tables().items()
    }
    return Parsed(
        images=pa.Table.from_pylist(images, schema=schemas.without(schemas.IMAGES, "batch")),
        **{
            name: rows.select(schemas.without(schemas.TABLES[name], "batch").names)
            for name, rows in tables.items()
        },
    )


def _parse_object(store: ObjectStore, event: Event, rule: DatasetRule, limits: Limits) -> Parsed | _Simple:
    planned = ObjectInfo(event.key, event.version, event.size_bytes)
    for attempt in range(_TRIES):
        try:
            # On S3 every byte that is read is of the planned version, elsewhere one has to look.
            if not store.is_s3 and store.head(event.key) != planned:
                return _superseded(event)
            parsed = _read(store, planned, event, rule, limits)
            # A file that was written to while we read it is not what was planned.
            return parsed if store.is_s3 or store.head(event.key) == planned else _superseded(event)
        except (FileNotFoundError, SupersededError):
            return _superseded(event)
        except MemoryError:
            return _quarantined(event, f"{event.key}: {event.size_bytes} bytes do not fit into memory")
        except (UnreadableError, StoreError, OSError) as error:
            cause = _trouble_of_the_store(error)
            if isinstance(cause, SupersededError | FileNotFoundError):
                return _superseded(event)
            if cause is None:
                if not store.is_s3 and store.head(event.key) != planned:
                    return _superseded(event)
                return _quarantined(event, str(error))
            if attempt == _TRIES - 1:
                return _unread(store, planned, event, cause)
            time.sleep(0.1 * 4**attempt)
    raise AssertionError("unreachable")


def _trouble_of_the_store(error: BaseException | None) -> BaseException | None:
    """What the store said, where that is behind an error: decoders call bytes broken that never came."""
    while error is not None:
        if isinstance(error, StoreError) or (isinstance(error, OSError) and error.errno is not None):
            return error
        error = error.__cause__ or error.__context__
    return None


def _unread(store: ObjectStore, planned: ObjectInfo, event: Event, cause: BaseException) -> Parsed:
    try:
        there = store.head(event.key)
    except (StoreError, OSError):
        there, answers = None, False
    else:
        answers = True
    if answers and there != planned:
        return _superseded(event)
    reason = f"{event.key}: cannot be read after {_TRIES} tries: {cause}"
    return Parsed(outcomes=(Outcome(event=event, state="unread", error=reason, blame=answers),))


def _superseded(event: Event) -> Parsed:
    return Parsed(outcomes=(Outcome(event=event, state="superseded"),))


def _quarantined(event: Event, reason: str) -> Parsed:
    return Parsed(outcomes=(Outcome(event=event, state="quarantined", error=reason),))


def _read(
    store: ObjectStore, planned: ObjectInfo, event: Event, rule: DatasetRule, limits: Limits
) -> Parsed | _Simple:
    dataset, prefix = rule.of(event.key)
    path = dataset_path(event.key, prefix)
    with store.open(event.key, planned) as file:
        head = file.read(_HEAD_BYTES)
        kind = is_image(head)
        if kind and MASK_FOLDER.search(path):
            return Parsed(outcomes=(Outcome(event=event, state="done", kind="other", format="mask"),))
        if kind or (not head and _looks_like_image(path)):
            return _read_image(store, event, file, path, dataset, limits)
        if event.size_bytes > limits.max_label_bytes:
            raise UnreadableError(
                path,
                f"{event.size_bytes} bytes",
                expected=f"at most {limits.max_label_bytes} bytes of labels",
            )
        delivery = _read_labels(file, head, path, event.size_bytes)
        if isinstance(delivery, Rows):
            outcome = Outcome(event=event, state="done", kind="label", format=delivery.form)
            return _Simple(outcome, dataset, rows=delivery)
    ours = {"dataset": dataset, "source": event.key}
    return Parsed(
        outcomes=(Outcome(event=event, state="done", kind=delivery.kind, format=delivery.format),),
        mentions=_with(delivery.mentions, ours, schemas.MENTIONS),
        categories=_with(delivery.categories, ours, schemas.CATEGORIES),
        labels=_with(delivery.labels, ours, schemas.LABELS),
    )


def _read_labels(file: BinaryIO, head: bytes, path: str, size_bytes: int) -> Delivery | Rows:
    """Read a label file; a large JSON in parts, so that its bytes are never in memory as a whole."""
    if size_bytes < _LARGE_JSON_BYTES or head.lstrip()[:1] not in {b"{", b"["}:
        data = head + file.read()
        return plain_rows(data, path) or read_label(data, path)
    file.seek(0)
    parts = list(read_label_parts(file, path))
    tables = {
        name: pa.concat_tables([getattr(part, name) for part in parts])
        for name in ("labels", "mentions", "categories")
    }
    return Delivery(kind=parts[-1].kind, format=parts[-1].format, **tables)


def _read_image(
    store: ObjectStore, event: Event, file: BinaryIO, path: str, dataset: str, limits: Limits
) -> _Simple:
    file.seek(0)
    header = inspect_image(file, path, event.size_bytes, max_pixels=limits.max_image_pixels)
    sample = without_extension(path)
    row: dict[str, Any] = {
        "dataset": dataset,
        "sample": sample,
        "stem": stem_of(sample),
        "key": event.key,
        "uri": store.uri(event.key),
        "version": event.version,
        "size_bytes": event.size_bytes,
        "width": header.width,
        "height": header.height,
        "channels": header.channels,
        "bit_depth": header.bit_depth,
        "format": header.format,
        "exif_orientation": header.exif_orientation,
    }
    if limits.look_at_pixels:
        file.seek(0)
        row |= look_at(file, path).columns()
    return _Simple(Outcome(event=event, state="done", kind="image", format=header.format), dataset, image=row)


def _looks_like_image(path: str) -> bool:
    return path.lower().endswith((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"))


def _with(table: pa.Table, constants: dict[str, str], schema: pa.Schema) -> pa.Table:
    """Add constant columns and bring the table into the order of ``schema``."""
    wanted = schemas.without(schema, "batch")
    columns = [
        pa.repeat(pa.scalar(constants[f.name], f.type), table.num_rows)
        if f.name in constants
        else table[f.name]
        for f in wanted
    ]
    return pa.table(columns, schema=wanted)
