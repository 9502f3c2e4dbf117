"""One pass over a bucket: list it, compare with the ledger, run what is new."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ingest.batch import Batch, Committer, Counts
from ingest.events import DatasetRule, Event
from storage.object_store import ObjectStore

_ROUNDS = 3


@dataclass(kw_only=True)
class Pass:
    """What one pass did."""

    batches: int = 0
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0


def reconcile(
    store: ObjectStore,
    committer: Committer,
    rule: DatasetRule,
    *,
    batch_objects: int = 2_000,
    on_plan: Callable[[int], None] = lambda _events: None,
    on_batch: Callable[[Batch, Counts, int], None] = lambda _batch, _counts, _left: None,
    stopping: Callable[[], bool] = lambda: False,
    hold: Callable[[str], bool] = lambda _key: False,
) -> Pass:
    """Finish what was left unfinished, then bring the lake up to date with the bucket.

    Objects that change while they are read are listed again, a few times; the next pass takes what still
    moves. Keys that ``hold`` names are left for later. ``on_plan`` hears how many events a listing gave,
    ``on_batch`` of each batch and of the number of events left; ``stopping`` ends the pass between two
    batches.
    """
    began = time.monotonic()
    done = Pass()
    for batch in committer.unfinished():
        _count(done, committer.run(batch), batch, 0, on_batch)
    for _ in range(_ROUNDS):
        events = [event for event in committer.ledger.news(store.list(), rule) if not hold(event.key)]
        if not events or stopping():
            break
        on_plan(len(events))
        left = len(events)
        for chunk in cut(events, batch_objects):
            if stopping():
                break
            batch = committer.plan(chunk)
            left -= len(chunk)
            _count(done, committer.run(batch), batch, left, on_batch)
    done.seconds = time.monotonic() - began
    return done


def cut(events: Sequence[Event], batch_objects: int) -> list[list[Event]]:
    """Cut events into batches of at most ``batch_objects``."""
    return [list(events[i : i + batch_objects]) for i in range(0, len(events), batch_objects)]


def _count(
    done: Pass, counts: Counts, batch: Batch, left: int, on_batch: Callable[[Batch, Counts, int], None]
) -> None:
    done.batches += 1
    done.counts = done.counts + counts
    on_batch(batch, counts, left)
