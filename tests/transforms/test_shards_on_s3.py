"""Shards in a bucket: an HTTP server on this machine that speaks S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from storage.object_store import ObjectStore
from tests.s3_server import client, options, s3_server
from training.samples import load_image
from training.shard_samples import read_shard_samples
from transforms.augment.pixels import encode
from transforms.shards.reader import ShardDataset
from transforms.shards.sample import ShardLabels, entry_of
from transforms.shards.verify import verify_shards
from transforms.shards.write import write_shards

pytest.importorskip("obstore", reason="the extra s3 is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with s3_server() as url:
        client("s3", url).create_bucket(Bucket="shards")
        yield ObjectStore.at("s3://shards/set", options(url))


@pytest.mark.slow
def test_shards_are_written_to_s3_kept_verified_and_read_through_copies(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    entries = []
    for i in range(12):
        path = tmp_path / f"{i:02}.png"
        path.write_bytes(encode(np.full((40, 60, 3), i, np.uint8), path.name))
        labels = ShardLabels(sample=path.stem, width=60, height=40)
        entries.append(entry_of(path.name, str(path), "1", path.stat().st_size, labels))
    first = write_shards(entries, store, size_bytes=8_000)
    assert first.written > 1
    again = write_shards(entries, store, size_bytes=8_000)
    assert (again.written, again.kept) == (0, first.written)
    assert verify_shards(store).broken == {}
    dataset = ShardDataset(store.url, options=store.options, cache_dir=tmp_path / "cache")
    assert [int(dataset[i].image[0, 0, 0]) for i in range(12)] == list(range(12))
    # Trainers find the store as their environment says.
    for name, value in {
        "AWS_ENDPOINT_URL": store.options["endpoint_url"], "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1",
        "DROPMILL_CACHE": str(tmp_path / "machine"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    samples = read_shard_samples(store.url)
    assert samples[0].uri.startswith("s3://shards/set/shard-000000.tar#bytes=")
    assert [int(load_image(one)[0, 0, 0]) for one in samples] == list(range(12))
    copies = sorted((tmp_path / "machine" / "shards").glob("*.tar"))
    assert len(copies) == first.written
    shorter = write_shards(entries[:3], store, size_bytes=8_000)
    assert len([info for info in store.list() if info.key.endswith(".tar")]) == shorter.written + shorter.kept
