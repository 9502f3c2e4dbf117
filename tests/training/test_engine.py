from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from storage.errors import ExportError
from training.detectnet_v2.backbones.resnet import ResNet
from training.detectnet_v2.model import DetectNetV2
from training.detectnet_v2.prune import prune
from training.evaluation.onnx_runner import OnnxRunner
from training.export.engine import build_engine
from training.export.engine_runner import EngineRunner
from training.export.files import sha256_of
from training.export.onnx_graph import OUTPUTS, export_onnx
from training.export.precision import graph_precision, read_onnx
from training.export.quantise import quantise_onnx
from training.export.tensorrt_build import cuda_device

# Importing torch and its exporter takes most of the time.
pytestmark = pytest.mark.slow

SHAPE = (3, 64, 96)

rtx = pytest.mark.skipif(
    not (
        importlib.util.find_spec("tensorrt_rtx_bindings")
        and importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    ),
    reason="TensorRT for RTX is not installed (dropmill[export])",
)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow ResNet-10 detector of two classes as ONNX."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    network = DetectNetV2(("a", "b"), ResNet(10))
    prune(network, threshold=1.0, min_filters=16)
    export_onnx(network, path, input_shape=SHAPE, classes=("a", "b"))
    return path


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return list(np.random.default_rng(5).random((12, *SHAPE), dtype=np.float32))


@rtx
def test_an_engine_is_built_ahead_of_time_and_described_beside_it(graph: Path, tmp_path: Path) -> None:
    report = build_engine(
        graph,
        tmp_path / "m.engine",
        max_batch=4,
        compute_capabilities=("8.6", "8.9", "12.0"),
        backend="tensorrt_rtx",
    )
    assert report.backend == "tensorrt_rtx"
    assert report.architectures == ("8.6", "8.9", "12.0")
    assert report.size_bytes == (tmp_path / "m.engine").stat().st_size > 100_000
    assert report.sha256 == sha256_of(tmp_path / "m.engine")
    assert report.onnx_sha256 == sha256_of(graph)
    assert report.tensors["inputs"] == {"input_1": {"shape": [-1, *SHAPE], "dtype": "float32"}}
    assert set(report.tensors["outputs"]) == set(OUTPUTS)
    assert (report.max_batch, report.precision) == (4, "fp32")
    beside = json.loads((tmp_path / "m.engine.json").read_text())
    assert beside == {**json.loads(json.dumps(report.as_dict())), "path": "m.engine"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.engine", "m.engine.json"]


@rtx
def test_the_report_says_what_was_not_verified_and_why(graph: Path, tmp_path: Path) -> None:
    report = build_engine(graph, tmp_path / "m.engine", compute_capabilities=("8.6",), backend="tensorrt_rtx")
    device = cuda_device()
    if device is None:
        assert report.not_verified == "not deserialised: the driver shows no CUDA device"
    elif device != "8.6":
        assert report.not_verified == f"not deserialised: the device has compute capability {device}"
    else:
        assert report.not_verified is None


@rtx
def test_half_precision_is_made_from_a_float_graph_and_is_smaller(graph: Path, tmp_path: Path) -> None:
    full = build_engine(graph, tmp_path / "full", backend="tensorrt_rtx")
    half = build_engine(graph, tmp_path / "half", precision="fp16", backend="tensorrt_rtx")
    assert full.fp16_difference is None
    assert half.fp16_difference is not None
    assert 0 < max(half.fp16_difference.values()) < 0.02
    assert half.size_bytes < full.size_bytes
    assert half.tensors["inputs"]["input_1"]["dtype"] == "float32"


@rtx
def test_an_int8_engine_comes_from_a_graph_quantised_with_images(
    graph: Path, tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    quantised = quantise_onnx(graph, tmp_path / "int8.onnx", pictures, batch_size=4)
    report = build_engine(
        tmp_path / "int8.onnx", tmp_path / "int8.engine", precision="int8", backend="tensorrt_rtx"
    )
    assert report.precision == "int8"
    assert quantised.calibration_images == 12
    with pytest.raises(ExportError, match="the graph is int8 and fp16 was asked for; ask for int8"):
        build_engine(tmp_path / "int8.onnx", tmp_path / "x", precision="fp16")


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_quantised_outputs_stay_near_and_the_heads_stay_in_float(
    graph: Path, tmp_path: Path, pictures: list[np.ndarray], method: Any
) -> None:
    report = quantise_onnx(graph, tmp_path / "int8.onnx", pictures, method=method)
    written = read_onnx(tmp_path / "int8.onnx")
    assert graph_precision(written) == "int8"
    convolutions = [node for node in written.graph.node if node.op_type == "Conv"]
    assert report.quantised_convolutions == len(convolutions) - 2
    full, small = OnnxRunner(graph), OnnxRunner(tmp_path / "int8.onnx")
    assert small.classes == ("a", "b")
    for name, values in full.run(np.stack(pictures)).items():
        spread = float(values.std())
        assert np.abs(small.run(np.stack(pictures))[name] - values).mean() < 0.25 * spread


def test_quantised_weights_are_symmetric_so_that_tensorrt_reads_them(
    graph: Path, tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    quantise_onnx(graph, tmp_path / "int8.onnx", pictures[:2])
    written = read_onnx(tmp_path / "int8.onnx")
    values = {weight.name: onnx.numpy_helper.to_array(weight) for weight in written.graph.initializer}
    nodes = [node for node in written.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert nodes
    assert all((values[node.input[2]] == 0).all() for node in nodes)
    assert {values[node.input[2]].dtype for node in nodes} == {np.dtype(np.int8)}


def test_real_photographs_calibrate(shared_data: Path, graph: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "bccd-voc").rglob("*.jpg"))[:6]
    if not files:
        pytest.skip("no data: bccd-voc holds no JPEG files")
    images = (
        np.asarray(Image.open(file).convert("RGB").resize((96, 64)), dtype=np.float32).transpose(2, 0, 1)
        / 255
        for file in files
    )
    assert quantise_onnx(graph, tmp_path / "int8.onnx", images, batch_size=4).calibration_images == 6


def test_a_graph_of_fixed_batch_calibrates_on_any_number_of_images(
    graph: Path, tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    fixed = onnx.load(str(graph))
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    del fixed.graph.value_info[:]
    onnx.save(fixed, str(tmp_path / "four.onnx"))
    report = quantise_onnx(tmp_path / "four.onnx", tmp_path / "int8.onnx", pictures[:7])
    assert report.calibration_images == 7


def test_ranges_are_never_guessed(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no calibration image; ranges must not be guessed"):
        quantise_onnx(graph, tmp_path / "int8.onnx", [])
    with pytest.raises(
        ExportError, match="the graph is fp32 and int8 was asked for; quantise it with calibration"
    ):
        build_engine(graph, tmp_path / "m.engine", precision="int8")
    assert list(tmp_path.iterdir()) == []


@rtx
def test_a_graph_the_parser_cannot_read_is_an_error_that_names_the_node(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Frobnicate", ["input_1"], ["y"], domain="org.example")
    body = onnx.helper.make_graph(
        [node],
        "odd",
        [value("input_1", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("org.example", 1)]
    onnx.save(onnx.helper.make_model(body, opset_imports=opsets), str(tmp_path / "odd.onnx"))
    with pytest.raises(ExportError, match=r"(?s)odd\.onnx: tensorrt_rtx cannot read the graph: .*Frobnicate"):
        build_engine(tmp_path / "odd.onnx", tmp_path / "odd.engine", backend="tensorrt_rtx")
    assert not (tmp_path / "odd.engine").exists()


@rtx
def test_an_unknown_architecture_is_refused_with_those_that_are_known(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"does not build for compute capability 3\.5; it knows 7\.5, 8\.0, 8\.6"
    ):
        build_engine(
            graph, tmp_path / "m.engine", compute_capabilities=("8.6", "3.5"), backend="tensorrt_rtx"
        )


@rtx
def test_a_builder_that_takes_too_long_is_stopped_and_the_old_engine_stays(
    graph: Path, tmp_path: Path
) -> None:
    (tmp_path / "m.engine").write_bytes(b"yesterday")
    with pytest.raises(ExportError, match=r"the builder was stopped after 0\.001 s"):
        build_engine(graph, tmp_path / "m.engine", timeout_s=0.001)
    assert (tmp_path / "m.engine").read_bytes() == b"yesterday"


def _with_broken_bindings(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in place of the bindings, found first by the builder's process."""
    (folder / "tensorrt_rtx_bindings.py").write_text(body)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@rtx
def test_a_crash_of_native_code_becomes_an_error_with_the_builders_last_words(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "import os, signal, sys\nsys.stderr.write('about to fall\\n')\nsys.stderr.flush()\n"
    body += "os.kill(os.getpid(), signal.SIGSEGV)\n"
    _with_broken_bindings(tmp_path, body, monkeypatch)
    with pytest.raises(
        ExportError, match=r"(?s)the builder crashed with SIGSEGV; its log ends:.*about to fall"
    ):
        build_engine(graph, tmp_path / "m.engine", backend="tensorrt_rtx")
    assert not (tmp_path / "m.engine").exists()


@rtx
def test_an_exception_in_the_builder_shows_in_the_error(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_broken_bindings(tmp_path, "raise ImportError('libnvinfer.so.11 is missing')\n", monkeypatch)
    with pytest.raises(
        ExportError, match=r"(?s)ended with status 1; its log ends:.*libnvinfer\.so\.11 is missing"
    ):
        build_engine(graph, tmp_path / "m.engine", backend="tensorrt_rtx")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_where_tensorrt_is_absent_the_error_names_the_extra(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"TensorRT is not installed: pip install dropmill\[tensorrt\]"):
        build_engine(graph, tmp_path / "m.engine", backend="tensorrt")


@rtx
def test_a_folder_named_training_in_the_current_directory_does_no_harm(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(tmp_path)
    assert build_engine(graph, "m.engine", backend="tensorrt_rtx").size_bytes > 0


@pytest.mark.parametrize(
    "options",
    [{"max_batch": 0}, {"timeout_s": float("nan")}, {"workspace_bytes": 0}, {"compute_capabilities": ()}],
)
def test_senseless_numbers_are_refused(graph: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="expected positive numbers and some target"):
        build_engine(graph, tmp_path / "m.engine", **options)


def test_the_builders_module_imports_nothing_of_torch() -> None:
    code = (
        "import sys, training.export.tensorrt_build as _; print({'torch', 'onnx', 'numpy'} & {*sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A file and a report that fits it, as far as can be seen without deserialising."""
    path = tmp_path / "m.engine"
    path.write_bytes(b"plan")
    report = {"backend": "tensorrt_rtx", "version": "1", "max_batch": 1, "architectures": ["8.6"]}
    path.with_name("m.engine.json").write_text(json.dumps({**report, "sha256": sha256_of(path)}))
    return path


def test_an_engine_that_is_not_the_one_described_is_not_run(engine: Path) -> None:
    engine.write_bytes(b"plan, changed")
    with pytest.raises(ExportError, match=r"m\.engine: SHA-256 is .*; its report says"):
        EngineRunner(engine)


def test_an_engine_needs_a_whole_report(engine: Path) -> None:
    beside = engine.with_name("m.engine.json")
    for text in ("{}", "[]", "not json"):
        beside.write_text(text)
        with pytest.raises(ExportError, match=r"m\.engine\.json: not the report of an engine"):
            EngineRunner(engine)
    beside.unlink()
    with pytest.raises(ExportError, match=r"m\.engine\.json: no such file"):
        EngineRunner(engine)


@pytest.mark.skipif(cuda_device() is not None, reason="there is a CUDA device")
def test_an_engine_cannot_run_without_a_device_and_says_so(engine: Path) -> None:
    with pytest.raises(ExportError, match="an engine runs on a CUDA device, and the driver shows none"):
        EngineRunner(engine)
