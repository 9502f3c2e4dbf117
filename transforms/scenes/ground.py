"""The ground below: one of nine kinds of terrain, lit by the sun, with an airfield on some of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from transforms.scenes.aircraft import Colour, Sun
from transforms.scenes.airfield import Airfield, lay_out, paint_airfield
from transforms.scenes.fields import Pixels, cut

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


def paint_ground(site: Site, rng: np.random.Generator) -> Image.Image:
    """The ground without anything that flies or stands on it, mode RGB."""
    picture = _TERRAIN[site.terrain](site, rng)
    if site.airfield is not None:
        paint_airfield(picture, site.airfield, site.sun, rng, site.scale)
    return picture


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


def _mix(one: Image.Image, other: Image.Image, share: float) -> Image.Image:
    return Image.blend(one, other, share)


def _grass(site: Site, rng: np.random.Generator) -> Image.Image:
    coarse = cut("rough", rng, site.width, site.height, zoom=1.6 * site.scale)
    fine = cut("fine", rng, site.width, site.height)
    greens = _one_of(
        rng,
        [(62, 78, 38), (92, 108, 56), (122, 130, 74)],
        [(78, 86, 46), (116, 122, 70), (150, 146, 96)],
        [(48, 72, 36), (74, 100, 48), (100, 122, 66)],
        [(104, 98, 62), (134, 126, 84), (164, 152, 108)],
    )
    picture = tinted(_mix(coarse, fine, 0.28), greens)
    return _planted(picture, site, rng) if rng.random() < 0.45 else picture


def _meadow(site: Site, rng: np.random.Generator) -> Image.Image:
    """Mown in stripes."""
    picture = _grass(site, rng)
    angle = float(rng.uniform(0, math.pi))
    ys, xs = np.mgrid[0 : site.height, 0 : site.width].astype(np.float32)
    phase = (xs * math.cos(angle) + ys * math.sin(angle)) * (
        2 * math.pi / (float(rng.uniform(18, 40)) * site.scale)
    )
    stripes: Pixels = (128 + 11 * np.tanh(3 * np.sin(phase))).astype(np.uint8)
    return lit_by(picture, Image.fromarray(stripes))


def _sand(site: Site, rng: np.random.Generator) -> Image.Image:
    coarse = cut("smooth", rng, site.width, site.height, zoom=1.2 * site.scale)
    dunes = cut(
        "rough", rng, site.width, site.height, zoom=1.0 * site.scale, stretch=float(rng.uniform(1.5, 4))
    )
    colours = _one_of(
        rng,
        [(158, 128, 88), (196, 166, 120), (222, 196, 150)],
        [(142, 104, 74), (182, 138, 98), (206, 164, 120)],
        [(172, 158, 132), (200, 186, 158), (222, 210, 184)],
    )
    picture = tinted(_mix(coarse, cut("fine", rng, site.width, site.height), 0.2), colours)
    return lit_by(picture, relief(dunes, site.sun, float(rng.uniform(0.6, 1.8)), 2.4))


def _snow(site: Site, rng: np.random.Generator) -> Image.Image:
    drift = cut("rough", rng, site.width, site.height, zoom=2.2 * site.scale, stretch=1.8)
    picture = tinted(drift, [(186, 198, 214), (216, 222, 230), (234, 236, 240)])
    picture = lit_by(picture, relief(drift, site.sun, float(rng.uniform(0.8, 1.8)), 2.0))
    if rng.random() < 0.5:
        bare = cut("rough", rng, site.width, site.height, zoom=1.6 * site.scale)
        bare = bare.point(lambda v: max(0, min(200, (v - 185) * 8)))
        picture.paste((112, 104, 90), (0, 0), bare)
    return picture


def _sea(site: Site, rng: np.random.Generator) -> Image.Image:
    wind = float(rng.uniform(0, math.pi))
    swell = cut("cells", rng, site.width, site.height, zoom=1.5 * site.scale, stretch=3.0, angle=wind)
    ripple = cut("rough", rng, site.width, site.height, zoom=0.8, stretch=2.0, angle=wind + 0.3)
    depth = cut("smooth", rng, site.width, site.height, zoom=2.0 * site.scale)
    colours = _one_of(
        rng,
        [(14, 44, 66), (26, 66, 90), (44, 92, 112)],
        [(18, 62, 74), (36, 96, 104), (70, 134, 134)],
        [(38, 52, 62), (60, 78, 88), (88, 106, 114)],
    )
    picture = tinted(_mix(depth, ripple, 0.35), colours)
    waves = _mix(swell, ripple, 0.5)
    picture = lit_by(picture, relief(waves, site.sun, float(rng.uniform(0.5, 1.6)), 2.0))
    if rng.random() < 0.6:
        foam = cut("fine", rng, site.width, site.height, zoom=0.9 * site.scale, stretch=2.5, angle=wind + 1.5)
        crests = ImageChops.multiply(swell, foam).point(lambda v: max(0, min(170, (v - 122) * 6)))
        picture.paste((226, 232, 234), (0, 0), crests)
    for _ in range(int(rng.choice([0, 0, 1, 2, 4]))):
        _ship(picture, site, rng)
    return picture


def _ship(picture: Image.Image, site: Site, rng: np.random.Generator) -> None:
    """A vessel with its wake: long, pale and pointed, but no aircraft."""
    length = float(rng.uniform(14, 70)) * site.scale
    x, y = float(rng.uniform(0, site.width)), float(rng.uniform(0, site.height))
    course = float(rng.uniform(0, 2 * math.pi))
    cos, sin = math.cos(course), math.sin(course)
    beam = length * float(rng.uniform(0.16, 0.24))

    def placed(points: Sequence[tuple[float, float]]) -> list[float]:
        return [v for u, w in points for v in (x + u * cos - w * sin, y + u * sin + w * cos)]

    wake = Image.new("L", picture.size)
    behind = length * float(rng.uniform(1, 4))
    outline = [(-length / 2, -beam * 0.4), (-length / 2, beam * 0.4), (-behind, beam), (-behind, -beam)]
    ImageDraw.Draw(wake).polygon(placed(outline), fill=90)
    picture.paste((214, 224, 226), (0, 0), wake.filter(ImageFilter.BoxBlur(2)))
    pen = ImageDraw.Draw(picture)
    tones: list[Colour] = [(206, 206, 204), (110, 60, 54), (96, 104, 112), (56, 66, 84)]
    half = beam / 2
    hull = [(-0.5, -half), (-0.5, half), (0.25, half), (0.5, 0.0), (0.25, -half)]
    pen.polygon(placed([(u * length, w) for u, w in hull]), fill=tones[int(rng.integers(len(tones)))])
    bridge = [(-0.4, -half * 0.7), (-0.4, half * 0.7), (-0.22, half * 0.7), (-0.22, -half * 0.7)]
    pen.polygon(placed([(u * length, w) for u, w in bridge]), fill=(232, 232, 230))


def _planted(picture: Image.Image, site: Site, rng: np.random.Generator) -> Image.Image:
    """Add trees and bushes in groups, with their shadows."""
    crowns = cut("cells", rng, site.width, site.height, zoom=float(rng.uniform(1.0, 1.7)) * site.scale)
    groups = cut("smooth", rng, site.width, site.height, zoom=0.9 * site.scale)
    level = int(rng.integers(120, 180))
    where = groups.point(lambda v: max(0, min(255, (v - level) * 12)))
    mask = ImageChops.multiply(crowns.point(lambda v: max(0, min(255, (v - 150) * 14))), where)
    away = 5 * site.scale / math.tan(site.sun.elevation)
    dx, dy = (-part * away for part in site.sun.towards)
    shadow = mask.transform(mask.size, Image.Transform.AFFINE, (1, 0, -dx, 0, 1, -dy)).point(
        lambda v: v * 3 // 5
    )
    picture.paste((18, 24, 22), (0, 0), shadow)
    leaves = tinted(crowns, [(30, 42, 24), (40, 58, 30), (84, 104, 54)])
    picture.paste(lit_by(leaves, relief(crowns, site.sun, 1.0, 2.5 * site.scale)), (0, 0), mask)
    return picture


def _forest(site: Site, rng: np.random.Generator) -> Image.Image:
    crowns = cut("cells", rng, site.width, site.height, zoom=float(rng.uniform(0.9, 1.5)) * site.scale)
    stands = cut("rough", rng, site.width, site.height, zoom=2.5 * site.scale)
    colours = _one_of(
        rng,
        [(24, 40, 22), (44, 66, 34), (76, 96, 50)],
        [(20, 36, 28), (34, 56, 42), (58, 82, 60)],
        [(44, 50, 24), (84, 84, 38), (140, 108, 50)],
    )
    picture = tinted(_mix(stands, crowns, 0.5), colours)
    picture = lit_by(picture, relief(crowns, site.sun, 1.0, 3.0 * site.scale))
    if rng.random() < 0.6:
        clearing = cut("smooth", rng, site.width, site.height, zoom=1.0 * site.scale)
        mask = clearing.point(lambda v: max(0, min(255, (v - 172) * 30)))
        picture.paste(_grass(site, rng), (0, 0), mask)
    return picture


def _hills(site: Site, rng: np.random.Generator) -> Image.Image:
    heights = cut("smooth", rng, site.width, site.height, zoom=1.0 * site.scale)
    rocks = cut("rough", rng, site.width, site.height, zoom=1.6 * site.scale)
    colours = _one_of(
        rng,
        [(70, 78, 44), (112, 108, 70), (150, 136, 104), (176, 170, 160)],
        [(86, 72, 56), (126, 104, 80), (160, 138, 110), (188, 174, 152)],
    )
    picture = tinted(_mix(heights, rocks, 0.35), colours)
    return lit_by(picture, relief(_mix(heights, rocks, 0.55), site.sun, 2.4, 2.5))


def _farmland(site: Site, rng: np.random.Generator) -> Image.Image:
    """Fields of one crop each, with hedges and a track between them."""
    picture = Image.new("RGB", (site.width, site.height), (104, 108, 62))
    pen = ImageDraw.Draw(picture)
    crops = [
        (118, 128, 66),
        (88, 108, 52),
        (158, 142, 86),
        (132, 106, 72),
        (184, 164, 98),
        (72, 96, 48),
        (150, 150, 92),
    ]
    placed = _frame(site, float(rng.uniform(0, math.pi)))
    reach = math.hypot(site.width, site.height) / 2
    v = -reach
    while v < reach:
        depth = float(rng.uniform(70, 170)) * site.scale
        u = -reach
        while u < reach:
            length = float(rng.uniform(80, 260)) * site.scale
            colour = crops[int(rng.integers(len(crops)))]
            pen.polygon(
                placed([(u, v), (u + length, v), (u + length, v + depth), (u, v + depth)]), fill=colour
            )
            rows = float(rng.uniform(3, 8)) * site.scale
            dark = (max(0, colour[0] - 9), max(0, colour[1] - 9), max(0, colour[2] - 8))
            if rng.random() < 0.6:
                for at in np.arange(rows, depth, rows * 2):
                    pen.line(
                        placed([(u, v + float(at)), (u + length, v + float(at))]),
                        fill=dark,
                        width=max(1, round(rows / 2)),
                    )
            if rng.random() < 0.7:
                pen.line(
                    placed([(u, v), (u, v + depth)]), fill=(54, 68, 36), width=max(1, round(2.5 * site.scale))
                )
            u += length
        edge = (54, 68, 36) if rng.random() < 0.6 else (168, 154, 122)
        pen.line(placed([(-reach, v), (reach, v)]), fill=edge, width=max(2, round(4 * site.scale)))
        v += depth
    rough = _mix(
        cut("rough", rng, site.width, site.height, zoom=1.4 * site.scale),
        cut("fine", rng, site.width, site.height),
        0.35,
    )
    return lit_by(picture.filter(ImageFilter.BoxBlur(0.6)), rough.point(lambda v: 128 + (v - 128) // 2))


def _town(site: Site, rng: np.random.Generator) -> Image.Image:
    """Blocks of houses with pitched roofs along streets, gardens and trees between them."""
    picture = tinted(
        _mix(
            cut("rough", rng, site.width, site.height, zoom=1.3),
            cut("cells", rng, site.width, site.height, zoom=0.8),
            0.5,
        ),
        [(58, 66, 42), (96, 98, 70), (140, 134, 110)],
    )
    pen = ImageDraw.Draw(picture)
    placed = _frame(site, float(rng.uniform(0, math.pi)))
    reach, s = math.hypot(site.width, site.height) / 2, site.scale
    street, block, row = 13 * s, float(rng.uniform(120, 190)) * s, float(rng.uniform(64, 84)) * s
    for v in np.arange(-reach, reach, row):
        pen.line(placed([(-reach, float(v)), (reach, float(v))]), fill=(112, 112, 112), width=round(street))
    for u in np.arange(-reach, reach, block):
        pen.line(placed([(float(u), -reach), (float(u), reach)]), fill=(108, 108, 110), width=round(street))
    dx, dy = (-part * 5 * s / math.tan(site.sun.elevation) for part in site.sun.towards)
    roofs = [(150, 84, 64), (132, 72, 58), (118, 112, 108), (164, 120, 92), (96, 92, 92), (186, 180, 172)]
    lots = [
        (float(u), float(v) + side * row * 0.26)
        for v in np.arange(-reach + row / 2, reach, row)
        for u in np.arange(-reach, reach, 25 * s)
        for side in (-1, 1)
        if street < float(u + reach) % block < block - street * 0.8
    ]
    houses = []
    for u, v in lots:
        jitter = rng.uniform(-1, 1, 5)
        if jitter[4] > 0.75:
            continue
        half_u, half_v = (8.5 + 2.5 * float(jitter[0])) * s, (6.8 + 2.2 * float(jitter[1])) * s
        houses.append((u + 2 * s * float(jitter[2]), v + 2 * s * float(jitter[3]), half_u, half_v))
    for u, v, a, b in houses:
        shade = np.array(placed([(u - a, v - b), (u + a, v - b), (u + a, v + b), (u - a, v + b)])).reshape(
            -1, 2
        )
        pen.polygon((shade + np.array([dx, dy])).ravel().tolist(), fill=(44, 48, 42))
    for u, v, a, b in houses:
        colour = roofs[int(rng.integers(len(roofs)))]
        near = placed([(u - a, v - b), (u + a, v - b), (u + a, v), (u - a, v)])
        far = placed([(u - a, v), (u + a, v), (u + a, v + b), (u - a, v + b)])
        across = np.array(far[:2]) - np.array(near[:2])
        facing = float(across @ np.array(site.sun.towards)) / (float(np.hypot(*across)) or 1.0)
        pen.polygon(far, fill=_shaded(colour, 1 + 0.28 * facing))
        pen.polygon(near, fill=_shaded(colour, 1 - 0.28 * facing))
    return lit_by(
        picture.filter(ImageFilter.BoxBlur(0.5)),
        cut("fine", rng, site.width, site.height).point(lambda v: 128 + (v - 128) // 4),
    )


def _shaded(colour: Colour, by: float) -> Colour:
    red, green, blue = (min(255, max(0, round(value * by))) for value in colour)
    return red, green, blue


def _frame(site: Site, angle: float) -> Callable[[Sequence[tuple[float, float]]], list[float]]:
    """Coordinates (u, v) around the image's centre, turned by ``angle``, to a flat list of pixels."""
    cos, sin = math.cos(angle), math.sin(angle)
    cx, cy = site.width / 2, site.height / 2

    def placed(points: Sequence[tuple[float, float]]) -> list[float]:
        return [value for u, v in points for value in (cx + u * cos - v * sin, cy + u * sin + v * cos)]

    return placed


def _one_of(rng: np.random.Generator, *choices: list[Colour]) -> list[Colour]:
    return choices[int(rng.integers(len(choices)))]


_TERRAIN: Mapping[str, Callable[[Site, np.random.Generator], Image.Image]] = MappingProxyType(
    {
        "grass": _grass,
        "meadow": _meadow,
        "sand": _sand,
        "snow": _snow,
        "sea": _sea,
        "forest": _forest,
        "hills": _hills,
        "farmland": _farmland,
        "town": _town,
    }
)
