"""One aircraft as a small picture: turned, lit, painted, antialiased, with its exact coverage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from transforms.scenes.airframe import Part
from transforms.scenes.fields import Pixels, cut
from transforms.scenes.silhouettes import plan_of

Colour = tuple[int, int, int]

SIZES: Mapping[str, float] = MappingProxyType(
    {
        "airliner": 124.0,
        "business jet": 74.0,
        "fighter": 64.0,
        "glider": 74.0,
        "propeller": 50.0,
        "helicopter": 62.0,
    }
)
"""Usual length or span (the longer one) in pixels of a 640x480 image: real sizes, less far apart."""

_COVERED = 96
"""From this alpha (of 255) on a pixel belongs to the aircraft; haze of turning blades stays below."""


@dataclass(frozen=True)
class Sun:
    """Where the light comes from."""

    azimuth: float
    """Direction towards the sun in the image's plane, radians, x right and y down."""
    elevation: float
    """Height above the horizon, radians."""

    @property
    def towards(self) -> tuple[float, float]:
        """Unit vector towards the sun in the image's plane."""
        return math.cos(self.azimuth), math.sin(self.azimuth)


@dataclass(frozen=True)
class Sprite:
    """A drawn aircraft; ``left``, ``top`` place it in the scene (may be outside of it)."""

    picture: Image.Image
    """RGBA."""
    covered: npt.NDArray[np.bool_]
    """(h, w): the pixels that belong to the aircraft."""
    left: int
    top: int
    size: float
    """Length or span in pixels."""


def draw_aircraft(
    category: str,
    size: float,
    heading: float,
    centre: tuple[float, float],
    sun: Sun,
    rng: np.random.Generator,
    *,
    flying: bool,
) -> Sprite:
    """Draw an aircraft, ``size`` pixels long or wide (whichever is more), its nose at angle ``heading``."""
    parts = plan_of(category, rng, spinning=flying)
    livery = _livery(category, rng)
    corners = np.concatenate([part.points for part in parts])
    spread = corners.max(0) - corners.min(0)
    scale = size / float(spread.max())
    middle = (corners.max(0) + corners.min(0)) / 2
    cos, sin = math.cos(heading), math.sin(heading)
    turn = np.array([[cos, sin], [-sin, cos]]) * scale

    def placed(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        result: npt.NDArray[np.float64] = (points - middle) @ turn + np.array(centre)
        return result

    whole = placed(corners)
    left, top = (math.floor(float(value)) - 2 for value in whole.min(0))
    right, bottom = (math.ceil(float(value)) + 2 for value in whole.max(0))
    over = 4 if size < 90 else 3
    canvas = Image.new("RGBA", ((right - left) * over, (bottom - top) * over), (0, 0, 0, 0))
    pen = ImageDraw.Draw(canvas)
    base = math.sin(sun.elevation)
    lateral = (-sin * sun.towards[0] + cos * sun.towards[1]) * math.cos(sun.elevation)
    # The haze of turning blades goes below: the pen replaces, it does not blend.
    for part in sorted(parts, key=lambda part: part.paint != "haze"):
        points = (placed(part.points) - np.array([left, top])) * over - 0.5
        pen.polygon(points.ravel().tolist(), fill=_lit(part, livery, base, lateral))
    small = canvas.reduce(over)
    covered = np.asarray(small.getchannel("A")) >= _COVERED
    return Sprite(_weathered(small, category, livery, rng), covered, left, top, size)


def _lit(part: Part, livery: Mapping[str, Colour], base: float, lateral: float) -> tuple[int, int, int, int]:
    if part.paint == "haze":
        return (*livery["blade"], 34)
    normal = max(0.0, part.tilt * lateral + math.sqrt(1 - part.tilt**2) * base)
    light = (0.38 + 0.62 * normal) / (0.38 + 0.62 * base) * part.tone
    shine = 30 * max(0.0, normal - 0.96) / 0.04 if part.paint == "skin" else 0.0
    red, green, blue = (min(255, max(0, round(value * light + shine))) for value in livery[part.paint])
    return red, green, blue, 255


def _weathered(
    picture: Image.Image, category: str, livery: Mapping[str, Colour], rng: np.random.Generator
) -> Image.Image:
    """Dirt and panels on the paint; on some fighters patches of a second colour."""
    width, height = picture.size
    dirt = np.asarray(cut("rough", rng, width, height, zoom=0.7), dtype=np.int16)
    colours = np.asarray(picture.convert("RGB"), dtype=np.int16)
    if category == "fighter" and livery["skin"] != livery["patch"]:
        patches = np.asarray(cut("smooth", rng, width, height, zoom=0.12), dtype=np.int16) > 135
        gap = np.array(livery["patch"], dtype=np.int16) - np.array(livery["skin"], dtype=np.int16)
        colours = colours + patches[..., None] * gap
    mixed: Pixels = np.clip(colours + ((dirt - 128) >> 3)[..., None], 0, 255).astype(np.uint8)
    result = Image.fromarray(mixed)
    result.putalpha(picture.getchannel("A"))
    return result


def _livery(category: str, rng: np.random.Generator) -> dict[str, Colour]:
    choices = _LIVERIES[category]
    skin, wing, trim, engine = choices[int(rng.integers(len(choices)))]
    shift = int(rng.integers(-10, 11))
    patch = skin
    if category == "fighter" and rng.random() < 0.5:
        patch = (max(0, skin[0] - 34), max(0, skin[1] - 26), max(0, skin[2] - 36))
    return {
        "skin": _moved(skin, shift),
        "wing": _moved(wing, shift),
        "trim": trim,
        "engine": _moved(engine, shift),
        "patch": _moved(patch, shift),
        "glass": (38, 46, 58),
        "dark": (58, 58, 62),
        "blade": (44, 44, 48),
    }


def _moved(colour: Colour, by: int) -> Colour:
    red, green, blue = (min(255, max(0, value + by)) for value in colour)
    return red, green, blue


_WHITE, _SILVER, _PALE = (238, 240, 242), (176, 180, 186), (205, 208, 212)
# Each scheme: the colours of fuselage, wings, trim with fin, engines.
_LIVERIES: Mapping[str, tuple[tuple[Colour, Colour, Colour, Colour], ...]] = MappingProxyType(
    {
        "airliner": (
            (_WHITE, _PALE, (30, 58, 140), (214, 216, 220)),
            (_WHITE, _PALE, (190, 32, 42), (190, 32, 42)),
            (_WHITE, _SILVER, (24, 120, 92), (196, 198, 204)),
            (_WHITE, _PALE, (238, 126, 24), (238, 126, 24)),
            ((214, 218, 224), _SILVER, (28, 44, 92), (28, 44, 92)),
            ((246, 206, 62), _PALE, (40, 52, 120), (210, 210, 214)),
            ((92, 138, 190), _PALE, (226, 228, 232), (92, 138, 190)),
            ((188, 192, 198), (164, 168, 174), (120, 30, 40), (150, 152, 158)),
        ),
        "business jet": (
            (_WHITE, (226, 228, 232), (150, 120, 60), (206, 208, 212)),
            (_WHITE, _PALE, (40, 60, 120), (40, 60, 120)),
            ((52, 62, 84), (188, 192, 200), (210, 212, 216), (52, 62, 84)),
            ((226, 218, 200), (214, 208, 194), (110, 40, 40), (190, 182, 166)),
        ),
        "fighter": (
            ((134, 142, 152), (126, 134, 144), (112, 120, 130), (90, 94, 100)),
            ((112, 118, 98), (104, 112, 92), (92, 98, 80), (80, 84, 74)),
            ((182, 160, 122), (172, 150, 114), (150, 130, 98), (110, 100, 84)),
            ((82, 94, 112), (76, 88, 106), (64, 74, 92), (60, 64, 72)),
        ),
        "glider": (
            (_WHITE, (244, 246, 248), (206, 40, 36), _PALE),
            (_WHITE, (240, 242, 246), (232, 232, 236), _PALE),
            (_WHITE, (244, 244, 246), (238, 130, 30), _PALE),
        ),
        "propeller": (
            (_WHITE, (234, 236, 238), (196, 36, 40), (206, 208, 212)),
            (_WHITE, (230, 232, 236), (34, 72, 160), (34, 72, 160)),
            ((242, 200, 40), (242, 200, 40), (40, 40, 48), (214, 176, 36)),
            ((192, 44, 40), (238, 238, 238), (192, 44, 40), (192, 44, 40)),
            ((44, 108, 74), (226, 226, 218), (44, 108, 74), (44, 108, 74)),
            ((206, 208, 214), (190, 194, 200), (60, 70, 90), (160, 164, 170)),
        ),
        "helicopter": (
            ((214, 40, 36), (214, 40, 36), (244, 244, 244), (190, 190, 194)),
            ((96, 104, 80), (90, 98, 76), (84, 90, 70), (72, 78, 64)),
            ((244, 196, 36), (244, 196, 36), (34, 44, 110), (200, 200, 204)),
            ((32, 52, 104), (32, 52, 104), (236, 236, 240), (90, 94, 110)),
            ((236, 238, 240), (226, 228, 232), (226, 92, 30), (200, 60, 30)),
            ((146, 152, 160), (140, 146, 154), (110, 114, 122), (104, 108, 116)),
        ),
    }
)
