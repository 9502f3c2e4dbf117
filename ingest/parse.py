"""Objects to Arrow tables: the body of the Ray tasks. It reads, and does nothing else."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from ingest.delivered import images_table, with_columns
from ingest.events import DatasetRule, Event
from quality.pictures import look_at
from storage import schemas
from storage.errors import StoreError, SupersededError, UnreadableError
from storage.memory import no_garbage_collection, use_c_memory
from storage.object_store import ObjectInfo, ObjectStore
from transforms.delivery import Delivery, stem_of, without_extension
from transforms.formats.detect import may_be_plain_kitti, plain_rows, read_label, read_label_parts
from transforms.formats.gathered import Block, Gathered, Rows
from transforms.formats.kitti_plain import plain_kitti
from transforms.images import inspect_image, is_image
from transforms.normalise import dataset_path

_HEAD_BYTES = 4_096
_SIGNATURE_BYTES = 64
_LARGE_JSON_BYTES = 32_000_000

# Pictures that are labels of other pictures, under their names: VOC's, Penn-Fudan's, Cityscapes' and the
# like.
MASK_FOLDER = re.compile(
    r"(^|/)(Segmentation(Class|Object)\w*|PedMasks|panoptic_\w+|(gt|instance|semantic)?_?masks?)/",
    re.IGNORECASE,
)
_TRIES = 3
_TEXTS_AT_ONCE = 4_096


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is too much for one object."""

    max_image_pixels: int = 200_000_000
    """Larger images are quarantined from their header, before memory is taken."""
    max_label_bytes: int = 4_000_000_000
    """Larger label files are quarantined unread."""
    look_at_pixels: bool = False
    """Decode images, for their perceptual hash; those that cannot be decoded are quarantined."""


class Outcome(NamedTuple):
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


@dataclass(slots=True)
class _Simple:
    """An object whose rows wait for those of the others: a table for each would take most of the time."""

    outcome: Outcome
    dataset: str
    image: tuple[object, ...] | None = None
    rows: Rows | None = None


@dataclass(slots=True)
class _Text:
    """A small text that has been read, and waits to be looked at together with others."""

    event: Event
    dataset: str
    path: str
    data: bytes


_PARTS = ("images", "mentions", "categories", "labels")


def parse_objects(store: ObjectStore, events: Sequence[Event], rule: DatasetRule, limits: Limits) -> Parsed:
    """Read and parse the objects of put events; each is read at its planned version or not at all."""
    use_c_memory()
    # Rows of many objects wait for each other, and none of them is garbage.
    with no_garbage_collection():
        parts, blocks = _of_texts([_parse_object(store, event, rule, limits) for event in events])
    parsed = merge([part for part in parts if isinstance(part, Parsed)])
    simple = [part for part in parts if isinstance(part, _Simple)]
    outcomes = tuple(
        o for part in parts for o in (part.outcomes if isinstance(part, Parsed) else [part.outcome])
    )
    return replace(merge([parsed, _of_simple(simple, blocks)]) if simple else parsed, outcomes=outcomes)


def merge(parts: Sequence[Parsed]) -> Parsed:
    """Several results as one."""
    if not parts:
        return Parsed()
    tables = {name: pa.concat_tables([getattr(part, name) for part in parts]) for name in _PARTS}
    return Parsed(outcomes=tuple(outcome for part in parts for outcome in part.outcomes), **tables)


def _of_texts(read: Sequence[Parsed | _Simple | _Text]) -> tuple[list[Parsed | _Simple], list[Block]]:
    """The same objects with every text looked at, and the rows of those whose part says nothing of them."""
    # Not in a thread beside the reading: that waits more for the other than it gains.
    texts = [(part.path, part.data) for part in read if isinstance(part, _Text)]
    looked = [plain_kitti(texts[at : at + _TEXTS_AT_ONCE]) for at in range(0, len(texts), _TEXTS_AT_ONCE)]
    blocks = [block for _, block in looked]
    fit = (fits for several, _ in looked for fits in several)
    parts: list[Parsed | _Simple] = []
    for part in read:
        if not isinstance(part, _Text):
            parts.append(part)
        elif next(fit):
            outcome = Outcome(event=part.event, state="done", kind="label", format="kitti")
            parts.append(_Simple(outcome, part.dataset))
        else:
            parts.append(_parse_text(part))
    return parts, blocks


def _parse_text(text: _Text) -> Parsed:
    try:
        return _delivered(text.event, text.dataset, read_label(text.data, text.path))
    except UnreadableError as error:
        return _quarantined(text.event, str(error))
    except MemoryError:
        return _quarantined(text.event, _too_large(text.event))


def _of_simple(simple: Sequence[_Simple], blocks: Sequence[Block]) -> Parsed:
    """The tables of many objects, built once."""
    images = [part.image for part in simple if part.image is not None]
    gathered = Gathered()
    plain: list[_Simple] = []
    datasets = []
    for part in simple:
        if part.rows is not None:
            gathered.add(part.outcome.event.key, part.rows)
            datasets.append(part.dataset)
        elif part.image is None:
            plain.append(part)
    keys = iter([part.outcome.event.key for part in plain])
    for block in blocks:
        gathered.add_block(list(islice(keys, len(block.counts))), block)
    datasets = [part.dataset for part in plain] + datasets
    tables = gathered.tables()
    of_file = pa.array(datasets, pa.string())
    owner = np.repeat(np.arange(len(datasets)), tables["mentions"]["instances"].to_numpy())
    of = {"labels": of_file.take(pa.array(owner)), "mentions": of_file, "categories": of_file.slice(0, 0)}
    return Parsed(
        images=images_table(images),
        **{
            name: rows.append_column("dataset", of[name]).select(
                schemas.without(schemas.TABLES[name], "batch").names
            )
            for name, rows in tables.items()
        },
    )


def _parse_object(
    store: ObjectStore, event: Event, rule: DatasetRule, limits: Limits
) -> Parsed | _Simple | _Text:
    planned = ObjectInfo(event.key, event.version, event.size_bytes)
    for attempt in range(_TRIES):
        try:
            if event.size_bytes <= _HEAD_BYTES:
                return _read(store, io.BytesIO(store.whole(planned)), event, rule, limits)
            with store.open(event.key, planned) as file:
                parsed = _read(store, file, event, rule, limits)
                # A file that was written to while we read it is not what was planned.
                return parsed if store.unchanged(file, planned) else _superseded(event)
        except (FileNotFoundError, SupersededError):
            return _superseded(event)
        except MemoryError:
            return _quarantined(event, _too_large(event))
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
    store: ObjectStore, file: BinaryIO, event: Event, rule: DatasetRule, limits: Limits
) -> Parsed | _Simple | _Text:
    dataset, prefix = rule.of(event.key)
    path = dataset_path(event.key, prefix)
    head = file.read(_HEAD_BYTES)
    kind = is_image(head[:_SIGNATURE_BYTES])
    if kind and _has_masks(path[: path.rfind("/") + 1]):
        return Parsed(outcomes=(Outcome(event=event, state="done", kind="other", format="mask"),))
    if kind or (not head and _looks_like_image(path)):
        return _read_image(store, event, file, (head, kind), path, dataset, limits)
    if event.size_bytes > limits.max_label_bytes:
        raise UnreadableError(
            path,
            f"{event.size_bytes} bytes",
            expected=f"at most {limits.max_label_bytes} bytes of labels",
        )
    if event.size_bytes >= _LARGE_JSON_BYTES and head.lstrip()[:1] in {b"{", b"["}:
        return _delivered(event, dataset, _read_large(file, path))
    data = head if len(head) >= event.size_bytes else head + file.read()
    if may_be_plain_kitti(path, len(data)):
        return _Text(event, dataset, path, data)
    if rows := plain_rows(data, path):
        return _Simple(Outcome(event=event, state="done", kind="label", format=rows.form), dataset, rows=rows)
    return _delivered(event, dataset, read_label(data, path))


@lru_cache(maxsize=10_000)
def _has_masks(folder: str) -> bool:
    """Whether pictures in a folder, of which thousands share one, are masks of others."""
    return MASK_FOLDER.search(folder) is not None


def _delivered(event: Event, dataset: str, delivery: Delivery) -> Parsed:
    ours = {"dataset": dataset, "source": event.key}
    return Parsed(
        outcomes=(Outcome(event=event, state="done", kind=delivery.kind, format=delivery.format),),
        mentions=with_columns(delivery.mentions, ours, schemas.MENTIONS),
        categories=with_columns(delivery.categories, ours, schemas.CATEGORIES),
        labels=with_columns(delivery.labels, ours, schemas.LABELS),
    )


def _read_large(file: BinaryIO, path: str) -> Delivery:
    """Read a large JSON file in parts, so that its bytes are never in memory as a whole."""
    file.seek(0)
    parts = list(read_label_parts(file, path))
    tables = {
        name: pa.concat_tables([getattr(part, name) for part in parts])
        for name in ("labels", "mentions", "categories")
    }
    return Delivery(kind=parts[-1].kind, format=parts[-1].format, **tables)


def _read_image(
    store: ObjectStore,
    event: Event,
    file: BinaryIO,
    begins: tuple[bytes, str | None],
    path: str,
    dataset: str,
    limits: Limits,
) -> _Simple:
    head, kind = begins
    header = inspect_image(
        file, path, event.size_bytes, max_pixels=limits.max_image_pixels, head=head, kind=kind
    )
    sample = without_extension(path)
    seen: Mapping[str, object] = {}
    if limits.look_at_pixels:
        file.seek(0)
        seen = look_at(file, path).columns()
    row = (
        *(dataset, sample, stem_of(sample), event.key, store.uri(event.key), event.version),
        *(event.size_bytes, header.width, header.height, header.channels, header.bit_depth, header.format),
        *(header.exif_orientation, seen.get("phash"), seen.get("deviation"), seen.get("pattern")),
    )
    return _Simple(Outcome(event=event, state="done", kind="image", format=header.format), dataset, image=row)


def _too_large(event: Event) -> str:
    return f"{event.key}: {event.size_bytes} bytes do not fit into memory"


def _looks_like_image(path: str) -> bool:
    return path.lower().endswith((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"))
