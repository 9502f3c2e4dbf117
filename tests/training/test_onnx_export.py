from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from storage.errors import ExportError
from training.detectnet_v2.backbones.resnet import ResNet
from training.detectnet_v2.model import INPUT_NAME, OUTPUT_NAMES, DetectNetV2
from training.detectnet_v2.prune import prune
from training.evaluation.onnx_runner import OnnxRunner, run_samples
from training.export.files import sha256_of
from training.export.onnx_graph import INPUT, OUTPUTS, OnnxReport, export_onnx, write_labels
from training.export.precision import graph_precision, read_onnx, to_fp16

# Importing torch and its exporter takes most of the time.
pytestmark = pytest.mark.slow

SHAPE = (3, 64, 96)
CLASSES = ("Car", "Fußgänger")


@pytest.fixture(scope="module")
def model() -> DetectNetV2:
    """A narrow ResNet-10 whose batch normalisation has seen something, still in training mode."""
    torch.manual_seed(1)
    network = DetectNetV2(CLASSES, ResNet(10))
    prune(network, threshold=1.0, min_filters=16)
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.2, 2.0)
    return network.train()


@pytest.fixture(scope="module")
def exported(model: DetectNetV2, tmp_path_factory: pytest.TempPathFactory) -> OnnxReport:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return export_onnx(model, path, input_shape=SHAPE, classes=CLASSES, metadata={"spec_sha256": "ab12"})


def _model_outputs(model: nn.Module, images: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        return [value.numpy() for value in copy.deepcopy(model).eval()(torch.from_numpy(images))]


def test_the_file_has_the_names_that_deepstream_looks_for(exported: OnnxReport) -> None:
    graph = onnx.load(str(exported.path)).graph
    assert [value.name for value in graph.input] == ["input_1"]
    assert [value.name for value in graph.output] == ["output_cov/Sigmoid", "output_bbox/BiasAdd"]
    assert (INPUT, OUTPUTS) == (INPUT_NAME, OUTPUT_NAMES)
    assert exported.output_shapes == {"output_cov/Sigmoid": (2, 4, 6), "output_bbox/BiasAdd": (8, 4, 6)}


def test_batch_normalisation_is_folded_away(exported: OnnxReport) -> None:
    assert set(exported.operators) == {"Add", "Conv", "Relu", "Sigmoid"}


def test_the_report_describes_the_file(exported: OnnxReport) -> None:
    assert exported.size_bytes == exported.path.stat().st_size
    assert exported.sha256 == sha256_of(exported.path)
    assert all(difference < 1e-4 for difference in exported.max_difference.values())
    assert json.loads(json.dumps(exported.as_dict()))["images_compared"] == 2


def test_onnx_runtime_gives_what_the_model_gives_for_any_batch(
    model: DetectNetV2, exported: OnnxReport
) -> None:
    runner = OnnxRunner(exported.path)
    for count in (1, 2, 5):
        images = np.random.default_rng(count).random((count, *SHAPE), dtype=np.float32)
        outputs = runner.run(images)
        for name, expected in zip(OUTPUTS, _model_outputs(model, images), strict=True):
            assert outputs[name] == pytest.approx(expected, abs=1e-4)


def test_the_runner_reads_classes_and_metadata_from_the_file(exported: OnnxReport) -> None:
    runner = OnnxRunner(exported.path)
    assert runner.classes == CLASSES
    assert runner.metadata["spec_sha256"] == "ab12"
    assert runner.input_shape == SHAPE
    assert runner.fixed_batch is None


def test_samples_come_out_one_by_one_in_order(exported: OnnxReport) -> None:
    runner = OnnxRunner(exported.path)
    images = np.random.default_rng(3).random((5, *SHAPE), dtype=np.float32)
    single = list(run_samples(runner, iter(images), batch_size=2))
    together = runner.run(images)
    assert len(single) == 5
    for i, outputs in enumerate(single):
        for name in OUTPUTS:
            assert outputs[name] == pytest.approx(together[name][i], abs=1e-5)


def test_exporting_changes_neither_the_model_nor_the_bytes(
    model: DetectNetV2, exported: OnnxReport, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    again = export_onnx(
        model, tmp_path / "model.onnx", input_shape=SHAPE, classes=CLASSES, metadata={"spec_sha256": "ab12"}
    )
    assert again.sha256 == exported.sha256
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_file_tells_nothing_about_the_machine_it_was_made_on(exported: OnnxReport) -> None:
    data = exported.path.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in data
    assert b"site-packages" not in data


def test_a_fixed_batch_is_filled_up_and_cut_again(model: DetectNetV2, tmp_path: Path) -> None:
    report = export_onnx(
        model, tmp_path / "one.onnx", input_shape=SHAPE, classes=CLASSES, dynamic_batch=False
    )
    runner = OnnxRunner(report.path)
    assert runner.fixed_batch == 1
    images = np.random.default_rng(4).random((3, *SHAPE), dtype=np.float32)
    assert runner.run(images)[OUTPUTS[0]] == pytest.approx(_model_outputs(model, images)[0], abs=1e-4)


def test_half_precision_keeps_float_at_the_borders_and_stays_near(
    exported: OnnxReport, tmp_path: Path
) -> None:
    difference = to_fp16(exported.path, tmp_path / "half.onnx")
    assert 0 < max(difference.values()) < 0.02
    assert graph_precision(read_onnx(exported.path)) == "fp32"
    assert graph_precision(read_onnx(tmp_path / "half.onnx")) == "fp16"
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * exported.size_bytes
    assert OnnxRunner(tmp_path / "half.onnx").classes == CLASSES


class _Random(nn.Module):
    """Gives other values at each call, so no file can agree with it."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grid = nn.functional.avg_pool2d(images, 16)
        return torch.sigmoid(torch.randn_like(grid[:, :2])), torch.randn_like(grid.repeat(1, 3, 1, 1)[:, :8])


def test_a_file_that_does_not_agree_is_never_put_in_place(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the model of yesterday")
    with pytest.raises(
        ExportError, match=r"output_cov/Sigmoid differs from the model by .*; expected at most 0\.001"
    ):
        export_onnx(_Random(), path, input_shape=SHAPE, classes=CLASSES)
    assert path.read_bytes() == b"the model of yesterday"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"classes": ("a", "b", "c")},
            r"expected coverage \(1, 3, h, w\) and boxes \(1, 12, h, w\) for 3 classes",
        ),
        ({"classes": ()}, "expected at least one class"),
        ({"classes": ("a", "a")}, "each once"),
        ({"metadata": {"classes": "x"}}, "no metadata named classes"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    model: DetectNetV2, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export_onnx(model, tmp_path / "m.onnx", **{"input_shape": SHAPE, "classes": CLASSES, **options})
    assert list(tmp_path.iterdir()) == []


def test_labels_stand_one_per_line_in_channel_order(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.txt", CLASSES)
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8") == "Car\nFußgänger\n"
    with pytest.raises(ExportError, match="cannot stand on one line"):
        write_labels(tmp_path / "labels.txt", ["two\nlines"])


def test_files_that_are_no_models_are_refused_by_name(tmp_path: Path, exported: OnnxReport) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported.path.read_bytes()[:5000])
    for call in (OnnxRunner, read_onnx):
        with pytest.raises(ExportError, match=r"broken\.onnx"):
            call(broken)
        with pytest.raises(ExportError, match=r"absent\.onnx: no such file"):
            call(tmp_path / "absent.onnx")


def test_images_of_another_size_are_refused(exported: OnnxReport) -> None:
    with pytest.raises(ExportError, match=r"images have shape \(1, 3, 32, 96\)"):
        OnnxRunner(exported.path).run(np.zeros((1, 3, 32, 96), np.float32))


def test_a_published_detector_of_another_family_runs_as_well(shared_data: Path) -> None:
    files = sorted((shared_data / "weights").rglob("*.onnx"))
    if not files:
        pytest.skip(f"no data: {shared_data / 'weights'} holds no ONNX file")
    runner = OnnxRunner(files[0])
    size = [n or 352 for n in runner.input_shape]
    outputs = runner.run(np.random.default_rng(0).random((2, *size), dtype=np.float32))
    assert runner.classes == ()
    assert all(len(values) == 2 and np.isfinite(values).all() for values in outputs.values())
