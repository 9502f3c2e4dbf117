"""Boxes to the grids that the network is to predict: coverage and box distances.

Everything is computed in cells of the output (pixels / 16). A box becomes an ellipse of coverage 1 with an
anti-aliased border, and around it a dead zone in which farther boxes are cleared; nearer boxes (larger ymax)
are drawn over farther ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.detectnet_v2.spec import STRIDE, RasterizerTarget, TrainSpec

FloatArray = NDArray[np.float32]

NO_CLASS = -1
EVERY_CLASS = -2  # an ignored region that speaks of all classes, as KITTI's DontCare
EVERYTHING = ("*", "DontCare", "dontcare")  # names of that, as labels and mappings have them

_SAMPLES = 4  # sample points along each side of a cell
_SMALLEST_RADIUS = 0.1
_CHUNK_CELLS = 1 << 22  # bounds the memory of many boxes on a large grid


@dataclass(frozen=True)
class Targets:
    """What one image's output should be, for K classes on a grid of h x w cells, float32.

    ``cov [K, h, w]`` in 0..1; ``norm [K, h, w]`` coverage by inverse area, the weight of the box cost;
    ``bbox [4K, h, w]`` distances as the box head gives them; ``weight [K, h, w]`` 0 where an ignored box
    lies, else 1.
    """

    cov: FloatArray
    norm: FloatArray
    bbox: FloatArray
    weight: FloatArray


def rasterise(
    boxes: NDArray[np.float64], classes: NDArray[np.int64], ignore: NDArray[np.bool_], spec: TrainSpec
) -> Targets:
    """Draw ``boxes [n, 4]`` (corners, pixels of the network's input) of ``classes [n]`` (see
    ``class_indices``).

    Ignored boxes are not drawn: they only take the cells that they mostly cover, where nothing is drawn, out
    of the cost of their class.
    """
    size = spec.augmentation_config.preprocessing
    width, height = size.output_image_width // STRIDE, size.output_image_height // STRIDE
    count = len(spec.classes)
    head = spec.model_config.objective_set.bbox
    cov = np.zeros((count, height, width), np.float32)
    norm, weight = np.zeros_like(cov), np.ones_like(cov)
    bbox = np.zeros((count, 4, height, width), np.float32)
    for index, name in enumerate(spec.classes):
        own = boxes[(classes == index) & ~ignore] / STRIDE
        if len(own):
            rasterizer = spec.rasterizer(name)
            deadzone = spec.bbox_rasterizer_config.deadzone_radius
            _draw(own, rasterizer, deadzone, cov[index], norm[index], bbox[index], head.scale, head.offset)
        masked = boxes[ignore & ((classes == index) | (classes == EVERY_CLASS))] / STRIDE
        if len(masked):
            covered = _rectangle_share(masked, height, width).max(axis=0) >= 0.5
            weight[index][covered & (cov[index] == 0)] = 0
    return Targets(cov, norm, bbox.reshape(4 * count, height, width), weight)


def class_indices(
    categories: Sequence[str], classes: Sequence[str], mapping: dict[str, str]
) -> NDArray[np.int64]:
    """The channel of each category, or ``NO_CLASS``, or ``EVERY_CLASS`` for KITTI's DontCare.

    ``mapping`` goes from label names to class names; without one, names stand for themselves. Exact names
    come first, then names without regard to case: TAO's converter wrote them in lower case, its users' labels
    did not.
    """
    channel = {name: index for index, name in enumerate(classes)}
    mapping = mapping or {name: name for name in classes}
    folded = {source.casefold(): target for source, target in mapping.items()}
    channel = dict.fromkeys(EVERYTHING, EVERY_CLASS) | channel
    folded = {"*": "*", "dontcare": "DontCare"} | folded
    targets = (mapping.get(name, folded.get(name.casefold(), "")) for name in categories)
    return np.array([channel.get(target, NO_CLASS) for target in targets], np.int64)


def _draw(
    boxes: NDArray[np.float64],
    rasterizer: RasterizerTarget,
    deadzone: float,
    cov: FloatArray,
    norm: FloatArray,
    bbox: FloatArray,
    scale: float,
    offset: float,
) -> None:
    """Fill the grids of one class in place; ``boxes`` are corners in cells."""
    boxes = boxes[np.argsort(boxes[:, 3], kind="stable")]
    centre, core, dead = _ellipses(boxes, rasterizer, deadzone)
    inverse_area = 1 / np.maximum(4 * core[:, 0] * core[:, 1], 1)
    height, width = cov.shape
    columns, rows = np.arange(width), np.arange(height)[:, None]
    chunk = max(1, _CHUNK_CELLS // (cov.size * _SAMPLES**2))
    for start in range(0, len(boxes), chunk):
        part = slice(start, start + chunk)
        shares = _ellipse_share(centre[part], core[part], height, width)
        clears = _ellipse_share(centre[part], dead[part], height, width)
        for share, clear, box, inverse in zip(shares, clears, boxes[part], inverse_area[part], strict=True):
            cleared = (clear >= cov) & (clear > 0)
            cov[cleared] = norm[cleared] = 0
            bbox[:, cleared] = 0
            drawn = (share >= cov) & (share > 0)
            cov[drawn] = share[drawn]
            norm[drawn] = (share * inverse)[drawn]
            distances = (columns - box[0], rows - box[1], box[2] - columns, box[3] - rows)
            for channel, (distance, shift) in enumerate(
                zip(distances, (offset, offset, -offset, -offset), strict=True)
            ):
                values = np.broadcast_to((distance * STRIDE + shift) / scale, cov.shape)
                bbox[channel][drawn] = values[drawn]


def _ellipses(
    boxes: NDArray[np.float64], rasterizer: RasterizerTarget, deadzone: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centres, coverage radii and dead-zone radii ``[n, 2]`` (x, y) in cells."""
    low, high = boxes[:, :2], boxes[:, 2:]
    share = np.array([rasterizer.cov_center_x, rasterizer.cov_center_y])
    centre = low + share * (high - low)
    half = np.where(share < 0.5, centre - low, high - centre)
    core = np.maximum(np.array([rasterizer.cov_radius_x, rasterizer.cov_radius_y]) * half, _SMALLEST_RADIUS)
    for axis in (0, 1):  # the other axis grows along, so that the aspect is kept
        core *= np.maximum(rasterizer.bbox_min_radius / core[:, axis : axis + 1], 1)
    return centre, core, np.maximum((1 - deadzone) * core + deadzone * half, core)


def _ellipse_share(
    centre: NDArray[np.float64], radius: NDArray[np.float64], height: int, width: int
) -> FloatArray:
    """The share ``[n, height, width]`` of each cell's sample points that lie inside of each ellipse."""
    x = (((_points(width) - centre[:, :1]) / radius[:, :1]) ** 2).astype(np.float32)
    y = (((_points(height) - centre[:, 1:]) / radius[:, 1:]) ** 2).astype(np.float32)
    inside = (y[:, :, None] + x[:, None, :]) < 1
    cells = inside.reshape(len(centre), height, _SAMPLES, width, _SAMPLES)
    return cells.sum(axis=(2, 4), dtype=np.float32) / np.float32(_SAMPLES**2)


def _rectangle_share(boxes: NDArray[np.float64], height: int, width: int) -> FloatArray:
    """The share ``[n, height, width]`` of each cell that each box covers."""
    columns, rows = np.arange(width), np.arange(height)
    x = np.clip(np.minimum(columns + 1, boxes[:, 2:3]) - np.maximum(columns, boxes[:, 0:1]), 0, 1)
    y = np.clip(np.minimum(rows + 1, boxes[:, 3:4]) - np.maximum(rows, boxes[:, 1:2]), 0, 1)
    return (y[:, :, None] * x[:, None, :]).astype(np.float32)


def _points(cells: int) -> NDArray[np.float64]:
    return (np.arange(cells * _SAMPLES) + 0.5) / _SAMPLES
