"""The directory source: hints from the operating system, and a wait until files are complete."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler, FileSystemMovedEvent
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from storage.object_store import ObjectInfo, ObjectStore, is_object_key

log = logging.getLogger(__name__)


@dataclass
class _Watched:
    """A key that was hinted at: its version when last looked at, and since when it has been that."""

    version: str | None
    since: float


class DirectoryWatch:
    """Keys of a directory bucket that may have changed and are complete.

    A file is complete when its size and modification time have not changed for ``settle_s`` seconds. A hint
    may be doubled or lost: what is true is decided by the ledger, and by the listing that the service runs
    at intervals.
    """

    def __init__(self, store: ObjectStore, *, settle_s: float = 0.5) -> None:
        self._store = store
        self._settle_s = settle_s
        self._lock = threading.Lock()
        self._hinted: dict[str, _Watched] = {}
        self._lost_track = False
        self._observer: BaseObserver = Observer()

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

    def _begin(self) -> None:
        hints = _Hints(self._store.root, self.hint, self.lose_track)
        self._observer.schedule(hints, str(self._store.root), recursive=True)
        self._observer.start()

    def stop(self) -> None:
        """End watching."""
        self._observer.stop()
        self._observer.join(timeout=5)

    def hint(self, key: str) -> None:
        """Say that a key may have changed."""
        if is_object_key(key):
            with self._lock:
                self._hinted.setdefault(key, _Watched(None, time.monotonic()))

    def lose_track(self) -> None:
        """Say that something happened that only a listing can find out (a folder came or went)."""
        self._lost_track = True

    def needs_listing(self) -> bool:
        """Whether track was lost since the last call."""
        lost, self._lost_track = self._lost_track, False
        return lost

    def is_moving(self, key: str) -> bool:
        """Whether a key has been hinted at and not been taken: it may be half written."""
        with self._lock:
            return key in self._hinted

    def pending(self) -> int:
        """How many keys have been hinted at and not been taken."""
        with self._lock:
            return len(self._hinted)

    def take(self, limit: int) -> tuple[list[ObjectInfo], list[str]]:
        """Take up to ``limit`` keys that have come to rest: objects that are there, and keys that are not."""
        present: list[ObjectInfo] = []
        absent: list[str] = []
        with self._lock:
            keys = list(self._hinted)
        for key in keys:
            if len(present) + len(absent) >= limit:
                break
            info = self._store.head(key)
            if not self._has_settled(key, info):
                continue
            if info is None:
                absent.append(key)
            else:
                present.append(info)
            with self._lock:
                self._hinted.pop(key, None)
        return present, absent

    def _has_settled(self, key: str, info: ObjectInfo | None) -> bool:
        version = info.version if info else "absent"
        now = time.monotonic()
        with self._lock:
            watched = self._hinted.get(key)
            if watched is None:
                return False
            if watched.version != version:
                watched.version, watched.since = version, now
            return now - watched.since >= self._settle_s


class _Hints(FileSystemEventHandler):
    """Turns the observer's events into keys."""

    def __init__(self, root: Path, hint: Callable[[str], None], lose_track: Callable[[], None]) -> None:
        self._root = root
        self._hint = hint
        self._lose_track = lose_track

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Hint at the files of an event; a folder that came or went may hold files nobody tells of."""
        if event.event_type in ("opened", "closed_no_write"):
            return
        if event.is_directory:
            if event.event_type != "modified":
                self._lose_track()
            return
        self._say(event.src_path)
        if isinstance(event, FileSystemMovedEvent):
            self._say(event.dest_path)

    def _say(self, path: str | bytes) -> None:
        text = path.decode(errors="replace") if isinstance(path, bytes) else path
        try:
            self._hint(Path(text).relative_to(self._root).as_posix())
        except ValueError:
            return
