"""Square crops around boxes, and masks of crops back on their images.

Boxes are corners (xmin, ymin, xmax, ymax) in pixels of the image as shown. A *region* is the expanded box:
integer left, top, right, bottom (right and bottom outside), and it may leave the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Regions = NDArray[np.int64]

# A region of a box that leaves its image far is cut off at so many image sides.
_FURTHEST = 2


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a mask: ``mask [h, w]`` with its corner at ``left, top``; around it is background.

    ``score`` is the mean probability of its pixels, None where the labeler has no probabilities.
    """

    mask: NDArray[np.bool_]
    left: int
    top: int
    score: float | None = None

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))


def expand(boxes: NDArray[np.float64], margins: NDArray[np.float64]) -> Regions:
    """Regions ``[n, 4]`` of ``boxes [n, 4]`` with each half side longer by its margin (left, top, right,
    bottom, as parts of the half side), and one pixel more at right and bottom.

    Source: the crop of MAL. Minima are rounded down, maxima up.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    low = centre - (centre - boxes[:, :2]) * (1 + margins[:, :2])
    high = centre + (boxes[:, 2:] - centre) * (1 + margins[:, 2:]) + 1
    return np.concatenate([np.floor(low), np.ceil(high)], axis=1).astype(np.int64)


def random_margins(draw: np.random.Generator, low: float, high: float) -> NDArray[np.float64]:
    """Margins ``[4]`` of a training crop: the two sides of an axis share one random budget."""
    share = draw.uniform(size=2)
    margins: NDArray[np.float64] = draw.uniform(low, high, size=4) * np.concatenate([share, 1 - share])
    return margins


def cut(pixels: Pixels, region: NDArray[np.int64], side: int) -> Pixels:
    """The region of an image ``[H, W, 3]`` as ``[side, side, 3]``, its shape not kept.

    What lies outside is filled with pixels from the opposite side of the image: a colour of its own there
    would look like an object to the colours' model.
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    left, top, right, bottom = (int(value) for value in region)
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        image = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    else:
        left, right = max(left, -_FURTHEST * width), min(right, (1 + _FURTHEST) * width)
        top, bottom = max(top, -_FURTHEST * height), min(bottom, (1 + _FURTHEST) * height)
        rows, columns = np.arange(top, bottom) % height, np.arange(left, right) % width
        image = Image.fromarray(pixels[rows[:, None], columns])
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def cover(region: NDArray[np.int64], box: NDArray[np.float64], cells: int) -> tuple[Floats, Floats]:
    """The box in its region, as the covered part of each of ``cells`` columns and rows: x and y, ``[cells]``.

    The box mask is the product: ``y[:, None] * x[None]``.
    """
    found = []
    for axis in range(2):
        edges = np.linspace(region[axis], region[axis + 2], cells + 1)
        inside = np.minimum(edges[1:], box[axis + 2]) - np.maximum(edges[:-1], box[axis])
        found.append((inside.clip(0) / max(edges[1] - edges[0], 1e-9)).astype(np.float32))
    return found[0], found[1]


def uncut(
    logits: Floats,
    region: NDArray[np.int64],
    box: NDArray[np.float64],
    size: tuple[int, int],
    *,
    threshold: float,
) -> Window:
    """The mask in the box, of ``logits [m, m]`` of its region, on an image of ``size`` (width, height).

    Logits are interpolated bilinearly at the centres of the pixels; a pixel is of the mask where its
    probability is above ``threshold``. Pixels that the box does not touch are never of it.
    """
    width, height = size
    left, top = max(int(np.floor(box[0])), 0), max(int(np.floor(box[1])), 0)
    right, bottom = min(int(np.ceil(box[2])), width), min(int(np.ceil(box[3])), height)
    if right <= left or bottom <= top:
        return Window(np.zeros((0, 0), bool), left, top)
    across = _interpolation(left, right, int(region[0]), int(region[2]), logits.shape[1])
    down = _interpolation(top, bottom, int(region[1]), int(region[3]), logits.shape[0])
    values = down @ logits @ across.T
    mask = values > np.log(threshold / (1 - threshold))
    inside = values[mask]
    score = float(np.mean(1 / (1 + np.exp(-inside.clip(-30, 30))))) if inside.size else None
    return Window(mask, left, top, score)


def _interpolation(first: int, past: int, low: int, high: int, cells: int) -> Floats:
    """Weights ``[past - first, cells]``: values at pixels' centres from those at cells' centres."""
    at = ((np.arange(first, past) + 0.5 - low) * cells / (high - low) - 0.5).clip(0, cells - 1)
    lower = np.minimum(at.astype(np.int64), max(cells - 2, 0))
    part = (at - lower).astype(np.float32)
    weights = np.zeros((past - first, cells), np.float32)
    rows = np.arange(past - first)
    weights[rows, lower] = 1 - part
    weights[rows, np.minimum(lower + 1, cells - 1)] += part
    return weights
