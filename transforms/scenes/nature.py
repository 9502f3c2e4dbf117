"""Open land and water from above: grass, sand, snow, rock, sea and forest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from transforms.scenes.aircraft import Colour
from transforms.scenes.fields import Pixels, cut
from transforms.scenes.shading import lit_by, one_of, relief, tinted
from transforms.scenes.site import Site


def grass(site: Site, rng: np.random.Generator) -> Image.Image:
    """Grass of one of several seasons, often with trees on it."""
    coarse = cut("rough", rng, site.width, site.height, zoom=1.6 * site.scale)
    fine = cut("fine", rng, site.width, site.height)
    greens = one_of(
        rng,
        [(62, 78, 38), (92, 108, 56), (122, 130, 74)],
        [(78, 86, 46), (116, 122, 70), (150, 146, 96)],
        [(48, 72, 36), (74, 100, 48), (100, 122, 66)],
        [(104, 98, 62), (134, 126, 84), (164, 152, 108)],
    )
    picture = tinted(Image.blend(coarse, fine, 0.28), greens)
    return _planted(picture, site, rng) if rng.random() < 0.45 else picture


def meadow(site: Site, rng: np.random.Generator) -> Image.Image:
    """Mown in stripes."""
    picture = grass(site, rng)
    angle = float(rng.uniform(0, math.pi))
    ys, xs = np.mgrid[0 : site.height, 0 : site.width].astype(np.float32)
    phase = (xs * math.cos(angle) + ys * math.sin(angle)) * (
        2 * math.pi / (float(rng.uniform(18, 40)) * site.scale)
    )
    stripes: Pixels = (128 + 11 * np.tanh(3 * np.sin(phase))).astype(np.uint8)
    return lit_by(picture, Image.fromarray(stripes))


def sand(site: Site, rng: np.random.Generator) -> Image.Image:
    """Sand with dunes."""
    coarse = cut("smooth", rng, site.width, site.height, zoom=1.2 * site.scale)
    dunes = cut(
        "rough", rng, site.width, site.height, zoom=1.0 * site.scale, stretch=float(rng.uniform(1.5, 4))
    )
    colours = one_of(
        rng,
        [(158, 128, 88), (196, 166, 120), (222, 196, 150)],
        [(142, 104, 74), (182, 138, 98), (206, 164, 120)],
        [(172, 158, 132), (200, 186, 158), (222, 210, 184)],
    )
    picture = tinted(Image.blend(coarse, cut("fine", rng, site.width, site.height), 0.2), colours)
    return lit_by(picture, relief(dunes, site.sun, float(rng.uniform(0.6, 1.8)), 2.4))


def snow(site: Site, rng: np.random.Generator) -> Image.Image:
    """Drifted snow, at times with bare patches."""
    drift = cut("rough", rng, site.width, site.height, zoom=2.2 * site.scale, stretch=1.8)
    picture = tinted(drift, [(186, 198, 214), (216, 222, 230), (234, 236, 240)])
    picture = lit_by(picture, relief(drift, site.sun, float(rng.uniform(0.8, 1.8)), 2.0))
    if rng.random() < 0.5:
        bare = cut("rough", rng, site.width, site.height, zoom=1.6 * site.scale)
        bare = bare.point(lambda v: max(0, min(200, (v - 185) * 8)))
        picture.paste((112, 104, 90), (0, 0), bare)
    return picture


def hills(site: Site, rng: np.random.Generator) -> Image.Image:
    """Bare hills and rock."""
    heights = cut("smooth", rng, site.width, site.height, zoom=1.0 * site.scale)
    rocks = cut("rough", rng, site.width, site.height, zoom=1.6 * site.scale)
    colours = one_of(
        rng,
        [(70, 78, 44), (112, 108, 70), (150, 136, 104), (176, 170, 160)],
        [(86, 72, 56), (126, 104, 80), (160, 138, 110), (188, 174, 152)],
    )
    picture = tinted(Image.blend(heights, rocks, 0.35), colours)
    return lit_by(picture, relief(Image.blend(heights, rocks, 0.55), site.sun, 2.4, 2.5))


def sea(site: Site, rng: np.random.Generator) -> Image.Image:
    """Open water with swell, at times with foam and vessels."""
    wind = float(rng.uniform(0, math.pi))
    swell = cut("cells", rng, site.width, site.height, zoom=1.5 * site.scale, stretch=3.0, angle=wind)
    ripple = cut("rough", rng, site.width, site.height, zoom=0.8, stretch=2.0, angle=wind + 0.3)
    depth = cut("smooth", rng, site.width, site.height, zoom=2.0 * site.scale)
    colours = one_of(
        rng,
        [(14, 44, 66), (26, 66, 90), (44, 92, 112)],
        [(18, 62, 74), (36, 96, 104), (70, 134, 134)],
        [(38, 52, 62), (60, 78, 88), (88, 106, 114)],
    )
    picture = tinted(Image.blend(depth, ripple, 0.35), colours)
    waves = Image.blend(swell, ripple, 0.5)
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


def forest(site: Site, rng: np.random.Generator) -> Image.Image:
    """Crowns of trees, at times with clearings."""
    crowns = _crowns(site, rng)
    stands = cut("rough", rng, site.width, site.height, zoom=2.5 * site.scale)
    colours = one_of(
        rng,
        [(24, 40, 22), (44, 66, 34), (76, 96, 50)],
        [(20, 36, 28), (34, 56, 42), (58, 82, 60)],
        [(44, 50, 24), (84, 84, 38), (140, 108, 50)],
    )
    picture = tinted(stands.point(lambda v: v // 3), colours)
    leaves = lit_by(
        tinted(Image.blend(stands, crowns, 0.4), colours), relief(crowns, site.sun, 0.8, 2.0 * site.scale)
    )
    picture.paste(leaves, (0, 0), crowns.point(lambda v: max(0, min(255, (v - 128) * 12))))
    if rng.random() < 0.6:
        clearing = cut("smooth", rng, site.width, site.height, zoom=1.0 * site.scale)
        mask = clearing.point(lambda v: max(0, min(255, (v - 172) * 30)))
        picture.paste(grass(site, rng), (0, 0), mask)
    return picture


def _planted(picture: Image.Image, site: Site, rng: np.random.Generator) -> Image.Image:
    """Add trees and bushes in groups, with their shadows."""
    crowns = _crowns(site, rng)
    groups = cut("smooth", rng, site.width, site.height, zoom=0.9 * site.scale)
    level = int(rng.integers(120, 180))
    where = groups.point(lambda v: max(0, min(255, (v - level) * 12)))
    mask = ImageChops.multiply(crowns.point(lambda v: max(0, min(255, (v - 170) * 14))), where)
    away = 5 * site.scale / math.tan(site.sun.elevation)
    dx, dy = (-part * away for part in site.sun.towards)
    shadow = mask.transform(mask.size, Image.Transform.AFFINE, (1, 0, -dx, 0, 1, -dy)).point(
        lambda v: v * 3 // 5
    )
    picture.paste((18, 24, 22), (0, 0), shadow)
    leaves = tinted(crowns, [(30, 42, 24), (40, 58, 30), (84, 104, 54)])
    picture.paste(lit_by(leaves, relief(crowns, site.sun, 0.8, 2.0 * site.scale)), (0, 0), mask)
    return picture


def _crowns(site: Site, rng: np.random.Generator) -> Image.Image:
    """Heights of tree crowns: the higher of two fields is rounder than either, with dark gaps between."""
    zoom = float(rng.uniform(0.9, 1.5)) * site.scale
    one, other = (cut("cells", rng, site.width, site.height, zoom=zoom) for _ in range(2))
    return ImageChops.lighter(one, other)
