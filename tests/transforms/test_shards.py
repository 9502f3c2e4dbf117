"""Shards: written whole or not at all, read in an order that follows from numbers alone."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from storage.errors import ConfigError, UnreadableError
from storage.object_store import ObjectStore
from transforms.augment.pixels import decode, encode
from transforms.formats.tfrecord import example, records
from transforms.shards import write as writing
from transforms.shards.index import read_index, read_shard, shards_of
from transforms.shards.order import Done, epoch_sequence, left_after, share_of
from transforms.shards.reader import EpochSampler, Progress, ShardDataset, ShardLoader
from transforms.shards.sample import ShardLabels, ShardObject, entry_of, key_of, sample_of
from transforms.shards.tar import header
from transforms.shards.verify import verify_shards
from transforms.shards.write import write_shards

OUTLINE = [[2, 2, 9, 2, 9, 9, 2, 9]]


def _entries(folder: Path, count: int = 40, *, change: str = ""):
    """Small images with one object each, whose first pixel is their number."""
    found = []
    for i in range(count):
        name = f"cam.1/{i:03}.v2.png"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((12 + i % 3, 16, 3), i, np.uint8)
        path.write_bytes(encode(pixels, name))
        labels = ShardLabels(
            sample=name.removesuffix(".png"), width=16, height=12 + i % 3,
            objects=(
                ShardObject(category=("even", "odd")[i % 2], bbox=(1, 2, 9, 10.5), segmentation=OUTLINE),
            ),
        )  # fmt: skip
        found.append(entry_of(name, str(path), f"{path.stat().st_size}{change}", path.stat().st_size, labels))
    return found


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ObjectStore:
    folder = tmp_path_factory.mktemp("shards")
    store = ObjectStore.at(folder / "set")
    write_shards(_entries(folder), store, size_bytes=20_000, masks=True)
    return store


def test_any_tool_opens_a_shard_and_the_bytes_are_the_images_own(shards: ObjectStore, tmp_path: Path):
    names = sorted(path.name for path in shards.root.glob("*.tar"))
    assert len(names) > 2
    originals = {entry.key: Path(entry.uri).read_bytes() for entry in _entries(tmp_path)}
    seen = {}
    for name in names:
        with tarfile.open(shards.root / name) as archive:
            for member in archive.getmembers():
                seen[member.name] = archive.extractfile(member).read()
                assert (member.mode, member.mtime, member.uid) == (0o644, 0, 0)
    for key, data in originals.items():
        assert seen[f"{key}.png"] == data
        labels = json.loads(seen[f"{key}.json"])
        assert labels["objects"][0]["bbox"] == [1, 2, 9, 10.5]
        numbers = decode(seen[f"{key}.mask.png"], key)[..., 0]
        assert (numbers[3, 3], numbers[11, 14]) == (1, 0)
    assert key_of("cam.1/003.v2") == "cam%2E1/003%2Ev2"
    assert sample_of("cam%2E1/003%2Ev2") == "cam.1/003.v2"


def test_webdataset_itself_reads_them(shards: ObjectStore):
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(shards.root.glob("*.tar"))]
    rows = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(rows) == 40
    assert [int(row["png"][0, 0, 0]) for row in rows] == list(range(40))
    assert rows[3]["json"]["sample"] == "cam.1/003.v2"


def test_dali_reads_them_by_its_own_index(shards: ObjectStore):
    pytest.importorskip("nvidia.dali")
    from transforms.shards.dali_reader import batches, dali_pipeline

    pipeline = dali_pipeline(shards.root, batch_size=8, shuffle=False)
    found = [item for batch in batches(pipeline, 5) for item in batch]
    assert [int(pixels[0, 0, 0]) for pixels, _ in found] == list(range(40))
    assert found[7][1].sample == "cam.1/007.v2"


@pytest.mark.parametrize("name", ["a.jpg", "deep/" * 30 + "x.jpg", "ümlaut.jpg", "x" * 300 + ".json"])
def test_headers_are_those_that_tarfile_reads(name: str):
    data = header(name, 5) + b"12345" + bytes(507) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [(m.name, m.size) for m in archive.getmembers()] == [(name, 5)]


def test_the_same_samples_give_the_same_bytes_and_a_second_pass_writes_nothing(tmp_path: Path):
    entries = _entries(tmp_path)
    one, two = ObjectStore.at(tmp_path / "one"), ObjectStore.at(tmp_path / "two")
    write_shards(entries, one, size_bytes=20_000)
    write_shards(entries, two, size_bytes=20_000)
    files = {path.name: path.read_bytes() for path in one.root.iterdir()}
    assert files == {path.name: path.read_bytes() for path in two.root.iterdir()}
    again = write_shards(entries, one, size_bytes=20_000)
    assert (again.written, again.kept) == (0, len(again.index.shards))
    changed = [*entries[:-1], _entries(tmp_path, change="x")[-1]]
    third = write_shards(changed, one, size_bytes=20_000)
    assert (third.written, third.kept) == (1, len(third.index.shards) - 1)


def test_a_crash_leaves_no_half_shard_and_the_next_pass_writes_what_is_missing(tmp_path: Path, monkeypatch):
    entries, store = _entries(tmp_path), ObjectStore.at(tmp_path / "set")

    class Crash(BaseException):
        pass

    def read(part):
        for i, data in enumerate(writing.read_files(part)):
            if part[0].key >= key_of("cam.1/020") and i == 2:
                raise Crash
            yield data

    with pytest.raises(Crash):
        write_shards(entries, store, size_bytes=20_000, read=read)
    whole = sorted(path.name for path in store.root.glob("*.tar"))
    assert whole
    assert sorted(path.name for path in store.root.iterdir() if path.name.endswith(".json")) == [
        name.replace(".tar", ".json") for name in whole
    ]
    with pytest.raises(UnreadableError, match="complete"):
        ShardDataset(store.root)
    report = write_shards(entries, store, size_bytes=20_000)
    assert report.kept == len(whole)
    assert len(ShardDataset(store.root)) == 40
    assert not [path for path in store.root.iterdir() if path.name.startswith(".")]


def test_a_crash_while_a_set_is_replaced_never_shows_old_and_new_mixed(tmp_path: Path):
    entries, store = _entries(tmp_path), ObjectStore.at(tmp_path / "set")
    write_shards(entries, store, size_bytes=20_000)
    count = len(read_index(store).shards)

    class Crash(BaseException):
        pass

    def read(part):
        yield from (
            data if i < 2 else (_ for _ in ()).throw(Crash) for i, data in enumerate(writing.read_files(part))
        )

    with pytest.raises(Crash):
        write_shards(_entries(tmp_path, change="x"), store, size_bytes=20_000, read=read)
    with pytest.raises(UnreadableError):
        ShardDataset(store.root)
    shorter = write_shards(_entries(tmp_path, 9), store, size_bytes=20_000)
    assert len(shorter.index.shards) < count
    assert len(list(store.root.glob("*.tar"))) == len(shorter.index.shards), (
        "those of the longer set are gone"
    )


def test_an_image_that_cannot_be_read_is_named_and_tried_again(tmp_path: Path):
    entries, store = _entries(tmp_path, 6), ObjectStore.at(tmp_path / "set")
    lost = Path(entries[2].uri)
    data = lost.read_bytes()
    lost.unlink()
    report = write_shards(entries, store)
    assert list(report.failed) == [entries[2].key]
    assert len(ShardDataset(store.root)) == 5
    lost.write_bytes(data)
    assert write_shards(entries, store).written == 1
    assert len(ShardDataset(store.root)) == 6


def test_verify_finds_a_flipped_bit_a_missing_shard_and_a_short_one(shards: ObjectStore, tmp_path: Path):
    store = ObjectStore.at(tmp_path / "set")
    report = write_shards(_entries(tmp_path), store, size_bytes=12_000)
    names = [shard.name for shard in report.index.shards]
    assert verify_shards(store).broken == {}
    path = store.root / names[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (store.root / names[1]).unlink()
    (store.root / names[2]).write_bytes((store.root / names[2]).read_bytes()[:-512])
    found = verify_shards(store)
    assert list(found.broken) == names[:3]
    assert "SHA-256" in found.broken[names[0]]
    assert found.shards == len(names) - 3


def test_indexes_count_samples_and_objects(shards: ObjectStore):
    index = read_index(shards)
    assert sum(shard.samples for shard in index.shards) == 40
    counts = [shard.objects for shard in index.shards]
    assert sum(one.get("even", 0) for one in counts) == sum(one.get("odd", 0) for one in counts) == 20
    assert read_shard(shards, "nothing.tar") is None
    assert all(shard.made_from for shard in shards_of(shards))


def test_tfrecords_have_the_features_of_the_converter_and_an_index(tmp_path: Path):
    entries, store = _entries(tmp_path, 7), ObjectStore.at(tmp_path / "set")
    report = write_shards(entries, store, form="tfrecord")
    name = report.index.shards[0].name
    data = (store.root / name).read_bytes()
    found = [example(record, name, i) for i, record in enumerate(records(data, name))]
    assert len(found) == 7
    one = found[3]
    assert one["frame/id"] == [b"cam.1/003.v2"]
    assert (one["frame/width"], one["frame/height"]) == ([16], [12])
    assert one["target/object_class"] == [b"odd"]
    assert [one[f"target/coordinates_{side}"] for side in ("x1", "y1", "x2", "y2")] == [[1], [2], [9], [10.5]]
    assert one["target/truncation"] == one["target/world_bbox_h"] == [0]
    assert decode(one["frame/encoded"][0], "x")[0, 0, 0] == 3
    lines = (store.root / name.replace(".tfrecord", ".idx")).read_text().split("\n")[:-1]
    start, size = map(int, lines[3].split())
    assert (
        example(next(iter(records(data[start : start + size], name))), name, 0)["frame/id"] == one["frame/id"]
    )
    assert verify_shards(store).broken == {}
    with pytest.raises(ConfigError, match="webdataset"):
        ShardDataset(store.root)


sizes = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(sum)
some = settings(max_examples=80, deadline=None, phases=[Phase.explicit, Phase.generate])


@some
@given(sizes=sizes, epoch=st.integers(0, 5), world=st.integers(1, 7), window=st.integers(1, 4))
def test_ranks_share_an_epoch_in_equal_parts_that_are_all_of_it(sizes, epoch, world, window):
    sequence = epoch_sequence(sizes, seed=1, epoch=epoch, window=window)
    assert sorted(sequence) == list(range(sum(sizes)))
    shares = [share_of(sequence, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert set(np.concatenate(shares)) == set(sequence)
    dropped = np.concatenate([share_of(sequence, rank, world, drop=True) for rank in range(world)])
    assert len(set(dropped)) == len(dropped) == sum(sizes) // world * world


@some
@given(
    sizes=sizes,
    stretches=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 12)), max_size=4),
    world=st.integers(1, 5),
)
def test_a_run_that_goes_on_with_other_ranks_sees_every_sample_once(sizes, stretches, world):
    sequence = epoch_sequence(sizes, seed=3, epoch=0)
    seen: list[int] = []
    done: list[Done] = []
    for ranks, count in stretches:
        left = left_after(sequence, done)
        for rank in range(ranks):
            seen += share_of(left, rank, ranks)[:count].tolist()
        done.append(Done(ranks, count))
    rest = left_after(sequence, done)
    assert set(seen) | set(rest.tolist()) == set(range(sum(sizes)))
    assert not set(seen) & set(rest.tolist())
    assert len(rest) <= max(sum(sizes) - sum(min(c, 1) for _, c in stretches), 0) + len(stretches)


def test_epochs_differ_and_the_same_epoch_is_the_same_anywhere():
    sizes = [100] * 5
    first, second = (epoch_sequence(sizes, seed=1, epoch=epoch) for epoch in (0, 1))
    assert (first != second).mean() > 0.9
    assert np.array_equal(first, epoch_sequence(sizes, seed=1, epoch=0))
    near = epoch_sequence(sizes, seed=1, epoch=0, window=1)
    assert all(len(set((near[i : i + 100] // 100).tolist())) == 1 for i in range(0, 500, 100)), (
        "shard by shard"
    )


def test_a_data_loader_gives_the_order_of_the_sampler_with_any_number_of_workers(shards: ObjectStore):
    dataset = ShardDataset(shards.root)
    sampler = EpochSampler(dataset.sizes, rank=1, world_size=2, seed=5)
    expected = [int(n) for n in sampler]
    for workers in (0, 2):
        loader = DataLoader(dataset, sampler=sampler, batch_size=6, num_workers=workers, collate_fn=list)
        seen = [int(item.image[0, 0, 0]) for batch in loader for item in batch]
        assert seen == expected
    loader = ShardLoader(dataset, sampler, batch_size=6, threads=3)
    assert len(loader) == 4
    batches = list(loader)
    assert [int(item.image[0, 0, 0]) for batch in batches for item in batch] == expected
    assert isinstance(batches[0][0].image, torch.Tensor)
    assert batches[0][0].sample == dataset.key(expected[0])


def test_a_run_resumes_in_the_middle_of_an_epoch_from_its_state(shards: ObjectStore):
    dataset = ShardDataset(shards.root)
    ranks = [EpochSampler(dataset.sizes, rank=rank, world_size=2) for rank in range(2)]
    seen = [n for sampler in ranks for n in list(sampler)[:7]]
    state = json.loads(json.dumps(ranks[0].after(7).state()))
    for rank in range(3):
        sampler = EpochSampler(dataset.sizes, rank=rank, world_size=3, progress=Progress.of(state))
        seen += list(sampler)
    assert set(seen) == set(range(40))
    assert len(seen) == 14 + 27, "26 are left, padded to 27 for three ranks"
    assert ranks[0].after(20).state() == {"epoch": 1, "done": []}


def test_shards_of_an_object_store_are_copied_once_and_only_copies_are_ever_deleted(
    shards: ObjectStore, tmp_path: Path
):
    import fsspec

    remote = fsspec.filesystem("memory")
    remote.store.clear()
    for path in shards.root.iterdir():
        remote.pipe_file(f"/bucket/set/{path.name}", path.read_bytes())
    largest = max(shard.size_bytes for shard in read_index(shards).shards)
    cache = tmp_path / "cache"
    dataset = ShardDataset("memory://bucket/set", cache_dir=cache, cache_bytes=2 * largest)
    for turn in range(2):
        assert [int(dataset[i].image[0, 0, 0]) for i in range(40)] == list(range(40)), turn
    assert sum(path.stat().st_size for path in cache.iterdir()) <= 2 * largest
    assert len(remote.find("/bucket/set")) == len(list(shards.root.iterdir()))
    with pytest.raises(ConfigError, match="cache_dir"):
        ShardDataset("memory://bucket/set")


def test_a_shard_that_was_cut_is_an_error_that_names_it(tmp_path: Path):
    store = ObjectStore.at(tmp_path / "set")
    write_shards(_entries(tmp_path, 5), store)
    dataset = ShardDataset(store.root)
    path = next(store.root.glob("*.tar"))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UnreadableError, match=r"shard-000000\.tar"):
        dataset[4]


@pytest.mark.slow
def test_readers_import_in_a_plain_pytorch_environment():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('ray', 'polars', 'deltalake')));"
        "import transforms.shards.reader, transforms.shards.dali_reader, transforms.augment.executor"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
