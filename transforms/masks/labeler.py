"""What every labeler does: boxes of several images in, a mask for each box out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transforms.masks.crops import Window


@dataclass(frozen=True, eq=False)
class BoxedImage:
    """``pixels [H, W, 3]`` RGB uint8 and ``boxes [n, 4]`` as corners in its pixels.

    Boxes may leave the image; what has no area within it is the caller's to sort out (:func:`why_not`).
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float64]


class Labeler(Protocol):
    """Makes masks of boxes. It holds its model and is made once for each process."""

    name: str
    """What kind of mask this is; goes into ``masks.model``."""
    version: str
    """Changes whenever the same box could get another mask."""

    def label(self, images: Sequence[BoxedImage]) -> list[list[Window]]:
        """For each image, one mask for each of its boxes, in their order; a mask may be empty."""
        ...


EMPTY, OUTSIDE, NOT_FINITE = "empty", "outside", "not finite"


def why_not(box: Sequence[float], width: int, height: int) -> str | None:
    """Why there is no mask to a box on an image of that size: empty, outside, not finite; None: there is."""
    if not all(np.isfinite(box)):
        return NOT_FINITE
    xmin, ymin, xmax, ymax = box
    if xmax <= xmin or ymax <= ymin:
        return EMPTY
    if min(xmax, width) <= max(xmin, 0) or min(ymax, height) <= max(ymin, 0):
        return OUTSIDE
    return None
