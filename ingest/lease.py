"""One service at a time on a lane: the others stand by, and take over when it dies.

A lease saves work; it is not what keeps the tables right. That is Delta's transactions: whoever commits from
what he thinks is his turn, and is not, is refused (see :mod:`ingest.batch`).
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
from datetime import UTC, datetime
from typing import IO, Protocol

from storage.errors import ConfigError, StoreError, SupersededError
from storage.object_store import ObjectStore

log = logging.getLogger(__name__)

_TTL_S = 30.0
_LOOK_S = 0.5


class Lease(Protocol):
    """The right to be the committer of a lane."""

    def take(self) -> bool:
        """Try to get it; True where it is ours."""

    def is_held(self) -> bool:
        """Whether it still is ours."""

    def is_elsewhere(self) -> bool:
        """Whether somebody who has it was seen to be alive; False may still become True."""

    def release(self) -> None:
        """Let others have it."""

    def holder(self) -> str:
        """Who has it, for people."""


def lease_of(store: ObjectStore, lane: str, *, ttl_s: float = _TTL_S) -> Lease:
    """The lease of a lane of the lake in ``store``."""
    if store.is_directory:
        return FileLease(store, lane)
    if store.is_s3:
        return ObjectLease(store, lane, ttl_s=ttl_s)
    return NoLease()


def take_from_the_dead(lease: Lease) -> bool:
    """Take a lease, as soon as it is known whether its holder lives; False where he does.

    On S3 that takes as long as a holder may be silent.
    """
    while not lease.take():
        if lease.is_elsewhere():
            return False
        time.sleep(_LOOK_S)
    return True


class FileLease:
    """A lock of the operating system on a file: it ends with the process, however that ends."""

    def __init__(self, store: ObjectStore, lane: str) -> None:
        self._path = store.root / "lanes" / f"{checked_lane(lane)}.lock"
        self._file: IO[str] | None = None
        self._refused = False

    def take(self) -> bool:
        """Lock the file, or not."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            self._refused = True
            return False
        self._refused = False
        file.truncate(0)
        file.write(_me())
        file.flush()
        self._file = file
        return True

    def is_held(self) -> bool:
        """For as long as the file is open."""
        return self._file is not None

    def is_elsewhere(self) -> bool:
        """Whether the lock was refused: only the living lock files."""
        return self._refused

    def release(self) -> None:
        """Unlock."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None

    def holder(self) -> str:
        """What the holder wrote of itself."""
        try:
            return self._path.read_text(encoding="utf-8")[:200]
        except OSError:
            return ""


class ObjectLease:
    """An object that its holder writes anew all the time, each time on condition that it is as he left it.

    Who wants it and sees it unchanged for ``ttl_s`` of his own clock takes it over, on the same condition: no
    two clocks are compared.
    """

    def __init__(self, store: ObjectStore, lane: str, *, ttl_s: float = _TTL_S) -> None:
        self._objects = store.below("lanes").s3
        self._key = f"{checked_lane(lane)}.json"
        self._ttl_s = ttl_s
        self._etag: str | None = None
        self._renewed = 0.0
        self._seen: tuple[str, float] | None = None
        self._seen_alive = False
        self._beats = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> bool:
        """Write the object where there is none, or where it has not changed for too long."""
        try:
            found = self._objects.head(self._key)
            if found is None:
                self._etag = self._objects.write(self._key, self._text(), create=True)
            else:
                if self._seen is None or self._seen[0] != found[1]:
                    self._seen_alive = self._seen is not None
                    self._seen = (found[1], time.monotonic())
                released = found[2] == 0
                if not released and time.monotonic() - self._seen[1] < self._ttl_s:
                    return False
                self._etag = self._objects.write(self._key, self._text(), etag=found[1])
        except (FileExistsError, SupersededError):
            return False
        self._renewed = time.monotonic()
        self._stop.clear()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return True

    def is_held(self) -> bool:
        """Whether it was renewed in time."""
        return self._etag is not None and time.monotonic() - self._renewed < self._ttl_s

    def is_elsewhere(self) -> bool:
        """Whether the object was written anew while we looked on."""
        return self._seen_alive and self._etag is None

    def release(self) -> None:
        """Leave an empty object, which anybody may take at once."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None
        if self._etag is not None:
            try:
                self._objects.write(self._key, b"", etag=self._etag)
            except StoreError as error:
                log.warning("lease not released", extra={"why": str(error)})
            self._etag = None

    def holder(self) -> str:
        """What the holder wrote of itself."""
        try:
            with self._objects.open(self._key) as file:
                return file.read(200).decode(errors="replace")
        except (StoreError, OSError):
            return ""

    def _renew(self) -> None:
        while not self._stop.wait(self._ttl_s / 3):
            etag = self._etag
            if etag is None:
                return
            try:
                self._etag = self._objects.write(self._key, self._text(), etag=etag)
                self._renewed = time.monotonic()
            except SupersededError:
                log.warning("lease lost to another service", extra={"holder": self.holder()})
                self._etag = None
                return
            except StoreError as error:
                log.warning("lease not renewed", extra={"why": str(error)})

    def _text(self) -> bytes:
        self._beats += 1
        return json.dumps({"holder": _me(), "beat": self._beats}).encode()


class NoLease:
    """For stores that have nothing to hold on to: the transactions of the tables decide alone."""

    def take(self) -> bool:
        """Yes."""
        return True

    def is_held(self) -> bool:
        """Yes."""
        return True

    def is_elsewhere(self) -> bool:
        """No."""
        return False

    def release(self) -> None:
        """Nothing to do."""

    def holder(self) -> str:
        """Nobody."""
        return ""


def checked_lane(lane: str) -> str:
    """Return the name of a lane, or raise ConfigError where it is none."""
    if (
        not lane
        or not lane.replace("-", "").replace("_", "").isalnum()
        or len(lane) > 60
        or not lane.isascii()
    ):
        raise ConfigError(f"lane {lane!r}: expected up to 60 letters, digits, - and _")
    return lane


def _me() -> str:
    return f"{socket.gethostname()} process {os.getpid()} since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
