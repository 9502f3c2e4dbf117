"""The plan of one output: everything that is drawn for it, and nothing that depends on who carries it out.

A plan is layers, one over the other: an image under one matrix within a window; a further image half seen
through (mixup); an instance cut out of its image (paste); four windows side by side (mosaic). Then one
transform of colours, and kernels. Plans are written down as JSON and can be carried out again.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from transforms.augment.boxes import Floats

# FCC NTSC: red, green, blue to luma and two chroma axes, in which hue is an angle and saturation a length.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])

# A neighbour of less weight than this cannot change a value of 8 bits.
_TELLS = 1 / 512


class Colour(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Colour: hue and saturation, then brightness and contrast, without a rounding between them."""

    hue: float = 0.0
    """Degrees; chroma is turned by as much, as DALI's hsv does it for the negative angle."""
    saturation: float = 1.0
    contrast: float = 0.0
    center: float = 127.0
    offset: float = 0.0

    @property
    def changes(self) -> bool:
        """Whether any colour becomes another."""
        return (self.hue % 360, self.saturation, self.contrast, self.offset) != (0.0, 1.0, 0.0, 0.0)

    def matrix(self) -> Floats:
        """``[3, 4]``: red, green, blue and 1 to red, green, blue.

        out = center + (1 + contrast) * (C in + offset - center), with C the turn and stretch of chroma.
        """
        turn = math.radians(self.hue)
        cos, sin = self.saturation * math.cos(turn), self.saturation * math.sin(turn)
        chroma = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
        linear = (1 + self.contrast) * (np.linalg.inv(_YIQ) @ chroma @ _YIQ)
        shift = self.center + (1 + self.contrast) * (self.offset - self.center)
        return np.column_stack([linear, np.full(3, shift)])


class Kernel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is done with neighbouring pixels, in this order. ``window`` is odd; lengths are pixels."""

    sigma: float = 0.0
    window: int = 0
    sharpen: float = 0.0
    noise: float = 0.0
    """Standard deviation, of 255."""
    noise_seed: int = 0

    @property
    def blurs(self) -> bool:
        """Whether the blur can be seen at all."""
        return self.window > 1 and self.sigma > 0 and math.exp(-0.5 / self.sigma**2) > _TELLS

    @property
    def changes(self) -> bool:
        """Whether any pixel becomes another."""
        return self.blurs or self.sharpen != 0 or self.noise > 0


class Layer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One image, or an instance of it, as it lies in the output."""

    sample: str
    width: int
    height: int
    matrix: tuple[float, float, float, float, float, float]
    """Row by row, input to output, corners of pixels."""
    window: tuple[int, int, int, int]
    """Corners of the part of the output that it may touch."""
    weight: float = 1.0
    instance: int | None = None
    """The one object that is cut out; None takes the image."""
    outline: str | None = None
    """COCO segmentation of that object, in pixels of its image."""
    blend: float = 0.0
    """Pixels over which the edge of an instance fades."""

    def affine(self) -> Floats:
        """The matrix ``[2, 3]``."""
        return np.array(self.matrix, np.float64).reshape(2, 3)


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One output: its name (file name below ``images``), its size, and all that is done."""

    name: str
    copy: int = 0
    width: int
    height: int
    layers: tuple[Layer, ...]
    colour: Colour = Colour()
    kernel: Kernel = Kernel()
    erased: tuple[tuple[int, int, int, int], ...] = ()
    """Corners of rectangles that get one value."""
    erased_value: int = 0

    @property
    def sample(self) -> str:
        """The image that is augmented."""
        return self.layers[0].sample

    @property
    def is_identity(self) -> bool:
        """Whether the output is the image itself."""
        first = self.layers[0]
        return (
            len(self.layers) == 1
            and (first.width, first.height) == (self.width, self.height)
            and first.window == (0, 0, self.width, self.height)
            and bool(np.abs(first.affine() - np.eye(3)[:2]).max() < 1e-9)
            and not (self.colour.changes or self.kernel.changes or self.erased)
        )


def as_json(plan: Plan) -> bytes:
    """A plan as one line of JSON."""
    return msgspec.json.encode(plan)


def from_json(line: bytes) -> Plan:
    """A plan that was written down. Raises msgspec.ValidationError for anything else."""
    return msgspec.json.decode(line, type=Plan)


def row_of(plan: Plan) -> dict[str, Any]:
    """A plan as plain values."""
    return dict(msgspec.to_builtins(plan))
