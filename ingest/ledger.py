"""The ledger: what was last done with every key, in columns, so that millions of keys fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from ingest.events import DatasetRule, Event, work_order
from storage.lake import Lake
from storage.object_store import ObjectInfo

_FOLD_AT = 100_000
_SEED = 7
# States of a key of which nothing is in the tables, or not what was planned: being there is news.
_NOT_THERE = ("removed", "superseded")


class Entry(NamedTuple):
    """What the ledger knows of a key: the newest version that was worked on, and how that ended."""

    version: str
    state: str
    dataset: str
    error: str | None = None


class Columns:
    """Entries as Arrow columns, in the order of the keys' hashes."""

    def __init__(self, rows: pl.DataFrame) -> None:
        """``rows`` have a row for each key, and no two keys of one hash."""
        hashes = rows["key"].hash(seed=_SEED).to_numpy()
        order = np.argsort(hashes)
        self._hashes: npt.NDArray[np.uint64] = hashes[order]
        rows = rows[order]
        self.keys = rows["key"].to_arrow().cast(pa.large_string())
        self.versions = rows["version"].to_arrow().cast(pa.large_string())
        self._states = rows["state"].cast(pl.Categorical).to_arrow()
        self._datasets = rows["dataset"].cast(pl.Categorical).to_arrow()
        self.there: npt.NDArray[np.bool_] = (~rows["state"].is_in(list(_NOT_THERE))).to_numpy()
        self.removed: npt.NDArray[np.bool_] = (rows["state"] == "removed").to_numpy()

    def places(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """Where keys stand; -1 where they do not."""
        if not len(self.keys) or not keys:
            return np.full(len(keys), -1)
        hashes = pl.Series(keys, dtype=pl.String).hash(seed=_SEED).to_numpy()
        places = np.searchsorted(self._hashes, hashes)
        places[places == len(self._hashes)] = 0
        found = self._hashes[places] == hashes
        equal = pc.equal(self.keys.take(pa.array(places)), pa.array(keys, pa.large_string()))
        return np.where(found & equal.to_numpy(zero_copy_only=False), places, -1)

    def entry(self, place: int) -> Entry:
        """One entry; its error is not among the columns."""
        return Entry(
            self.versions[place].as_py(), self._states[place].as_py(), self._datasets[place].as_py(), None
        )

    def of_dataset(self, name: str) -> npt.NDArray[np.bool_]:
        """Which entries are of a data set."""
        return pc.equal(self._datasets.cast(pa.large_string()), name).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]

    def frame(self) -> pl.DataFrame:
        """All entries."""
        return pl.DataFrame(
            {
                "key": self.keys,
                "version": self.versions,
                "state": self._states.cast(pa.large_string()),
                "dataset": self._datasets.cast(pa.large_string()),
                "error": pa.nulls(len(self.keys), pa.large_string()),
            }
        )


class Ledger:
    """Key to what was last done with it, as the table ``objects`` says.

    Nearly all of it is columns; what changed since they were built lies in a dictionary above them.
    """

    def __init__(self, entries: dict[str, Entry] | None = None) -> None:
        self.recent: dict[str, Entry] = {}
        self._quarantined: dict[str, Entry] = {}
        self._build(_frame(entries or {}))

    @classmethod
    def of(cls, lake: Lake, lane: str = "main") -> Ledger:
        """Read the ledger of a lane from the lake."""
        rows = pl.from_arrow(
            lake.read(
                "objects",
                columns=["key", "version", "state", "dataset", "error", "batch"],
                where=pc.field("lane") == lane,
            )
        )
        assert isinstance(rows, pl.DataFrame)
        ledger = cls()
        if rows.is_empty():
            return ledger
        ledger._build(rows.sort("batch", maintain_order=True).unique("key", keep="last").drop("batch"))
        return ledger

    def get(self, key: str) -> Entry | None:
        """What is known of a key."""
        if (entry := self.recent.get(key) or self._quarantined.get(key)) is not None:
            return entry
        place = int(self.columns.places([key])[0])
        return None if place < 0 else self.columns.entry(place)

    def record(self, entries: Mapping[str, Entry]) -> None:
        """Note what was done with keys."""
        self.recent.update(entries)
        if self._quarantined:
            self._quarantined = {k: entry for k, entry in self._quarantined.items() if k not in entries}
        self._quarantined |= {k: entry for k, entry in entries.items() if entry.state == "quarantined"}

    def quarantined(self) -> Iterator[tuple[str, Entry]]:
        """All keys whose newest version could not be read."""
        return iter(sorted(self._quarantined.items()))

    @property
    def quarantined_count(self) -> int:
        """How many those are."""
        return len(self._quarantined)

    def news(self, found: Iterable[ObjectInfo], rule: DatasetRule, *, complete: bool = True) -> list[Event]:
        """The events that lead from the ledger to what was ``found``, in the order in which they are best
        worked on.

        With ``complete`` (a listing of the whole bucket), keys that were not found have been removed.
        """
        comparison = Comparison(self, rule)
        events = comparison.news(list(found))
        if complete:
            events.extend(comparison.gone())
        return sorted(events, key=work_order)

    def put_event(self, info: ObjectInfo, rule: DatasetRule) -> Event:
        """The event of an object that is there."""
        dataset, _ = rule.of(info.key)
        return Event(
            action="put", key=info.key, version=info.version, size_bytes=info.size_bytes, dataset=dataset
        )

    def remove_event(self, key: str) -> Event:
        """The event of an object that is gone."""
        entry = self.get(key)
        assert entry is not None
        return Event(action="remove", key=key, version=entry.version, size_bytes=0, dataset=entry.dataset)

    def fold(self) -> None:
        """Bring what changed into the columns, where that has become much."""
        if len(self.recent) >= _FOLD_AT:
            changed = _frame({**self._quarantined, **self.recent})
            self._build(pl.concat([self.columns.frame().join(changed, on="key", how="anti"), changed]))

    def _build(self, rows: pl.DataFrame) -> None:
        # Two keys of one hash, once in a few hundred thousand lakes of a million keys, stay apart.
        twice = rows["key"].hash(seed=_SEED).is_duplicated()
        self.recent = _entries(rows.filter(twice))
        self._quarantined = _entries(rows.filter(pl.col("state") == "quarantined"))
        self.columns = Columns(rows.filter(~twice))


class Comparison:
    """A listing, piece by piece, beside the ledger.

    What is recorded while it runs is newer than the listing, which says nothing of it.
    """

    def __init__(self, ledger: Ledger, rule: DatasetRule, prefix: str = "") -> None:
        ledger.fold()
        self.ledger = ledger
        self._rule = rule
        self._prefix = prefix
        self._seen = np.zeros(len(ledger.columns.keys), bool)
        self._before = dict(ledger.recent)
        self._seen_recent: set[str] = set()

    def news(self, found: Sequence[ObjectInfo]) -> list[Event]:
        """The events of the objects of one piece of a listing that are new or changed."""
        columns, recent = self.ledger.columns, self.ledger.recent
        places = columns.places([info.key for info in found])
        known = np.flatnonzero(places >= 0).tolist()
        at = places[known]
        self._seen[at] = True
        same = np.zeros(len(found), bool)
        if len(at):
            versions = pa.array([found[index].version for index in known], pa.large_string())
            equal = pc.equal(columns.versions.take(pa.array(at)), versions)
            same[known] = equal.to_numpy(zero_copy_only=False) & columns.there[at]
        if recent:
            for index, info in enumerate(found):
                entry = recent.get(info.key)
                if entry is not None:
                    same[index] = entry.state not in _NOT_THERE and entry.version == info.version
                    self._seen_recent.add(info.key)
        return [self.ledger.put_event(found[index], self._rule) for index in np.flatnonzero(~same).tolist()]

    def gone(self) -> Iterator[Event]:
        """After the whole listing: the events of what is not there any more."""
        columns, recent = self.ledger.columns, self.ledger.recent
        missing = columns.keys.filter(pa.array(~self._seen & ~columns.removed & self._ours()))
        for key in missing.filter(pc.starts_with(missing, self._prefix)):
            if key.as_py() not in recent:
                yield self.ledger.remove_event(key.as_py())
        for key, entry in self._before.items():
            untouched = recent.get(key) == entry and key not in self._seen_recent
            ours = self._rule.name in (None, entry.dataset) and key.startswith(self._prefix)
            if untouched and ours and entry.state != "removed":
                yield self.ledger.remove_event(key)

    def _ours(self) -> npt.NDArray[np.bool_]:
        """What this bucket could hold: a bucket that is one data set says nothing of the others."""
        columns = self.ledger.columns
        if self._rule.name is None:
            return np.ones(len(columns.keys), bool)
        return columns.of_dataset(self._rule.name)


def _frame(entries: dict[str, Entry]) -> pl.DataFrame:
    columns: dict[str, list[str | None]] = {"key": list(entries)}
    for index, name in enumerate(Entry._fields):
        columns[name] = [entry[index] for entry in entries.values()]
    return pl.DataFrame(columns, schema=dict.fromkeys(("key", *Entry._fields), pl.String))


def _entries(rows: pl.DataFrame) -> dict[str, Entry]:
    columns = (rows[name].to_list() for name in Entry._fields)
    return dict(zip(rows["key"].to_list(), map(Entry._make, zip(*columns, strict=True)), strict=True))
