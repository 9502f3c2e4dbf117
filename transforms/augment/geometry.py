"""The one matrix of an output: rotation, flip, scale, shear, translation, crop and resize in a row.

Matrices are 2x3 (3x3 within this module), forward: column vectors of input pixels to output pixels, y down,
origin at the outer corner of the top left pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Matrix = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Spatial:
    """What is drawn for one image. Lengths are pixels of the input; ``crop`` is left, top, width, height."""

    angle: float = 0.0
    """Radians, clockwise on the screen."""
    flip_x: bool = False
    flip_y: bool = False
    scale: float = 1.0
    shear_x: float = 0.0
    shear_y: float = 0.0
    move_x: float = 0.0
    move_y: float = 0.0
    crop: tuple[float, float, float, float] | None = None


def forward_matrix(drawn: Spatial, width: int, height: int, out_width: int, out_height: int) -> Matrix:
    """The matrix ``[2, 3]``: rotation, flip, scale and shear about the middle, then translation, crop,
    resize.
    """
    cos, sin = math.cos(drawn.angle), math.sin(drawn.angle)
    rotation = np.array([[cos, -sin], [sin, cos]])
    mirror = np.diag([1.0 - 2 * drawn.flip_x, 1.0 - 2 * drawn.flip_y])
    shear = np.array([[1.0, drawn.shear_x], [drawn.shear_y, 1.0]])
    middle = (width / 2, height / 2)
    steps = [_about(drawn.scale * (shear @ mirror @ rotation), middle), _moved(drawn.move_x, drawn.move_y)]
    left, top, wide, high = drawn.crop or (0.0, 0.0, float(width), float(height))
    steps += [_moved(-left, -top), np.diag([out_width / wide, out_height / high, 1.0])]
    matrix = np.eye(3)
    for step in steps:
        matrix = step @ matrix
    # Half a turn and its like should be what they are, and not 1e-17 beside it.
    matrix[np.abs(matrix) < 1e-12] = 0.0
    return np.ascontiguousarray(matrix[:2])


def letterbox(
    matrix: Matrix, width: int, height: int, out_width: int, out_height: int, *, cover: bool = False
) -> Matrix:
    """``matrix`` to ``width`` x ``height``, then into the middle of the output, its aspect kept.

    All of it is in view, with bars beside it; with ``cover`` there are no bars, and its ends are cut off.
    """
    sides = (out_width / width, out_height / height)
    factor = max(sides) if cover else min(sides)
    aside = ((out_width - factor * width) / 2, (out_height - factor * height) / 2)
    return after(matrix, np.array([[factor, 0, aside[0]], [0, factor, aside[1]]]))


def after(first: Matrix, second: Matrix) -> Matrix:
    """The matrix ``[2, 3]`` of ``first``, then ``second``."""
    joined: Matrix = _square(second) @ _square(first)
    return np.ascontiguousarray(joined[:2])


def inverse(matrix: Matrix) -> Matrix:
    """The matrix ``[2, 3]`` of the way back."""
    return np.ascontiguousarray(np.linalg.inv(_square(matrix))[:2])


def of_pixel_centres(matrix: Matrix) -> Matrix:
    """The same for coordinates that count pixels from the middle of the first, as OpenCV's do."""
    half = np.array([0.5, 0.5])
    moved = matrix.copy()
    moved[:, 2] = matrix[:, :2] @ half + matrix[:, 2] - half
    return moved


def is_identity(matrix: Matrix) -> bool:
    """Whether every pixel stays where it is."""
    return bool(np.abs(matrix - np.eye(3)[:2]).max() < 1e-9)


def _about(linear: Matrix, middle: tuple[float, float]) -> Matrix:
    centre = np.array(middle)
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre - linear @ centre
    return matrix


def _moved(x: float, y: float) -> Matrix:
    matrix = np.eye(3)
    matrix[:2, 2] = x, y
    return matrix


def _square(matrix: Matrix) -> Matrix:
    return np.vstack([matrix, [0.0, 0.0, 1.0]])
