"""The service: it watches the bucket, commits batch after batch, and starts the runs that become due."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import ray

from dropmill.config import Config
from ingest.batch import Batch, Committer, Counts
from ingest.jobs import Jobs
from ingest.reconcile import reconcile
from ingest.tasks import RayParser, start_ray
from ingest.triggers import Triggers
from ingest.watch import DirectoryWatch
from storage.errors import ConfigError
from storage.lake import Lake
from storage.object_store import ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

_TICK_S = 0.1
_LOOK_AFTER_JOBS_S = 5.0
_LONGEST_PAUSE_S = 60.0


class Service:
    """One service on one bucket. :meth:`run` returns when ``stop`` is set, after the batch in hand."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rule = config.rule()
        self._store = ObjectStore.at(config.bucket)
        if self._store.is_directory and not self._store.root.is_dir():
            raise ConfigError(f"bucket {self._store.url} is no folder; make it, or correct `bucket:`")
        self._lake = Lake.create(config.lake)
        self._watch = (
            DirectoryWatch(self._store, settle_s=config.ingest.settle_s) if self._store.is_directory else None
        )
        self._found: dict[str, ObjectInfo] = {}
        self._gone: set[str] = set()
        self._first_found = 0.0
        self._last_commit = time.monotonic()
        self._next_listing = 0.0
        self._next_look = 0.0
        self._active_runs = -1

    def run(self, stop: threading.Event, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until ``stop`` is set. What fails is logged and tried again; nothing ends the service but
        ``stop``.
        """
        if self._watch:
            # Watching starts before the first listing: what arrives between the two is seen twice, never
            # not at all.
            self._watch.start()
        failures = 0
        committer: Committer | None = None
        triggers: Triggers | None = None
        try:
            while not stop.is_set():
                try:
                    if committer is None:
                        committer, triggers = self._connect()
                        on_ready()
                        log.info("serving", extra={"bucket": self._store.url, "lake": self._lake.url})
                    self._step(committer, triggers, stop)
                    failures = 0
                except Exception:
                    failures += 1
                    pause = min(2.0**failures, _LONGEST_PAUSE_S)
                    log.exception("failed, trying again", extra={"failures": failures, "pause_s": pause})
                    committer = None
                    self._next_listing = 0.0
                    ray.shutdown()
                    stop.wait(pause)
                stop.wait(_TICK_S)
        finally:
            if self._watch:
                self._watch.stop()
            ray.shutdown()
            log.info("stopped")

    def _connect(self) -> tuple[Committer, Triggers | None]:
        config = self._config
        address = start_ray(config.ray.address, num_cpus=config.ray.num_cpus, jobs=bool(config.pipelines))
        committer = Committer(
            self._lake,
            RayParser(self._store, self._rule, config.limits()),
            rule=self._rule,
            settings=config.settings(),
        )
        if not config.pipelines:
            return committer, None
        if address is None:
            raise ConfigError(f"ray: the cluster at {config.ray.address} has no dashboard that takes jobs")
        triggers = Triggers(
            self._lake,
            Jobs(address),
            config.triggers(),
            thresholds=config.thresholds(),
            limits=config.quality.rules.selection().limits,
        )
        return committer, triggers

    def _step(self, committer: Committer, triggers: Triggers | None, stop: threading.Event) -> None:
        """One turn: listing when it is due, a batch when it is full or old enough, runs when all is quiet."""
        changed = False
        if self._watch and self._watch.needs_listing():
            self._next_listing = min(self._next_listing, time.monotonic() + self._config.ingest.settle_s)
        if time.monotonic() >= self._next_listing:
            changed = self._list(committer, stop)
        changed = self._micro_batch(committer) or changed
        if changed:
            self._last_commit = time.monotonic()
        if triggers:
            if changed:
                triggers.note_change()
            self._start_runs(triggers)

    def _list(self, committer: Committer, stop: threading.Event) -> bool:
        done = reconcile(
            self._store,
            committer,
            self._rule,
            batch_objects=self._config.ingest.batch_objects,
            on_batch=_log_batch,
            stopping=stop.is_set,
            hold=self._watch.is_moving if self._watch else lambda _key: False,
        )
        self._next_listing = time.monotonic() + self._config.ingest.reconcile_s
        return done.batches > 0

    def _micro_batch(self, committer: Committer) -> bool:
        """Gather what has come to rest; commit it when the batch is full or its time is up."""
        if self._watch is None:
            return False
        limit = self._config.ingest.batch_objects
        present, absent = self._watch.take(limit - len(self._found) - len(self._gone))
        for info in present:
            self._found[info.key] = info
            self._gone.discard(info.key)
        for key in absent:
            self._found.pop(key, None)
            if (entry := committer.ledger.get(key)) and entry.state != "removed":
                self._gone.add(key)
        gathered = len(self._found) + len(self._gone)
        if not gathered:
            self._first_found = time.monotonic()
            return False
        if gathered < limit and time.monotonic() - self._first_found < self._config.ingest.batch_wait_s:
            return False
        events = committer.ledger.news(self._found.values(), self._rule, complete=False)
        events += [committer.ledger.remove_event(key) for key in sorted(self._gone)]
        if events:
            batch = committer.plan(events)
            _log_batch(batch, committer.run(batch), self._watch.pending())
        # Only what has been committed is forgotten.
        self._found.clear()
        self._gone.clear()
        return bool(events)

    def _start_runs(self, triggers: Triggers) -> None:
        now = time.monotonic()
        if self._active_runs != 0 and now >= self._next_look:
            self._next_look = now + _LOOK_AFTER_JOBS_S
            before, self._active_runs = self._active_runs, triggers.look_after()
            if self._active_runs < before:
                triggers.note_change()
        busy = self._found or self._gone or (self._watch and self._watch.pending())
        if not busy and triggers.fire(now - self._last_commit):
            self._active_runs = max(self._active_runs, 0) + 1


def _log_batch(batch: Batch, counts: Counts, left: int) -> None:
    log.info(
        "batch done", extra={"batch": batch.number, "events": len(batch.events), **vars(counts), "left": left}
    )
