"""One plan carried out on the CPU: read, render, encode; and what executors are told and give back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from storage.errors import ConfigError, DropmillError
from transforms.augment.opencv import render
from transforms.augment.pixels import decode, encode, read_header, written_name
from transforms.augment.plan import Plan
from transforms.augment.sample import LabelledImage

Read = Callable[[str], bytes]
"""The bytes at an address; raises DropmillError or OSError."""


@dataclass(frozen=True)
class Output:
    """The file of one plan, or why there is none."""

    plan: Plan
    data: bytes | None
    error: str | None = None
    copied: bool = False
    """The file is the image's own, byte for byte."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How plans are carried out."""

    executor: str = "opencv"
    """dali or opencv."""
    threads: int = 0
    """0 is one for each core that this process may use."""
    jpeg_quality: int = 95
    batch_size: int = 8
    device: int | None = None
    """The GPU that DALI uses; None is the CPU."""

    @property
    def workers(self) -> int:
        """Threads, counted."""
        return self.threads or len(os.sched_getaffinity(0))


def carry_out_one(plan: Plan, images: Mapping[str, LabelledImage], read: Read, settings: Settings) -> Output:
    """One plan on the CPU, with OpenCV."""
    try:
        data = {layer.sample: read(images[layer.sample].uri) for layer in plan.layers}
        own = images[plan.sample]
        if as_it_is(plan, own, data[plan.sample]):
            return Output(plan, data[plan.sample], copied=True)
        pixels = {sample: decode(data[sample], images[sample].name) for sample in data}
        for sample in data:
            _check_size(images[sample], (pixels[sample].shape[1], pixels[sample].shape[0]))
        return Output(plan, encode(render(plan, pixels), plan.name, jpeg_quality=settings.jpeg_quality))
    except (DropmillError, OSError) as error:
        return Output(plan, None, str(error))


def as_it_is(plan: Plan, image: LabelledImage, data: bytes) -> bool:
    """Whether the file itself is the output: nothing changes, and nobody has to turn it to see it."""
    if not plan.is_identity or written_name(image.name) != image.name:
        return False
    header = read_header(data, image.name)
    return header.exif_orientation == 1 and (header.width, header.height) == (plan.width, plan.height)


def _check_size(image: LabelledImage, found: Sequence[int]) -> None:
    if tuple(found) != (image.width, image.height):
        raise ConfigError(
            f"{image.name}: {found[0]}x{found[1]} pixels where its header, or its label, said "
            f"{image.width}x{image.height}; has it been replaced?"
        )
