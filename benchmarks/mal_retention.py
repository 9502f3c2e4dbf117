"""What a network learns from masks that were learnt from boxes, beside what true masks teach it.

MAL, trained on the boxes of the training part of Penn-Fudan, makes masks for those boxes. The same small
fully convolutional network, from the same weights and in the same order, is then trained on whole images with
true masks, with MAL's, and with filled boxes, and each is measured on the test part. The ratio to true masks
is the retention. With ``--keep FOLDER`` MAL's checkpoint is the one of ``mal_masks`` with that folder, and
trainings that are done are not done again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.mal_masks import SETTINGS, Shape, imagenet, learnt_from_boxes
from benchmarks.mal_sets import penn_fudan
from benchmarks.record import record
from training.mal.coco_file import CocoFile, CocoImage, truth
from training.mal.data import normalised
from training.mal.labeler import MalLabeler
from training.mal.network import build_network
from training.mal.pretrained import load_pretrained
from training.mal.spec import load_spec
from training.samples import load_image
from transforms.masks.labeler import BoxedImage, Labeler

_SIDE = 256
_EPOCHS, _BATCH, _RATE = 12, 4, 4e-4
_Pictures = NDArray[np.uint8]
_Masks = NDArray[np.bool_]


def main() -> None:
    """Label, train, measure, record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mal_retention", description=__doc__)
    parser.add_argument("--keep", type=Path, help="a folder for checkpoints, to go on from")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        folder = asked.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mal = MalLabeler.of_checkpoint(learnt_from_boxes("penn-fudan", folder))
        train, test = penn_fudan(folder, "train"), penn_fudan(folder, "test")
        pictures = np.stack([_small(load_image(image.sample)) for image in train.images])
        labelers: dict[str, Labeler | None] = {
            "true": None, "MAL (boxes only)": mal, "filled boxes": Shape(round_=False)
        }  # fmt: skip
        rows: list[dict[str, object]] = []
        best = 0.0
        for name, labeler in labelers.items():
            masks = _masks(train, labeler)
            network = _trained(pictures, masks, folder / f"fcn-{name.split()[0].lower()}.pth")
            person, mean = _measured(network, test)
            best = best or person
            rows.append(
                {
                    "masks": name,
                    "IoU of these masks": round(_overlap(masks, _masks(train, None)), 3),
                    "IoU of person": round(person, 3),
                    "mIoU": round(mean, 3),
                    "of true masks": round(person / best, 3),
                }
            )
    notes = {"side": _SIDE, "epochs": _EPOCHS, "images": {"train": len(pictures), "test": len(test.images)}}
    record("mal_retention", rows, packages=["torch", "timm"], notes=notes)


class _Fcn(nn.Module):
    """Images ``[B, 3, H, W]``, normalised, to the logits of being a person ``[B, H, W]``."""

    def __init__(self) -> None:
        super().__init__()
        whole = build_network(load_spec(None, list(SETTINGS)))
        load_pretrained(whole, str(imagenet()))
        self.backbone = whole.backbone
        self.head = nn.Sequential(
            nn.Conv2d(self.backbone.out_channels, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 1, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.backbone(images))
        return functional.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def _trained(pictures: _Pictures, masks: _Masks, path: Path) -> _Fcn:
    """The network after its epochs; the same draws whatever the masks are."""
    torch.manual_seed(0)
    network = _Fcn()
    if path.is_file():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    began = time.monotonic()
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    targets = torch.from_numpy(masks).float()
    steps = _EPOCHS * (len(images) // _BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    network.train()
    for module in network.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # ImageNet's statistics are better than those of four images
    for _ in range(_EPOCHS):
        for chosen in torch.randperm(len(images))[: steps // _EPOCHS * _BATCH].split(_BATCH):
            flip = bool(torch.rand(()) < 0.5)
            batch, target = images[chosen], targets[chosen]
            if flip:
                batch, target = batch.flip(3), target.flip(2)
            loss = functional.binary_cross_entropy_with_logits(network(normalised(batch)), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    print(f"{path.stem}: loss {float(loss.detach()):.4f}, {time.monotonic() - began:.0f} s", flush=True)
    torch.save(network.state_dict(), path)
    return network.eval()


def _masks(data: CocoFile, labeler: Labeler | None) -> _Masks:
    """All objects of an image together, small; of ``labeler``, else the true ones."""
    return np.stack([_small(_united(image, data, labeler).astype(np.uint8)) > 0 for image in data.images])


def _united(image: CocoImage, data: CocoFile, labeler: Labeler | None) -> _Masks:
    sample = image.sample
    whole = np.zeros((sample.height, sample.width), bool)
    if labeler is None:
        for instance in image.instances:
            whole |= truth(instance, sample.width, sample.height, data.path)
        return whole
    [windows] = labeler.label([BoxedImage(load_image(sample), sample.boxes)])
    for window in windows:
        rows, columns = window.mask.shape
        whole[window.top : window.top + rows, window.left : window.left + columns] |= window.mask
    return whole


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    how = cv2.INTER_AREA if pixels.ndim == 3 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(pixels, (_SIDE, _SIDE), interpolation=how), np.uint8)


@torch.inference_mode()
def _measured(network: _Fcn, test: CocoFile) -> tuple[float, float]:
    """IoU of persons, and its mean with that of the rest, over all pixels of all images in their own size."""
    found, true = [], []
    for image in test.images:
        picture = torch.from_numpy(_small(load_image(image.sample))).permute(2, 0, 1)[None]
        logits = network(normalised(picture))[None]
        size = (image.sample.height, image.sample.width)
        logits = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        found.append(logits[0, 0].numpy() > 0)
        true.append(_united(image, test, None))
    person = _overlap(found, true)
    rest = _overlap([~one for one in found], [~one for one in true])
    return person, (person + rest) / 2


def _overlap(found: Sequence[_Masks] | _Masks, true: Sequence[_Masks] | _Masks) -> float:
    both = sum(int((one & other).sum()) for one, other in zip(found, true, strict=True))
    either = sum(int((one | other).sum()) for one, other in zip(found, true, strict=True))
    return both / either


if __name__ == "__main__":
    main()
