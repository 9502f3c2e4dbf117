"""Random geometry and colour for training, each drawn from (seed, epoch, sample) alone.

Order as in TAO: flip, translation, zoom, rotation; then brightness, hue and saturation, contrast. All
geometry is one affine map and one bilinear sampling (empty places are black), all colour one affine map of
RGB.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.detectnet_v2.spec import AugmentationConfig, ColorAugmentation, SpatialAugmentation

Matrix = NDArray[np.float64]

# NTSC's RGB to luma and two axes of chroma (SMPTE 170M): hue turns, and saturation stretches, the chroma
# plane.
_TO_YIQ: Matrix = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True)
class Augmentation:
    """``geometry [3, 3]`` maps points (x, y, 1) of the network's input, before to after; ``colour [3, 4]``
    maps (r, g, b, 1) in 0..1.
    """

    geometry: Matrix
    colour: Matrix


def draw_augmentation(config: AugmentationConfig, *, sample: str, epoch: int, seed: int) -> Augmentation:
    """The augmentation of one sample in one epoch: the same for the same arguments, on every machine."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{sample}".encode(), digest_size=16).digest()
    random = np.random.default_rng(int.from_bytes(digest))
    size = config.preprocessing
    width, height = size.output_image_width, size.output_image_height
    geometry = _geometry(config.spatial_augmentation, width, height, random)
    colour = _colour(config.color_augmentation, random)
    if size.output_image_channel != 3:
        colour = np.eye(3, 4)
    return Augmentation(geometry, colour)


def augment_pixels(pixels: NDArray[np.uint8], augmentation: Augmentation) -> NDArray[np.uint8]:
    """Apply to ``pixels [H, W, 3]`` (or ``[H, W]``) of the network's size."""
    if not np.array_equal(augmentation.geometry, np.eye(3)):
        backward = np.linalg.inv(augmentation.geometry)
        image = Image.fromarray(pixels)
        coefficients = tuple(backward[:2].ravel())
        image = image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    if pixels.ndim == 3 and not np.array_equal(augmentation.colour, np.eye(3, 4)):
        matrix = augmentation.colour[:, :3].astype(np.float32)
        shift = (augmentation.colour[:, 3] * 255).astype(np.float32)
        mapped = pixels.reshape(-1, 3).astype(np.float32) @ matrix.T + shift
        pixels = (mapped + 0.5).clip(0, 255).astype(np.uint8).reshape(pixels.shape)
    return pixels


def augment_boxes(boxes: NDArray[np.float64], augmentation: Augmentation) -> NDArray[np.float64]:
    """The upright boxes around the four mapped corners of ``boxes [n, 4]``; not clipped."""
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    mapped = corners @ augmentation.geometry[:2, :2].T + augmentation.geometry[:2, 2]
    return np.concatenate([mapped.min(axis=1), mapped.max(axis=1)], axis=1)


def _geometry(config: SpatialAugmentation, width: int, height: int, random: np.random.Generator) -> Matrix:
    matrix = np.eye(3)
    if random.random() < config.hflip_probability:
        matrix = _affine(-1, 1, width, 0) @ matrix
    if random.random() < config.vflip_probability:
        matrix = _affine(1, -1, 0, height) @ matrix
    reach_x, reach_y = int(config.translate_max_x), int(config.translate_max_y)
    shift_x = int(random.integers(-reach_x, reach_x + 1))
    shift_y = int(random.integers(-reach_y, reach_y + 1))
    matrix = _affine(1, 1, shift_x, shift_y) @ matrix
    ratio = random.uniform(config.zoom_min, config.zoom_max)
    place_x, place_y = random.random(2)
    room_x, room_y = width - width / ratio, height - height / ratio
    matrix = _affine(1 / ratio, 1 / ratio, place_x * room_x, place_y * room_y) @ matrix
    turn = random.random() < config.rotate_probability
    angle = random.uniform(-config.rotate_rad_max, config.rotate_rad_max)
    if turn and angle:
        cos, sin = math.cos(angle), math.sin(angle)
        rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        back, there = _affine(1, 1, width / 2, height / 2), _affine(1, 1, -width / 2, -height / 2)
        matrix = back @ rotation @ there @ matrix
    return matrix


def _colour(config: ColorAugmentation, random: np.random.Generator) -> Matrix:
    shift = config.color_shift_stddev * _truncated_normal(random)
    hue = math.radians(config.hue_rotation_max / 2 * _truncated_normal(random))
    saturation = 1 + config.saturation_shift_max * random.uniform(-1, 1)
    contrast = config.contrast_scale_max / 2 * _truncated_normal(random)
    if shift == hue == contrast == 0 and saturation == 1:
        return np.eye(3, 4)
    cos, sin = saturation * math.cos(hue), saturation * math.sin(hue)
    chroma = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    linear = (1 + contrast) * (np.linalg.inv(_TO_YIQ) @ chroma @ _TO_YIQ)
    offset = linear @ np.full(3, shift) - contrast * config.contrast_center
    return np.column_stack([linear, offset])


def _truncated_normal(random: np.random.Generator) -> float:
    """Standard normal, drawn again beyond two deviations."""
    while abs(value := random.standard_normal()) > 2:
        pass
    return float(value)


def _affine(scale_x: float, scale_y: float, shift_x: float, shift_y: float) -> Matrix:
    return np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y], [0, 0, 1]], dtype=np.float64)
