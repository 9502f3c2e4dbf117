"""The batch protocol: planned before any work, every table committed once, the ledger last.

Killing the process anywhere leaves a planned batch that is run again; tables that have it are skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ingest.derive import Derived, Settings, derive, touched_by
from ingest.events import DatasetRule, Event
from ingest.ledger import Entry, Ledger
from ingest.parse import Outcome, Parsed
from storage import schemas
from storage.errors import CommitConflictError
from storage.lake import Lake, LaneCommit
from storage.memory import no_garbage_collection

log = logging.getLogger(__name__)

LANE = "main"
_CONFLICT_TRIES = 5
_TABLES_AT_ONCE = 3
_MOST_FAILURES = 3
_LEFT = ("superseded", "unread")
_ENDED = {"remove": "removed", "drop": "dropped"}
_REPLACED = ("labels", "images", "annotations", "findings", "categories", "mentions")

Parse = Callable[[Sequence[Event]], Parsed]
"""Reads and parses put events; in the service this spreads Ray tasks."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a batch brought: objects landed, rows delivered, and how many derived rows there are more than
    before.
    """

    images: int = 0
    labels: int = 0
    annotations: int = 0
    findings: int = 0
    quarantined: int = 0
    removed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Events that are worked on and committed together."""

    number: int
    events: tuple[Event, ...]
    planned_at: datetime
    lane: str = LANE

    @cached_property
    def events_value(self) -> pa.Array:
        """All events as the one value of a row of ``batches``."""
        values = _columns(self.events, Event)
        columns = [pa.array(values[f.name], f.type) for f in schemas.EVENT]
        structs = pa.StructArray.from_arrays(columns, fields=list(schemas.EVENT))
        return pa.ListArray.from_arrays(pa.array([0, len(self.events)], pa.int32()), structs)


class Committer:
    """The one committer of a lane: it plans batches and runs them, one after the other."""

    def __init__(
        self,
        lake: Lake,
        parse: Parse,
        *,
        rule: DatasetRule,
        settings: Settings | None = None,
        lane: str = LANE,
    ) -> None:
        self._lake = lake
        self._parse = parse
        self._rule = rule
        self._settings = settings or Settings()
        self._lane = lane
        self.ledger = Ledger.of(lake, lane)
        self.left: dict[str, str] = {}
        """Keys of the last batch that were not worked on, with the reason; they are to be looked at again."""
        self._failures: dict[str, int] = {}
        self._handles = lake.handles()

    def unfinished(self) -> list[Batch]:
        """Batches that were planned and not done, from a process that was killed; oldest first."""
        where = (pc.field("lane") == self._lane) & (pc.field("state") == "planned")
        rows = self._lake.read("batches", where=where).to_pylist()
        return [_batch_of(row) for row in sorted(rows, key=lambda row: row["number"])]

    @no_garbage_collection()
    def plan(self, events: Sequence[Event]) -> Batch:
        """Write a batch down before its work begins."""
        with self._in_doubt_anew():
            self._handles.refresh("batches")
            number = LaneCommit(self._lake, self._lane, 0, self._handles).planned() + 1
            batch = Batch(number=number, events=tuple(events), planned_at=datetime.now(UTC), lane=self._lane)
            LaneCommit(self._lake, self._lane, number, self._handles).plan(_row(batch, None, None))
        return batch

    @no_garbage_collection()
    def run(self, batch: Batch) -> Counts:
        """Do a batch's work and commit it; again from what it has read, where another writer came between."""

        @cache
        def parsed() -> Parsed:
            return self._weighed(self._parse([event for event in batch.events if event.action == "put"]))

        for attempt in range(1, _CONFLICT_TRIES + 1):
            try:
                with self._in_doubt_anew():
                    return self._run(batch, parsed)
            except CommitConflictError as error:
                if attempt == _CONFLICT_TRIES:
                    raise
                log.warning("batch=%d attempt=%d conflict=%s", batch.number, attempt, error)
                self.ledger = Ledger.of(self._lake, self._lane)
        raise AssertionError("unreachable")

    @contextmanager
    def _in_doubt_anew(self) -> Iterator[None]:
        """Open the tables anew after whatever went wrong: a commit may have been made all the same."""
        try:
            yield
        except BaseException:
            self._handles.forget()
            raise

    def _run(self, batch: Batch, parse: Callable[[], Parsed]) -> Counts:
        commit = LaneCommit(self._lake, batch.lane, batch.number, self._handles)
        commit.look("batches", "objects", *_REPLACED)
        if commit.has("batches"):
            return Counts()
        if commit.has("objects"):
            counts = _counts_of_objects(commit)
            commit.finish(_row(batch, datetime.now(UTC), counts))
            return counts
        # An attempt before this one may have written rows of what cannot be read at that version any more.
        again = any(commit.has(name) for name in _REPLACED)
        parsed = parse()
        self.left = {o.event.key: o.error or o.state for o in parsed.outcomes if o.state in _LEFT}
        events = [event for event in batch.events if event.key not in self.left]
        removed = [event for event in events if event.action in ("remove", "drop")]
        touched = touched_by(commit, parsed, events)
        with ThreadPoolExecutor(_TABLES_AT_ONCE) as pool:
            # Labels are what they are, however they are derived from.
            labels = commit.prepare(
                pool,
                "labels",
                _numbered(commit, "labels", parsed.labels),
                ("source", touched.sources),
                ("stem", touched.stems),
            )
            derived = derive(
                commit,
                parsed,
                events,
                touched,
                ledger=self.ledger,
                rule=self._rule,
                settings=self._settings,
            )
            before = {name: _stored_rows(commit, name, derived) for name in ("annotations", "findings")}
            self._commit_tables(commit, pool, labels, parsed, derived)
        ended = _ended(parsed.outcomes, removed, again=again)
        columns = _columns(ended, Outcome)
        columns |= _columns(columns["event"], Event)
        commit.append("objects", _objects(batch, columns))
        counts = Counts(
            images=parsed.images.num_rows,
            labels=parsed.labels.num_rows,
            annotations=derived.annotations.num_rows - before["annotations"],
            findings=derived.findings.num_rows - before["findings"],
            quarantined=sum(outcome.state == "quarantined" for outcome in parsed.outcomes),
            removed=sum(event.action == "remove" for event in removed),
        )
        commit.finish(_row(batch, datetime.now(UTC), counts))
        entries = map(Entry._make, zip(*(columns[name] for name in Entry._fields), strict=True))
        self.ledger.record(dict(zip(columns["key"], entries, strict=True)))
        return counts

    def _weighed(self, parsed: Parsed) -> Parsed:
        """Quarantine what could not be read several times although the store answers; the rest has time."""
        outcomes = []
        for outcome in parsed.outcomes:
            key = outcome.event.key
            if outcome.state != "unread":
                self._failures.pop(key, None)
            elif outcome.blame:
                self._failures[key] = self._failures.get(key, 0) + 1
                if self._failures[key] >= _MOST_FAILURES:
                    del self._failures[key]
                    outcome = outcome._replace(state="quarantined")  # noqa: PLW2901
            outcomes.append(outcome)
        return replace(parsed, outcomes=tuple(outcomes))

    @staticmethod
    def _commit_tables(
        commit: LaneCommit, pool: Executor, labels: Callable[[], None], parsed: Parsed, derived: Derived
    ) -> None:
        """Write the files of all tables side by side, and commit them one after the other."""
        sources, stems = ("source", derived.sources), ("stem", derived.stems)
        # What is looked up to find the groups that a batch touches goes last: a batch that is run again finds
        # them as the first attempt did, also those of which a new label file says nothing any more.
        replacements = [
            labels,
            commit.prepare(pool, "annotations", derived.annotations, stems),
            commit.prepare(pool, "findings", derived.findings, stems),
            commit.prepare(pool, "images", derived.images, stems),
            commit.prepare(pool, "categories", _numbered(commit, "categories", parsed.categories), sources),
            commit.prepare(pool, "mentions", _numbered(commit, "mentions", parsed.mentions), sources),
        ]
        for replace_rows in replacements:
            replace_rows()


def _numbered(commit: LaneCommit, name: str, rows: pa.Table) -> pa.Table:
    number = pa.repeat(pa.scalar(commit.number, pa.int64()), rows.num_rows)
    return rows.append_column(schemas.TABLES[name].field("batch"), number)


def _stored_rows(commit: LaneCommit, name: str, derived: Derived) -> int:
    """Rows of the groups before this batch; what an attempt that was cut short left does not count."""
    rows = commit.read(name, columns=["batch"], among=[("stem", derived.stems)])
    return int(pc.sum(pc.not_equal(rows["batch"], commit.number)).as_py() or 0)


def _counts_of_objects(commit: LaneCommit) -> Counts:
    """Counts of a batch of which only the last mark is missing."""
    rows = commit.read(
        "objects",
        columns=["kind", "state"],
        where=(pc.field("lane") == commit.lane) & (pc.field("batch") == commit.number),
    ).to_pylist()
    mine = pc.field("batch") == commit.number
    return Counts(
        images=sum(row["kind"] == "image" and row["state"] == "done" for row in rows),
        labels=commit.read("labels", columns=["batch"], where=mine).num_rows,
        annotations=commit.read("annotations", columns=["batch"], where=mine).num_rows,
        findings=commit.read("findings", columns=["batch"], where=mine).num_rows,
        quarantined=sum(row["state"] == "quarantined" for row in rows),
        removed=sum(row["state"] == "removed" for row in rows),
    )


def _ended(outcomes: Sequence[Outcome], removed: Sequence[Event], *, again: bool) -> list[Outcome]:
    """What goes onto the ledger. What an earlier attempt may have left rows of is on it as superseded, so
    that whoever looks at the bucket finds the difference.
    """
    ended = [outcome for outcome in outcomes if outcome.state not in _LEFT]
    ended += [Outcome(event=event, state=_ENDED[event.action]) for event in removed]
    if again:
        ended += [outcome._replace(state="superseded") for outcome in outcomes if outcome.state in _LEFT]
    return ended


def _objects(batch: Batch, ended: Mapping[str, Sequence[Any]]) -> pa.Table:
    """The rows of the ledger, of the columns of events and their outcomes."""
    always = {"lane": batch.lane, "batch": batch.number, "seen_at": datetime.now(UTC)}
    return pa.table(
        [
            pa.repeat(pa.scalar(always[f.name], f.type), len(ended["key"]))
            if f.name in always
            else pa.array(ended[f.name], f.type)
            for f in schemas.OBJECTS
        ],
        schema=schemas.OBJECTS,
    )


def _columns(rows: Sequence[tuple[Any, ...]], kind: type[Event | Outcome]) -> dict[str, Sequence[Any]]:
    """Named tuples of one kind by their fields."""
    return dict(zip(kind._fields, zip(*rows, strict=True) if rows else repeat(()), strict=False))


def _row(batch: Batch, done_at: datetime | None, counts: Counts | None) -> pa.Table:
    row = {
        "lane": batch.lane,
        "number": batch.number,
        "state": "planned" if done_at is None else "done",
        "events": batch.events_value,
        "planned_at": batch.planned_at,
        "done_at": done_at,
        **(vars(counts) if counts else {}),
    }
    return pa.table(
        [row[f.name] if f.name == "events" else pa.array([row.get(f.name)], f.type) for f in schemas.BATCHES],
        schema=schemas.BATCHES,
    )


def _batch_of(row: dict[str, object]) -> Batch:
    events = row["events"]
    number, planned_at, lane = row["number"], row["planned_at"], row["lane"]
    assert isinstance(events, list)
    assert isinstance(number, int)
    assert isinstance(planned_at, datetime)
    return Batch(
        number=number, events=tuple(Event(**event) for event in events), planned_at=planned_at, lane=str(lane)
    )
