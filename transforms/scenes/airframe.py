"""Shapes that aircraft are made of: fuselages, wings, engines, as polygons seen from above.

Coordinates are those of the body: x to the nose, y to one side, the length of the fuselage is about 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """A polygon of one paint. Later parts of a plan lie above earlier ones."""

    points: Points
    paint: str
    """Key of the livery: skin, wing, trim, glass, engine, dark, blade, haze."""
    tilt: float = 0.0
    """Sideways component of the surface's normal, -1 to 1: what makes a fuselage look round."""
    tone: float = 1.0
    """Brightness besides that of the light."""


def fuselage(profile: Sequence[tuple[float, float]], strips: int = 7) -> list[Part]:
    """A body of revolution from (x, half width), cut lengthwise so that each strip takes its own light."""
    xs = np.array([x for x, _ in profile])
    half = np.array([w for _, w in profile])
    edges = np.sin(np.linspace(-math.pi / 2, math.pi / 2, strips + 1))
    parts = []
    for low, high in pairwise(edges):
        # Strips overlap a little: no gap may show the ground through the body.
        near, far = half * max(low - 0.04, -1.0), half * min(high + 0.04, 1.0)
        points = np.concatenate([np.stack([xs, near], 1), np.stack([xs, far], 1)[::-1]])
        parts.append(Part(points, "skin", tilt=float(low + high) / 2))
    return parts


def tube(width: float, front: float, back: float, *, nose: float, tail: float) -> list[tuple[float, float]]:
    """A rounded nose ``nose`` widths long, a straight cabin, and a cone ``tail`` widths long."""
    half = width / 2
    rounded = [(1 - math.cos(t), math.sin(t)) for t in np.linspace(0.12, math.pi / 2, 6)]
    points = [(front - width * nose * along, half * up) for along, up in rounded]
    points += [(back + width * tail, half), (back + width * tail * 0.4, half * 0.62), (back, half * 0.16)]
    return points


def wing(outline: list[tuple[float, float]], crease: float = 0.13) -> list[Part]:
    """Both wings from the outline of one; the trailing part is a little darker, as flaps are."""
    parts = mirrored(outline, "wing")
    if crease:
        tip = len(outline) // 2
        leading, trailing = np.array(outline[:tip]), np.array(outline[tip:][::-1])
        back = trailing[[0, -1]]
        front = back + (leading[[0, -1]] - back) * crease * 2
        parts += mirrored([tuple(p) for p in np.concatenate([front, trailing[::-1]])], "wing", tone=0.88)
    return parts


def tailplane(x: float, chord: float, span: float, sweep: float, tip: float) -> list[tuple[float, float]]:
    """One half of a swept tailplane that begins at ``x``."""
    return [(x, 0.0), (x - sweep * span, span), (x - sweep * span - tip, span), (x - chord, 0.0)]


def windscreen(x: float, width: float, depth: float) -> list[Part]:
    """Windows at the front of a fuselage."""
    half = width / 2
    points = [
        (x, -half * 0.55),
        (x, half * 0.55),
        (x - depth, half),
        (x - depth * 1.4, 0.0),
        (x - depth, -half),
    ]
    return [Part(np.array(points), "glass")]


def fin(front: float, back: float, width: float) -> list[Part]:
    """The upright fin, seen from above as a thin line."""
    half = width / 2
    points = [(front, 0.0), (front - 0.06, half), (back, half), (back, -half), (front - 0.06, -half)]
    return [Part(np.array(points), "trim")]


def nacelle(front: float, y: float, length: float, half: float) -> list[tuple[float, float]]:
    """An engine at ``y``, as seen from above."""
    back = front - length
    return [
        (front, y - half * 0.8),
        (front, y + half * 0.8),
        (front - length * 0.2, y + half),
        (back + length * 0.3, y + half * 0.9),
        (back, y + half * 0.5),
        (back, y - half * 0.5),
        (back + length * 0.3, y - half * 0.9),
        (front - length * 0.2, y - half),
    ]


def box(front: float, back: float, low: float, high: float) -> list[tuple[float, float]]:
    """A rectangle along the body."""
    return [(front, low), (front, high), (back, high), (back, low)]


def ellipse(x: float, y: float, rx: float, ry: float) -> Points:
    """An ellipse with its axes along and across the body."""
    t = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], 1)


def turned(points: Iterable[tuple[float, float]], angle: float) -> Points:
    """Points turned around the origin."""
    cos, sin = math.cos(angle), math.sin(angle)
    result: Points = np.array(list(points)) @ np.array([[cos, sin], [-sin, cos]])
    return result


def mirrored(points: Iterable[tuple[float, float]], paint: str, tone: float = 1.0) -> list[Part]:
    """A polygon and its mirror image on the other side."""
    one = np.array(list(points), dtype=np.float64)
    return [
        Part(one, paint, tilt=0.06, tone=tone),
        Part(one * np.array([1.0, -1.0]), paint, tilt=-0.06, tone=tone),
    ]
