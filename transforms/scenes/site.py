"""Where a scene is: its terrain, its light, and its airfield if it has one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from transforms.scenes.aircraft import Sun
from transforms.scenes.airfield import Airfield, lay_out

_AIRFIELD_ON = ("grass", "grass", "meadow", "sand", "snow")
_OPEN = ("sea", "forest", "town", "farmland", "sand", "snow", "grass", "hills")
_AIRFIELDS = 0.58


@dataclass(frozen=True)
class Site:
    """Where a scene is: the terrain, the light, and the airfield if there is one."""

    terrain: str
    sun: Sun
    airfield: Airfield | None
    width: int
    height: int
    scale: float


def choose_site(rng: np.random.Generator, width: int, height: int, scale: float) -> Site:
    """Draw a site for an image of ``width`` by ``height`` pixels."""
    sun = Sun(azimuth=float(rng.uniform(0, 2 * math.pi)), elevation=math.radians(float(rng.uniform(32, 66))))
    if rng.random() < _AIRFIELDS:
        terrain = _AIRFIELD_ON[int(rng.integers(len(_AIRFIELD_ON)))]
        return Site(terrain, sun, lay_out(rng, width, height, scale), width, height, scale)
    terrain = _OPEN[int(rng.integers(len(_OPEN)))]
    return Site(terrain, sun, None, width, height, scale)


def frame(site: Site, angle: float) -> Callable[[Sequence[tuple[float, float]]], list[float]]:
    """Coordinates (u, v) around the image's centre, turned by ``angle``, to a flat list of pixels."""
    cos, sin = math.cos(angle), math.sin(angle)
    cx, cy = site.width / 2, site.height / 2

    def placed(points: Sequence[tuple[float, float]]) -> list[float]:
        return [value for u, v in points for value in (cx + u * cos - v * sin, cy + u * sin + v * cos)]

    return placed
