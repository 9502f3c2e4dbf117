"""Trainers on shards: the same samples as from loose files, the same pixels, the same course."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.errors import ConfigError, TrainingError, UnreadableError
from storage.object_store import ObjectStore
from tests.training.zoo_samples import blocks
from training.detectnet_v2.loop import fit as fit_detectnet
from training.detectnet_v2.sources import read_sources
from training.detectnet_v2.spec import DatasetConfig, DataSource, default_spec
from training.samples import Sample, load_image, split_samples, without
from training.shard_samples import read_shard_samples
from training.zoo.loop import fit as fit_zoo
from training.zoo.spec import DataSpec, ModelSpec, TrainSpec, ZooSpec
from transforms.shards.sample import Entry, ShardLabels, ShardObject, entry_of
from transforms.shards.write import write_shards


def in_shards(samples: list[Sample], folder: Path, **how: Any) -> Path:
    """Shards of samples, several of them."""
    entries: list[Entry] = []
    for one in samples:
        path = Path(one.uri)
        objects = tuple(
            ShardObject(category=name, bbox=tuple(box), ignore=ignore, segmentation=json.loads(shape))
            for name, box, ignore, shape in zip(
                one.categories, one.boxes.tolist(), one.ignore.tolist(), one.shapes, strict=True
            )
        )
        labels = ShardLabels(
            sample=one.id, width=one.width, height=one.height, split=one.split, objects=objects,
            parameters={"layers": [{"sample": name} for name in one.made_from]} if one.made_from else None,
        )  # fmt: skip
        size = path.stat().st_size
        entries.append(entry_of(f"{one.id}.png", one.uri, "1", size, labels))
    write_shards(entries, ObjectStore.at(folder), **{"size_bytes": 40_000, **how})
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return blocks(tmp_path_factory.mktemp("images"), 10)


@pytest.fixture(scope="module")
def shards(loose: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_shards(loose, tmp_path_factory.mktemp("shards"))


def test_samples_of_shards_say_and_show_what_those_of_files_do(loose: list[Sample], shards: Path) -> None:
    assert len(list(shards.glob("*.tar"))) > 2
    found = read_shard_samples(shards)
    assert [one.id for one in found] == [one.id for one in loose]
    for one, other in zip(found, loose, strict=True):
        assert one.boxes.tolist() == other.boxes.tolist()
        assert (one.categories, one.width, one.height) == (other.categories, other.width, other.height)
        assert [json.loads(shape or "") for shape in one.shapes] == [
            json.loads(s or "") for s in other.shapes
        ]
        assert np.array_equal(load_image(one), load_image(other))
        assert one.file_name == other.file_name


def test_the_shards_themselves_are_not_read_before_their_pixels(shards: Path, tmp_path: Path) -> None:
    for path in shards.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (sample, *_) = read_shard_samples(tmp_path)
    with pytest.raises(UnreadableError, match=r"shard-000000\.tar: FileNotFoundError"):
        load_image(sample)


def test_detectnet_takes_the_same_course_on_shards_as_on_files(
    loose: list[Sample], shards: Path, tmp_path: Path
) -> None:
    spec = default_spec(
        ["red", "blue"], 96, 64, epochs=2, batch_size=4, num_layers=10, max_learning_rate=1e-3, amp=False
    )
    runs = []
    for name, samples in (("files", loose), ("shards", read_shard_samples(shards))):
        result = fit_detectnet(spec, samples[:8], samples[8:], tmp_path / name)
        runs.append([(one["cost"], one["val_map50"]) for one in result.history if "val_map50" in one])
        assert result.history[0]["cost"] != result.history[1]["cost"]
    assert runs[0]
    assert runs[0] == runs[1]


def test_a_detector_of_the_zoo_takes_the_same_course_on_shards_as_on_files(
    loose: list[Sample], shards: Path, tmp_path: Path
) -> None:
    """Shards are read by processes of their own here."""
    model = ModelSpec(
        detector="ssdlite", backbone="mobilenet_v3_small", neck_channels=32, short_side=(64,), long_side=96,
        input_size=64,
    )  # fmt: skip
    spec = ZooSpec(
        model=model,
        data=DataSpec(transforms=("flip", "crop"), classes=("red", "blue")),
        train=TrainSpec(epochs=1, batch_size=2, lr=0.01, base_batch=2, warmup_steps=3, tensorboard=False),
    )
    curves: list[list[float]] = []
    for workers, samples in ((0, loose), (2, read_shard_samples(shards))):
        curve: list[float] = []
        fit_zoo(
            replace(spec, data=replace(spec.data, workers=workers)),
            samples,
            tmp_path / str(workers),
            on_step=lambda _, loss, to=curve: to.append(loss["loss"]),
        )
        curves.append(curve)
    assert len(curves[0]) == 5
    assert curves[0] == curves[1]


def test_a_spec_names_shards_where_tfrecords_stand(loose: list[Sample], tmp_path: Path) -> None:
    marked = [
        replace(one, split=split)
        for one, split in zip(loose, ["train"] * 6 + ["val"] * 3 + ["test"], strict=True)
    ]
    folder = in_shards(marked, tmp_path / "shards")
    config = DatasetConfig(data_sources=(DataSource(tfrecords_path=str(folder), image_directory_path=""),))
    found = read_sources(config, "spec.txt")
    assert [one.id for one in found.train] == [str(n) for n in range(6)]
    assert [one.id for one in found.val] == ["6", "7", "8"]
    apart = replace(
        config, validation_data_source=DataSource(tfrecords_path=str(folder), image_directory_path="")
    )
    assert len(read_sources(apart, "spec.txt").val) == 10


def test_what_is_made_of_a_picture_stays_on_its_side(loose: list[Sample], tmp_path: Path) -> None:
    made = [
        replace(one, id=f"{one.id}_aug{copy}", made_from=(one.id, *other))
        for one, follower in zip(loose, [*loose[1:], loose[0]], strict=True)
        for copy, other in enumerate([(), (follower.id,)])
    ]
    found = read_shard_samples(in_shards(made, tmp_path / "shards"))
    assert found[1].made_from == ("0", "1")
    train, val = split_samples(found, val_share=0.3, seed=1)
    sides = [{name for one in side for name in one.shown} for side in (train, val)]
    assert val
    assert not sides[0] & sides[1]
    mixed = [one for one in found if not (sides[0].issuperset(one.shown) or sides[1].issuperset(one.shown))]
    assert len(train) + len(val) + len(mixed) == len(found)
    held = loose[4:6]
    kept = without(found, held)
    assert not {"4", "5"} & {name for one in kept for name in one.shown}
    assert len(kept) == 20 - 2 * 2 - 1
    assert without([replace(found[0], split="test")], []) == []


def test_sets_that_cannot_be_trained_on_are_named_with_what_to_do(
    loose: list[Sample], tmp_path: Path
) -> None:
    with pytest.raises(UnreadableError, match=r"no index\.json"):
        read_shard_samples(tmp_path)
    records = in_shards(loose, tmp_path / "records", form="tfrecord")
    with pytest.raises(ConfigError, match="--format webdataset"):
        read_shard_samples(records)
    with pytest.raises(TrainingError, match="without any sample"):
        read_shard_samples(in_shards([], tmp_path / "none"))
    old = in_shards(loose, tmp_path / "old")
    index = json.loads((old / "shard-000000.json").read_bytes())
    del index["labels"]
    (old / "shard-000000.json").write_text(json.dumps(index))
    with pytest.raises(UnreadableError, match="write the shards again"):
        read_shard_samples(old)
    cut = in_shards(loose, tmp_path / "cut")
    samples = read_shard_samples(cut)
    (cut / "shard-000000.tar").write_bytes(b"short")
    with pytest.raises(UnreadableError, match=r"shard-000000\.tar"):
        load_image(samples[0])
