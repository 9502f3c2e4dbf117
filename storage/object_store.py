"""Where objects live: one URL with its options, for the bucket and for the lake.

A directory is read with the operating system's own calls, ``s3://`` as :mod:`storage.s3_objects` does it, and
everything else through fsspec. Keys are relative, with ``/`` between their parts, and can
never leave the folder that the store was opened on.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import unquote, urlsplit

import fsspec

from storage.errors import ConfigError, LakeError, StoreError, SupersededError
from storage.s3_objects import S3Objects

# Names that writers use while a file is not complete yet, and what desktops leave behind.
_NOT_OBJECTS = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")
_MAX_KEY_BYTES = 1024  # S3's own limit
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
# Nothing speaks against most names, and that is seen at once.
_USUAL_KEY = re.compile(r"(?:(?!__MACOSX/)[A-Za-z0-9_-]+/)*+[A-Za-z0-9_-]++\.(?:jpg|jpeg|png|txt|xml|json)")


class ObjectInfo(NamedTuple):
    """One object as the store lists it. ``version`` changes whenever the content may have changed."""

    key: str
    version: str
    size_bytes: int


@dataclass(frozen=True)
class ObjectStore:
    """A folder of objects, ``file://`` (or a plain path) or any other fsspec URL."""

    url: str
    # They may hold credentials, which nobody wants to read.
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Clients with their connections and credentials are made anew where a store arrives.
        return ObjectStore, (self.url, dict(self.options))

    @classmethod
    def at(cls, url: str | Path, options: Mapping[str, Any] | None = None) -> ObjectStore:
        """Open ``url``; a plain path becomes an absolute ``file://`` URL."""
        text = str(url)
        scheme = urlsplit(text).scheme
        if scheme in ("", "file") or len(scheme) == 1:
            path = unquote(urlsplit(text).path) if scheme == "file" else text
            return cls("file://" + str(Path(path).expanduser().resolve()), dict(options or {}))
        return cls(text.rstrip("/"), dict(options or {}))

    @cached_property
    def is_directory(self) -> bool:
        """Whether the store is a folder of this machine."""
        return self.url.startswith("file://")

    @property
    def root(self) -> Path:
        """The folder; only for a directory."""
        return Path(self.url.removeprefix("file://"))

    @property
    def name(self) -> str:
        """The last part of the URL: what a dataset is called where the bucket is one dataset."""
        return PurePosixPath(urlsplit(self.url).path).name or urlsplit(self.url).netloc or "bucket"

    @cached_property
    def is_s3(self) -> bool:
        """Whether the store speaks S3: objects are opened at a version, and replaced on conditions."""
        return self.url.startswith(("s3://", "s3a://"))

    @cached_property
    def s3(self) -> S3Objects:
        """The objects as S3 has them; only where :attr:`is_s3`."""
        parts = urlsplit(self.url)
        return S3Objects(parts.netloc, parts.path, self.options)

    @cached_property
    def _filesystem(self) -> Any:
        protocol = urlsplit(self.url).scheme
        try:
            return fsspec.filesystem(protocol, **self.options)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{self.url}: no access to {protocol}:// ({error}); install dropmill[s3] for S3 and MinIO"
            ) from error

    def below(self, *parts: str) -> ObjectStore:
        """Return the store of a folder below this one."""
        return ObjectStore("/".join([self.url, *parts]), self.options)

    def uri(self, key: str) -> str:
        """The full address of an object."""
        return f"{self.url}/{checked_key(key)}"

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects below ``prefix``, in any order; hidden and half-written names are left out."""
        return (info for info in self.list_all(prefix) if is_object_key(info.key))

    def list_all(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """The same with every name that there is."""
        if self.is_directory:
            return self._list_directory(prefix)
        if self.is_s3:
            return (ObjectInfo(*found) for found in self.s3.list(prefix))
        return self._list_remote(prefix)

    def require(self) -> None:
        """Raise StoreError where the folder itself is gone, which is not an empty store."""
        if self.is_directory and not self.root.is_dir():
            raise StoreError(f"{self.url}: the folder is not there")

    def head(self, key: str) -> ObjectInfo | None:
        """One object as it is now; None where there is none."""
        if self.is_directory:
            try:
                # Plain calls: a pathlib.Path costs more than the file, and every object is looked at thrice.
                stat = os.stat(self._file(key))  # noqa: PTH116
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise StoreError(f"{self.uri(key)}: {error.strerror}", key=key) from error
            return ObjectInfo(key, _file_version(stat), stat.st_size)
        if self.is_s3:
            found = self.s3.head(checked_key(key))
            return None if found is None else ObjectInfo(*found)
        try:
            return _remote_info(key, self._filesystem.info(self._remote(key)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self.uri(key)}: {error}", key=key) from error

    def open(self, key: str, at: ObjectInfo | None = None) -> AbstractContextManager[BinaryIO]:
        """The object's bytes as a seekable file; only what is read travels.

        On S3 every byte is of the version ``at``, or reading raises SupersededError. Elsewhere opening
        raises it, and :meth:`unchanged` tells at the end whether the version stayed.
        """
        try:
            if self.is_directory:
                return open(self._file(key), "rb") if at is None else self._open_version(at)  # noqa: PTH123
            if self.is_s3:
                version = (at.version, at.size_bytes) if at else (None, None)
                return cast("AbstractContextManager[BinaryIO]", self.s3.open(checked_key(key), *version))
            if at is not None and self.head(key) != at:
                raise self._superseded(at)
            return cast("AbstractContextManager[BinaryIO]", self._filesystem.open(self._remote(key), "rb"))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.uri(key)}: {error}", key=key) from error

    def whole(self, at: ObjectInfo) -> bytes:
        """All bytes of a small object at a version; the quick way of :meth:`open` and :meth:`unchanged`.

        Raises SupersededError where another version is there, or came while this one was read.
        """
        if not self.is_directory:
            with self.open(at.key, at) as file:
                data = file.read()
                if self.unchanged(file, at):
                    return data
            raise self._superseded(at)
        try:
            descriptor = os.open(self._file(at.key), _READING)
            try:
                data = os.read(descriptor, at.size_bytes + 1)
                # What is that version now has been it while it was read.
                if len(data) == at.size_bytes and _is_version(os.fstat(descriptor), at):
                    return data
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.uri(at.key)}: {error}", key=at.key) from error
        raise self._superseded(at)

    def unchanged(self, file: BinaryIO, at: ObjectInfo) -> bool:
        """Whether all that was read of an object that was opened ``at`` a version is of that version."""
        if self.is_directory:
            # A file that took its name meanwhile is another one: this one is still what it was.
            return _is_version(os.fstat(file.fileno()), at)
        return self.is_s3 or self.head(at.key) == at

    def write(self, key: str, data: bytes) -> str:
        """Write an object whole (a temporary name and a rename on a disk); return its address."""
        if self.is_directory:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            partial.write_bytes(data)
            partial.replace(path)
        elif self.is_s3:
            self.s3.write(checked_key(key), data)
        else:
            self._filesystem.pipe_file(self._remote(key), data)
        return self.uri(key)

    def remove(self, key: str) -> None:
        """Delete an object; nothing where there is none."""
        try:
            if self.is_directory:
                self._path(key).unlink(missing_ok=True)
            elif self.is_s3:
                self.s3.remove(checked_key(key))
            else:
                self._filesystem.rm_file(self._remote(key))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.uri(key)}: {error}", key=key) from error

    def upload(self, key: str, path: Path) -> str:
        """Copy a local file to ``key``; return its address."""
        if self.is_directory and self._path(key) == path.resolve():
            return self.uri(key)
        if self.is_directory:
            return self.write(key, path.read_bytes())
        if self.is_s3:
            self.s3.write(checked_key(key), path)
            return self.uri(key)
        self._filesystem.put_file(str(path), self._remote(key))
        return self.uri(key)

    def probe_exclusive_create(self) -> None:
        """Raise LakeError unless the store refuses to create the same key twice.

        Delta's commits rest on that refusal (``If-None-Match: *``, status 412, on object stores): a store
        that ignores it loses commits without a word.
        """
        key = f".dropmill-probe-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            try:
                self.create(key, b"probe")
            except (OSError, StoreError) as error:
                raise LakeError(f"{self.url}: cannot write here: {error}", url=self.url) from error
            try:
                self.create(key, b"probe")
            except FileExistsError:
                return
            raise LakeError(
                f"{self.url}: the store accepted the same key twice with If-None-Match; commits would "
                "be lost, so nothing is written. Use a store with conditional puts (S3, MinIO since 2024)",
                url=self.url,
            )
        finally:
            with suppress(OSError, StoreError):
                self.remove(key)

    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not be there yet. Raises FileExistsError where it is."""
        if self.is_directory:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            fsspec.filesystem("file").pipe_file(str(path), data, mode="create")
        elif self.is_s3:
            self.s3.write(checked_key(key), data, create=True)
        else:
            self._filesystem.pipe_file(self._remote(key), data, mode="create")

    def _open_version(self, at: ObjectInfo) -> AbstractContextManager[BinaryIO]:
        # Whatever stands there by now, nobody waits for it: a pipe, say, for somebody to write.
        descriptor = os.open(self._file(at.key), _READING)
        if not _is_version(os.fstat(descriptor), at):
            os.close(descriptor)
            raise self._superseded(at)
        return cast("AbstractContextManager[BinaryIO]", io.FileIO(descriptor, "rb"))

    def _superseded(self, at: ObjectInfo) -> SupersededError:
        return SupersededError(f"{self.uri(at.key)}: another version is there now")

    def _file(self, key: str) -> str:
        return f"{self._folder}/{checked_key(key)}"

    @cached_property
    def _folder(self) -> str:
        return self.url.removeprefix("file://")

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)

    def _remote(self, key: str) -> str:
        parts = urlsplit(self.url)
        return f"{parts.netloc}{parts.path}/{checked_key(key)}"

    def _list_directory(self, prefix: str) -> Iterator[ObjectInfo]:
        root = str(self.root)
        below = len(root.rstrip(os.sep)) + 1
        folders = [str(self.root / prefix) if prefix else root]
        while folders:
            folder = folders.pop()
            inside = folder[below:].replace(os.sep, "/") + "/" if len(folder) > below else ""
            try:
                entries = os.scandir(folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise StoreError(f"{error.filename}: {error.strerror}") from error
            with entries:
                for entry in entries:
                    # A link is neither: it may lead out of the bucket, or around in a circle.
                    if entry.is_file(follow_symlinks=False):
                        stat = entry.stat(follow_symlinks=False)
                        yield ObjectInfo(inside + entry.name, _file_version(stat), stat.st_size)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)

    def _list_remote(self, prefix: str) -> Iterator[ObjectInfo]:
        parts = urlsplit(self.url)
        base = f"{parts.netloc}{parts.path}".strip("/")
        where = f"{base}/{prefix}".rstrip("/")
        try:
            self._filesystem.invalidate_cache()
            for path, info in self._filesystem.find(where, detail=True).items():
                yield _remote_info(str(path).strip("/").removeprefix(base).lstrip("/"), info)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.url}: cannot be listed: {error}") from error


def is_object_key(key: str) -> bool:
    """Whether a key can be a delivered object: not hidden, not half-written, not absurd."""
    if _USUAL_KEY.fullmatch(key) and len(key) <= _MAX_KEY_BYTES:
        return True
    if not key or refused_because(key):
        return False
    parts = key.split("/")
    if any(part.startswith(".") or part == "" for part in parts) or "__MACOSX" in parts:
        return False
    return not key.lower().endswith(_NOT_OBJECTS)


def refused_because(key: str) -> str | None:
    """Why nothing of such a name is ever opened; None where nothing speaks against it."""
    if len(key.encode("utf-8", "replace")) > _MAX_KEY_BYTES:
        return f"longer than {_MAX_KEY_BYTES} bytes"
    if not key.isprintable():
        return "control characters"
    if "\\" in key:
        return "backslash"
    parts = key.split("/")
    if ".." in parts or "." in parts:
        return "parts that lead elsewhere"
    return "empty parts" if key.startswith("/") or "" in parts[:-1] else None


def checked_key(key: str) -> str:
    """Return ``key``, or raise where it would lead out of its store."""
    leads_up = ".." in key and ".." in key.split("/")
    if leads_up or key.startswith("/") or "\\" in key or "\x00" in key:
        raise StoreError(f"{key!r} is no key of an object: it leads out of its store", key=key)
    return key


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_version(stat: os.stat_result) -> str:
    return f"{stat.st_size:x}-{stat.st_mtime_ns:x}"


def _is_version(stat: os.stat_result, at: ObjectInfo) -> bool:
    return stat.st_size == at.size_bytes and _file_version(stat) == at.version


def _remote_info(key: str, info: Mapping[str, Any]) -> ObjectInfo:
    size = int(info.get("size") or 0)
    version = info.get("VersionId") or info.get("ETag") or info.get("etag")
    if not version:
        modified = info.get("LastModified") or info.get("mtime") or info.get("created") or ""
        # Some stores tell the same time once as a date and once as a number.
        version = f"{size:x}-{modified.timestamp() if isinstance(modified, datetime) else modified}"
    return ObjectInfo(key, str(version).strip('"'), size)
