"""Colour and light on surfaces that are given as grey levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from transforms.scenes.aircraft import Colour, Sun
from transforms.scenes.fields import Pixels


def tinted(levels: Image.Image, stops: Sequence[Colour]) -> Image.Image:
    """Grey levels to colours, along equally spaced ``stops``."""
    places = np.linspace(0, 255, len(stops))
    table = np.stack([np.interp(np.arange(256), places, [stop[c] for stop in stops]) for c in range(3)], 1)
    picture = Image.fromarray(np.asarray(levels)).convert("P")
    picture.putpalette(table.round().astype(np.uint8).tobytes())
    return picture.convert("RGB")


def relief(levels: Image.Image, sun: Sun, strength: float, reach: float) -> Image.Image:
    """Light on a surface whose height is ``levels``: 128 where flat, more on slopes that face the sun."""
    dx, dy = (round(reach * part) for part in sun.towards)
    heights: npt.NDArray[np.int16] = np.asarray(levels, dtype=np.int16)
    rows, columns = heights.shape
    further = np.pad(heights, ((max(0, -dy), max(0, dy)), (max(0, -dx), max(0, dx))), mode="edge")
    slope = heights - further[max(0, dy) : max(0, dy) + rows, max(0, dx) : max(0, dx) + columns]
    lit: Pixels = np.clip(128 + slope * np.float32(strength), 0, 255).astype(np.uint8)
    return Image.fromarray(lit)


def lit_by(picture: Image.Image, light: Image.Image) -> Image.Image:
    """Apply a light map, where 128 leaves the colour as it is."""
    return ImageChops.overlay(picture, Image.merge("RGB", (light, light, light)))


def one_of(rng: np.random.Generator, *choices: list[Colour]) -> list[Colour]:
    """One of several palettes."""
    return choices[int(rng.integers(len(choices)))]
