"""Bytes of shards by their place: from the file itself, or from a copy of it that this machine keeps.

A part of a shard has an address, ``<shard>#bytes=<first>-<last>&sha256=<of the shard>&name=<file>``: whoever
knows it needs no index, and a copy is the right one on any machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from storage.errors import ConfigError, UnreadableError
from storage.object_store import ObjectStore

INDEX = "index.json"
"""The file that a complete set of shards has."""

_PART = re.compile(r"(.+)#bytes=(\d{1,15})-(\d{1,15})&sha256=([0-9a-f]{64})&name=([^#&]+)")
_CACHE_BYTES = 64 << 30


class ShardPart(NamedTuple):
    """Where a file lies within a shard: offset of its first byte and size, in bytes."""

    shard: str
    """URL of the shard."""
    sha256: str
    """Of the whole shard."""
    offset: int
    size: int
    name: str
    """What the file would be called below its data set."""

    @property
    def address(self) -> str:
        """The part as text, which :func:`part_of` reads."""
        last = self.offset + self.size - 1
        return f"{self.shard}#bytes={self.offset}-{last}&sha256={self.sha256}&name={quote(self.name)}"


def part_of(address: str) -> ShardPart | None:
    """The part that an address names; None for an address of anything else."""
    found = _PART.fullmatch(address)
    if found is None:
        return None
    shard, first, last, digest, name = found.groups()
    return ShardPart(shard, digest, int(first), int(last) - int(first) + 1, unquote(name))


def read_part(part: ShardPart) -> bytes:
    """The bytes of a part: of a folder from its shard, of an object store from a copy on this machine.

    Copies are kept in the folder ``shards`` of ``DROPMILL_CACHE`` (``~/.cache/dropmill``), at most
    ``DROPMILL_CACHE_GB`` of them (64). Raises UnreadableError where the shard is gone or another.
    """
    folder, _, name = part.shard.rpartition("/")
    # The address is spelt as its store spells it, so it is taken as it is.
    files = _files(os.getpid(), os.environ.get("DROPMILL_CACHE"), os.environ.get("DROPMILL_CACHE_GB", "64"))
    return files.read(ObjectStore(folder), name, part.sha256, part.offset, part.size)


class ShardFiles:
    """Open shards of this machine; reads at any place from any thread.

    Shards of an object store are copied whole to ``cache_dir`` when they are first read; the least recently
    used go when the copies pass ``cache_bytes``. Only those copies are ever deleted.
    """

    _OPEN = 256

    def __init__(self, cache_dir: Path | None = None, cache_bytes: int = _CACHE_BYTES) -> None:
        self._cache_dir, self._cache_bytes = cache_dir, cache_bytes
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, str], _File] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"cache_dir": self._cache_dir, "cache_bytes": self._cache_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(self, store: ObjectStore, name: str, sha256: str, offset: int, size: int) -> bytes:
        """Bytes of the shard ``name``; raises UnreadableError where there are fewer."""
        data = os.pread(self._file(store, name, sha256).number, size, offset)
        if len(data) < size:
            raise UnreadableError(store.uri(name), f"{len(data)} bytes at {offset}", expected=f"{size}")
        return data

    def _file(self, store: ObjectStore, name: str, sha256: str) -> _File:
        # A shard that has been written anew under its old name is another file.
        key = (store.uri(name), sha256)
        with self._lock:
            file = self._open.get(key)
            if file is None:
                try:
                    file = _File(self._path(store, name, sha256))
                except OSError as error:
                    raise UnreadableError(
                        store.uri(name), f"{type(error).__name__}: {error}", expected="a shard"
                    ) from None
                self._open[key] = file
                if len(self._open) > self._OPEN:
                    # Whoever reads from it still holds it; it closes after them.
                    self._open.popitem(last=False)
            self._open.move_to_end(key)
            return file

    def _path(self, store: ObjectStore, name: str, sha256: str) -> Path:
        if store.is_directory:
            return store.root / name
        if self._cache_dir is None:
            raise ConfigError(f"{store.url}: an object store needs a folder for copies of shards")
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        path = self._cache_dir / f"{sha256}.tar"
        # All processes of a machine read from one copy: the first of them makes it.
        with (self._cache_dir / f".{sha256}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file():
                self._fetch(store, name, sha256, path)
        path.touch()
        return path

    def _fetch(self, store: ObjectStore, name: str, sha256: str, path: Path) -> None:
        info = store.head(name)
        if info is None:
            raise UnreadableError(store.uri(name), "no such object", expected="a shard")
        self._make_room(path.parent, info.size_bytes)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        digest = hashlib.sha256()
        try:
            with store.open(name) as source, part.open("wb") as target:
                while data := source.read(8 << 20):
                    digest.update(data)
                    target.write(data)
            if digest.hexdigest() != sha256:
                raise UnreadableError(store.uri(name), f"SHA-256 {digest.hexdigest()}", expected=sha256)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, folder: Path, size_bytes: int) -> None:
        there = [(path.stat(), path) for path in folder.glob("*.tar") if len(path.stem) == 64]
        filled = sum(stat.st_size for stat, _ in there)
        for stat, path in sorted(there, key=lambda pair: pair[0].st_mtime_ns):
            if filled + size_bytes <= self._cache_bytes:
                return
            # An open copy can still be read; its space is freed when it is closed.
            path.unlink(missing_ok=True)
            path.with_name(f".{path.stem}.lock").unlink(missing_ok=True)
            filled -= stat.st_size


class _File:
    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        number, self.number = getattr(self, "number", -1), -1
        if number >= 0:
            os.close(number)


@lru_cache(maxsize=1)
def _files(_process: int, home: str | None, gigabytes: str) -> ShardFiles:
    """Those of this process: a lock that was held while it was forked would never be free."""
    folder = Path(home) if home else Path.home() / ".cache" / "dropmill"
    if not gigabytes.isdecimal():
        raise ConfigError(f"DROPMILL_CACHE_GB: found {gigabytes!r}; expected a whole number of gigabytes")
    return ShardFiles(folder / "shards", int(gigabytes) << 30)
