"""Random textures: a few large periodic fields, made once per process, of which each scene takes its cuts."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]
Kind = Literal["smooth", "rough", "fine", "cells", "grain"]

_SIDE = 1024
_SEEDS: dict[Kind, int] = {"smooth": 11, "rough": 12, "fine": 13, "cells": 14, "grain": 15}


def cut(
    kind: Kind,
    rng: np.random.Generator,
    width: int,
    height: int,
    *,
    zoom: float = 1.0,
    stretch: float = 1.0,
    angle: float | None = None,
) -> Image.Image:
    """A random cut of a field, turned by ``angle`` (random where None), as an image of mode L.

    Grey levels have mean 128 and standard deviation 42. ``zoom`` enlarges the texture, ``stretch`` does
    so along ``angle`` only.
    """
    if zoom == stretch == 1.0 and angle is None:
        return _straight_cut(kind, rng, width, height)
    turn = float(rng.uniform(0, 2 * math.pi)) if angle is None else angle
    x0, y0 = (float(value) for value in rng.uniform(0, _SIDE, 2))
    reach = math.hypot(width, height) / min(zoom, zoom * stretch)
    source = _tiled(kind, 1 + math.ceil((reach + 2) / _SIDE))
    cos, sin = math.cos(turn), math.sin(turn)
    a, b = cos / (zoom * stretch), sin / (zoom * stretch)
    d, e = -sin / zoom, cos / zoom
    # The cut's corners stay inside of the tiles: move its lowest corner to the random offset.
    left = min(0.0, a * width, b * height, a * width + b * height)
    top = min(0.0, d * width, e * height, d * width + e * height)
    return source.transform(
        (width, height),
        Image.Transform.AFFINE,
        (a, b, x0 - left, d, e, y0 - top),
        Image.Resampling.BILINEAR,
    )


def grain(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.int8]:
    """Gaussian noise of standard deviation 32, (height, width, 3); half of its power is in all channels.

    A read-only view: no pixel is copied.
    """
    y0, x0 = (int(value) for value in rng.integers(0, _SIDE, 2))
    field = _grain(1 + math.ceil(height / _SIDE), 1 + math.ceil(width / _SIDE))
    return field[y0 : y0 + height, x0 : x0 + width]


def _straight_cut(kind: Kind, rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A cut without turning it: a tenth of the work, and in an isotropic field nobody sees the difference."""
    x0, y0, mirrored = (int(value) for value in rng.integers(0, (_SIDE, _SIDE, 2)))
    source = _tiled(kind, 1 + math.ceil(max(width, height) / _SIDE))
    part = source.crop((x0, y0, x0 + width, y0 + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part


@lru_cache(maxsize=2)
def _grain(down: int, across: int) -> npt.NDArray[np.int8]:
    rng = np.random.default_rng(_SEEDS["grain"])
    # As after demosaicing: neighbouring sensor cells lend each other their values.
    noise = rng.standard_normal((_SIDE, _SIDE, 1)) + rng.standard_normal((_SIDE, _SIDE, 3))
    levels = np.clip(np.rint(noise * (32 / math.sqrt(2))), -127, 127).astype(np.int8)
    field = np.tile(levels, (down, across, 1))
    field.flags.writeable = False
    return field


@lru_cache(maxsize=32)
def _tiled(kind: Kind, times: int) -> Image.Image:
    return Image.fromarray(np.tile(_field(kind), (times, times)))


@lru_cache(maxsize=8)
def _field(kind: Kind) -> Pixels:
    """White noise, filtered in the frequency domain, so that it is periodic."""
    white = np.random.default_rng(_SEEDS[kind]).standard_normal((_SIDE, _SIDE))
    fy, fx = np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None, :]
    radius = np.hypot(fx, fy)
    radius[0, 0] = 1.0
    if kind == "smooth":
        gain = radius**-1.9
    elif kind == "rough":
        gain = radius**-1.15
    elif kind == "cells":
        gain = np.exp(-(((radius - 0.085) / 0.028) ** 2))
    else:
        gain = np.exp(-((radius / 0.22) ** 2))
    gain[0, 0] = 0.0
    values = np.fft.irfft2(np.fft.rfft2(white) * gain, s=(_SIDE, _SIDE))
    values /= values.std()
    return np.clip(np.rint(values * 42 + 128), 0, 255).astype(np.uint8)
