"""Hints of all sources, gathered until a batch is made of them; each key once, with all its receipts."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ingest.sources.hints import Hint, Source
from storage.object_store import ObjectInfo, is_object_key, refused_because

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 60.0


@dataclass
class _Waiting:
    receipts: list[tuple[Source, Hashable]] = field(default_factory=list)
    looked: bool = False
    info: ObjectInfo | None = None
    since: float = 0.0
    tries: int = 0
    due: float = 0.0


class Gathered:
    """What waits to become a batch. Nothing is acknowledged before :meth:`done` says so."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._waiting: dict[str, _Waiting] = {}
        self.taken = 0
        """Hints that came since the beginning."""

    def __len__(self) -> int:
        return len(self._waiting)

    def gather(self, most: int) -> None:
        """Take hints from all sources, until about ``most`` keys wait."""
        for source in self._sources:
            refused: list[Hashable] = []
            for hint in source.take(max(most - len(self._waiting), 0)):
                self.taken += 1
                if is_object_key(hint.key):
                    self._add(source, hint)
                    continue
                refused.append(hint.receipt)
                if why := refused_because(hint.key):
                    log.warning("name refused", extra={"key": ascii(hint.key)[:200], "why": why})
            source.acknowledge(refused)

    def _add(self, source: Source, hint: Hint) -> None:
        now = time.monotonic()
        waiting = self._waiting.setdefault(hint.key, _Waiting(since=now))
        waiting.receipts.append((source, hint.receipt))
        waiting.looked, waiting.info = hint.looked, hint.info
        if hint.looked:
            # The directory knows that it is complete now, whatever was wrong with it before.
            waiting.due = now

    def due(self, most: int) -> dict[str, _Waiting]:
        """Up to ``most`` keys whose time has come."""
        now = time.monotonic()
        keys = [key for key, waiting in self._waiting.items() if waiting.due <= now][:most]
        return {key: self._waiting[key] for key in keys}

    def oldest_s(self) -> float:
        """For how long the key that has waited longest has waited."""
        now = time.monotonic()
        return max((now - waiting.since for waiting in self._waiting.values()), default=0.0)

    def done(self, keys: Iterable[str], left: Mapping[str, str]) -> list[float]:
        """Acknowledge keys that are in the tables; those ``left`` wait, each time longer.

        Returns for how long the keys that are done have waited, in seconds.
        """
        now = time.monotonic()
        receipts: dict[Source, list[Hashable]] = defaultdict(list)
        waited = []
        for key in keys:
            waiting = self._waiting.get(key)
            if waiting is None:
                continue
            if key in left:
                waiting.looked = False
                waiting.tries += 1
                waiting.due = now + min(0.25 * 2.0**waiting.tries, _LONGEST_PAUSE_S)
                log.warning("object waits", extra={"key": key, "why": left[key], "tries": waiting.tries})
                continue
            waited.append(now - waiting.since)
            for source, receipt in waiting.receipts:
                receipts[source].append(receipt)
            del self._waiting[key]
        for source, given in receipts.items():
            source.acknowledge(given)
        return waited

    def give_back(self, reason: str) -> None:
        """Return everything that waits to its source."""
        receipts: dict[Source, list[Hashable]] = defaultdict(list)
        for waiting in self._waiting.values():
            for source, receipt in waiting.receipts:
                receipts[source].append(receipt)
        self._waiting.clear()
        for source, given in receipts.items():
            source.give_back(given, reason)

    def pending(self) -> dict[str, int]:
        """Hints that each source knows of and has not given yet."""
        return {source.name: source.pending() for source in self._sources}
