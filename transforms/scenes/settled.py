"""Land that people have divided: fields with hedges, and streets with houses."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from transforms.scenes.aircraft import Colour
from transforms.scenes.fields import cut
from transforms.scenes.shading import lit_by, tinted
from transforms.scenes.site import Site, frame


def farmland(site: Site, rng: np.random.Generator) -> Image.Image:
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
    placed = frame(site, float(rng.uniform(0, math.pi)))
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
    rough = Image.blend(
        cut("rough", rng, site.width, site.height, zoom=1.4 * site.scale),
        cut("fine", rng, site.width, site.height),
        0.35,
    )
    return lit_by(picture.filter(ImageFilter.BoxBlur(0.6)), rough.point(lambda v: 128 + (v - 128) // 2))


def town(site: Site, rng: np.random.Generator) -> Image.Image:
    """Blocks of houses with pitched roofs along streets, gardens and trees between them."""
    picture = tinted(
        Image.blend(
            cut("rough", rng, site.width, site.height, zoom=1.3),
            cut("cells", rng, site.width, site.height, zoom=0.8),
            0.5,
        ),
        [(58, 66, 42), (96, 98, 70), (140, 134, 110)],
    )
    pen = ImageDraw.Draw(picture)
    placed = frame(site, float(rng.uniform(0, math.pi)))
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
