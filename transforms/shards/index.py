"""The index of a set of shards: what is in each, where, and what it was made from.

Every shard ``x.tar`` has an ``x.json`` beside it, written after it: a shard without one does not count.
``x.idx`` is the same for DALI's readers. ``index.json`` lists all shards once all are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, TypeVar

import msgspec

from storage.errors import UnreadableError
from storage.object_store import ObjectStore
from transforms.shards.files import INDEX

_MAX_INDEX = 1 << 30


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A file within a shard: its suffix, offset of its first byte, and size in bytes."""

    suffix: str
    offset: int
    size: int


class Located(msgspec.Struct, frozen=True, array_like=True):
    """A sample within a shard."""

    key: str
    members: tuple[Member, ...]


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """One shard: file name, bytes, checksum, samples in their order, and objects by category."""

    name: str
    format: str
    size_bytes: int
    sha256: str
    made_from: str
    """Hash of the samples, their versions and labels: the same where the shard would be the same."""
    objects: dict[str, int]
    samples: tuple[Located, ...]


class LabelledShard(Shard, frozen=True, kw_only=True):
    """A shard's index as it is written."""

    labels: tuple[msgspec.Raw, ...] = ()
    """The JSON of every sample, as its member has it: trainers know it before they read a picture."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``index.json``."""

    name: str
    samples: int
    size_bytes: int
    sha256: str
    objects: dict[str, int]


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """``index.json``: all shards, in order, and what the set was made from."""

    format: str
    shards: tuple[Summary, ...]
    made_from: dict[str, Any] = {}


_S = TypeVar("_S", bound=Shard)


def write_shard_index(store: ObjectStore, shard: LabelledShard) -> None:
    """Make a shard count."""
    store.write(dali_name(shard.name), dali_index(shard))
    store.write(index_name(shard.name), msgspec.json.encode(shard))


def read_shard(store: ObjectStore, name: str) -> Shard | None:
    """The index of a shard; None where it has none. Raises UnreadableError for a broken one."""
    return _read_as(Shard, store, name)


def read_index(store: ObjectStore) -> Index:
    """The index of a set. Raises UnreadableError where the set is not complete, or its index broken."""
    data = _read(store, INDEX)
    if data is None:
        raise UnreadableError(
            store.url,
            f"no {INDEX}",
            expected="a complete set of shards: write it again, it goes on where it was",
        )
    try:
        return msgspec.json.decode(data, type=Index)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableError(store.uri(INDEX), str(error), expected="the index of a set of shards") from None


def shards_of(store: ObjectStore) -> Iterator[Shard]:
    """All shards of a complete set, in order."""
    return _all_as(Shard, store)


def labelled_shards_of(store: ObjectStore) -> Iterator[LabelledShard]:
    """The same with what is said of each sample. Raises UnreadableError where an index is without it."""
    for shard in _all_as(LabelledShard, store):
        if len(shard.labels) != len(shard.samples):
            raise UnreadableError(
                store.uri(index_name(shard.name)),
                f"labels of {len(shard.labels)} among {len(shard.samples)} samples",
                expected="all: write the shards again",
            )
        yield shard


def index_name(name: str) -> str:
    """``x.tar`` gives ``x.json``."""
    return str(PurePosixPath(name).with_suffix(".json"))


def dali_name(name: str) -> str:
    """``x.tar`` gives ``x.idx``."""
    return str(PurePosixPath(name).with_suffix(".idx"))


def dali_index(shard: Shard) -> bytes:
    """The index as DALI's readers take it: of webdataset version 1.2, or offsets and sizes of TFRecords."""
    if shard.format == "tfrecord":
        # A record with its frame: 12 bytes before, 4 after.
        lines = [f"{s.members[0].offset - 12} {s.members[0].size + 16}" for s in shard.samples]
        return "".join(f"{line}\n" for line in lines).encode()
    lines = [f"v1.2 {len(shard.samples)}"]
    for sample in shard.samples:
        parts = [f"{m.suffix} {m.offset} {m.size} {sample.key}.{m.suffix}" for m in sample.members]
        lines.append(" ".join(parts))
    return "".join(f"{line}\n" for line in lines).encode()


def _read(store: ObjectStore, key: str) -> bytes | None:
    info = store.head(key)
    if info is None:
        return None
    if info.size_bytes > _MAX_INDEX:
        raise UnreadableError(store.uri(key), f"{info.size_bytes} bytes", expected=f"at most {_MAX_INDEX}")
    with store.open(key) as file:
        return file.read()


def _read_as(kind: type[_S], store: ObjectStore, name: str) -> _S | None:
    data = _read(store, index_name(name))
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableError(
            store.uri(index_name(name)), str(error), expected="the index of a shard"
        ) from None


def _all_as(kind: type[_S], store: ObjectStore) -> Iterator[_S]:
    for summary in read_index(store).shards:
        shard = _read_as(kind, store, summary.name)
        if shard is None or shard.sha256 != summary.sha256:
            raise UnreadableError(
                store.uri(summary.name),
                "an index that is absent, or of another file",
                expected="as index.json says",
            )
        yield shard
