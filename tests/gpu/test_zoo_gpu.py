"""The zoo on a GPU: needs torch and torchvision alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.zoo_samples import blocks
from training.zoo.checkpoint import load_detector
from training.zoo.loop import fit
from training.zoo.predict import find
from training.zoo.spec import DataSpec, ModelSpec, TrainSpec, ZooSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("detector", ["faster_rcnn", "mask_rcnn", "retinanet", "fcos"])
def test_mixed_precision_training_finds_the_blocks(tmp_path: Path, detector: str) -> None:
    samples = blocks(tmp_path, 48)
    spec = ZooSpec(
        model=ModelSpec(detector=detector, backbone="resnet18", norm="batch", neck_channels=64,
                        short_side=(128,), long_side=192, anchor_sizes=(8, 16, 32, 64, 128)),
        data=DataSpec(transforms=("flip",)),
        train=TrainSpec(epochs=20, batch_size=8, optimizer="adamw", lr=1e-3, auto_scale_lr=False,
                        warmup_steps=10, schedule="cosine", clip_norm=10, amp=True, validate_every=20,
                        tensorboard=False),
    )  # fmt: skip
    result = fit(spec, samples[:40], tmp_path / "run", val=samples[40:], device="cuda")
    assert result.metrics["bbox_mAP_50"] > 0.7


def test_a_detector_trained_on_a_gpu_finds_the_same_on_a_cpu(tmp_path: Path) -> None:
    samples = blocks(tmp_path, 8)
    spec = ZooSpec(
        model=ModelSpec(detector="ssdlite", backbone="mobilenet_v3_small", input_size=96),
        train=TrainSpec(epochs=2, batch_size=4, lr=0.01, base_batch=4, amp=True, tensorboard=False),
    )
    result = fit(spec, samples, tmp_path / "run", device="cuda")
    import numpy as np

    from training.samples import load_image

    scores = []
    for device in ("cuda", "cpu"):
        network, _ = load_detector(result.last, device)
        scores.append(np.sort(find(network, [load_image(samples[0])], device)[0].scores))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-2)
