"""DetectNet_v2 on a GPU: needs torch alone, no lake and no Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.detectnet_v2.checkpoint import load_model
from training.detectnet_v2.loop import fit
from training.detectnet_v2.spec import default_spec
from training.samples import Sample

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def discs(folder: Path, count: int) -> list[Sample]:
    random = np.random.default_rng(0)
    samples = []
    rows, columns = np.mgrid[:128, :192]
    for number in range(count):
        pixels = random.integers(0, 80, (128, 192, 3), np.uint8)
        radius, (x, y) = int(random.integers(18, 40)), random.integers(40, 88, 2)
        pixels[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] = (230, 180, 40)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        samples.append(
            Sample(
                id=str(number), uri=str(folder / f"{number}.png"), width=192, height=128, split=None,
                boxes=np.array([[x - radius, y - radius, x + radius, y + radius]], np.float64),
                categories=("disc",), ignore=np.zeros(1, bool),
            )
        )  # fmt: skip
    return samples


def test_mixed_precision_training_lowers_the_cost_and_finds_the_objects(tmp_path: Path) -> None:
    samples = discs(tmp_path, 48)
    spec = default_spec(["disc"], 192, 128, epochs=40, batch_size=4, max_learning_rate=1e-3, amp=True)
    result = fit(spec, samples[:40], samples[40:], tmp_path / "run", device="cuda")
    assert result.precision == "fp16"
    assert result.history[-1]["cost"] < result.history[0]["cost"] / 3
    assert result.metrics["val_map50"] > 0.6


def test_a_model_trained_on_a_gpu_gives_the_same_on_a_cpu(tmp_path: Path) -> None:
    samples = discs(tmp_path, 4)
    spec = default_spec(["disc"], 192, 128, epochs=1, batch_size=2, amp=True)
    result = fit(spec, samples, [], tmp_path / "run", device="cuda")
    images = torch.rand(2, 3, 128, 192)
    outputs = []
    for device in ("cuda", "cpu"):
        model, _ = load_model(result.model_path, device)
        # TF32 rounds as fp16 does, and a network after two steps magnifies it.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            outputs.append([tensor.cpu() for tensor in model(images.to(device))])
    for on_gpu, on_cpu in zip(*outputs, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, atol=2e-2, rtol=2e-2)


def test_a_model_trained_on_a_gpu_exports_to_onnx(tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    from training.export.onnx_graph import export_onnx

    samples = discs(tmp_path, 4)
    spec = default_spec(["disc"], 192, 128, epochs=1, batch_size=2, amp=True)
    model, _ = load_model(fit(spec, samples, [], tmp_path / "run", device="cuda").model_path)
    report = export_onnx(model, tmp_path / "model.onnx", input_shape=(3, 128, 192), classes=["disc"])
    assert max(report.max_difference.values()) < 1e-3
