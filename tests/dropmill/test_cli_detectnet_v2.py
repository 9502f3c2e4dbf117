"""The commands one after the other, on pictures of squares with KITTI labels."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import dropmill
from dropmill.cli import cli

torch = pytest.importorskip("torch")

from training.detectnet_v2.frames import frame_of, write_frames  # noqa: E402
from training.detectnet_v2.sources import read_sources  # noqa: E402
from training.detectnet_v2.spec import (  # noqa: E402
    DatasetConfig,
    DataSource,
    TrainSpec,
    Visualizer,
    default_spec,
    spec_text,
)

SIZE = 64


@dataclass(frozen=True)
class Work:
    folder: Path
    spec: TrainSpec

    def write(self, name: str, spec: TrainSpec) -> str:
        path = self.folder / name
        path.write_text(spec_text(spec))
        return str(path)

    @property
    def weights(self) -> str:
        return str(self.folder / "run" / "weights" / "best.pt")


def run(*words: Any, status: int = 0) -> Result:
    """One command; the errors that the outermost ``main`` would print are raised."""
    result = CliRunner().invoke(
        cli, ["model", "detectnet_v2", *map(str, words)], catch_exceptions=status != 0, standalone_mode=False
    )
    assert (result.exception is None) == (status == 0), result.exception
    return result


def squares(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number in range(count):
        pixels = random.integers(0, 60, (SIZE, SIZE, 3), np.uint8)
        side = int(random.integers(22, 36))
        x, y = random.integers(0, SIZE - side, 2).tolist()
        pixels[y : y + side, x : x + side, number % 2] = 230
        Image.fromarray(pixels).save(folder / "images" / f"{number:03d}.png")
        name = ("Red", "Green")[number % 2]
        box = f"{x}.00 {y}.00 {x + side}.00 {y + side}.00"
        (folder / "labels" / f"{number:03d}.txt").write_text(f"{name} 0.00 0 0.00 {box} 0 0 0 0 0 0 0\n")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Converted and trained."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("detectnet")
    squares(folder / "data", 40)
    (folder / "convert.txt").write_text(
        f'kitti_config {{ root_directory_path: "{folder}/data" image_dir_name: "images" '
        'label_dir_name: "labels" image_extension: ".png" val_split: 20 num_shards: 3 }\n'
    )
    run("dataset_convert", "-d", folder / "convert.txt", "-o", folder / "records" / "squares", "-k", "key")
    spec = default_spec(["red", "green"], SIZE, SIZE, epochs=8, batch_size=4, num_layers=10, amp=False,
                        max_learning_rate=2e-3, validation_period=4, foreground_weight=0.3)  # fmt: skip
    source = DataSource(tfrecords_path=f"{folder}/records/squares*", image_directory_path=f"{folder}/data")
    mapping = {"red": "red", "green": "green"}
    spec = replace(
        spec,
        dataset_config=DatasetConfig(
            data_sources=(source,), image_extension="png", target_class_mapping=mapping, validation_fold=0
        ),
        training_config=replace(spec.training_config, visualizer=Visualizer(enabled=True, num_images=1)),
    )
    made = Work(folder, spec)
    run("train", "-e", made.write("spec.txt", spec), "-r", folder / "run", "-k", "key", "-n", "det")
    return made


pytestmark = pytest.mark.slow


def test_training_leaves_weights_by_name_metrics_and_tensorboard_files(work: Work) -> None:
    run_folder = work.folder / "run"
    assert (run_folder / "weights" / "det.pt").is_file()
    assert list((run_folder / "events").glob("events.out.tfevents.*"))
    metrics = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 8
    assert metrics[-1]["cost"] < metrics[0]["cost"]
    assert 0 <= metrics[-1]["val_map50"] <= 1
    assert metrics[-1]["images_per_second"] > 0
    assert 0 <= metrics[-1]["data_wait_share"] <= 1


def test_the_same_command_finds_its_work_done(work: Work) -> None:
    found = run("train", "-e", work.folder / "spec.txt", "-r", work.folder / "run", "-n", "det", "--json")
    assert json.loads(found.stdout)["metrics"]["epoch"] == 8


def test_evaluate_says_the_same_of_the_checkpoint_and_its_onnx_file(work: Work) -> None:
    spec = work.folder / "spec.txt"
    onnx = work.folder / "same" / "model.onnx"
    run("export", "-m", work.weights, "-o", onnx, "-k", "key")
    reports = [
        json.loads(
            run("evaluate", "-e", spec, "-m", model, "-f", "tlt", "-r", work.folder / "seen", "--json").stdout
        )
        for model in (work.weights, onnx)
    ]
    assert [report["model"] for report in reports] == ["pytorch", "onnx"]
    assert reports[0]["mAP50"] == pytest.approx(reports[1]["mAP50"], abs=1e-6)
    assert reports[0]["cost"] == pytest.approx(reports[1]["cost"], rel=1e-3)
    assert reports[0]["coco"]["AP50"] == pytest.approx(reports[0]["mAP50"], abs=0.2)
    assert np.array(reports[0]["confusion"]["counts"])[:2].sum() == reports[0]["images"] == 8
    for name in ("precision_recall.png", "confusion.png"):
        assert Image.open(work.folder / "seen" / name).size > (300, 300)
    text = run("evaluate", "-e", spec, "-m", onnx, "--use_training_set").stdout
    assert re.search(r"Mean average_precision \(in %\): \d", text)
    assert "Median Inference Time" in text


def test_taos_average_precision_is_behind_an_option(work: Work) -> None:
    words = ("evaluate", "-e", work.folder / "spec.txt", "-m", work.weights, "--json")
    report = json.loads(run(*words, "--average_precision_mode", "integrate_legacy").stdout)
    assert report["evaluation"]["mode"] == "INTEGRATE_LEGACY"


def test_a_class_may_be_missing_from_what_is_measured(work: Work) -> None:
    spec = work.folder / "spec.txt"
    reds = [
        replace(sample, categories=("Red",) * len(sample.categories))
        for sample in read_sources(work.spec.dataset_config, str(spec)).val
    ]
    write_frames(work.folder / "reds", [replace(frame_of(sample), uri="") for sample in reds])
    source = replace(work.spec.dataset_config.data_sources[0], tfrecords_path=str(work.folder / "reds"))
    apart = replace(work.spec.dataset_config, validation_fold=None, validation_data_source=source)
    words = ("-e", work.write("apart.txt", replace(work.spec, dataset_config=apart)), "-m", work.weights)
    report = json.loads(run("evaluate", *words, "-r", work.folder / "apart", "--json").stdout)
    assert report["evaluation"]["categories"]["green"]["average_precision"] is None


def test_inference_draws_writes_kitti_lines_and_coco_results(work: Work) -> None:
    spec = work.folder / "inference.txt"
    spec.write_text(
        'inferencer_config { target_classes: "red" target_classes: "green" '
        f"image_width: {SIZE} image_height: {SIZE} batch_size: 3 "
        f'tlt_config {{ model: "{work.weights}" }} }}\n'
        "bbox_handler_config { kitti_dump: true disable_overlay: false classwise_bbox_handler_config { "
        'key: "default" value { confidence_model: "mean_cov" output_map: "square" clustering_config { '
        "coverage_threshold: 0.05 dbscan_eps: 0.5 dbscan_min_samples: 0.05 "
        "dbscan_confidence_threshold: 0.05 } } } }\n"
    )
    out = work.folder / "found"
    (work.folder / "data" / "images" / "broken.png").write_bytes(b"not a picture")
    try:
        said = run("inference", "-e", spec, "-i", work.folder / "data" / "images", "-o", out, "--json")
    finally:
        (work.folder / "data" / "images" / "broken.png").unlink()
    report = json.loads(said.stdout)
    assert report["images"] == 40
    assert len(report["unreadable"]) == 1
    assert report["detections"]["square"] > 0
    lines = (out / "labels" / "000.txt").read_text().splitlines()
    assert all(len(line.split()) == 16 and line.startswith("square ") for line in lines)
    results = json.loads((out / "results.json").read_text())
    assert {len(one["bbox"]) for one in results} == {4}
    assert max(one["score"] for one in results) <= 1  # a mean of coverage, no sum
    assert Image.open(out / "images_annotated" / "000.png").size == (SIZE, SIZE)
    one = run("inference", "-e", spec, "-i", f"{work.folder}/data/images/00*.png", "-o", work.folder / "few")
    assert one.stdout.startswith("10 images")


def test_a_data_set_of_a_lake_is_converted_and_what_is_found_in_it_becomes_rows(work: Work) -> None:
    lake, bucket = work.folder / "lake", work.folder / "bucket"
    shutil.copytree(work.folder / "data", bucket / "squares")
    (bucket / "squares" / "labels" / "039.txt").unlink()
    words = ["ingest", str(bucket), "--lake", str(lake), "--json"]
    assert CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False).exception is None
    here = ["--lake", lake, "--dataset", "squares", "--json"]
    said = run("dataset_convert", *here, "-o", work.folder / "lake-records" / "s", "--num_shards", "2")
    held, trained_on = json.loads(said.stdout)["images"]
    assert held + trained_on == 39
    source = DataSource(tfrecords_path=f"{work.folder}/lake-records/s*", image_directory_path="")
    config = DatasetConfig(
        data_sources=(source,), target_class_mapping={"Red": "red", "Green": "green"}, validation_fold=0
    )
    spec = work.write("from-lake.txt", replace(work.spec, dataset_config=config))
    assert json.loads(run("evaluate", "-e", spec, "-m", work.weights, "--json").stdout)["images"] == held

    handlers = "".join(
        f'classwise_bbox_handler_config {{ key: "{name.lower()}" value {{ output_map: "{name}" '
        "clustering_config { coverage_threshold: 0.05 dbscan_eps: 0.5 dbscan_min_samples: 0.05 "
        "dbscan_confidence_threshold: 0.05 } } } "
        for name in ("Red", "Green")
    )
    (work.folder / "lake-inference.txt").write_text(
        f"inferencer_config {{ image_width: {SIZE} image_height: {SIZE} "
        f'target_classes: "red" target_classes: "green" tlt_config {{ model: "{work.weights}" }} }}\n'
        f"bbox_handler_config {{ disable_overlay: true {handlers} }}\n"
    )
    out = work.folder / "found-in-lake"
    said = run("inference", "-e", work.folder / "lake-inference.txt", *here, "--write-lake", "-o", out)
    report = json.loads(said.stdout)
    assert report["images"] == 40
    rows = dropmill.open(lake).sql("SELECT * FROM predictions").to_pylist()
    assert len(rows) == report["rows"] == sum(report["detections"].values()) > 0
    assert {row["category"] for row in rows} <= {"Red", "Green"}
    assert {row["verdict"] for row in rows if row["sample"] == "images/039"} <= {None}
    assert {row["verdict"] for row in rows if row["sample"] != "images/039"} <= {"true", "false"}


def test_a_pruned_model_is_smaller_trained_again_for_int8_and_exported_with_its_ranges(work: Work) -> None:
    pruned = work.folder / "pruned.pt"
    said = run(
        "prune", "-m", work.weights, "-o", pruned, "-eq", "union", "-pth", "0.97", "-nf", "16", "-k", "key"
    )
    ratio = float(re.findall(r"original model\): ([\d.]+)", said.stdout)[0])
    assert 0 < ratio < 0.9
    spec = replace(
        work.spec,
        model_config=replace(work.spec.model_config, load_graph=True, pretrained_model_file=str(pruned)),
        training_config=replace(work.spec.training_config, num_epochs=6, enable_qat=True),
    )
    run("train", "-e", work.write("qat.txt", spec), "-r", work.folder / "qat")
    trained = work.folder / "qat" / "weights" / "model.pt"
    onnx = work.folder / "deploy" / "model.onnx"
    cache = onnx.with_name("cal.bin")
    engine = onnx.with_name("model.engine")
    words = ["--cal_cache_file", cache, "--gen_ds_config", "--triton", work.folder / "triton", "--json"]
    words += ["--engine_file", engine]
    said = run("export", "-m", trained, "-o", onnx, "--data_type", "int8", *words)
    report = json.loads(said.stdout)
    assert report["quantised_by"] == "quantisation-aware training"
    reports = [
        json.loads(run("evaluate", "-e", work.folder / "qat.txt", "-m", model, "--json").stdout)
        for model in (trained, onnx)
    ]
    assert reports[0]["mAP50"] == pytest.approx(reports[1]["mAP50"], abs=0.13)  # one object of eight
    config = onnx.with_name("nvinfer_config.txt").read_text()
    assert "onnx-file=model.onnx" in config
    assert "num-detected-classes=2" in config
    assert "network-mode=1" in config
    assert onnx.with_name("labels.txt").read_text() == "red\ngreen\n"
    assert onnx.with_name("cal.bin").read_text().splitlines()[1].split(": ")[0] == "input_1"
    if json.loads(engine.with_name("model.engine.json").read_text())["backend"] == "tensorrt_rtx":
        # a runtime that neither DeepStream nor Triton has
        assert "TensorRT for RTX" in report["notes"][0]
        assert "model-engine-file" not in config
        assert (work.folder / "triton" / "model" / "1" / "model.onnx").is_file()
    assert "dims: [ 8, 4, 4 ]" in (work.folder / "triton" / "model" / "config.pbtxt").read_text()


def test_several_layers_may_follow_one_option(work: Work) -> None:
    words = ("prune", "-m", work.weights, "-o", work.folder / "left.pt", "-pth", "0.97", "-nf", "16")
    report = json.loads(run(*words, "-el", "conv1", "block_2a_conv_1", "--json").stdout)
    for name in ("backbone.conv1", "backbone.block_2a.conv_1"):
        before, after = report["layers"][name]
        assert before == after
    assert report["ratio"] < 1
    assert "belongs to no option" in str(run(*words, "conv1", status=2).exception)


def test_int8_ranges_come_from_the_spec_from_a_tensorfile_or_from_a_folder(work: Work) -> None:
    spec, tensors = work.folder / "spec.txt", work.folder / "cal.h5"
    said = run("calibration_tensorfile", "-e", spec, "-o", tensors, "-m", "2")
    assert "2 batches of 4" in said.stdout
    sources: dict[str, list[Any]] = {
        "spec": ["-e", spec],
        "tensorfile": ["--cal_data_file", tensors],
        "folder": [
            "--cal_image_dir",
            work.folder / "data" / "images",
            "--cal_data_file",
            work.folder / "new.h5",
        ],
    }
    for name, words in sources.items():
        out = work.folder / name / "int8.onnx"
        report = json.loads(
            run(
                *("export", "-m", work.weights, "-o", out, "--data_type", "int8"),
                *("--batches", "2", "--batch_size", "4", *words, "--json"),
            ).stdout
        )
        assert report["quantised_by"] == "8 pictures"
    assert (work.folder / "new.h5").is_file()
    with pytest.raises(Exception, match="is there already"):
        run("calibration_tensorfile", "-e", spec, "-o", tensors, status=0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"target_class_mapping": {"rouge": "red", "green": "green"}}, r"no object of red .*Green, Red"),
        ({"validation_fold": 7}, "fold-007"),
        ({"image_extension": "jpg"}, "image_extension"),
    ],
)
def test_traps_of_the_data_stop_before_training(work: Work, change: dict[str, Any], complaint: str) -> None:
    spec = replace(work.spec, dataset_config=replace(work.spec.dataset_config, **change))
    result = run("train", "-e", work.write("bad.txt", spec), "-r", work.folder / "bad", status=1)
    assert re.search(complaint, str(result.exception))


def test_a_file_that_is_no_model_is_refused_by_what_it_is(work: Work) -> None:
    for name, complaint in (
        ("model.tlt", "train again here"),
        ("model.pt", "cannot be read as a torch file"),
    ):
        (work.folder / name).write_bytes(b"encrypted")
        result = run("evaluate", "-e", work.folder / "spec.txt", "-m", work.folder / name, status=1)
        assert complaint in str(result.exception)
    augmentation = work.spec.augmentation_config
    grey = replace(augmentation, preprocessing=replace(augmentation.preprocessing, output_image_channel=1))
    spec = work.write("grey.txt", replace(work.spec, augmentation_config=grey))
    result = run("evaluate", "-e", spec, "-m", work.weights, status=1)
    assert "images of 1 channels; expected 3" in str(result.exception)
    result = run("export", "-m", work.weights, "-o", work.folder / "x.onnx", "--data_type", "int8", status=1)
    assert "int8 needs pictures" in str(result.exception)
