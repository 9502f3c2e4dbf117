"""A batch of what sources tell of: looked at, planned, run, and only then acknowledged."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ingest.batch import Batch, Committer, Counts
from ingest.events import DatasetRule
from ingest.reconcile import changes_of, look
from ingest.sources.gathered import Gathered
from storage.object_store import ObjectStore


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What was done; without a batch the hints held nothing new."""

    batch: Batch | None = None
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    lags_s: tuple[float, ...] = ()
    """From hint to commit, of every key that is done."""


def micro_batch(
    gathered: Gathered,
    committer: Committer,
    store: ObjectStore,
    rule: DatasetRule,
    *,
    limit: int = 2_000,
    wait_s: float = 0.0,
) -> MicroBatch | None:
    """Gather hints; run them as a batch when there are ``limit`` of them or the oldest has waited ``wait_s``.

    Returns None where it is not yet time. What raises acknowledges nothing: the hints wait for the next turn.
    """
    gathered.gather(2 * limit)
    due = gathered.due(limit)
    if not due or (len(due) < limit and time.monotonic() - min(w.since for w in due.values()) < wait_s):
        return None
    found = [(key, waiting.info) for key, waiting in due.items() if waiting.looked]
    found += look(store, (key for key, waiting in due.items() if not waiting.looked))
    events = changes_of(committer, rule, found)
    if not events:
        return MicroBatch(lags_s=tuple(gathered.done(due, {})))
    began = time.monotonic()
    batch = committer.plan(events)
    counts = committer.run(batch)
    seconds = time.monotonic() - began
    lags = gathered.done(due, committer.left)
    return MicroBatch(batch=batch, counts=counts, seconds=seconds, lags_s=tuple(lags))
