"""An airfield: runway, taxiway, apron and hangars along a common direction, with their markings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from transforms.scenes.aircraft import Sun
from transforms.scenes.fields import cut

_FINE = 2
"""Markings are drawn at this multiple of the image's resolution."""


@dataclass(frozen=True)
class Airfield:
    """Bands along the direction ``angle``; v is the distance from the runway's centre line in pixels."""

    angle: float
    origin: tuple[float, float]
    """Pixel of the image at u = v = 0."""
    runway: float
    """Half width of the runway."""
    taxiway: tuple[float, float]
    """v of its two edges."""
    apron: tuple[float, float, float, float]
    """u from, u to, v from, v to."""
    threshold: float
    """u of the runway's threshold; the runway lies beyond it."""
    reach: float
    """No point of the image is farther than this from the origin."""

    def to_image(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(u, v) to pixels, (N, 2) to (N, 2)."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turn = np.array([[cos, sin], [-sin, cos]])
        placed: npt.NDArray[np.float64] = np.asarray(points, dtype=np.float64) @ turn + np.array(self.origin)
        return placed

    def to_field(self, x: float, y: float) -> tuple[float, float]:
        """A pixel to (u, v)."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        dx, dy = x - self.origin[0], y - self.origin[1]
        return dx * cos + dy * sin, -dx * sin + dy * cos

    def parking(self, x: float, y: float, size: float, rng: np.random.Generator) -> float | None:
        """The heading of an aircraft of ``size`` standing at a pixel; None where hangars are in the way."""
        u, v = self.to_field(x, y)
        u0, u1, v0, v1 = self.apron
        if v > v1 - size * 0.45 and u0 - size / 2 < u < u1 + size / 2:
            return None
        across = v0 < v < v1 and u0 < u < u1
        quarters = int(rng.integers(2)) * 2 + (1 if across else 0)
        loose = 0.10 if rng.random() < 0.7 else 1.2
        return self.angle + quarters * math.pi / 2 + float(rng.normal(0, loose))


def lay_out(rng: np.random.Generator, width: int, height: int, scale: float) -> Airfield:
    """Draw an airfield of which the image shows some part, mostly the apron."""
    runway = float(rng.uniform(34, 48)) * scale
    first = runway + float(rng.uniform(36, 70)) * scale
    second = first + float(rng.uniform(34, 46)) * scale
    near = second + float(rng.uniform(14, 50)) * scale
    far = near + float(rng.uniform(240, 420)) * scale
    seen = float(rng.uniform(0.1 * near, far)) if rng.random() < 0.8 else float(rng.uniform(-60, near)) * 0.5
    angle = float(rng.uniform(0, 2 * math.pi))
    along = float(rng.uniform(-300, 300)) * scale
    cos, sin = math.cos(angle), math.sin(angle)
    origin = (width / 2 - along * cos + seen * sin, height / 2 - along * sin - seen * cos)
    reach = math.hypot(width, height) / 2 + math.hypot(along, seen) + 10
    start = along + float(rng.uniform(-700, -120)) * scale
    end = along + float(rng.uniform(120, 700)) * scale
    threshold = along + float(rng.uniform(-420, 200)) * scale
    return Airfield(angle, origin, runway, (first, second), (start, end, near, far), threshold, reach)


def paint_airfield(
    picture: Image.Image, field: Airfield, sun: Sun, rng: np.random.Generator, scale: float
) -> None:
    """Paint pavements, markings and hangars onto ``picture``."""
    u0, u1, v0, v1 = field.apron
    t0, t1 = field.taxiway
    reach = field.reach
    link = (u0 + u1) / 2 + float(rng.uniform(-0.3, 0.3)) * (u1 - u0)
    half_link = (t1 - t0) / 2
    asphalt = [
        _rect(field.threshold - 60 * scale, reach, -field.runway - 5 * scale, field.runway + 5 * scale),
        _rect(-reach, reach, t0, t1),
        _rect(link - half_link, link + half_link, 0, v0 + 1),
        _rect(field.threshold, field.threshold + 2 * half_link, 0, t0 + 1),
    ]
    dark = int(rng.integers(58, 96))
    _pave(picture, field, asphalt, (dark, dark + 1, dark + 4), rng, scale)
    light = int(rng.integers(128, 186))
    _pave(picture, field, [_rect(u0, u1, v0, v1)], (light, light - 2, light - 8), rng, scale)
    _slabs(picture, field, light, rng, scale)
    _stains(picture, field, rng, scale)
    _markings(picture, field, link, rng, scale)
    _vehicles(picture, field, sun, rng, scale)
    _hangars(picture, field, sun, rng, scale)


def _rect(u0: float, u1: float, v0: float, v1: float) -> list[tuple[float, float]]:
    return [(u0, v0), (u1, v0), (u1, v1), (u0, v1)]


def _mask(
    picture: Image.Image, field: Airfield, shapes: Sequence[Sequence[tuple[float, float]]], fill: int = 255
) -> Image.Image:
    """Antialiased coverage of polygons given in (u, v)."""
    fine = Image.new("L", (picture.width * _FINE, picture.height * _FINE))
    pen = ImageDraw.Draw(fine)
    for shape in shapes:
        pen.polygon((field.to_image(shape) * _FINE).ravel().tolist(), fill=fill)
    return fine.reduce(_FINE)


def _pave(
    picture: Image.Image,
    field: Airfield,
    shapes: Sequence[Sequence[tuple[float, float]]],
    colour: tuple[int, int, int],
    rng: np.random.Generator,
    scale: float,
) -> None:
    wear = Image.blend(
        cut("rough", rng, picture.width, picture.height, zoom=1.8 * scale),
        cut("fine", rng, picture.width, picture.height),
        0.4,
    )
    channels = [
        wear.point([max(0, min(255, level + (v - 128) // 4)) for v in range(256)]) for level in colour
    ]
    picture.paste(Image.merge("RGB", channels), (0, 0), _mask(picture, field, shapes))


def _slabs(picture: Image.Image, field: Airfield, light: int, rng: np.random.Generator, scale: float) -> None:
    """Joints between the apron's concrete slabs, and a few slabs that were laid anew."""
    u0, u1, v0, v1 = field.apron
    side = float(rng.uniform(22, 40)) * scale
    repaired = []
    for _ in range(int(rng.integers(0, 14))):
        u = u0 + side * float(np.floor(rng.uniform(0, (u1 - u0) / side)))
        v = v0 + side * float(np.floor(rng.uniform(0, (v1 - v0) / side)))
        repaired.append(_rect(u, min(u1, u + side * int(rng.integers(1, 3))), v, min(v1, v + side)))
    fresh = light + int(rng.choice([-22, -14, 14, 20]))
    picture.paste((fresh, fresh, fresh - 4), (0, 0), _mask(picture, field, repaired, 120))
    half = 0.45 * scale
    joints = [_rect(float(u) - half, float(u) + half, v0, v1) for u in np.arange(u0, u1, side)]
    joints += [_rect(u0, u1, float(v) - half, float(v) + half) for v in np.arange(v0, v1, side)]
    picture.paste((70, 70, 68), (0, 0), _mask(picture, field, joints, 130))


def _stains(picture: Image.Image, field: Airfield, rng: np.random.Generator, scale: float) -> None:
    """Rubber on the runway where aircraft touch down, oil on the apron."""
    t = field.threshold
    streaks = []
    for _ in range(26):
        v = float(rng.choice([-1, 1])) * field.runway * float(rng.uniform(0.12, 0.4))
        u = t + float(rng.uniform(60, 500)) * scale
        streaks.append(_rect(u, u + float(rng.uniform(60, 220)) * scale, v - 1.4 * scale, v + 1.4 * scale))
    rubber = _mask(picture, field, streaks, 120).filter(ImageFilter.BoxBlur(2))
    u0, u1, v0, v1 = field.apron
    oil = cut("rough", rng, picture.width, picture.height, zoom=1.0 * scale).point(
        lambda v: max(0, min(90, (v - 188) * 3))
    )
    oil = ImageChops.multiply(oil, _mask(picture, field, [_rect(u0, u1, v0, v1)]))
    picture.paste((34, 34, 36), (0, 0), ImageChops.lighter(rubber, oil))


def _markings(
    picture: Image.Image, field: Airfield, link: float, rng: np.random.Generator, scale: float
) -> None:
    reach, r, t = field.reach, field.runway, field.threshold
    white = [
        _rect(t, reach, side * r * 0.93 - 1.2 * scale, side * r * 0.93 + 1.2 * scale) for side in (-1, 1)
    ]
    white += [
        _rect(float(u), float(u) + 34 * scale, -1.2 * scale, 1.2 * scale)
        for u in np.arange(t + 90 * scale, reach, 60 * scale)
    ]
    keys = 6
    for k in range(keys):
        v = r * (0.14 + 0.68 * k / (keys - 1))
        for side in (-1, 1):
            white.append(_rect(t + 6 * scale, t + 46 * scale, side * v - 0.04 * r, side * v + 0.04 * r))
    for side in (-1, 1):
        v = side * r * 0.36
        white.append(_rect(t + 190 * scale, t + 236 * scale, v - 0.09 * r, v + 0.09 * r))
    t0, t1 = field.taxiway
    u0, u1, v0, v1 = field.apron
    middle, thin = (t0 + t1) / 2, 0.9 * scale
    yellow = [
        _rect(-reach, reach, middle - thin, middle + thin),
        _rect(link - thin, link + thin, 0, v0 + 30 * scale),
        _rect(u0, u1, v0 + 29 * scale, v0 + 29 * scale + 2 * thin),
    ]
    stand = float(rng.uniform(70, 150)) * scale
    for u in np.arange(u0 + stand / 2, u1, stand):
        at = float(u)
        yellow.append(_rect(at - thin, at + thin, v0 + 29 * scale, v1 - 40 * scale))
        yellow.append(_rect(at - 9 * scale, at + 9 * scale, v1 - 40 * scale, v1 - 40 * scale + 2 * thin))
    worn = cut("rough", rng, picture.width, picture.height).point(lambda v: max(70, min(235, v * 2)))
    picture.paste((232, 232, 228), (0, 0), ImageChops.multiply(_mask(picture, field, white), worn))
    picture.paste((206, 170, 52), (0, 0), ImageChops.multiply(_mask(picture, field, yellow), worn))


def _vehicles(
    picture: Image.Image, field: Airfield, sun: Sun, rng: np.random.Generator, scale: float
) -> None:
    """Tugs, buses, tankers and rows of containers: small things on the apron that are no aircraft."""
    u0, u1, v0, v1 = field.apron
    colours = [(226, 226, 224), (214, 178, 50), (170, 52, 44), (52, 84, 140), (86, 90, 92), (60, 110, 76)]
    pen = ImageDraw.Draw(picture)
    away = -np.array(sun.towards) * 2.2 * scale / math.tan(sun.elevation)
    for _ in range(int(rng.integers(0, 16))):
        u, v = float(rng.uniform(u0, u1)), float(rng.uniform(v0, v1))
        length, width = float(rng.uniform(5, 15)) * scale, float(rng.uniform(3, 4.5)) * scale
        turn = float(rng.choice([0.0, math.pi / 2])) + float(rng.normal(0, 0.1))
        along = np.array([math.cos(turn), math.sin(turn)]) * length / 2
        across = np.array([-math.sin(turn), math.cos(turn)]) * width / 2
        body = np.array([along + across, along - across, -along - across, -along + across]) + np.array([u, v])
        corners = field.to_image(body)
        colour = colours[int(rng.integers(len(colours)))]
        for number in range(int(rng.choice([1, 1, 1, 2, 4]))):
            row = corners + (corners[0] - corners[1]) * 1.5 * number
            pen.polygon((row + away).ravel().tolist(), fill=(44, 46, 50))
            pen.polygon(row.ravel().tolist(), fill=colour)


def _hangars(picture: Image.Image, field: Airfield, sun: Sun, rng: np.random.Generator, scale: float) -> None:
    """Flat and curved roofs behind the apron, with the shadows that they throw."""
    u0, u1, _, v1 = field.apron
    u, roofs = u0 + 10 * scale, []
    while u < u1 - 60 * scale:
        length = float(rng.uniform(50, 150)) * scale
        if rng.random() < 0.75:
            depth = float(rng.uniform(46, 80)) * scale
            front = v1 + float(rng.uniform(6, 20)) * scale
            roofs.append((_rect(u, u + length, front, front + depth), int(rng.integers(4)), front, depth))
        u += length + float(rng.uniform(8, 50)) * scale
    away = -np.array(sun.towards) * 14 * scale / math.tan(sun.elevation)
    pen = ImageDraw.Draw(picture)
    for outline, *_ in roofs:
        corners = field.to_image(outline)
        for step in (0.5, 1.0):
            pen.polygon((corners + away * step).ravel().tolist(), fill=(38, 40, 44))
    across = np.array([-math.sin(field.angle), math.cos(field.angle)])
    facing = float(across @ np.array(sun.towards)) * math.cos(sun.elevation)
    colours = [(176, 178, 182), (118, 134, 148), (150, 116, 100), (206, 206, 202)]
    for outline, kind, front, depth in roofs:
        strips = 8
        for k in range(strips):
            tilt = (2 * (k + 0.5) / strips - 1) * (0.7 if kind % 2 else 0.0)
            lit = max(0.0, tilt * facing + math.sqrt(1 - tilt**2) * math.sin(sun.elevation)) / math.sin(
                sun.elevation
            )
            tone = 0.45 + 0.55 * min(1.5, lit)
            low, high = front + depth * k / strips, front + depth * (k + 1) / strips
            shape = _rect(outline[0][0], outline[1][0], low, high)
            fill = tuple(min(255, round(value * tone)) for value in colours[kind])
            pen.polygon(field.to_image(shape).ravel().tolist(), fill=fill)
