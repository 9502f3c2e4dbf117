"""What a detector finds in samples or pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.evaluation.detections import Detections
from training.samples import Sample, load_image


@dataclass(frozen=True, eq=False)
class Found:
    """In one image: ``boxes [n, 4]`` float64 corners in its pixels, ``scores [n]``, ``labels [n]`` (0 is the
    first class), best first; ``masks`` as COCO's encoded run lengths, or None.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: tuple[dict[str, Any], ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def detections(self, classes: Sequence[str]) -> Detections:
        """The same by names of classes."""
        return Detections(self.boxes, self.scores, [classes[label] for label in self.labels.tolist()])

    def above(self, score: float) -> Found:
        """Those of at least that score."""
        keep = np.flatnonzero(self.scores >= score)
        masks = None if self.masks is None else tuple(self.masks[i] for i in keep)
        return Found(self.boxes[keep], self.scores[keep], self.labels[keep], masks)


def predict(
    network: nn.Module,
    samples: Iterable[Sample],
    *,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Sample, Found]]:
    """Find objects in samples, in their order. The network is put into evaluation mode and back."""
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == batch_size:
            yield from zip(batch, find(network, [load_image(one) for one in batch], device), strict=True)
            batch = []
    if batch:
        yield from zip(batch, find(network, [load_image(one) for one in batch], device), strict=True)


@torch.inference_mode()
def find(
    network: nn.Module, pictures: Sequence[NDArray[np.uint8]], device: torch.device | str = "cpu"
) -> list[Found]:
    """Find objects in pictures ``[H, W, 3]`` RGB."""
    images = [
        torch.from_numpy(np.array(one)).to(device).permute(2, 0, 1).float().div_(255) for one in pictures
    ]
    training = network.training
    network.eval()
    try:
        return [_found(one) for one in network(images)]
    finally:
        network.train(training)


def _found(output: dict[str, torch.Tensor]) -> Found:
    boxes = output["boxes"].float().cpu().numpy().astype(np.float64)
    scores = output["scores"].float().cpu().numpy().astype(np.float64)
    labels = output["labels"].cpu().numpy().astype(np.int64) - 1
    # Single-stage networks have an output for the background, which is never learnt.
    keep = np.flatnonzero((labels >= 0) & np.isfinite(boxes).all(axis=1))
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    masks = None
    if "masks" in output:
        masks = tuple(_run_lengths(output["masks"][int(i), 0] >= 0.5) for i in keep)
    return Found(boxes[keep], scores[keep], labels[keep], masks)


def _run_lengths(mask: torch.Tensor) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    runs = coco_mask.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")}
