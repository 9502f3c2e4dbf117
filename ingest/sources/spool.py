"""Notes on a disk: what was accepted over HTTP is still there after ``kill -9`` or a loss of power."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from storage.errors import StoreError

log = logging.getLogger(__name__)


class Spool:
    """A folder of notes: one file each, written whole, in the order in which they came."""

    def __init__(self, folder: Path, *, most: int = 100_000) -> None:
        self._folder = folder
        self._most = most
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob(".*.part"):
            partial.unlink(missing_ok=True)
        self._lock = threading.Lock()
        self._known = sorted(path.name for path in folder.iterdir() if path.suffix == ".note")
        last = int(self._known[-1].partition("-")[0]) if self._known else 0
        self._numbers = itertools.count(last + 1)
        self._out: set[str] = set()

    def __len__(self) -> int:
        with self._lock:
            return len(self._known)

    def put(self, data: bytes) -> str:
        """Write a note down; when this returns it survives a crash of the machine.

        Raises StoreError where the spool is full or the disk refuses.
        """
        with self._lock:
            if len(self._known) >= self._most:
                raise StoreError(f"{self._folder}: full, with {len(self._known)} notes that wait")
            name = f"{next(self._numbers):012}-{os.getpid()}.note"
        partial = self._folder / f".{name}.part"
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._folder / name)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StoreError(f"{self._folder}: cannot note an event: {error}") from error
        with self._lock:
            self._known.append(name)
        return name

    def take(self, limit: int) -> Iterator[tuple[str, bytes]]:
        """Notes that nobody has, oldest first; they are somebody's until removed or given back."""
        with self._lock:
            names = list(itertools.islice((n for n in self._known if n not in self._out), limit))
            self._out.update(names)
        for name in names:
            try:
                yield name, (self._folder / name).read_bytes()
            except OSError as error:
                log.warning("note cannot be read", extra={"note": name, "why": str(error)})
                self.remove([name])

    def remove(self, names: Iterable[str]) -> None:
        """Forget notes: what they said has been committed."""
        gone = set(names)
        for name in gone:
            (self._folder / name).unlink(missing_ok=True)
        with self._lock:
            self._known = [name for name in self._known if name not in gone]
            self._out -= gone

    def give_back(self, names: Iterable[str]) -> None:
        """Let notes be taken once more."""
        with self._lock:
            self._out.difference_update(names)
