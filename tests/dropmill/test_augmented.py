"""Augmentation of a lake's data set, and Ray actors that carry plans out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from dropmill.augmented import augment_lake
from dropmill.cli import cli
from dropmill.lake_samples import read_lake_shards, read_samples
from storage import schemas
from storage.errors import ConfigError, TrainingError
from storage.lake import Lake
from storage.object_store import ObjectStore
from training.samples import load_image, split_samples, without
from transforms.augment.pixels import encode
from transforms.augment.spec import load_augment_spec
from transforms.shards.reader import ShardDataset

COUNT = 10


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Ten pictures, each with a car, one with a rare thing that has a mask of a model."""
    bucket = ObjectStore.at(tmp_path / "bucket")
    lake = Lake.create(tmp_path / "lake")
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for i in range(COUNT):
        key = f"set/images/{i}.png"
        bucket.write(key, encode(rng.integers(0, 256, (90, 120, 3), np.uint8), key))
        info = bucket.head(key)
        images.append(
            {
                "dataset": "set", "sample": f"images/{i}", "stem": str(i), "key": key, "uri": bucket.uri(key),
                "version": info.version, "size_bytes": info.size_bytes, "width": 120, "height": 90,
                "labelled": True, "split": "val" if i == 9 else "train", "batch": 1,
            }
        )  # fmt: skip
        for instance, category in enumerate(["Car", "Rare"] if i == 3 else ["Car"]):
            left = 20.0 + 40 * instance
            boxes.append(
                {
                    "dataset": "set", "sample": f"images/{i}", "stem": str(i), "source": f"set/{i}.txt",
                    "instance": instance, "category": category, "xmin": left, "ymin": 20.0, "xmax": left + 20,
                    "ymax": 40.0, "ignore": False, "iscrowd": False, "corrected": False, "batch": 1,
                }
            )  # fmt: skip
    mask = {
        "dataset": "set", "sample": "images/3", "source": "set/3.txt", "instance": 1, "score": 0.9,
        "xmin": 60.0, "ymin": 20.0, "xmax": 80.0, "ymax": 40.0,
        "rle": json.dumps({"size": [90, 120], "counts": [5875, 10, 80, 10, 90 * 120 - 5975]}),
    }  # fmt: skip
    lake.put("images", pa.Table.from_pylist(images, schema=schemas.IMAGES), keys=["key"])
    lake.put(
        "annotations", pa.Table.from_pylist(boxes, schema=schemas.ANNOTATIONS), keys=["source", "instance"]
    )
    lake.put("masks", pa.Table.from_pylist([mask], schema=schemas.MASKS), keys=["source", "instance"])
    return lake


def test_a_snapshot_becomes_shards_whose_rows_say_what_they_were_made_from(lake: Lake):
    spec = load_augment_spec(
        None, ["spatial_aug.flip.flip_horizontal=True", "shards.size_mb=0.1", "data.copies=2"]
    )
    snapshot = lake.snapshot()
    found = augment_lake(lake, "set", spec, snapshot=snapshot)
    rows = lake.sql("SELECT * FROM shards ORDER BY uri").to_pylist()
    assert len(rows) == found.shards > 1
    assert sum(row["samples"] for row in rows) == 2 * COUNT
    assert all(json.loads(row["snapshot"])["annotations"] == snapshot["annotations"] for row in rows)
    assert all("flip_horizontal" in row["parameters"] for row in rows)
    (run,) = lake.sql("SELECT * FROM runs").to_pylist()
    assert (run["run"], run["state"], run["step"]) == (found.run, "succeeded", "augment")
    dataset = ShardDataset(found.uri)
    by_sample = {dataset[i].sample: dataset[i] for i in range(len(dataset))}
    item = by_sample["images/3"]
    assert [one.category for one in item.labels.objects] == ["Car", "Rare"]
    assert item.labels.objects[0].bbox == (80, 20, 100, 40)
    assert item.labels.objects[1].segmentation is not None, "the model's mask has followed"
    assert item.labels.parameters["layers"][0]["matrix"][0] == -1
    assert "images/3_aug1" in by_sample
    assert by_sample["images/9"].labels.split == "val"


def test_shards_of_the_lake_are_training_samples_that_keep_clear_of_what_is_held_back(lake: Lake):
    with pytest.raises(TrainingError, match="no shards of data set 'set'"):
        read_lake_shards(lake, "set")
    flipped = load_augment_spec(None, ["spatial_aug.flip.flip_horizontal=True", "data.copies=2"])
    snapshot = lake.snapshot()
    older = augment_lake(lake, "set", load_augment_spec(None, ["spatial_aug.rotation.angle=[5]"]))
    newest = augment_lake(lake, "set", flipped, snapshot=snapshot)
    found = read_lake_shards(lake, "set")
    assert (found.run, found.uri) == (newest.run, newest.uri)
    assert found.snapshot["annotations"] == snapshot["annotations"]
    assert len(read_lake_shards(lake, "set", older.run).samples) == COUNT
    as_they_are = read_samples(lake, "set", snapshot).samples
    by_id = {one.id: one for one in found.samples}
    turned, before = by_id["images/5"], next(one for one in as_they_are if one.id == "images/5")
    assert np.array_equal(load_image(turned), load_image(before)[:, ::-1])
    assert turned.boxes.tolist() == [[80, 20, 100, 40]]
    assert by_id["images/3"].shapes[0] is None
    assert by_id["images/3"].shapes[1] is not None
    train, val = split_samples(as_they_are)
    kept = without(found.samples, val)
    assert [one.id for one in val] == ["images/9"]
    assert {name for one in kept for name in one.shown} == {one.id for one in train}
    assert len(kept) == 2 * (COUNT - 1)


def test_the_same_again_writes_nothing_and_a_new_snapshot_is_another_run(lake: Lake):
    spec = load_augment_spec(None, ["spatial_aug.rotation.angle=[5]"])
    first = augment_lake(lake, "set", spec)
    again = augment_lake(lake, "set", spec)
    assert (first.written, again.written) == (1, 0)
    assert again.run == first.run
    assert lake.sql("SELECT count(*) AS n FROM shards").to_pylist() == [{"n": 1}]
    other = augment_lake(lake, "set", spec, split="train")
    assert other.run != first.run
    assert other.samples == COUNT - 1


def test_balanced_shards_show_their_balance_in_sql(lake: Lake):
    found = augment_lake(
        lake, "set", load_augment_spec(None, ["balance.mode=full", "paste_aug.scale=[0.8,1]"])
    )
    counts = lake.sql(
        """SELECT entry.key AS category, sum(CAST(entry.value AS BIGINT)) AS objects
           FROM shards, json_each(objects) AS entry WHERE run = $1 GROUP BY ALL ORDER BY objects DESC""",
        parameters=[found.run],
    ).to_pylist()
    assert {row["category"] for row in counts} == {"Car", "Rare"}
    assert counts[0]["objects"] / counts[-1]["objects"] < 2
    (run,) = lake.sql("SELECT metrics FROM runs").to_pylist()
    assert json.loads(run["metrics"])["imbalance_before"] == COUNT


def test_an_image_that_was_replaced_since_the_snapshot_is_named(lake: Lake, tmp_path: Path):
    (tmp_path / "bucket/set/images/4.png").write_bytes(b"something else")
    command = ["dataset", "augmentation", "generate", "--lake", lake.url, "--dataset", "set"]
    result = CliRunner().invoke(cli, [*command, "spatial_aug.rotation.angle=[5]", "--json"])
    assert result.exit_code == 1
    facts = json.loads(result.output.splitlines()[-1])
    assert "replaced" in facts["failed"]["images/4"]
    assert facts["samples"] == COUNT - 1
    (run,) = lake.sql("SELECT error FROM runs").to_pylist()
    assert "images/4" in run["error"]


def test_a_data_set_that_is_not_there_is_an_error_that_names_it(lake: Lake):
    with pytest.raises(ConfigError, match="'none'"):
        augment_lake(lake, "none", load_augment_spec(None))


def test_shards_on_the_command_line_are_written_kept_and_verified(tmp_path: Path):
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "labels").mkdir()
    for i in range(3):
        (images / f"{i}.png").write_bytes(encode(np.full((20, 30, 3), i, np.uint8), "x.png"))
        (tmp_path / "labels" / f"{i}.txt").write_text("Car 0 0 0 1 1 9 9 0 0 0 0 0 0 0\n")
    target = str(tmp_path / "shards")
    command = ["dataset", "shards", "write", "--type", "kitti", "--images", str(images)]
    command += ["--labels", str(tmp_path / "labels"), "--to", target]
    assert "1 written, 0 there already" in CliRunner().invoke(cli, command).output
    assert "0 written, 1 there already" in CliRunner().invoke(cli, command).output
    checked = CliRunner().invoke(cli, ["dataset", "shards", "verify", target, "--json"])
    assert (checked.exit_code, json.loads(checked.output)) == (0, {"shards": 1, "samples": 3, "broken": {}})
    (tmp_path / "shards" / "shard-000000.tar").unlink()
    assert CliRunner().invoke(cli, ["dataset", "shards", "verify", target]).exit_code == 1


@pytest.mark.slow
def test_ray_actors_give_the_same_files_as_this_process(lake: Lake):
    import ray

    words = ["spatial_aug.rotation.angle=[-9,9]", "noise_aug.std=[3]", "data.copies=4"]
    one = augment_lake(lake, "set", load_augment_spec(None, words))
    before = {p.name: p.read_bytes() for p in Path(one.uri.removeprefix("file://")).iterdir()}
    for path in Path(one.uri.removeprefix("file://")).iterdir():
        path.unlink()
    other = augment_lake(lake, "set", load_augment_spec(None, [*words, "actors=2", "workers=1"]))
    assert other.run == one.run
    assert {p.name: p.read_bytes() for p in Path(one.uri.removeprefix("file://")).iterdir()} == before
    assert not ray.is_initialized(), "what was started is ended"
