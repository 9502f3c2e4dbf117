"""Images with their objects, as augmentation takes them, whatever they were read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transforms.augment.boxes import Floats

Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Objects:
    """Objects of one image; ``n`` of each.

    ``boxes [n, 4]`` are corners in pixels of the image as shown; ``rows [n]`` number them in the table that
    they came from; ``ignore [n]`` marks regions that are neither to be found nor to be blamed.
    """

    boxes: Floats
    categories: tuple[str, ...]
    ignore: Bools
    rows: tuple[int, ...]
    segmentations: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.categories)


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledImage:
    """An image and its objects. ``sample`` is its path without extension, ``name`` the same with it."""

    sample: str
    name: str
    uri: str
    version: str
    """Changes whenever the file may have changed."""
    width: int
    height: int
    objects: Objects
    row: int = 0
    split: str | None = None


def no_objects() -> Objects:
    """None at all."""
    return objects_of([], [], [], [], [])


def objects_of(
    boxes: Sequence[Sequence[float]] | Floats,
    categories: Sequence[str],
    ignore: Sequence[bool],
    rows: Sequence[int],
    segmentations: Sequence[str | None],
) -> Objects:
    """Objects of plain lists."""
    return Objects(
        boxes=np.asarray(boxes, np.float64).reshape(-1, 4),
        categories=tuple(categories),
        ignore=np.asarray(ignore, np.bool_).reshape(-1),
        rows=tuple(rows),
        segmentations=tuple(segmentations),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Placed:
    """The objects of one output.

    ``boxes [n, 4]`` corners in pixels of the output; ``sources [n]`` sample and number of the object there;
    ``visible [n]`` is the part of its area that can still be seen; ``areas [n]`` pixels of mask or box;
    ``covered [n]`` the part that other layers hide.
    """

    boxes: Floats
    categories: tuple[str, ...]
    ignore: Bools
    sources: tuple[tuple[str, int], ...]
    segmentations: tuple[str | None, ...]
    visible: Floats
    covered: Floats
    areas: Floats
    facts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.categories)
