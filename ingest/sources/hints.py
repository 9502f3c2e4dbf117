"""Hints: what a source says may have changed, and which of two hints is the later one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol

from storage.object_store import ObjectInfo


@dataclass(frozen=True, kw_only=True)
class Hint:
    """A key that may have changed. What is true of it is asked of the bucket when it is worked on."""

    key: str
    receipt: Hashable = None
    """What the source is given back when the hint has been committed."""
    info: ObjectInfo | None = None
    """The object as the source has just seen it, where ``looked``; None then says that there is none."""
    looked: bool = False
    sequencer: str | None = None
    """S3's order of events within one key; None where the store has none that can be relied on."""


class Source(Protocol):
    """A source of hints. Hints are taken, worked on, and acknowledged after the commit, never before."""

    name: str

    def start(self) -> None:
        """Begin to gather hints."""

    def stop(self) -> None:
        """End; what was not acknowledged comes again at the next start."""

    def take(self, limit: int) -> list[Hint]:
        """Up to about ``limit`` hints; each is given out once until it is acknowledged or returned."""

    def acknowledge(self, receipts: Iterable[Hashable]) -> None:
        """Say that these have been committed: they never come again."""

    def give_back(self, receipts: Iterable[Hashable], reason: str) -> None:
        """Say that these could not be worked on: they come again after a while."""

    def pending(self) -> int:
        """How many hints are known and not yet taken."""


def is_later(sequencer: str, than: str) -> bool:
    """Whether one event of a key came after another of the same key.

    Sequencers are hexadecimal texts of unequal length, compared as texts after the shorter one is padded with
    zeros on its right (Amazon S3 User Guide, "Event message structure"); they say nothing across keys.
    """
    width = max(len(sequencer), len(than))
    return sequencer.upper().ljust(width, "0") > than.upper().ljust(width, "0")


class Seen:
    """The newest sequencer that was committed of each of the last keys: copies need no look at the bucket.

    Bounded: what has been forgotten is looked at once more, which changes nothing.
    """

    def __init__(self, most: int = 200_000) -> None:
        self._most = most
        self._newest: OrderedDict[str, str] = OrderedDict()

    def is_old(self, hint: Hint) -> bool:
        """Whether the bucket was looked at after this event had happened."""
        newest = self._newest.get(hint.key)
        return hint.sequencer is not None and newest is not None and not is_later(hint.sequencer, newest)

    def note(self, hint: Hint) -> None:
        """Take down that the hint was worked on."""
        if hint.sequencer is None:
            return
        newest = self._newest.pop(hint.key, None)
        if newest is None or is_later(hint.sequencer, newest):
            newest = hint.sequencer
        self._newest[hint.key] = newest
        while len(self._newest) > self._most:
            self._newest.popitem(last=False)
