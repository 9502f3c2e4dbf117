"""Training examples of MAL: a crop around a box twice (jittered for the student), and the box in it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from storage.errors import TrainingError
from training.mal.jitter import jitter
from training.mal.spec import MalSpec
from training.samples import Sample, load_image
from transforms.masks.crops import cover, cut, expand, random_margins

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet's pixels divided by 255: what normalised images are."""
_CACHED_BYTES = 512 << 20
# Label files round: a box that ends on the edge may be a part of a pixel beyond it.
_ROUNDING = 0.5


@dataclass(frozen=True, eq=False)
class CropBatch:
    """``student`` and ``teacher [B, 3, S, S]`` uint8, ``box [B, 1, S / 4, S / 4]`` and ``areas [B]``."""

    student: Tensor
    teacher: Tensor
    box: Tensor
    areas: Tensor

    def to(self, device: torch.device) -> CropBatch:
        """The same on another device."""
        moved = (part.to(device, non_blocking=True) for part in self._parts())
        return CropBatch(*moved)

    def pin_memory(self) -> CropBatch:
        """The same in memory that a GPU reads from."""
        return CropBatch(*(part.pin_memory() for part in self._parts()))

    def _parts(self) -> tuple[Tensor, ...]:
        return self.student, self.teacher, self.box, self.areas

    def __len__(self) -> int:
        return len(self.areas)


class BoxDataset(Dataset[CropBatch]):
    """One entry for each box to learn from, as a batch of one.

    Draws depend on (image, box, epoch, seed) only. Boxes are kept that lie in their image, are wider and
    higher than 2 pixels and have an area in the spec's bounds; the others are counted in ``passed``.
    """

    def __init__(self, samples: Sequence[Sample], spec: MalSpec) -> None:
        self._samples, self._spec = list(samples), spec
        self._boxes = [
            (number, place)
            for number, sample in enumerate(self._samples)
            for place in range(len(sample.boxes))
            if _learnable(sample, place, spec)
        ]
        self.passed = sum(len(sample.boxes) for sample in self._samples) - len(self._boxes)
        self.epoch = 0
        self._images: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._held = 0
        if not self._boxes:
            raise TrainingError(
                f"no box to learn from among {self.passed}; expected boxes within their image with an area "
                f"of {spec.dataset.min_obj_size:g} to {spec.dataset.max_obj_size:g} pixels "
                "(dataset.min_obj_size)"
            )

    def __len__(self) -> int:
        return len(self._boxes)

    def images(self) -> list[int]:
        """The number of the image of each entry."""
        return [number for number, _ in self._boxes]

    def fingerprint(self) -> str:
        """A digest of which boxes there are."""
        digest = hashlib.sha256()
        for number, place in self._boxes:
            digest.update(
                f"{self._samples[number].id}/{self._samples[number].boxes[place].tolist()}".encode()
            )
        return digest.hexdigest()

    def __getitem__(self, index: int) -> CropBatch:
        number, place = self._boxes[index]
        sample, spec = self._samples[number], self._spec
        draw = _generator(sample.id, place, self.epoch, spec.train.seed)
        box = sample.boxes[place]
        margins = random_margins(draw, *spec.train.margin_rate)
        region = expand(box[None], margins[None])[0]
        side = spec.dataset.crop_size
        crop = cut(self._pixels(number), region, side)
        across, down = cover(region, box, side // 4)
        if draw.random() < 0.5:
            crop, across = crop[:, ::-1], across[::-1]
        crop = np.ascontiguousarray(crop)
        area = (box[2] - box[0]) * (box[3] - box[1])
        return CropBatch(
            student=_planes(jitter(crop, draw))[None],
            teacher=_planes(crop)[None],
            box=torch.from_numpy(down[:, None] * across[None])[None, None],
            areas=torch.tensor([area], dtype=torch.float64),
        )

    def _pixels(self, number: int) -> NDArray[np.uint8]:
        """An image; those used last are kept decoded."""
        if number in self._images:
            self._images.move_to_end(number)
            return self._images[number]
        pixels = load_image(self._samples[number])
        self._images[number] = pixels
        self._held += pixels.nbytes
        while self._held > _CACHED_BYTES and len(self._images) > 1:
            self._held -= self._images.popitem(last=False)[1].nbytes
        return pixels


def collate(items: Sequence[CropBatch]) -> CropBatch:
    """Entries as one batch."""
    return CropBatch(
        student=torch.cat([item.student for item in items]),
        teacher=torch.cat([item.teacher for item in items]),
        box=torch.cat([item.box for item in items]),
        areas=torch.cat([item.areas for item in items]),
    )


def normalised(crops: Tensor) -> Tensor:
    """``[B, 3, H, W]`` uint8 as the network takes it: float, ImageNet's mean and deviation, channels last."""
    mean = torch.tensor(MEAN, device=crops.device).view(1, 3, 1, 1) * 255
    scale = 1 / (torch.tensor(DEVIATION, device=crops.device).view(1, 3, 1, 1) * 255)
    return ((crops.float() - mean) * scale).contiguous(memory_format=torch.channels_last)


def _planes(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _learnable(sample: Sample, place: int, spec: MalSpec) -> bool:
    xmin, ymin, xmax, ymax = sample.boxes[place]
    width, height = xmax - xmin, ymax - ymin
    return bool(
        not sample.ignore[place]
        and xmin >= -_ROUNDING
        and ymin >= -_ROUNDING
        and xmax <= sample.width + _ROUNDING
        and ymax <= sample.height + _ROUNDING
        and width > 2
        and height > 2
        and spec.dataset.min_obj_size < width * height < spec.dataset.max_obj_size
    )


def _generator(*key: object) -> np.random.Generator:
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest)))
