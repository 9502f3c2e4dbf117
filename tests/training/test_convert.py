from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.errors import ConfigError, TrainingError, UnreadableError
from training.detectnet_v2.convert import by_chance, convert, modify, write_partitions
from training.detectnet_v2.dataset import check_classes
from training.detectnet_v2.frames import Frame, read_frames, write_frames
from training.detectnet_v2.sources import read_sources
from training.detectnet_v2.spec import DatasetConfig, DataSource, SamplingMode, default_spec
from training.detectnet_v2.spec_jobs import (
    CocoConfig,
    DatasetConvertSpec,
    KittiConfig,
    SampleModifierConfig,
)


def frame(name: str, *categories: str, uri: str = "") -> Frame:
    count = len(categories)
    boxes = np.arange(4 * count, dtype=np.float64).reshape(-1, 4) + 0.25
    return Frame(
        id=name,
        width=64,
        height=48,
        categories=categories,
        boxes=boxes,
        ignore=np.zeros(count, bool),
        uri=uri,
    )


def kitti(root: Path) -> DatasetConvertSpec:
    return DatasetConvertSpec(
        kitti_config=KittiConfig(
            root_directory_path=str(root), image_dir_name="image_2", label_dir_name="label_2", num_shards=3
        )
    )


def read_all(files: tuple[Path, ...]) -> list[Frame]:
    return [one for path in files for one in read_frames(path)]


def test_frames_come_back_from_a_file_as_they_went_in(tmp_path: Path) -> None:
    extras = {"truncation": [0.5], "occlusion": [-1], "world_bbox_rot_y": [-1.5]}
    first = replace(frame("a/Grün", "car"), extras=extras, ignore=np.ones(1, bool))
    frames = [first, frame("b"), frame("c", "x", "y", uri="s3://bucket/c.png")]
    write_frames(tmp_path / "records", frames)
    for written, read in zip(frames, read_frames(tmp_path / "records"), strict=True):
        assert (read.id, read.width, read.height, read.uri) == (written.id, 64, 48, written.uri)
        assert read.categories == written.categories
        assert np.array_equal(read.boxes, written.boxes)
        assert np.array_equal(read.ignore, written.ignore)
    again = next(iter(read_frames(tmp_path / "records")))
    assert {name: list(again.extras[name]) for name in extras} == extras


@pytest.mark.parametrize("place", [5, 20, -2])
def test_a_damaged_file_is_refused_with_the_number_of_the_record(tmp_path: Path, place: int) -> None:
    path = tmp_path / "records"
    write_frames(path, [frame("a", "car")])
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match="record 0"):
        list(read_frames(path))


def test_kitti_becomes_two_random_partitions_in_shards_with_counts(tmp_path: Path, shared_data: Path) -> None:
    report = convert(kitti(shared_data / "kitti"), tmp_path / "k")
    assert [path.name for path in report.files][:1] == ["k-fold-000-of-002-shard-00000-of-00003"]
    assert len(report.files) == 6
    assert report.frames == (3, 10)  # 20 % of 13
    total = sum(report.classes, Counter())
    assert total == {
        "Car": 35,
        "DontCare": 26,
        "Pedestrian": 14,
        "Cyclist": 6,
        "Truck": 1,
        "Misc": 1,
        "Van": 1,
    }
    frames = read_all(report.files)
    assert len({one.id for one in frames}) == 13
    assert all(one.id.startswith("image_2/") and one.width > 1200 for one in frames)
    assert sum(int(one.ignore.sum()) for one in frames) == 26
    assert any("Car: 35" in line for line in report.lines())


def test_the_random_partition_is_random_and_the_same_for_a_seed() -> None:
    frames = [frame(f"{number:04d}") for number in range(200)]
    first, rest = by_chance(frames, 0.2, seed=1)
    assert (len(first), len(rest)) == (40, 160)
    assert {one.id for one in first} == {one.id for one in by_chance(frames[::-1], 0.2, seed=1)[0]}
    assert {one.id for one in first} != {one.id for one in by_chance(frames, 0.2, seed=2)[0]}
    # Not the head of the list, and spread over all of it.
    assert (
        20 < np.mean([int(one.id) for one in first]) / 4 < 30
        or 60 < np.mean([int(one.id) for one in first]) < 140
    )


def test_sequences_stay_together(tmp_path: Path, shared_data: Path) -> None:
    names = sorted(path.stem for path in (shared_data / "kitti" / "label_2").glob("*.txt"))
    sequences = {"one": names[:6], "two": names[6:10], "three": names[10:]}
    (tmp_path / "map.json").write_text(json.dumps(sequences))
    spec = kitti(shared_data / "kitti")
    assert spec.kitti_config is not None
    config = replace(
        spec.kitti_config,
        partition_mode="sequence",
        num_partitions=2,
        kitti_sequence_to_frames_file=str(tmp_path / "map.json"),
    )
    report = convert(replace(spec, kitti_config=config), tmp_path / "k")
    assert report.frames == (6, 7)
    for fold in ("000", "001"):
        held = {
            one.id.split("/")[1]
            for path in report.files
            if f"fold-{fold}" in path.name
            for one in read_frames(path)
        }
        for members in sequences.values():
            assert held.issuperset(members) or held.isdisjoint(members)
    (tmp_path / "map.json").write_text(json.dumps({"one": names[:6]}))
    with pytest.raises(ConfigError, match="7 images are in no sequence"):
        convert(replace(spec, kitti_config=config), tmp_path / "k2")


def test_each_coco_file_is_a_partition(tmp_path: Path, shared_data: Path) -> None:
    config = CocoConfig(
        root_directory_path=str(shared_data / "nuts-coco-masks"),
        img_dir_names=("images",),
        annotation_files=("trainval.json",),
        num_partitions=1,
        num_shards=(2,),
    )
    report = convert(DatasetConvertSpec(coco_config=config), tmp_path / "nuts")
    assert report.frames == (18,)
    assert sum(report.classes, Counter()) == {"date": 71, "hazelnut": 53, "fig": 41}
    source = DataSource(
        tfrecords_path=f"{tmp_path}/nuts*",
        image_directory_path=str(shared_data / "nuts-coco-masks"),
        source_weight=0.5,
    )
    samples = read_sources(DatasetConfig(data_sources=(source,)), "spec").train
    assert len(samples) == 18
    assert samples[0].weight == 0.5
    assert (samples[0].boxes[:, 2:] > samples[0].boxes[:, :2]).all()


def test_frames_are_left_out_and_repeated_as_the_modifier_says() -> None:
    frames = [frame("a", "car", "car"), frame("b", "bike", "car"), frame("c", "tree"), frame("d")]
    config = SampleModifierConfig(
        filter_samples_containing_only=("Tree",),
        dominant_target_classes=("car",),
        minimum_target_class_imbalance={"bike": 0.5},
        num_duplicates=2,
    )
    assert [one.id for one in modify(frames, config)] == ["a", "b", "b", "b", "d"]
    assert len(modify(frames, replace(config, max_training_samples=2))) == 2


def test_nothing_to_convert_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no image"):
        write_partitions([[], []], [1, 1], tmp_path / "x")
    (tmp_path / "image_2").mkdir()
    (tmp_path / "label_2").mkdir()
    with pytest.raises(ConfigError, match="no label files"):
        convert(kitti(tmp_path), tmp_path / "x")
    with pytest.raises(ConfigError, match="is not a folder"):
        convert(kitti(tmp_path / "absent"), tmp_path / "x")
    (tmp_path / "label_2" / "1.txt").write_text("Car 0 0 0 1 1 9 9 0 0 0 0 0 0 0\n")
    with pytest.raises(UnreadableError, match="no such file, though it is the image of"):
        convert(kitti(tmp_path), tmp_path / "x")
    (tmp_path / "image_2" / "1.bmp").touch()
    with pytest.raises(ConfigError, match=r"image_extension is .*; the image of .*1\.txt is .*1\.bmp"):
        convert(kitti(tmp_path), tmp_path / "x")


def test_the_validation_fold_is_kept_from_training(tmp_path: Path, shared_data: Path) -> None:
    convert(kitti(shared_data / "kitti"), tmp_path / "k")
    source = DataSource(tfrecords_path=f"{tmp_path}/k*", image_directory_path=str(shared_data / "kitti"))
    config = DatasetConfig(data_sources=(source,), image_extension="png", validation_fold=0)
    sources = read_sources(config, "spec")
    assert (len(sources.train), len(sources.val)) == (10, 3)
    assert not {one.id for one in sources.train} & {one.id for one in sources.val}
    with pytest.raises(ConfigError, match="keep one"):
        read_sources(replace(config, validation_data_source=source), "spec")
    with pytest.raises(TrainingError, match="no image"):
        read_sources(replace(config, image_extension="gif"), "spec")
    with pytest.raises(ConfigError, match="matches no file"):
        read_sources(replace(config, data_sources=(replace(source, tfrecords_path="/nowhere/*"),)), "spec")


def test_sources_of_unlike_sizes_give_as_many_samples_each_where_the_spec_says_uniform(
    tmp_path: Path, shared_data: Path
) -> None:
    convert(kitti(shared_data / "kitti"), tmp_path / "k")
    large, small = (
        DataSource(tfrecords_path=str(tmp_path / name), image_directory_path=str(shared_data / "kitti"))
        for name in ("k-fold-001*", "k-fold-000*")
    )
    config = DatasetConfig(data_sources=(large, small), image_extension="png")
    plain = read_sources(config, "spec").train
    even = read_sources(replace(config, sampling_mode=SamplingMode.UNIFORM), "spec").train
    assert [sum(one.id.startswith(source) for one in plain) for source in ("0:", "1:")] == [10, 3]
    assert [sum(one.id.startswith(source) for one in even) for source in ("0:", "1:")] == [10, 10]
    assert len({one.id for one in even}) == 20  # each is augmented on its own
    assert len({one.uri for one in even}) == 13


def test_a_frame_cannot_name_an_image_outside_of_its_folder(tmp_path: Path) -> None:
    write_frames(tmp_path / "r", [frame("../../etc/passwd", "car")])
    source = DataSource(tfrecords_path=str(tmp_path / "r"), image_directory_path=str(tmp_path))
    with pytest.raises(TrainingError, match="outside"):
        read_sources(DatasetConfig(data_sources=(source,)), "spec")


def test_a_class_that_no_label_has_stops_with_the_classes_that_there_are() -> None:
    spec = default_spec(["car", "person"], 64, 48)
    config = replace(spec.dataset_config, target_class_mapping={"Car": "car", "pedestrain": "person"})
    sample = frame("a", "Car", "Pedestrian").sample("a.png")
    with pytest.raises(
        TrainingError, match=r"no object of person \(mapped from pedestrain\).*Car, Pedestrian"
    ):
        check_classes(replace(spec, dataset_config=config), [sample], [])
    right = replace(config, target_class_mapping={"car": "car", "pedestrian": "person"})
    check_classes(replace(spec, dataset_config=right), [sample], [])


def test_a_class_that_only_validation_has_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    spec = default_spec(["car", "person"], 64, 48)
    check_classes(spec, [frame("a", "Car").sample("a.png")], [frame("b", "Person").sample("b.png")])
    assert "no training sample has person" in caplog.text
