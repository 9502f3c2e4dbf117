"""The service: it hears of the bucket, commits batch after batch, and starts the runs that become due."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import ray
from ray.exceptions import RayError

from dropmill.commands import Commands, work_on_quarantine
from dropmill.config import Config
from dropmill.http_api import HttpSide, check_binding, make_app
from dropmill.maintenance import maintain
from dropmill.metrics import Health, Metrics
from dropmill.page.behind import Page, make_page
from dropmill.sources import Sources, open_sources
from ingest.batch import Batch, Committer, Counts
from ingest.jobs import Jobs
from ingest.lease import lease_of
from ingest.micro_batch import micro_batch
from ingest.reconcile import reconcile
from ingest.set_findings import note_batch
from ingest.tasks import RayParser, start_ray
from ingest.triggers import Triggers
from storage.errors import ConfigError, JobError
from storage.lake import Lake

log = logging.getLogger(__name__)

_TICK_S = 0.05
_LOOK_AFTER_JOBS_S = 2.0
_LONGEST_PAUSE_S = 60.0
_STAND_BY_S = 1.0
_QUIET_S = 5.0
_SETTLED_S = 1.0
_BATCHES_WITHOUT_UPKEEP = 200
_MOST_FOLDERS = 8


class Service:
    """One service on one bucket. :meth:`run` returns when ``stop`` is set, after the batch in hand."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rule = config.rule()
        self._store = config.bucket_store()
        if self._store.is_directory and not self._store.root.is_dir():
            raise ConfigError(f"bucket {self._store.url} is no folder; make it, or correct `bucket:`")
        self.health = Health()
        self.metrics = Metrics()
        self._commands = Commands()
        self._sources: Sources = open_sources(config, self._store)
        self._http = self._http_side()
        self._lake = Lake.create(config.lake, config.lake_access.options())
        self._lease = lease_of(self._lake.store, config.lane)
        self._gathered = self._sources.gathered()
        self._relist: dict[str, float] = {}
        self._last_commit = time.monotonic()
        self._last_batch_s = 0.0
        self._batches_since_upkeep = 1
        self._changed_sets: set[str] = set()
        self._noted = False
        self._next_listing = 0.0
        self._next_look = 0.0
        self._active_runs = -1
        self._jobs_address: str | None = None

    def run(self, stop: threading.Event, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until ``stop`` is set. What fails is logged and tried again; nothing ends the service but
        ``stop``.
        """
        failures = 0
        committer: Committer | None = None
        triggers: Triggers | None = None
        started = False
        try:
            if self._http:
                self._http.start()
            while not stop.is_set():
                try:
                    if not self._lease.is_held():
                        committer = None
                        if not self._stand_by(stop):
                            break
                    if not started:
                        # Watching starts before the first listing: what arrives between the two is seen
                        # twice, never not at all.
                        self._sources.start()
                        started = True
                    if committer is None:
                        committer, triggers = self._connect(stop)
                        on_ready()
                        log.info("serving", extra={"bucket": self._store.url, "lake": self._lake.url})
                    self._step(committer, triggers, stop)
                    self.health.become("serving", self._sources.trouble())
                    failures = 0
                except Exception as error:
                    failures += 1
                    pause = min(2.0**failures / 2, _LONGEST_PAUSE_S)
                    log.exception("failed, trying again", extra={"failures": failures, "pause_s": pause})
                    self.health.become("failing", f"{type(error).__name__}: {error}"[:500])
                    self.metrics.failures.inc()
                    committer = None
                    if isinstance(error, RayError | ConnectionError | JobError) or failures % 5 == 0:
                        ray.shutdown()
                    stop.wait(pause)
                self.metrics.serving.set(self.health.state == "serving")
                stop.wait(_TICK_S)
        finally:
            self.health.become("stopping")
            if started:
                self._gathered.give_back("the service stops")
                self._sources.stop()
            if self._http:
                self._http.stop()
            self._lease.release()
            ray.shutdown()
            log.info("stopped")

    def _http_side(self) -> HttpSide | None:
        http = self._config.http
        if http.port is None:
            if self._sources.webhook is not None:
                raise ConfigError("sources.webhook: needs `http: {port: …}`, where notifications are posted")
            return None
        token = self._sources.token
        check_binding(http.host, token)
        app = make_app(
            self.health,
            self.metrics,
            self._commands,
            webhook=self._sources.webhook,
            token=token,
            max_body_bytes=http.max_body_bytes,
            page=self._page(token) if http.page else None,
            host=http.host,
            hosts=http.hosts,
        )
        return HttpSide(app, host=http.host, port=http.port)

    def _page(self, token: str | None) -> Page:
        config = self._config
        return make_page(
            config.lake,
            config.lake_access.options(),
            bucket=self._store.url,
            bucket_options=config.bucket_access.options(),
            cache=config.http.cache,
            cache_bytes=config.http.cache_mb * 1_000_000,
            thresholds=config.thresholds(),
            limits=config.quality.rules.selection().limits,
            health=self.health.as_json,
            commands=self._commands,
            token=token,
        )

    def _stand_by(self, stop: threading.Event) -> bool:
        """Wait until the lane is ours; False where the service is to stop before that."""
        said = False
        while not stop.is_set():
            if self._lease.take():
                self._next_listing = 0.0
                return True
            if not said:
                log.info("standing by", extra={"lane": self._config.lane, "holder": self._lease.holder()})
                said = True
            self.health.become("standby", f"lane {self._config.lane} is held by {self._lease.holder()}")
            stop.wait(_STAND_BY_S)
        return False

    def _connect(self, stop: threading.Event) -> tuple[Committer, Triggers | None]:
        config = self._config
        if not ray.is_initialized():
            self._jobs_address = start_ray(
                config.ray.address, num_cpus=config.ray.num_cpus, jobs=bool(config.pipelines)
            )
        parser = RayParser(
            self._store,
            self._rule,
            config.limits(),
            in_flight=config.ray.tasks_in_flight,
            cpus=config.ray.task_cpus,
            memory_bytes=config.ray.task_memory_bytes,
        )
        parser.warm()
        committer = Committer(
            self._lake, parser, rule=self._rule, settings=config.settings(), lane=config.lane
        )
        for batch in committer.unfinished():
            if not stop.is_set():
                began = time.monotonic()
                self._note(batch, committer.run(batch), len(self._gathered), time.monotonic() - began)
        if not config.pipelines:
            return committer, None
        if self._jobs_address is None:
            raise ConfigError(f"ray: the cluster at {config.ray.address} has no dashboard that takes jobs")
        jobs = Jobs(self._jobs_address, runtime_env=config.runtime_env())
        return committer, Triggers(
            self._lake,
            jobs,
            config.triggers(),
            thresholds=config.thresholds(),
            limits=config.quality.rules.selection().limits,
        )

    def _step(self, committer: Committer, triggers: Triggers | None, stop: threading.Event) -> None:
        """One turn: what was asked for, listing when it is due, a batch when it is time, runs when all is
        quiet.
        """
        before = self.metrics.last_batch
        self._obey(committer)
        self._list_what_is_due(committer, stop)
        self._micro_batch(committer)
        changed = self.metrics.last_batch != before
        self._measure(committer)
        if self._look_at_sets() or changed:
            changed = True
        if triggers:
            if changed:
                triggers.note_change()
            self._start_runs(triggers)
        self._keep_up(stop)

    def _obey(self, committer: Committer) -> None:
        while (command := self._commands.next()) is not None:
            log.info("asked for", extra={"action": command.action, "keys": len(command.keys)})
            if command.action == "list":
                self._relist[command.prefix] = time.monotonic()
                continue
            began = time.monotonic()
            for batch in work_on_quarantine(command, committer, self._store, self._rule):
                self._note(batch, Counts(), len(self._gathered), time.monotonic() - began)

    def _list_what_is_due(self, committer: Committer, stop: threading.Event) -> None:
        now = time.monotonic()
        for folder in self._sources.lost():
            # Its files may still be on their way.
            self._relist.setdefault(folder + "/" if folder else "", now + self._config.ingest.settle_s)
        if now >= self._next_listing:
            self._relist = {"": now}
        due = [prefix for prefix, at in self._relist.items() if at <= now]
        for prefix in due if len(due) <= _MOST_FOLDERS else [""]:
            self._list(committer, stop, prefix)
        for prefix in due:
            self._relist.pop(prefix, None)

    def _list(self, committer: Committer, stop: threading.Event, prefix: str) -> None:
        began = time.monotonic()
        batch_began = began

        def note(batch: Batch, counts: Counts, left: int) -> None:
            nonlocal batch_began
            self._note(batch, counts, left, time.monotonic() - batch_began)
            batch_began = time.monotonic()

        done = reconcile(
            self._store,
            committer,
            self._rule,
            prefix=prefix,
            batch_objects=self._config.ingest.batch_objects,
            on_batch=note,
            stopping=stop.is_set,
            hold=self._sources.is_moving,
            meanwhile=lambda: self._micro_batch(committer),
        )
        self.metrics.refused.inc(done.refused)
        if not prefix:
            self._next_listing = time.monotonic() + self._config.ingest.reconcile_s
            self.metrics.listed.set(done.listed)
            self.metrics.listing_seconds.set(time.monotonic() - began)
        if done.left:
            log.warning(
                "objects wait", extra={"objects": len(done.left), "first": next(iter(done.left.values()))}
            )
            self._next_listing = min(self._next_listing, time.monotonic() + _LONGEST_PAUSE_S)

    def _micro_batch(self, committer: Committer) -> None:
        # To wait for half as long as a batch takes makes batches larger where much arrives, and little later.
        done = micro_batch(
            self._gathered,
            committer,
            self._store,
            self._rule,
            limit=self._config.ingest.batch_objects,
            wait_s=min(self._config.ingest.batch_wait_s, self._last_batch_s / 2),
        )
        if done is None:
            return
        if done.batch is not None:
            self._last_batch_s = done.seconds
            self._note(done.batch, done.counts, len(self._gathered), done.seconds)
        for lag in done.lags_s:
            self.metrics.lag_seconds.observe(lag)

    def _note(self, batch: Batch, counts: Counts, left: int, seconds: float) -> None:
        self.metrics.note(batch, counts, seconds)
        self._last_commit = time.monotonic()
        self._batches_since_upkeep += 1
        datasets = sorted({event.dataset for event in batch.events})
        self._changed_sets.update(datasets)
        log.info(
            "batch done",
            extra={
                "batch": batch.number,
                "lane": batch.lane,
                "events": len(batch.events),
                "datasets": datasets[:20],
                **vars(counts),
                "seconds": round(seconds, 3),
                "left": left,
            },
        )

    def _measure(self, committer: Committer) -> None:
        self.metrics.hints.set(self._gathered.taken)
        self.metrics.oldest.set(self._gathered.oldest_s())
        self.metrics.quarantined.set(committer.ledger.quarantined_count)
        for source, pending in {**self._gathered.pending(), "gathered": len(self._gathered)}.items():
            self.metrics.queue_depth.labels(source).set(pending)

    def _look_at_sets(self) -> bool:
        """Findings about the data sets that batches changed, once nothing comes for a moment."""
        due = self._changed_sets or not self._noted
        if not due or self._busy() or time.monotonic() - self._last_commit < _SETTLED_S:
            return False
        quality = self._config.quality
        noted = note_batch(
            self._lake,
            self._config.suites(),
            rules=quality.rules.selection(),
            # At the start it is not known what a service before this one left to do.
            datasets=self._changed_sets if self._noted else None,
            lane=self._config.lane,
        )
        self._changed_sets, self._noted = set(), True
        return noted

    def _start_runs(self, triggers: Triggers) -> None:
        now = time.monotonic()
        # Also where none is active: people start and retry runs by hand, in the table.
        if now >= self._next_look:
            self._next_look = now + _LOOK_AFTER_JOBS_S
            before, self._active_runs = self._active_runs, triggers.look_after()
            if self._active_runs < before:
                triggers.note_change()
        if not self._busy() and not self._changed_sets and triggers.fire(now - self._last_commit):
            self._next_look = now + _LOOK_AFTER_JOBS_S
            self._active_runs = max(self._active_runs, 0) + 1

    def _keep_up(self, stop: threading.Event) -> None:
        """Compact when it is quiet, or when there was no quiet for long."""
        quiet = not self._busy() and time.monotonic() - self._last_commit > _QUIET_S
        if self._batches_since_upkeep and (quiet or self._batches_since_upkeep >= _BATCHES_WITHOUT_UPKEEP):
            self._batches_since_upkeep = 0
            maintain(self._lake, stopping=lambda: stop.is_set() or (quiet and self._busy()))

    def _busy(self) -> bool:
        return bool(len(self._gathered) or any(self._gathered.pending().values()))
