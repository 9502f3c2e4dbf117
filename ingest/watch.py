"""The directory source: hints from the operating system, and a wait until files are complete."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
    FileSystemMovedEvent,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from ingest.sources.hints import Hint
from storage.object_store import ObjectInfo, ObjectStore, is_object_key

log = logging.getLogger(__name__)

# Reading causes events as well, and writing one for every piece: none of them says what closing does not.
_TELLING: list[type[FileSystemEvent]] = [
    FileCreatedEvent, FileClosedEvent, FileDeletedEvent, FileMovedEvent, DirCreatedEvent, DirDeletedEvent,
    DirMovedEvent,
]  # fmt: skip
_COMPLETE = ("closed", "moved", "deleted")
_LOOK_S = 0.1


@dataclass
class _Moving:
    """A key that may be half written: its version when last looked at, since when, and when to look again."""

    version: str | None
    since: float
    next_look: float


class DirectoryWatch:
    """Keys of a directory bucket that may have changed and are complete.

    A file is complete when its writer has closed it or moved it into place; where the operating system does
    not tell, when its size and modification time have not changed for ``settle_s`` seconds. With ``poll_s``
    the folder is looked through at that interval instead of being watched, which is what network mounts need.
    A hint may be doubled or lost: what is true is decided by the ledger, and by listing.
    """

    name = "directory"

    def __init__(self, store: ObjectStore, *, settle_s: float = 0.5, poll_s: float | None = None) -> None:
        self._store = store
        self._settle_s = settle_s
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._ready: dict[str, None] = {}
        self._moving: dict[str, _Moving] = {}
        self._lost: set[str] = set()
        self._overflow = _Overflow(lambda: self.lose_track(""))
        self._observer: BaseObserver = Observer() if poll_s is None else PollingObserver(timeout=poll_s)

    def start(self) -> None:
        """Begin to watch; by looking at intervals where the operating system refuses to tell."""
        try:
            self._begin()
        except OSError as error:
            log.warning(
                "no notifications, polling instead", extra={"folder": self._store.url, "why": str(error)}
            )
            self._observer = PollingObserver()
            self._begin()
        logging.getLogger("watchdog.observers.inotify_c").addHandler(self._overflow)

    def _begin(self) -> None:
        hints = _Hints(self._store.root, self.hint, self.lose_track)
        telling = (
            _TELLING if not isinstance(self._observer, PollingObserver) else [*_TELLING, FileModifiedEvent]
        )
        # Of a tree of new folders watchdog hears from the kernel what it has found by looking already. It
        # puts the same callback once more then, and warns.
        warnings.filterwarnings("ignore", "Callback with id .* already exists for watch", RuntimeWarning)
        self._observer.schedule(hints, str(self._store.root), recursive=True, event_filter=telling)
        self._observer.start()

    def stop(self) -> None:
        """End watching."""
        logging.getLogger("watchdog.observers.inotify_c").removeHandler(self._overflow)
        self._observer.stop()
        self._observer.join(timeout=5)

    def hint(self, key: str, *, complete: bool = False) -> None:
        """Say that a key may have changed, and whether its writer is done with it."""
        if not is_object_key(key):
            return
        with self._lock:
            if complete:
                self._moving.pop(key, None)
                self._ready[key] = None
            elif key not in self._moving:
                now = time.monotonic()
                self._ready.pop(key, None)
                self._moving[key] = _Moving(None, now, now)

    def lose_track(self, folder: str) -> None:
        """Say that something happened below ``folder`` that only a listing can find out."""
        with self._lock:
            self._lost.add(folder)

    def lost(self) -> list[str]:
        """The folders of which track was lost since the last call, those inside others left out; the whole
        bucket is ``""``.
        """
        with self._lock:
            lost, self._lost = sorted(self._lost), set()
        outer: list[str] = []
        for folder in lost:
            if not outer or not (outer[-1] == "" or folder.startswith(outer[-1] + "/")):
                outer.append(folder)
        return outer

    def is_moving(self, key: str) -> bool:
        """Whether a key has been hinted at and not been taken: it may be half written."""
        with self._lock:
            return key in self._moving or key in self._ready

    def pending(self) -> int:
        """How many keys have been hinted at and not been taken."""
        with self._lock:
            return len(self._moving) + len(self._ready)

    def take(self, limit: int) -> list[Hint]:
        """Take up to ``limit`` keys that have come to rest, each with the object that is there, or none."""
        self._settle()
        with self._lock:
            keys = list(self._ready)[:limit] if len(self._ready) > limit else list(self._ready)
            for key in keys:
                del self._ready[key]
        return [Hint(key=key, info=self._store.head(key), looked=True) for key in keys]

    def acknowledge(self, receipts: Iterable[Hashable]) -> None:
        """Nothing to do: what a crash forgets is found by the listing at the next start."""

    def give_back(self, receipts: Iterable[Hashable], reason: str) -> None:
        """Nothing to do."""

    def _settle(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [key for key, moving in self._moving.items() if moving.next_look <= now]
        for key in due:
            version = _version(self._store.head(key))
            with self._lock:
                moving = self._moving.get(key)
                if moving is None:
                    continue
                moving.next_look = now + _LOOK_S
                if moving.version != version:
                    moving.version, moving.since = version, now
                if now - moving.since >= self._settle_s:
                    del self._moving[key]
                    self._ready[key] = None


def _version(info: ObjectInfo | None) -> str:
    return info.version if info else "absent"


class _Hints(FileSystemEventHandler):
    """Turns the observer's events into keys."""

    def __init__(self, root: Path, hint: Callable[..., None], lose_track: Callable[[str], None]) -> None:
        self._root = str(root) + "/"
        self._hint = hint
        self._lose_track = lose_track

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Hint at the files of an event; a folder that came or went may hold files nobody tells of."""
        paths = (
            [event.src_path, event.dest_path] if isinstance(event, FileSystemMovedEvent) else [event.src_path]
        )
        for path in paths:
            text = path.decode(errors="replace") if isinstance(path, bytes) else path
            if not text.startswith(self._root):
                continue
            key = text.removeprefix(self._root)
            if not event.is_directory:
                self._hint(key, complete=event.event_type in _COMPLETE)
            elif event.event_type != "modified":
                self._lose_track(key)


class _Overflow(logging.Handler):
    """Hears that the kernel's queue of events was full, of which watchdog tells its log alone."""

    def __init__(self, say: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Tell, where that is what the record says."""
        if "overflow" in record.getMessage().lower():
            self._say()
