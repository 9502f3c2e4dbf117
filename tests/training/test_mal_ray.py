"""MAL by its command, in two processes of Ray Train."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dropmill.cli.mal import mal
from storage.errors import ConfigError
from training.mal.checkpoint import LATEST, load_checkpoint
from training.mal.labeler import MalLabeler
from transforms.masks.labeler import BoxedImage

pytest.importorskip("ray.train")
pytest.importorskip("timm")

_SPEC = """
strategy: fsdp
gpu_ids: [0, 1]
dataset: {crop_size: 64, min_obj_size: 16}
model: {arch: mobilenetv2_035, mask_head_hidden_channel: 16, mask_head_out_channel: 16}
train: {num_epochs: 1, batch_size: 2, lr: 1.0e-4, use_amp: True, loss_mil_step: 2, loss_crf_step: 2}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec file, and four pictures of a square with its box and mask."""
    pixels = np.random.default_rng(0).integers(0, 60, (96, 96, 3), np.uint8)
    pixels[20:70, 20:70] = (220, 80, 40)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = {
        "images": [{"id": number, "file_name": "a.png"} for number in range(4)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "bbox": [20, 20, 50, 50],
             "segmentation": [[20, 20, 70, 20, 70, 70, 20, 70]]}
            for number in range(4)
        ],
        "categories": [{"id": 1, "name": "square"}],
    }  # fmt: skip
    (tmp_path / "all.json").write_text(json.dumps(content))
    (tmp_path / "spec.yaml").write_text(_SPEC)
    return tmp_path / "spec.yaml"


@pytest.mark.slow
def test_a_spec_with_two_gpu_ids_trains_with_two_processes_that_share_out_the_weights(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    folder = spec.parent
    where = [
        f"dataset.{part}_{key}={value}"
        for part in ("train", "val")
        for key, value in (("ann_path", folder / "all.json"), ("img_dir", folder))
    ]
    asked = ["train", "-e", str(spec), "--json", f"results_dir={folder / 'run'}", *where]
    done = CliRunner().invoke(mal, asked, catch_exceptions=False)
    assert done.exit_code == 0
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["epoch"], Path(said["checkpoint"])) == (1, folder / "run" / LATEST)
    checkpoint = load_checkpoint(folder / "run" / LATEST)
    assert checkpoint.metrics["mIoU"] == pytest.approx(said["mIoU"])
    # Half precision is for computing only: weights are kept in single.
    assert {one.dtype for one in checkpoint.student.values() if one.is_floating_point()} == {torch.float32}
    labeler = MalLabeler.of_checkpoint(folder / "run" / LATEST)
    [[window]] = labeler.label([BoxedImage(np.zeros((96, 96, 3), np.uint8), np.array([[10.0, 10, 60, 60]]))])
    assert window.mask.shape == (50, 50)


def test_gpu_ids_choose_among_the_gpus_that_are_seen(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    where = [f"dataset.train_ann_path={spec.parent / 'all.json'}", f"dataset.train_img_dir={spec.parent}"]
    with pytest.raises(ConfigError, match=r"gpu_ids: found \[0, 2\]; CUDA_VISIBLE_DEVICES shows 4,5"):
        CliRunner().invoke(mal, ["train", "-e", str(spec), "gpu_ids=[0,2]", *where], catch_exceptions=False)
