"""What the service counts, in Prometheus' words, and how it is."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ingest.batch import Batch, Counts

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LAG = (0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 3600)


@dataclass
class Health:
    """How the service is; written by its loop, read by its HTTP side."""

    state: str = "starting"  # starting, standby, serving, failing, stopping
    reason: str = ""
    since: float = field(default_factory=time.time)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def become(self, state: str, reason: str = "") -> None:
        """Say how it is now."""
        with self._lock:
            if state != self.state:
                self.since = time.time()
            self.state, self.reason = state, reason

    def as_json(self) -> dict[str, object]:
        """What ``/healthz`` and ``/readyz`` answer."""
        with self._lock:
            return {"state": self.state, "reason": self.reason, "for_s": round(time.time() - self.since, 1)}


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.last_batch = 0
        """Batches that were counted."""
        made: Any = {"registry": self._registry, "namespace": "dropmill"}
        self.hints = Gauge("hints_taken", "Hints that sources gave", **made)
        self.events = Counter("events", "Objects put or removed, committed", ["action"], **made)
        self.batches = Counter("batches", "Batches committed", **made)
        self.batch_seconds = Histogram("batch_seconds", "From plan to commit", buckets=_SECONDS, **made)
        self.lag_seconds = Histogram("lag_seconds", "From hint to commit, of objects", buckets=_LAG, **made)
        self.oldest = Gauge("oldest_waiting_seconds", "Age of the oldest hint that is not committed", **made)
        self.queue_depth = Gauge("queue_depth", "Hints that wait", ["source"], **made)
        self.quarantined = Gauge("quarantine_objects", "Objects in quarantine", **made)
        self.quarantine_events = Counter("quarantined", "Objects that were quarantined", **made)
        self.failures = Counter("failures", "Turns of the service that failed", **made)
        self.listing_seconds = Gauge("listing_seconds", "How long the last listing took", **made)
        self.listed = Gauge("listed_objects", "Objects that the last listing of the bucket found", **made)
        self.refused = Counter("refused_names", "Names in listings that are never opened", **made)
        self.serving = Gauge("serving", "1 where this service has the lane and works", **made)

    def note(self, batch: Batch, counts: Counts, seconds: float) -> None:
        """Count a batch."""
        self.last_batch += 1
        self.batches.inc()
        self.batch_seconds.observe(seconds)
        self.quarantine_events.inc(counts.quarantined)
        for event in batch.events:
            self.events.labels(event.action).inc()

    def text(self) -> bytes:
        """What ``/metrics`` answers."""
        found: bytes = generate_latest(self._registry)
        return found
