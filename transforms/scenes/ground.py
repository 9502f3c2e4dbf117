"""The ground of a scene: its terrain, with an airfield on some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image

from transforms.scenes.airfield import paint_airfield
from transforms.scenes.nature import forest, grass, hills, meadow, sand, sea, snow
from transforms.scenes.settled import farmland, town
from transforms.scenes.site import Site


def paint_ground(site: Site, rng: np.random.Generator) -> Image.Image:
    """The ground without anything that flies or stands on it, mode RGB."""
    picture = _TERRAIN[site.terrain](site, rng)
    if site.airfield is not None:
        paint_airfield(picture, site.airfield, site.sun, rng, site.scale)
    return picture


_TERRAIN: Mapping[str, Callable[[Site, np.random.Generator], Image.Image]] = MappingProxyType(
    {
        "grass": grass,
        "meadow": meadow,
        "sand": sand,
        "snow": snow,
        "sea": sea,
        "forest": forest,
        "hills": hills,
        "farmland": farmland,
        "town": town,
    }
)
