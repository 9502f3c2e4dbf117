"""Write shards: of a target size, whole or not at all, and only those that are missing."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec

from storage.errors import ConfigError, DropmillError
from storage.object_store import ObjectStore
from transforms.shards import tar
from transforms.shards.files import INDEX
from transforms.shards.index import (
    Index,
    LabelledShard,
    Located,
    Member,
    Shard,
    Summary,
    dali_name,
    index_name,
    read_shard,
    write_shard_index,
)
from transforms.shards.instances import instance_map
from transforms.shards.records import framed, tao_example
from transforms.shards.sample import Entry, counts_of, labels_json

SUFFIXES = {"webdataset": "tar", "tfrecord": "tfrecord"}
_LAYOUT = 2  # shards of another one are written anew
_READS_AT_ONCE = 4
_BUFFER = 1 << 20

Read = Callable[[Sequence[Entry]], Iterable[bytes | str]]
"""The bytes of entries, in their order, or a text that says why there are none."""


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """What was written. ``kept`` shards were there already, made from the same."""

    index: Index
    written: int
    kept: int
    failed: dict[str, str] = field(default_factory=dict)
    """Sample to the reason why it could not be read; none of its bytes is in a shard."""


def write_shards(
    entries: Iterable[Entry],
    store: ObjectStore,
    *,
    form: str = "webdataset",
    masks: bool = False,
    size_bytes: int = 256 << 20,
    prefix: str = "shard",
    read: Read | None = None,
    made_from: dict[str, Any] | None = None,
    progress: Callable[[int], None] = lambda _samples: None,
) -> WriteReport:
    """Write samples, in their order, as ``<prefix>-000000.tar`` and on, of about ``size_bytes`` each.

    A sample never spans two shards. Which samples share a shard follows from their sizes alone, so a second
    pass finds what it needs to do: shards made from the same samples are kept, ``index.json`` comes last, and
    shards of an older, longer set are removed after it. Bytes go in as they are, nothing is encoded again.
    With ``masks`` each sample has a ``mask.png``: 0 is background, n the n-th object of its labels.
    """
    if form not in SUFFIXES:
        raise ConfigError(f"{form!r} shards; expected one of {', '.join(SUFFIXES)}")
    listed = list(entries)
    if len({entry.key for entry in listed}) < len(listed):
        twice = next(key for key, count in Counter(e.key for e in listed).items() if count > 1)
        raise ConfigError(f"two samples are called {twice!r}; a shard would mix them up")
    fetch = read or read_files
    summaries: list[Summary] = []
    failed: dict[str, str] = {}
    written = kept = 0
    for number, part in enumerate(parts_of(listed, size_bytes)):
        name = f"{prefix}-{number:06d}.{SUFFIXES[form]}"
        said = [labels_json(entry.labels) for entry in part]
        source = source_of(part, said, f"{form}+masks" if masks else form)
        shard = _finished(store, name, source)
        if shard is None:
            shard, lost = _write_one(store, name, part, said, _Form(form, masks), source, fetch)
            failed |= lost
            written += 1
        else:
            kept += 1
        summaries.append(
            Summary(
                name=name,
                samples=len(shard.samples),
                size_bytes=shard.size_bytes,
                sha256=shard.sha256,
                objects=shard.objects,
            )
        )
        progress(len(part))
    index = Index(format=form, shards=tuple(summaries), made_from=made_from or {})
    store.write(INDEX, msgspec.json.encode(index))
    _remove_others(store, prefix, {summary.name for summary in summaries})
    return WriteReport(index=index, written=written, kept=kept, failed=failed)


def parts_of(entries: Sequence[Entry], size_bytes: int) -> Iterator[list[Entry]]:
    """Entries cut into shards: the next begins where one more sample would pass the size."""
    part: list[Entry] = []
    filled = 0
    for entry in entries:
        size = entry.size_bytes + 3 * tar.BLOCK
        if part and filled + size > size_bytes:
            yield part
            part, filled = [], 0
        part.append(entry)
        filled += size
    if part:
        yield part


def source_of(part: Sequence[Entry], said: Sequence[bytes], form: str) -> str:
    """A hash of all that a shard's bytes follow from; ``said`` are the labels of its entries as JSON."""
    digest = hashlib.sha256(f"{_LAYOUT}/{form}".encode())
    for entry, labels in zip(part, said, strict=True):
        digest.update(f"\0{entry.key}.{entry.suffix}\0{entry.version}\0{entry.size_bytes}\0".encode())
        digest.update(labels)
    return digest.hexdigest()


def _finished(store: ObjectStore, name: str, source: str) -> Shard | None:
    """A shard that is there, whole, and made from the same."""
    try:
        shard = read_shard(store, name)
    except DropmillError:
        return None
    if shard is None or shard.made_from != source:
        return None
    info = store.head(name)
    return shard if info is not None and info.size_bytes == shard.size_bytes else None


def _write_one(
    store: ObjectStore,
    name: str,
    part: Sequence[Entry],
    said: Sequence[bytes],
    form: _Form,
    source: str,
    read: Read,
) -> tuple[LabelledShard, dict[str, str]]:
    # An index of older bytes must not speak for new ones.
    store.remove(index_name(name))
    store.remove(dali_name(name))
    failed: dict[str, str] = {}
    target = store.root / name if store.is_directory else None
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that its last step is a rename; for an object store, in a folder of its own.
    with tempfile.TemporaryDirectory() as scratch:
        place = target.with_name(f".{target.name}.{os.getpid()}.tmp") if target else Path(scratch) / "shard"
        try:
            with place.open("wb", buffering=0) as file:
                shard = _fill(file, name, part, said, form, source, read, failed)
            if target is not None:
                place.replace(target)
            else:
                store.upload(name, place)
        finally:
            place.unlink(missing_ok=True)
    if failed:
        # The next pass must try again: nothing that is planned has this name.
        shard = msgspec.structs.replace(shard, made_from="incomplete")
    write_shard_index(store, shard)
    return shard, failed


def _fill(
    file: BinaryIO,
    name: str,
    part: Sequence[Entry],
    said: Sequence[bytes],
    form: _Form,
    source: str,
    read: Read,
    failed: dict[str, str],
) -> LabelledShard:
    writer = _Writer(file)
    located: list[Located] = []
    kept: list[msgspec.Raw] = []
    objects: Counter[str] = Counter()
    with writer:
        for entry, labels, data in zip(part, said, read(part), strict=True):
            if isinstance(data, str):
                failed[entry.key] = data
                continue
            located.append(_member_of(writer, entry, data, labels, form))
            kept.append(msgspec.Raw(labels))
            objects.update(counts_of(entry.labels))
        if form.name == "webdataset":
            writer.put(tar.end(writer.size))
    return LabelledShard(
        name=name,
        format=form.name,
        size_bytes=writer.size,
        sha256=writer.sha256,
        made_from=source,
        objects=dict(objects.most_common()),
        samples=tuple(located),
        labels=tuple(kept),
    )


def _member_of(writer: _Writer, entry: Entry, data: bytes, labels: bytes, form: _Form) -> Located:
    if form.name == "tfrecord":
        record = tao_example(entry.labels, data)
        member = Member("tfrecord", writer.size + 12, len(record))
        writer.put(framed(record))
        return Located(entry.key, (member,))
    members = []
    contents = [(entry.suffix, data), ("json", labels)]
    if form.masks:
        contents.append(("mask.png", instance_map(entry.labels)))
    for suffix, content in contents:
        head = tar.header(f"{entry.key}.{suffix}", len(content))
        members.append(Member(suffix, writer.size + len(head), len(content)))
        writer.put(head, content, tar.padding(len(content)))
    return Located(entry.key, tuple(members))


@dataclass(frozen=True)
class _Form:
    name: str
    masks: bool


class _Writer:
    """A file that is written in large pieces, which a thread beside it hashes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._parts: list[bytes] = []
        self._waiting = 0
        self._digest = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1)
        self._hashed: Future[None] | None = None
        self.size = 0
        self.sha256 = ""

    def put(self, *parts: bytes) -> None:
        """Bytes to come next."""
        self._parts += parts
        size = sum(map(len, parts))
        self._waiting += size
        self.size += size
        if self._waiting >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        # Joined, because hashing and writing of small pieces would hold the interpreter for each of them.
        data = b"".join(self._parts)
        self._parts, self._waiting = [], 0
        if self._hashed is not None:
            self._hashed.result()
        self._hashed = self._pool.submit(self._digest.update, data)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._pool.shutdown()
        self.sha256 = self._digest.hexdigest()


def read_files(part: Sequence[Entry]) -> Iterator[bytes | str]:
    """The bytes of local files, some of them read ahead."""

    def fetch(entries: list[Entry]) -> list[bytes | str]:
        return [_content(entry) for entry in entries]

    # Small files go to a thread by the handful: handing over each would cost more than reading it.
    work = _handfuls(part)
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        waiting = deque(pool.submit(fetch, entries) for entries in islice(work, _READS_AT_ONCE))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(fetch, entries) for entries in islice(work, 1))
            yield from done


def _handfuls(part: Sequence[Entry]) -> Iterator[list[Entry]]:
    few: list[Entry] = []
    size = 0
    for entry in part:
        few.append(entry)
        size += entry.size_bytes
        if size >= _BUFFER or len(few) >= 64:
            yield few
            few, size = [], 0
    if few:
        yield few


def _content(entry: Entry) -> bytes | str:
    try:
        # Plain calls: a file object costs more than reading a small file does.
        number = os.open(entry.uri, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(number, entry.size_bytes)
            while more := os.read(number, _BUFFER):
                data += more
        finally:
            os.close(number)
        return data
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def _remove_others(store: ObjectStore, prefix: str, names: set[str]) -> None:
    """Shards of an older set that the index does not name any more, with all that is theirs."""
    for info in list(store.list()):
        base, _, suffix = info.key.rpartition(".")
        numbered = base.startswith(f"{prefix}-") and base.removeprefix(f"{prefix}-").isdecimal()
        named = any(f"{base}.{kind}" in names for kind in SUFFIXES.values())
        if numbered and not named and suffix in {"tar", "tfrecord", "json", "idx"}:
            store.remove(info.key)
