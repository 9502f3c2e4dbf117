"""What pasted instances hide of the objects below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from transforms.augment.boxes import Floats, cover
from transforms.augment.masks import raster
from transforms.augment.plan import Layer
from transforms.augment.sample import Placed
from transforms.formats.masks import Mask, rle_text


def hide(
    part: Placed, over: Sequence[tuple[Layer, Placed]], width: int, height: int
) -> tuple[Placed, Floats]:
    """``part`` as it is seen below pasted instances, and the share ``[n]`` of each object that is hidden.

    Masks lose what lies below the outlines that were pasted, and boxes shrink by as much as the extent of
    their mask does. Of an object without a mask the share is that of its box below other boxes; the box
    stays. ``width`` and ``height`` are those of the output, in pixels.
    """
    hidden = np.zeros(len(part))
    pasted = [(layer, placed) for layer, placed in over if np.isfinite(placed.boxes).all() and len(placed)]
    if not pasted or not len(part):
        return part, hidden
    shares = cover(np.nan_to_num(part.boxes), np.concatenate([placed.boxes for _, placed in pasted]))
    hidden = np.minimum(shares.sum(axis=1), 1.0)
    boxes, areas, outlines = part.boxes.copy(), part.areas.copy(), list(part.segmentations)
    for i in np.flatnonzero(hidden > 0).tolist():
        text = outlines[i]
        if text is None:
            continue
        layers = [layer for (layer, _), share in zip(pasted, shares[i].tolist(), strict=True) if share > 0]
        cut = _cut(text, layers, boxes[i], width, height)
        hidden[i] = cut.hidden
        if cut.hidden > 0:
            outlines[i], areas[i] = cut.segmentation, cut.area
            boxes[i] = boxes[i] + cut.shrunk
    return replace(part, boxes=boxes, areas=areas, segmentations=tuple(outlines)), hidden


@dataclass(frozen=True)
class _Cut:
    hidden: float
    segmentation: str | None = None
    area: float = 0.0
    shrunk: Floats | float = 0.0
    """How far each side of the extent has moved."""


def _cut(text: str, layers: Sequence[Layer], box: Floats, width: int, height: int) -> _Cut:
    # A mask may reach beyond its box by a little, if somebody drew them apart; what is far off is none.
    low = np.maximum(np.floor(box[:2]).astype(int) - 8, 0)
    high = np.minimum(np.ceil(box[2:]).astype(int) + 8, (width, height))
    left, top, wide, tall = int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])
    before = _pixels(text, np.eye(3)[:2], left, top, wide, tall)
    after = before.copy()
    for layer in layers:
        after &= ~_pixels(layer.outline or "[]", layer.affine(), left, top, wide, tall)
    pixels = int(np.count_nonzero(before))
    seen = int(np.count_nonzero(after))
    if seen == pixels:
        return _Cut(0.0)
    if not seen:
        return _Cut(1.0)
    shrunk = _extent(after) - _extent(before)
    return _Cut(1 - seen / pixels, rle_text(after, left, top, width, height), float(seen), shrunk)


def _pixels(text: str, matrix: Floats, left: int, top: int, width: int, height: int) -> Mask:
    near = matrix.copy()
    near[:, 2] -= (left, top)
    return np.asarray(raster(text, near, width, height) >= 128)


def _extent(mask: Mask) -> Floats:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
