"""Samples to network inputs and targets.

1. ``load_image``, scale, resize (``enable_auto_resize``), crop, pad to the network's size: done once, cached
if small. 2. Augmentation for training. 3. Boxes through the same maps, ``rasterise`` to grids.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info

from storage.errors import TrainingError
from training.detectnet_v2.augment import augment_boxes, augment_pixels, draw_augmentation
from training.detectnet_v2.cost import TargetBatch
from training.detectnet_v2.rasterise import Targets, class_indices, rasterise
from training.detectnet_v2.spec import Preprocessing, TrainSpec
from training.samples import Sample, load_image

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the network's input: ``x' = scale_x * x + shift_x``, likewise y; pixels."""

    scale_x: float
    scale_y: float
    shift_x: float
    shift_y: float

    def forward(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Corners in the image to corners in the input."""
        return boxes * self._scales() + self._shifts()

    def backward(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Corners in the input to corners in the image."""
        return (boxes - self._shifts()) / self._scales()

    def _scales(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2)

    def _shifts(self) -> NDArray[np.float64]:
        return np.array([self.shift_x, self.shift_y] * 2)


def placement(width: int, height: int, config: Preprocessing) -> Placement:
    """How an image of ``width`` x ``height`` pixels is placed in the network's input."""
    scale_x, scale_y = config.scale_width or 1.0, config.scale_height or 1.0
    left, top, right, bottom = map(float, _crop(config))
    if right == 0:
        right, bottom = width * scale_x, height * scale_y
        if not config.enable_auto_resize:
            return Placement(scale_x, scale_y, 0.0, 0.0)
    if config.enable_auto_resize:
        stretch_x = config.output_image_width / (right - left)
        stretch_y = config.output_image_height / (bottom - top)
        return Placement(scale_x * stretch_x, scale_y * stretch_y, -left * stretch_x, -top * stretch_y)
    return Placement(scale_x, scale_y, -left, -top)


def place_pixels(pixels: NDArray[np.uint8], config: Preprocessing) -> NDArray[np.uint8]:
    """``pixels [H, W, 3]`` scaled, cropped and padded to the network's size, with its channels ``[h, w(,
    3)]``.
    """
    height, width = pixels.shape[:2]
    place = placement(width, height, config)
    size = (config.output_image_width, config.output_image_height)
    image = Image.fromarray(pixels)
    if config.output_image_channel == 1:
        image = image.convert("L")
    region = place.backward(np.array([[0.0, 0.0, *size]]))[0]
    low = np.maximum(region[:2], 0)
    high = np.minimum(region[2:], (width, height))
    canvas = Image.new(image.mode, size)
    if (high > low).all():
        # Only the part of the image that the input shows is resampled, with anti-aliasing.
        target = np.rint(place.forward(np.concatenate([low, high])[None])[0]).astype(int)
        part_size = (max(int(target[2] - target[0]), 1), max(int(target[3] - target[1]), 1))
        box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
        whole = part_size == (box[2] - box[0], box[3] - box[1])
        if whole and all(edge.is_integer() for edge in box):
            part = image.crop((int(box[0]), int(box[1]), int(box[2]), int(box[3])))
        else:
            part = image.resize(part_size, Image.Resampling.BILINEAR, box=box)
        canvas.paste(part, (int(target[0]), int(target[1])))
    return np.asarray(canvas)


class DetectionDataset(Dataset[tuple[Tensor, Targets]]):
    """Inputs ``[channels, H, W]`` uint8 and their targets. ``epoch`` steers the augmentation (``train``
    only).

    Placed images are kept in memory while they fit ``cache_bytes``. Raises ``TrainingError`` where no box of
    any sample has a class of the spec.
    """

    def __init__(
        self, samples: Sequence[Sample], spec: TrainSpec, *, train: bool, cache_bytes: int = 1 << 30
    ) -> None:
        self._spec = spec
        self._train = train
        self._samples = list(samples)
        self._cache: dict[int, NDArray[np.uint8]] = {}
        config = spec.augmentation_config.preprocessing
        self._cached_at_most = cache_bytes // (
            config.output_image_width * config.output_image_height * config.output_image_channel
        )
        mapping = dict(spec.dataset_config.target_class_mapping)
        self._classes = [class_indices(sample.categories, spec.classes, mapping) for sample in self._samples]
        self.epoch = 0
        if train:
            self._check(mapping)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Targets]:
        sample, spec = self._samples[index], self._spec
        config = spec.augmentation_config.preprocessing
        pixels = self._placed(index)
        boxes = placement(sample.width, sample.height, config).forward(sample.boxes)
        if _crop(config) != (0, 0, 0, 0):
            boxes = _clip(boxes, config)
        if self._train:
            drawn = draw_augmentation(
                spec.augmentation_config, sample=sample.id, epoch=self.epoch, seed=spec.random_seed
            )
            pixels, boxes = augment_pixels(pixels, drawn), augment_boxes(boxes, drawn)
        seen = _clip(boxes, config)
        large = (seen[:, 2] - seen[:, 0] >= config.min_bbox_width) & (
            seen[:, 3] - seen[:, 1] >= config.min_bbox_height
        )
        targets = rasterise(boxes[large], self._classes[index][large], sample.ignore[large], spec)
        if sample.weight != 1:
            targets = replace(targets, weight=targets.weight * np.float32(sample.weight))
        return input_tensor(pixels), targets

    def _placed(self, index: int) -> NDArray[np.uint8]:
        if index in self._cache:
            return self._cache[index]
        pixels = place_pixels(load_image(self._samples[index]), self._spec.augmentation_config.preprocessing)
        # What a loading process keeps is gone with it at the end of the epoch, and was never asked for again.
        if len(self._cache) < self._cached_at_most and get_worker_info() is None:
            self._cache[index] = pixels
        return pixels

    def _check(self, mapping: dict[str, str]) -> None:
        if not self._samples:
            raise TrainingError("no training sample; expected at least one")
        found = sorted({name for sample in self._samples for name in sample.categories})
        used = sum(int((c[~s.ignore] >= 0).sum()) for c, s in zip(self._classes, self._samples, strict=True))
        if not used:
            raise TrainingError(
                f"no box has a class to learn: the labels say {', '.join(found) or 'nothing'}; expected "
                f"{', '.join(mapping or self._spec.classes)} (cost_function_config.target_classes, "
                "dataset_config.target_class_mapping)",
                found=found,
            )


def check_classes(spec: TrainSpec, train: Sequence[Sample], val: Sequence[Sample]) -> None:
    """``TrainingError`` where a class of the spec has no object in ``train`` or ``val``: it would be trained
    to an average precision of 0 in silence. The message has the classes that there are. A class of ``val``
    alone is a warning.
    """
    mapping = dict(spec.dataset_config.target_class_mapping)
    present = sorted({name for sample in (*train, *val) for name in sample.categories})
    reached = set(class_indices(present, spec.classes, mapping).tolist())
    empty = [name for index, name in enumerate(spec.classes) if index not in reached]
    if empty:
        sources = [source for source, target in mapping.items() if target in empty]
        said = f"mapped from {', '.join(sources)}" if sources else "not mapped from anything"
        raise TrainingError(
            f"no object of {', '.join(empty)} ({said if mapping else 'no target_class_mapping'}); the labels "
            f"have the classes {', '.join(present) or 'none at all'}; mend target_class_mapping or "
            "target_classes",
            found=present,
        )
    learnt = sorted({name for sample in train for name in sample.categories})
    reached = set(class_indices(learnt, spec.classes, mapping).tolist())
    if unseen := [name for index, name in enumerate(spec.classes) if index not in reached]:
        logger.warning("no training sample has %s; it will not be found", ", ".join(unseen))


class EpochOrder(Sampler[int]):
    """Indices of this process in one epoch: a permutation drawn from (seed, epoch), dealt to ``world``
    processes.

    Every process gets the same number, so some indices come twice where ``size`` is not a multiple of
    ``world``.
    """

    def __init__(self, size: int, *, seed: int, rank: int = 0, world: int = 1) -> None:
        self._size, self._seed, self._rank, self._world = size, seed, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return (self._size + self._world - 1) // self._world

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self._seed, self.epoch)).permutation(self._size)
        dealt = np.resize(order, len(self) * self._world)
        return iter(dealt[self._rank :: self._world].tolist())


def collate(items: Sequence[tuple[Tensor, Targets]]) -> tuple[Tensor, TargetBatch]:
    """Stack to inputs ``[B, channels, H, W]`` uint8 and a ``TargetBatch``."""
    targets = [target for _, target in items]
    return torch.stack([pixels for pixels, _ in items]), TargetBatch(
        cov=torch.from_numpy(np.stack([t.cov for t in targets])),
        norm=torch.from_numpy(np.stack([t.norm for t in targets])),
        bbox=torch.from_numpy(np.stack([t.bbox for t in targets])),
        weight=torch.from_numpy(np.stack([t.weight for t in targets])),
    )


def input_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """``[H, W(, 3)]`` to ``[channels, H, W]``, both uint8; the network takes it divided by 255."""
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, order="C"))


def _crop(config: Preprocessing) -> tuple[int, int, int, int]:
    return config.crop_left, config.crop_top, config.crop_right, config.crop_bottom


def _clip(boxes: NDArray[np.float64], config: Preprocessing) -> NDArray[np.float64]:
    limit = np.array([config.output_image_width, config.output_image_height] * 2, np.float64)
    return np.clip(boxes, 0, limit)
