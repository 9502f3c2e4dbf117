"""What is between the ground and the camera, and what the camera does: clouds, haze, light, noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from transforms.scenes.aircraft import Sun
from transforms.scenes.fields import Pixels, cut, grain

_THICKEST = 0.9
"""Clouds are never quite opaque."""


@dataclass(frozen=True)
class Weather:
    """The weather of one scene."""

    clouds: Image.Image | None
    """Opacity of the clouds, mode L; None in clear weather."""
    haze: float
    """Share of the light that is the haze's own, 0 to 0.3."""
    brightness: float
    gamma: float
    warmth: float
    """Above 0 redder, below 0 bluer."""
    blur: float
    """Standard deviation of the lens' blur in pixels; 0 for none."""
    noise: float
    """Standard deviation of the sensor's noise in grey levels."""


def choose_weather(
    rng: np.random.Generator, width: int, height: int, scale: float, *, clouds: float, noise: float
) -> Weather:
    """Draw the weather; ``clouds`` is the share of cloudy scenes, ``noise`` the most noise of the sensor."""
    cover = _cloud_cover(rng, width, height, scale) if rng.random() < clouds else None
    return Weather(
        clouds=cover,
        haze=float(rng.uniform(0.05, 0.30)) if rng.random() < 0.35 else float(rng.uniform(0, 0.05)),
        brightness=float(rng.uniform(0.72, 1.15)),
        gamma=float(rng.uniform(0.85, 1.2)),
        warmth=float(rng.normal(0, 0.035)),
        blur=float(rng.uniform(0.35, 0.9)) if rng.random() < 0.5 else 0.0,
        noise=float(rng.uniform(0.15, 1.0)) * noise,
    )


def cloud_shadow(weather: Weather, sun: Sun, scale: float) -> Image.Image | None:
    """How much the clouds darken the ground, mode L."""
    if weather.clouds is None:
        return None
    away = 46 * scale / math.tan(sun.elevation)
    dx, dy = (-part * away for part in sun.towards)
    # What lies beyond the image's edge is taken to be as at the edge.
    width, height = weather.clouds.size
    columns = np.clip(np.arange(width) - round(dx), 0, width - 1)
    rows = np.clip(np.arange(height) - round(dy), 0, height - 1)
    shifted = Image.fromarray(np.asarray(weather.clouds)[rows[:, None], columns[None, :]])
    return shifted.point([v * 2 // 5 for v in range(256)])


def through_weather(picture: Image.Image, weather: Weather, rng: np.random.Generator) -> Pixels:
    """The scene as the camera gives it, (height, width, 3)."""
    if weather.clouds is not None:
        shape = picture.size
        puffs = cut("rough", rng, *shape, zoom=4.0).point([190 + v * 62 // 255 for v in range(256)])
        picture.paste(
            Image.merge("RGB", (puffs, puffs, puffs.point(lambda v: min(255, v + 3)))), (0, 0), weather.clouds
        )
    if weather.blur:
        picture = picture.filter(_lens(weather.blur))
    levels = np.arange(256) / 255
    tables = []
    for channel, hazy in enumerate((0.76, 0.80, 0.85)):
        through = levels * (1 - weather.haze) + hazy * weather.haze
        warm = 1 + weather.warmth * (1 - channel)
        tables.append(np.clip(255 * (through * warm * weather.brightness) ** weather.gamma, 0, 255))
    picture = picture.point(np.concatenate(tables).round().astype(int).tolist())
    return _noisy(np.asarray(picture), weather.noise, rng)


def _cloud_cover(rng: np.random.Generator, width: int, height: int, scale: float) -> Image.Image:
    zoom = float(rng.uniform(0.7, 1.6)) * scale
    whole = cut("smooth", rng, width, height, zoom=zoom)
    frayed = cut("rough", rng, width, height, zoom=3.5 * zoom)
    level = int(rng.integers(134, 166))
    steep = float(rng.uniform(2.5, 6.0))
    table = [round(255 * _THICKEST * min(1.0, max(0.0, (v - level) * steep / 255))) for v in range(256)]
    return Image.blend(whole, frayed, 0.22).point(table)


def _lens(sigma: float) -> ImageFilter.Kernel:
    side = math.exp(-0.5 / sigma**2)
    corner = side * side
    return ImageFilter.Kernel((3, 3), (corner, side, corner, side, 1.0, side, corner, side, corner))


def _noisy(picture: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    height, width = picture.shape[:2]
    if sigma < 0.3:
        return picture.copy()
    # Grain has a deviation of 32: a gain of 256 / 32 gives one grey level after the shift.
    gain = np.int16(round(sigma * 8))
    total = grain(rng, width, height) * gain
    total += 128
    total >>= 8
    total += picture
    noisy: Pixels = np.clip(total, 0, 255, out=total).astype(np.uint8)
    return noisy
