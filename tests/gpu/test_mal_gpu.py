"""MAL on a GPU: mixed precision trains, and gives the masks that the CPU gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.mal.labeler import MalLabeler
from training.mal.loop import fit
from training.mal.spec import load_spec
from training.samples import Sample
from transforms.masks.labeler import BoxedImage

pytest.importorskip("timm")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_mixed_precision_trains_and_both_devices_agree(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 60, (128, 160, 3), np.uint8)
    pixels[30:100, 40:110] = (220, 80, 40)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    box = np.array([[38.0, 28.0, 112.0, 102.0]])
    sample = Sample(
        id="a", uri=str(tmp_path / "a.png"), width=160, height=128, split=None, boxes=box,
        categories=("block",), ignore=np.zeros(1, bool),
    )  # fmt: skip
    spec = load_spec(
        None,
        ["model.arch=vit-deit-tiny/16", "dataset.crop_size=128", "train.num_epochs=2", "train.lr=1e-5"],
    )
    done = fit(spec, [sample] * 8, tmp_path / "run", device="cuda")
    assert np.isfinite(done.metrics["loss"])
    masks = [
        MalLabeler.of_checkpoint(done.checkpoint, device=device).label([BoxedImage(pixels, box)])[0][0].mask
        for device in ("cuda", "cpu")
    ]
    assert (masks[0] == masks[1]).mean() > 0.97
