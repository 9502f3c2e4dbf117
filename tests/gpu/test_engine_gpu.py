from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

# Before what needs them is imported: beside torch alone the module is skipped.
for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)

from training.detectnet_v2.backbones.resnet import ResNet  # noqa: E402
from training.detectnet_v2.model import DetectNetV2  # noqa: E402
from training.evaluation.onnx_runner import OnnxRunner  # noqa: E402
from training.export.engine import build_engine  # noqa: E402
from training.export.engine_runner import EngineRunner  # noqa: E402
from training.export.onnx_graph import export_onnx  # noqa: E402
from training.export.quantise import quantise_onnx  # noqa: E402
from training.export.tensorrt_build import cuda_device  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(cuda_device() is None, reason="the driver shows no CUDA device"),
]

SHAPE = (3, 240, 320)


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt_rtx"])
def backend(request: pytest.FixtureRequest) -> Any:
    module = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}[request.param]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    if request.param == "tensorrt_rtx" and cuda_device() not in ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"):
        pytest.skip(f"TensorRT for RTX has no code for compute capability {cuda_device()}")
    return request.param


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(DetectNetV2(("a", "b"), ResNet(18)), path, input_shape=SHAPE, classes=("a", "b"))
    return path


@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.01), ("fp16", 0.03), ("int8", 0.02)])
def test_the_engine_gives_what_onnx_runtime_gives(
    graph: Path, tmp_path: Path, backend: Any, precision: Any, share: float
) -> None:
    """``share``: of the spread of the reference; int8 is compared with the quantised graph in ONNX
    Runtime.
    """
    images = np.random.default_rng(0).random((5, *SHAPE), dtype=np.float32)
    source = graph
    if precision == "int8":
        source = tmp_path / "int8.onnx"
        quantise_onnx(graph, source, list(images))
    report = build_engine(
        source,
        tmp_path / "m.engine",
        precision=precision,
        max_batch=2,
        backend=backend,
        compute_capabilities=(str(cuda_device()),),
    )
    assert report.not_verified is None
    engine = EngineRunner(tmp_path / "m.engine")
    assert (engine.input_shape, engine.max_batch) == (SHAPE, 2)
    found = engine.run(images)
    for name, expected in OnnxRunner(source).run(images).items():
        assert np.abs(found[name] - expected).mean() <= share * expected.std(), name
