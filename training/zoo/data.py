"""Samples as tensors: pixels, boxes, classes, masks and ignored regions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from storage.errors import ConfigError, TrainingError, UnreadableError
from training.evaluation.detections import EVERY_CATEGORY
from training.samples import Sample, load_image
from training.zoo.ignore import Target
from training.zoo.registry import TRANSFORMS
from training.zoo.spec import DataSpec, ModelSpec

Item = tuple[Tensor, Target]


def classes_of(samples: Sequence[Sample], wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The classes to learn: those wanted, each of which must have objects; else all, most frequent first."""
    counts: dict[str, int] = {}
    for sample in samples:
        for name, ignored in zip(sample.categories, sample.ignore, strict=True):
            if not ignored:
                counts[name] = counts.get(name, 0) + 1
    if missing := [name for name in wanted if name not in counts]:
        raise ConfigError(
            f"data.classes: no object of {', '.join(missing)}; the samples have {', '.join(sorted(counts))}"
        )
    if len(set(wanted)) != len(wanted):
        raise ConfigError(f"data.classes: {list(wanted)} names a class twice")
    return tuple(wanted) or tuple(sorted(counts, key=lambda name: (-counts[name], name)))


class DetectionDataset(Dataset[Item]):
    """Images ``[3, H, W]`` float32 in [0, 1] and their targets, by number.

    Training samples go through the transforms of the spec with draws that follow from (seed, epoch, sample
    id) alone, whatever process asks for them. ``for_training=False`` gives the images as they are.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: Sequence[str],
        data: DataSpec,
        model: ModelSpec,
        *,
        masks: bool = False,
        seed: int = 0,
        for_training: bool = True,
    ) -> None:
        self.samples = tuple(samples)
        self._labels = {name: number for number, name in enumerate(classes, start=1)}
        self._data, self._model, self._masks, self._seed = data, model, masks, seed
        self._training = for_training
        self._transforms = [TRANSFORMS[name] for name in data.transforms] if for_training else []
        # Shared with the processes that read, which live on from epoch to epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose draws are made from now on."""
        self._epoch.fill_(epoch)

    def __getitem__(self, number: int) -> Item:
        sample = self.samples[number]
        pixels = load_image(sample)
        if pixels.shape[:2] != (sample.height, sample.width):
            raise TrainingError(
                f"{sample.uri}: {pixels.shape[1]}x{pixels.shape[0]} pixels, and the labels speak of "
                f"{sample.width}x{sample.height}; ingest the folder again"
            )
        image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float().div_(255)
        target = self._target(sample, number)
        if self._training:
            draw = generator(self._seed, int(self._epoch), sample.id)
            for transform in self._transforms:
                image, target = transform(image, target, draw)
            if len(self._model.short_side) > 1:
                target["short_side"] = torch.tensor(int(draw.choice(self._model.short_side)))
        return image.contiguous(), target

    def _target(self, sample: Sample, number: int) -> Target:
        learnt, ignored = self.split(sample)
        boxes = torch.from_numpy(sample.boxes.astype(np.float32))
        target: Target = {
            "boxes": boxes[learnt],
            "labels": torch.tensor([self._labels[sample.categories[i]] for i in learnt], dtype=torch.int64),
            "ignore": boxes[ignored],
            "image_id": torch.tensor(number),
        }
        if self._masks:
            target["masks"] = torch.from_numpy(
                np.stack([mask_of(sample, i) for i in learnt])
                if learnt
                else np.zeros((0, sample.height, sample.width), np.uint8)
            )
        return target

    def split(self, sample: Sample) -> tuple[list[int], list[int]]:
        """Which objects are learnt, and which are regions to ignore; those of other classes are neither."""
        learnt: list[int] = []
        ignored: list[int] = []
        sizes = sample.boxes[:, 2:] - sample.boxes[:, :2]
        for number, (name, ignore) in enumerate(zip(sample.categories, sample.ignore, strict=True)):
            if ignore and (name in self._labels or speaks_of_all(name)):
                ignored.append(number)
            elif not ignore and name in self._labels:
                small = sizes[number].min() < max(self._data.min_size, 1e-3)
                (ignored if small else learnt).append(number)
        return learnt, ignored


def collate(items: Sequence[Item]) -> tuple[list[Tensor], list[Target]]:
    """Images and targets, as lists: their sizes differ."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


def mask_of(sample: Sample, number: int) -> NDArray[np.uint8]:
    """The mask ``[H, W]`` of an object: its polygons or run lengths, else its box.

    Raises ``UnreadableError`` for a shape that is neither.
    """
    from pycocotools import mask as coco_mask

    text = sample.shapes[number] if sample.shapes else None
    height, width = sample.height, sample.width
    shape: Any = json.loads(text) if text else None
    if not shape:
        xmin, ymin, xmax, ymax = sample.boxes[number].tolist()
        shape = [[xmin, ymin, xmax, ymin, xmax, ymax, xmin, ymax]]
    try:
        if isinstance(shape, list):
            runs = coco_mask.merge(coco_mask.frPyObjects(shape, height, width))
        elif isinstance(shape["counts"], list):
            runs = coco_mask.frPyObjects(shape, height, width)
        else:
            runs = shape
        found = coco_mask.decode(runs)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UnreadableError(
            sample.uri, f"object {number}: {type(error).__name__}: {error}", expected="a COCO segmentation"
        ) from None
    if found.shape != (height, width):
        raise UnreadableError(
            sample.uri,
            f"object {number}: a mask of {found.shape[1]}x{found.shape[0]}",
            expected=f"{width}x{height}",
        )
    return np.ascontiguousarray(found, np.uint8)


def generator(seed: int, epoch: int, key: str) -> np.random.Generator:
    """Draws that depend on nothing but seed, epoch and key."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest))


class BatchOrder:
    """Batches of numbers for each epoch: a pure function of seed, epoch, rank and processes.

    With ``shapes`` (height over width) images that are wide come together, and images that are tall. What is
    left over of either is put together at the end. Every sample comes once an epoch; where the last batch
    cannot be dealt out evenly, or would be one image a process, the first of the epoch come again.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        shapes: Sequence[float] | None = None,
    ) -> None:
        self._count, self._size, self._seed = count, batch_size, seed
        self._rank, self._world, self._shapes = rank, world, shapes
        self.epoch = 0

    def __len__(self) -> int:
        size = self._size * self._world
        return (self._count + size - 1) // size

    def __iter__(self) -> Iterator[list[int]]:
        # A slice of the batch of all: two processes see what one with twice the batch would.
        for whole in self.whole_batches():
            share = len(whole) // self._world
            yield whole[self._rank * share : (self._rank + 1) * share]

    def whole_batches(self) -> list[list[int]]:
        """The batches of all processes together."""
        order = np.random.default_rng((self._seed, self.epoch)).permutation(self._count).tolist()
        size = self._size * self._world
        batches: list[list[int]] = []
        hands: dict[bool, list[int]] = {False: [], True: []}
        for number in order:
            hand = hands[bool(self._shapes is not None and self._shapes[number] > 1)]
            hand.append(number)
            if len(hand) == size:
                batches.append(list(hand))
                hand.clear()
        rest = [*hands[False], *hands[True]]
        batches += [rest[start : start + size] for start in range(0, len(rest), size)]
        if batches:
            last = batches[-1]
            # Batch norms need two values where maps are of one pixel.
            wanted = self._world * max(min(2, self._size), -(-len(last) // self._world))
            last += (order * wanted)[: wanted - len(last)]
        return batches


@TRANSFORMS.register("flip")
def flip(image: Tensor, target: Target, draw: np.random.Generator) -> Item:
    """Mirror every other sample from left to right."""
    if draw.random() >= 0.5:
        return image, target
    width = image.shape[-1]
    turned = dict(target)
    for name in ("boxes", "ignore"):
        boxes = target[name].clone()
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        turned[name] = boxes
    if "masks" in target:
        turned["masks"] = target["masks"].flip(-1)
    return image.flip(-1), turned


@TRANSFORMS.register("colour")
def colour(image: Tensor, target: Target, draw: np.random.Generator) -> Item:
    """Brightness, contrast and saturation between 0.7 and 1.3 of themselves."""
    from torchvision.transforms.v2 import functional

    brightness, contrast, saturation = draw.uniform(0.7, 1.3, 3).tolist()
    image = functional.adjust_brightness(image, brightness)
    image = functional.adjust_contrast(image, contrast)
    return functional.adjust_saturation(image, saturation), target


@TRANSFORMS.register("crop")
def crop(image: Tensor, target: Target, draw: np.random.Generator) -> Item:
    """A window of 0.6 to 1 of the sides; objects of which less than half is left are ignored."""
    height, width = image.shape[-2:]
    share = draw.uniform(0.6, 1.0)
    high, wide = max(1, round(height * share)), max(1, round(width * share))
    top, left = int(draw.integers(height - high + 1)), int(draw.integers(width - wide + 1))
    boxes, whole = _cut(target["boxes"], left, top, wide, high)
    regions, there = _cut(target["ignore"], left, top, wide, high)
    kept, part = whole >= 0.5, (whole > 0) & (whole < 0.5)
    cut = {
        **target,
        "boxes": boxes[kept],
        "labels": target["labels"][kept],
        "ignore": torch.cat([regions[there > 0], boxes[part]]),
    }
    if "masks" in target:
        cut["masks"] = target["masks"][kept][:, top : top + high, left : left + wide]
    return image[:, top : top + high, left : left + wide], cut


def _cut(boxes: Tensor, left: int, top: int, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Boxes within a window, and the share of their area that is left."""
    moved = boxes - torch.tensor([left, top, left, top])
    inner = torch.stack(
        [
            moved[:, 0].clamp(0, width),
            moved[:, 1].clamp(0, height),
            moved[:, 2].clamp(0, width),
            moved[:, 3].clamp(0, height),
        ],
        dim=1,
    )
    before, after = (one[:, 2:] - one[:, :2] for one in (moved, inner))
    return inner, after.prod(dim=1) / before.prod(dim=1).clamp(min=1e-6)


def speaks_of_all(name: str) -> bool:
    """Whether a category is that of regions where no class counts: ``*`` or KITTI's DontCare."""
    return name == EVERY_CATEGORY or name.casefold() == "dontcare"
