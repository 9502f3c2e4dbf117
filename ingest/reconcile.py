"""One pass over a bucket: list it piece by piece, compare with the ledger, run what is new."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from ingest.batch import Batch, Committer, Counts
from ingest.events import DatasetRule, Event, work_order
from ingest.ledger import Comparison
from storage.memory import no_garbage_collection
from storage.object_store import ObjectInfo, ObjectStore, is_object_key, refused_because
from transforms.formats.refs import is_image_name

log = logging.getLogger(__name__)

_ROUNDS = 3
_PIECE = 20_000
_MOST_BYTES = 500_000_000
_MOST_HELD = 100_000
_LOOKERS = 16
_MOST_REFUSALS_SAID = 20


@dataclass(kw_only=True)
class Pass:
    """What one pass did."""

    batches: int = 0
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    listed: int = 0
    refused: int = 0
    """Objects whose names are never opened: control characters, ``..``, absurd length."""
    left: dict[str, str] = field(default_factory=dict)
    """Keys that could not be worked on, with the reason: the next pass takes them."""


def reconcile(
    store: ObjectStore,
    committer: Committer,
    rule: DatasetRule,
    *,
    prefix: str = "",
    batch_objects: int = 20_000,
    on_plan: Callable[[int], None] = lambda _events: None,
    on_batch: Callable[[Batch, Counts, int], None] = lambda _batch, _counts, _left: None,
    stopping: Callable[[], bool] = lambda: False,
    hold: Callable[[str], bool] = lambda _key: False,
    meanwhile: Callable[[], None] = lambda: None,
) -> Pass:
    """Finish what was left unfinished, then bring the lake up to date with the bucket, or with what lies
    below ``prefix`` in it.

    The listing is compared in pieces, so that memory is bounded by the ledger and by what is new. Objects
    that change while they are read are looked at again, a few times; the next pass takes what still moves.
    Keys that ``hold`` names are left for later. ``on_plan`` hears of events as they are found, ``on_batch``
    of each batch and of the number of events that wait; ``stopping`` ends the pass between two batches,
    ``meanwhile`` is called between two pieces.
    """
    began = time.monotonic()
    done = Pass()

    def run(events: Sequence[Event]) -> None:
        left = len(events)
        on_plan(left)
        with no_garbage_collection():
            chunks = cut(sorted(events, key=work_order), batch_objects)
        for chunk in chunks:
            if stopping():
                return
            batch = committer.plan(chunk)
            counts = committer.run(batch)
            left -= len(chunk)
            done.batches += 1
            done.counts = done.counts + counts
            done.left.update(committer.left)
            on_batch(batch, counts, left)

    for batch in committer.unfinished():
        counts = committer.run(batch)
        done.batches += 1
        done.counts = done.counts + counts
        on_batch(batch, counts, 0)
    for events in _news(store, committer, rule, prefix, hold, done, meanwhile):
        run(events)
        if stopping():
            break
    for _ in range(_ROUNDS - 1):
        if not done.left or stopping():
            break
        keys, done.left = list(done.left), {}
        run(changes(store, committer, rule, keys))
    done.seconds = time.monotonic() - began
    return done


def changes(store: ObjectStore, committer: Committer, rule: DatasetRule, keys: Iterable[str]) -> list[Event]:
    """The events of some keys, each looked at as it is now."""
    return changes_of(committer, rule, look(store, keys))


def changes_of(
    committer: Committer, rule: DatasetRule, found: Iterable[tuple[str, ObjectInfo | None]]
) -> list[Event]:
    """The events of keys with the objects that are there."""
    found = list(found)
    ledger = committer.ledger
    events = ledger.news([info for _, info in found if info is not None], rule, complete=False)
    for key, info in found:
        if info is None and (entry := ledger.get(key)) is not None and entry.state != "removed":
            events.append(ledger.remove_event(key))
    return events


def look(store: ObjectStore, keys: Iterable[str]) -> list[tuple[str, ObjectInfo | None]]:
    """Every key with its object as it is now, or None; several are asked for at once.

    Raises StoreError where the store does not answer. Keys that are no objects are left out.
    """
    wanted = [key for key in dict.fromkeys(keys) if is_object_key(key)]
    if store.is_directory or len(wanted) < 2:
        return [(key, store.head(key)) for key in wanted]
    with ThreadPoolExecutor(_LOOKERS) as pool:
        return list(zip(wanted, pool.map(store.head, wanted), strict=True))


def cut(events: Sequence[Event], batch_objects: int) -> list[list[Event]]:
    """Cut events into batches of at most ``batch_objects``, and of so many bytes as fit into memory.

    Of images only the headers count, which are nothing; of all other files there may be 500 MB in a batch,
    or one file that is larger.
    """
    batches: list[list[Event]] = []
    size = 0
    for event in events:
        weight = 0 if is_image_name(event.key) else event.size_bytes
        if not batches or len(batches[-1]) >= batch_objects or (size and size + weight > _MOST_BYTES):
            batches.append([])
            size = 0
        batches[-1].append(event)
        size += weight
    return batches


def _news(
    store: ObjectStore,
    committer: Committer,
    rule: DatasetRule,
    prefix: str,
    hold: Callable[[str], bool],
    done: Pass,
    meanwhile: Callable[[], None],
) -> Iterator[list[Event]]:
    """What a listing brings, many events at a time; what is gone is known at its end."""
    store.require()
    comparison = Comparison(committer.ledger, rule, prefix)
    held: list[Event] = []
    for piece in _pieces(store.list_all(prefix), done):
        with no_garbage_collection():
            held += [event for event in comparison.news(piece) if not hold(event.key)]
        meanwhile()
        if len(held) >= _MOST_HELD:
            yield held
            held = []
    store.require()
    if committer.ledger is not comparison.ledger:
        # Another writer came between, and the ledger was read anew: the listing knows less than it does.
        yield held
        return
    for event in comparison.gone():
        if not hold(event.key):
            held.append(event)
        if len(held) >= _MOST_HELD:
            yield held
            held = []
    yield held


def _pieces(found: Iterator[ObjectInfo], done: Pass) -> Iterator[list[ObjectInfo]]:
    while True:
        with no_garbage_collection():
            listed = list(islice(found, _PIECE))
            piece = [info for info in listed if is_object_key(info.key) or _noted(info.key, done)]
        done.listed += len(listed)
        yield piece
        if len(listed) < _PIECE:
            return


def _noted(key: str, done: Pass) -> bool:
    """False, after a word on names that are never opened."""
    if why := refused_because(key):
        done.refused += 1
        if done.refused <= _MOST_REFUSALS_SAID:
            log.warning("name refused", extra={"key": ascii(key)[:200], "why": why})
    return False
