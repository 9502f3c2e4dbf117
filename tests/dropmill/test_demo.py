"""The whole way, small: scenes, service, two halves, training, ONNX, engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from dropmill.demo import dataset_name, halves, make_room
from storage.errors import ConfigError
from storage.lake import Lake
from transforms.scenes import SceneConfig, write_scenes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_goes_from_a_drop_to_an_engine_and_status_tells_the_same_afterwards(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "dropmill", "demo", "--images", "40", "--epochs", "1", "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    for word in ("airliner", "zero_area", "dropped", "mAP50", "model.onnx", "engine", "seconds of the demo"):
        assert word in ended.stdout

    lake = Lake.open(out / "lake")
    runs = {row["step"]: row for row in lake.sql("SELECT * FROM runs ORDER BY position").to_pylist()}
    assert list(runs) == [
        "masks", "augment", "train", "prune", "retrain", "quantise", "export", "evaluate", "promote"
    ]  # fmt: skip
    assert {row["state"] for row in runs.values()} == {"succeeded"}
    (snapshot,) = {row["snapshot"] for row in runs.values()}
    assert json.loads(snapshot)["annotations"] == lake.table("annotations").version()
    metrics = {step: json.loads(row["metrics"]) for step, row in runs.items()}
    assert metrics["masks"]["masks"] > 0
    assert metrics["augment"]["imbalance_after"] < metrics["augment"]["imbalance_before"]
    assert metrics["prune"]["ratio"] < 1
    assert metrics["promote"]["promoted"] == 1

    rows = lake.sql("SELECT * FROM models WHERE run = $1", parameters=[runs["export"]["run"]]).to_pylist()
    files = {row["kind"]: row for row in rows}
    assert set(files) == {"onnx", "labels", "engine", "card"}, runs["export"]["error"]
    assert {row["state"] for row in rows} == {"current"}
    folder = out / "lake" / "artifacts" / "runs" / runs["export"]["run"]
    graph = onnx.load(str(folder / "model.onnx")).graph
    assert [value.name for value in graph.output] == ["output_cov/Sigmoid", "output_bbox/BiasAdd"]
    assert "QuantizeLinear" in {node.op_type for node in graph.node}
    assert files["engine"]["size_bytes"] == (folder / "model.engine").stat().st_size > 100_000
    assert "## Limits" in (folder / "model_card.md").read_text()

    planted = json.loads((out / "source" / "aircraft-planted-defects.json").read_text())
    rules = [row["rule"] for row in planted if row["rule"]]
    found = {
        row["rule"]: row["n"]
        for row in lake.sql("SELECT rule, count(*) AS n FROM findings GROUP BY rule").to_pylist()
    }
    assert found == {rule: rules.count(rule) for rule in set(rules)}

    status = [sys.executable, "-m", "dropmill", "status", "--lake", str(out / "lake")]
    shown = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    for line in shown.splitlines():
        if "│" in line:
            assert line.strip() in ended.stdout


@pytest.mark.parametrize("layout", ["voc", "coco", "kitti", "yolo"])
def test_the_second_half_begins_with_labels_and_nothing_is_left_out(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "set"
    write_scenes(SceneConfig(images=20, width=64, height=64), source, format=layout, defects=False)  # type: ignore[arg-type]
    first, second = halves(source)
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert set(first) | set(second) == files
    assert not set(first) & set(second)
    images = [key.endswith(".jpg") for key in second]
    assert not images[0]
    assert images == sorted(images)
    assert 9 <= sum(key.endswith(".jpg") for key in first) <= 11


def test_a_folder_with_something_else_in_it_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        make_room(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
    demo = tmp_path / "demo"
    make_room(demo)
    (demo / "x").touch()
    make_room(demo)
    assert not (demo / "x").exists()


def test_a_data_set_is_called_like_its_folder_unless_that_says_nothing(tmp_path: Path) -> None:
    assert dataset_name(tmp_path / "bccd-voc") == "bccd-voc"
    assert dataset_name(tmp_path / "images") == "images-set"
