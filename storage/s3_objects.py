"""Objects of an S3 bucket: read by ranges through obstore, listed through botocore.

obstore reads forty times as fast as s3fs (``benchmarks/range_reads.py``), but its listing ends at the first
key that it has no path for, such as one with a control character: one odd upload would hide all others.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from storage.errors import ConfigError, StoreError, SupersededError
from storage.s3_options import aws_client, obstore_options

_FIRST_BYTES = 65_536
_MOST_BYTES = 16_000_000

Listed = tuple[str, str, int]
"""Key, ETag, size."""


class S3Objects:
    """The objects below ``prefix`` of a bucket; keys are relative to it."""

    def __init__(self, bucket: str, prefix: str, options: Mapping[str, Any]) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._options = options

    @cached_property
    def _store(self) -> Any:
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise ConfigError(
                f"s3://{self._bucket}: no access to s3:// ({error}); install dropmill[s3] for S3 and MinIO"
            ) from error
        return S3Store(self._bucket, **obstore_options(self._options))

    @cached_property
    def _client(self) -> Any:
        return aws_client("s3", self._options)

    def list(self, prefix: str) -> Iterator[Listed]:
        """All objects below ``prefix``, in the order of their keys, a thousand in memory at a time."""
        from botocore.exceptions import BotoCoreError, ClientError

        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        try:
            for page in pages:
                for found in page.get("Contents", ()):
                    key = found["Key"].removeprefix(self._prefix)
                    yield key, found["ETag"].strip('"'), int(found["Size"])
        except (BotoCoreError, ClientError) as error:
            raise StoreError(f"s3://{self._bucket}/{self._prefix}: cannot be listed: {error}") from error

    def head(self, key: str) -> Listed | None:
        """One object as it is now; None where there is none."""
        import obstore

        try:
            with self._naming(key):
                found = obstore.head(self._store, self._prefix + key)
        except FileNotFoundError:
            return None
        return key, str(found["e_tag"]).strip('"'), int(found["size"])

    def open(self, key: str, etag: str | None = None, size: int | None = None) -> io.RawIOBase:
        """The object's bytes, of the version ``etag`` or not at all (SupersededError)."""
        if etag is None or size is None:
            found = self.head(key)
            if found is None:
                raise FileNotFoundError(key)
            _, etag, size = found
        elif size == 0:
            # Of nothing no range can be asked for, which would tell whether it is still this nothing.
            found = self.head(key)
            if found is None or found[1] != etag:
                raise SupersededError(
                    f"s3://{self._bucket}/{self._prefix}{key}: another version is there now"
                )
        return RangedFile(self, key, etag, size)

    def read_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` of the version ``etag``."""
        import obstore

        with self._naming(key):
            options = {"if_match": f'"{etag}"', "range": (start, end)}
            data = bytes(obstore.get(self._store, self._prefix + key, options=options).bytes())  # type: ignore[arg-type]
        if len(data) != end - start:
            raise StoreError(
                f"s3://{self._bucket}/{self._prefix}{key}: {len(data)} bytes came of {end - start}", key=key
            )
        return data

    def write(self, key: str, data: bytes | Path, *, create: bool = False, etag: str | None = None) -> str:
        """Write an object whole; returns its ETag.

        Raises FileExistsError with ``create`` where there is one, SupersededError where ``etag`` is not the
        one that it has.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        mode: Any = "create" if create else {"e_tag": f'"{etag}"'} if etag else "overwrite"
        try:
            with self._naming(key):
                done = obstore.put(
                    self._store,
                    self._prefix + key,
                    data,
                    mode=mode,
                    use_multipart=False if create or etag else None,
                )
        except AlreadyExistsError as error:
            raise FileExistsError(key) from error
        return str(done["e_tag"]).strip('"')

    def remove(self, key: str) -> None:
        """Delete an object."""
        import obstore

        with self._naming(key):
            obstore.delete(self._store, self._prefix + key)

    @contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        where = f"s3://{self._bucket}/{self._prefix}{key}"
        try:
            yield
        except AlreadyExistsError:
            raise
        except PreconditionError as error:
            raise SupersededError(f"{where}: another version is there now", key=key) from error
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise StoreError(f"{where}: there is no bucket {self._bucket}", key=key) from error
            raise
        except ValueError as error:
            raise StoreError(f"{where!r}: no name that can be asked for", key=key) from error
        except BaseError as error:
            raise StoreError(f"{where}: {_first_line(error)}", key=key) from error


class RangedFile(io.RawIOBase):
    """A remote file of which only what is read travels: a first piece, then ever larger ones."""

    def __init__(self, objects: S3Objects, key: str, etag: str, size: int) -> None:
        super().__init__()
        self._objects = objects
        self._key = key
        self._etag = etag
        self._size = size
        self._at = 0
        self._start = 0
        self._piece = b""
        self._ahead = _FIRST_BYTES

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next byte is read from."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go elsewhere; costs nothing."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Read ``size`` bytes, fewer only at the end."""
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        parts = []
        while self._at < end:
            if not self._start <= self._at < self._start + len(self._piece):
                self._fetch(end)
            part = self._piece[self._at - self._start : end - self._start]
            parts.append(part)
            self._at += len(part)
        return b"".join(parts)

    def readall(self) -> bytes:
        """Read what is left."""
        return self.read(-1)

    def readinto(self, buffer: Any, /) -> int:
        """Read as much as fits."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _fetch(self, end: int) -> None:
        stop = min(max(self._at + self._ahead, end), self._size)
        self._piece = self._objects.read_range(self._key, self._etag, self._at, stop)
        self._start = self._at
        self._ahead = min(self._ahead * 4, _MOST_BYTES)


def _first_line(error: BaseException) -> str:
    """What an error says before its debugging notes, which repeat the request."""
    return str(error).strip().split("\n\nDebug source", maxsplit=1)[0].splitlines()[0][:500]
