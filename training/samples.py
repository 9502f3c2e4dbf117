"""Labelled images for training and evaluation, whatever they were read from."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from storage.errors import TrainingError, UnreadableError
from transforms.shards.files import part_of, read_part

_MAX_IMAGE_BYTES = 256 << 20
_MAX_PIXELS = 200_000_000
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})


@dataclass(frozen=True, eq=False)
class Sample:
    """An image and its objects.

    ``boxes [n, 4]`` float64 are corners (xmin, ymin, xmax, ymax) in absolute pixels of the image as shown,
    EXIF orientation applied, of ``width`` x ``height`` pixels; ``ignore [n]`` marks what is neither to be
    found nor to be blamed. ``uri`` is a local path or any fsspec URL; ``split`` is train, val, test, trainval
    or None. ``weight`` multiplies the cost of the sample in training. ``shapes`` are empty, or one COCO
    segmentation as JSON for each box (None where it has none), in the same pixels. ``made_from`` has the ids
    of the images whose pixels an augmented one shows; empty for an image as it is.
    """

    id: str
    uri: str
    width: int
    height: int
    split: str | None
    boxes: NDArray[np.float64]
    categories: tuple[str, ...]
    ignore: NDArray[np.bool_]
    weight: float = 1.0
    shapes: tuple[str | None, ...] = ()
    made_from: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[str, ...]:
        """Ids of the images whose pixels it shows."""
        return self.made_from or (self.id,)

    @property
    def file_name(self) -> str:
        """What the image's own file is called."""
        part = part_of(self.uri)
        return (part.name if part is not None else self.uri).rsplit("/", 1)[-1]

    def __post_init__(self) -> None:
        n = len(self.categories)
        if self.boxes.shape != (n, 4) or self.ignore.shape != (n,):
            raise TrainingError(
                f"sample {self.id!r}: boxes {self.boxes.shape} and ignore {self.ignore.shape} for "
                f"{n} categories; expected ({n}, 4) and ({n},)"
            )
        if self.shapes and len(self.shapes) != n:
            raise TrainingError(f"sample {self.id!r}: {len(self.shapes)} shapes for {n} categories")
        if not np.isfinite(self.boxes).all():
            raise TrainingError(f"sample {self.id!r}: a box with a number that is not finite")


def load_image(sample: Sample) -> NDArray[np.uint8]:
    """The pixels ``[H, W, 3]`` RGB as shown: EXIF orientation applied, 16 bits scaled to 8, transparency
    dropped.

    Raises ``UnreadableError`` for what is not a whole image of at most 200 million pixels and 256 MiB.
    """
    return read_image(sample.uri)


def read_image(uri: str) -> NDArray[np.uint8]:
    """``load_image`` for a local path, any fsspec URL, or the address of a part of a shard."""
    part = part_of(uri)
    if part is None:
        return decode_image(_read(uri), uri)
    if part.size > _MAX_IMAGE_BYTES:
        raise _too_large(uri)
    return decode_image(read_part(part), f"{part.shard}: {part.name}")


def decode_image(data: bytes, path: str) -> NDArray[np.uint8]:
    """``load_image`` for bytes; ``path`` is only used in errors."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise UnreadableError(
                    path,
                    f"an image of {image.width}x{image.height}",
                    expected=f"at most {_MAX_PIXELS} pixels",
                )
            turned = ImageOps.exif_transpose(image)
            if turned.mode in _SIXTEEN_BIT:
                deep = np.asarray(turned).astype(np.int64)
                grey = (deep.clip(0, 65535) // 257).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.asarray(turned.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableError(path, f"{type(error).__name__}: {error}", expected="a readable image") from None


def split_samples(
    samples: Sequence[Sample], *, val_share: float = 0.2, seed: int = 42
) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples, in the order given.

    By the split column where it speaks of training: train (or trainval) against val; test is in neither.
    Without a val split the share ``val_share`` of the training images is taken by a hash of their id and
    ``seed``, as for images without any split, so that an image stays on its side when others come. What is
    made of an image goes with it; what shows images of both sides is in neither.
    """
    train = [sample for sample in samples if sample.split in {"train", "trainval", None}]
    val = [sample for sample in samples if sample.split == "val"]
    images = {name for sample in train for name in sample.shown}
    if not val and len(images) > 1:
        ranked = sorted(images, key=lambda name: _draw(name, seed))
        held = {name for name in images if _draw(name, seed) < val_share}
        # A small set must not be left without one of the two sides.
        held = held or {ranked[0]}
        if len(held) == len(images):
            held.discard(ranked[-1])
        val = [sample for sample in train if held.issuperset(sample.shown)]
        train = [sample for sample in train if held.isdisjoint(sample.shown)]
    if not train:
        found = sorted({str(sample.split) for sample in samples})
        raise TrainingError(
            f"no training sample among {len(samples)} (splits: {', '.join(found) or 'none'}); expected "
            "some with split train or trainval, or without a split"
        )
    return train, val


def without(samples: Iterable[Sample], held: Iterable[Sample]) -> list[Sample]:
    """Samples to train on: none of split val or test, and none that shows an image that ``held`` shows."""
    names = {name for sample in held for name in sample.shown}
    return [
        sample
        for sample in samples
        if sample.split in {"train", "trainval", None} and names.isdisjoint(sample.shown)
    ]


def _draw(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but ``key`` and ``seed``."""
    digest = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _read(uri: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(uri, "rb") as file:
            data: bytes = file.read(_MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError, ImportError) as error:
        raise UnreadableError(uri, f"{type(error).__name__}: {error}", expected="an image") from None
    if len(data) > _MAX_IMAGE_BYTES:
        raise _too_large(uri)
    return data


def _too_large(uri: str) -> UnreadableError:
    return UnreadableError(uri, f"more than {_MAX_IMAGE_BYTES >> 20} MiB", expected="a smaller image")
