"""Check shards against their index: sizes, checksums, and that every member lies where it is said to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from storage.errors import DropmillError
from storage.object_store import ObjectStore
from transforms.formats.tfrecord import records
from transforms.shards import tar
from transforms.shards.index import Shard, read_index, read_shard

_PIECE = 8 << 20


@dataclass(frozen=True)
class Verified:
    """How many shards and samples are sound, and what is wrong with the others, by shard."""

    shards: int
    samples: int
    broken: dict[str, str]


def verify_shards(store: ObjectStore) -> Verified:
    """Read every byte of a set. Raises UnreadableError where the set has no index at all."""
    broken: dict[str, str] = {}
    samples = sound = 0
    for summary in read_index(store).shards:
        try:
            shard = read_shard(store, summary.name)
            if shard is None or shard.sha256 != summary.sha256:
                broken[summary.name] = "its own index is absent, or of another file"
                continue
            wrong = _wrong(store, shard)
        except (DropmillError, OSError) as error:
            wrong = str(error)
        if wrong:
            broken[summary.name] = wrong
            continue
        sound += 1
        samples += summary.samples
    return Verified(sound, samples, broken)


def _wrong(store: ObjectStore, shard: Shard) -> str | None:
    info = store.head(shard.name)
    if info is None:
        return "it is not there"
    if info.size_bytes != shard.size_bytes:
        return f"{info.size_bytes} bytes; expected {shard.size_bytes}"
    digest = hashlib.sha256()
    with store.open(shard.name) as file:
        while data := file.read(_PIECE):
            digest.update(data)
        if digest.hexdigest() != shard.sha256:
            return f"its SHA-256 is {digest.hexdigest()}; expected {shard.sha256}"
        file.seek(0)
        if shard.format == "tfrecord":
            count = sum(1 for _ in records(file.read(), shard.name))
            return None if count == len(shard.samples) else f"{count} records; expected {len(shard.samples)}"
        found = list(tar.members(file, shard.name))
    said = [(f"{s.key}.{m.suffix}", m.offset, m.size) for s in shard.samples for m in s.members]
    return None if found == said else "its members lie elsewhere than its index says"
