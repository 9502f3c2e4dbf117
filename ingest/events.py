"""Events, and the ledger that tells which of them are news."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

import polars as pl

from storage.lake import Lake
from storage.object_store import ObjectInfo
from transforms.delivery import stem_of, without_extension

# First-level folders that name a role or a split rather than a data set: with these the bucket is one data
# set.
_INNER_FOLDER = re.compile(
    r"((images?|imgs?|pictures|labels?|annotations?|anns?|data)([-_. ].*|\d*)"
    r"|jpegimages|pngimages|imagesets|segmentation(class|object)|xmls?|txts?|masks?|calib"
    r"|(image|label)_\d+|train(ing|val)?\d*|val(id|idation)?\d*|test(ing)?\d*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Event:
    """An object that was put or removed, at the version that is to be worked on."""

    action: Literal["put", "remove"]
    key: str
    version: str
    size_bytes: int
    dataset: str


@dataclass(frozen=True, kw_only=True)
class DatasetRule:
    """Which data set a key belongs to.

    With ``name`` the whole bucket is that data set. With ``prefixes`` (data set to prefix) the longest that
    fits decides. Else it is the first-level folder, unless that folder only names a role (``images``,
    ``Annotations``, ``image_2``) or a split (``train``), or the object lies at the top: then the data set
    is called like the bucket.
    """

    bucket: str
    name: str | None = None
    prefixes: Mapping[str, str] = field(default_factory=dict)

    def of(self, key: str) -> tuple[str, str]:
        """The data set of a key, and the part of the key that leads to it."""
        if self.name is not None:
            return self.name, ""
        fitting = [
            (len(prefix), name, prefix) for name, prefix in self.prefixes.items() if key.startswith(prefix)
        ]
        if fitting:
            _, name, prefix = max(fitting)
            return name, prefix
        first, slash, _ = key.partition("/")
        if not slash or _INNER_FOLDER.fullmatch(first):
            return self.bucket, ""
        return first, first + "/"


class Entry(NamedTuple):
    """What the ledger knows of a key: the newest version that was worked on, and how that ended."""

    version: str
    state: str
    dataset: str
    error: str | None = None


class Ledger:
    """Key to what was last done with it, as the table ``objects`` says."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries
        # Every batch asks for them, and should not look through millions of others.
        self._quarantined = {key for key, entry in entries.items() if entry.state == "quarantined"}

    @classmethod
    def of(cls, lake: Lake) -> Ledger:
        """Read the ledger from the lake."""
        rows = pl.from_arrow(
            lake.read("objects", columns=["key", "version", "state", "dataset", "error", "batch"])
        )
        assert isinstance(rows, pl.DataFrame)
        newest = rows.sort("batch", maintain_order=True).unique("key", keep="last")
        columns = (newest[name].to_list() for name in Entry._fields)
        return cls(
            dict(zip(newest["key"].to_list(), map(Entry._make, zip(*columns, strict=True)), strict=True))
        )

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """What is known of a key."""
        return self._entries.get(key)

    def record(self, key: str, entry: Entry) -> None:
        """Note what was done with a key."""
        self._entries[key] = entry
        if entry.state == "quarantined":
            self._quarantined.add(key)
        else:
            self._quarantined.discard(key)

    def quarantined(self) -> Iterator[tuple[str, Entry]]:
        """All keys whose newest version could not be read."""
        return ((key, self._entries[key]) for key in sorted(self._quarantined))

    def news(self, found: Iterable[ObjectInfo], rule: DatasetRule, *, complete: bool = True) -> list[Event]:
        """The events that lead from the ledger to what was ``found``, in the order in which they are best
        worked on.

        With ``complete`` (a listing of the whole bucket), keys that were not found have been removed.
        """
        events: list[Event] = []
        seen: set[str] = set()
        for info in found:
            seen.add(info.key)
            known = self._entries.get(info.key)
            if known is None or known.state == "removed" or known.version != info.version:
                events.append(self.put_event(info, rule))
        if complete:
            events.extend(
                self.remove_event(key)
                for key, entry in self._entries.items()
                if entry.state != "removed" and key not in seen
            )
        return sorted(events, key=_work_order)

    def put_event(self, info: ObjectInfo, rule: DatasetRule) -> Event:
        """The event of an object that is there."""
        dataset, _ = rule.of(info.key)
        return Event(
            action="put", key=info.key, version=info.version, size_bytes=info.size_bytes, dataset=dataset
        )

    def remove_event(self, key: str) -> Event:
        """The event of an object that is gone."""
        entry = self._entries[key]
        return Event(action="remove", key=key, version=entry.version, size_bytes=0, dataset=entry.dataset)


def _work_order(event: Event) -> tuple[str, int, str, str]:
    """Class and split files first, then images beside their labels, then files that speak of many images.

    The order changes no result, only how often a sample is derived again.
    """
    path = PurePosixPath(event.key)
    name, suffix = path.name.lower(), path.suffix.lower()
    first = (
        suffix in {".yaml", ".yml", ".names", ".data"}
        or name in {"classes.txt", "train.txt", "val.txt", "test.txt", "trainval.txt", "valid.txt"}
        or "ImageSets" in path.parts
    )
    rank = 0 if first else 2 if suffix in {".json", ".jsonl"} else 1
    return event.dataset, rank, stem_of(without_extension(event.key)), event.key
