"""The aircraft seen from above, as polygons: one plan per category, with the proportions of real types.

Coordinates are those of the body: x to the nose, y to one side, the length of the fuselage is about 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from transforms.scenes.airframe import (
    Part,
    box,
    ellipse,
    fin,
    fuselage,
    mirrored,
    nacelle,
    tailplane,
    tube,
    turned,
    windscreen,
    wing,
)

Rng = np.random.Generator


def plan_of(category: str, rng: Rng, *, spinning: bool) -> list[Part]:
    """The polygons of an aircraft of ``category``, varied by ``rng``; ``spinning`` when its rotors turn."""
    return _PLANS[category](rng, spinning)


def _airliner(rng: Rng, _: bool) -> list[Part]:
    wide = rng.random() < 0.35
    width = rng.uniform(0.088, 0.10) if wide else rng.uniform(0.098, 0.112)
    span = rng.uniform(0.44, 0.50)
    sweep = math.tan(math.radians(rng.uniform(25, 33)))
    root = 0.14 + rng.uniform(-0.03, 0.03)
    four = wide and rng.random() < 0.35
    parts: list[Part] = []
    for stand in (0.36, 0.66) if four else (0.34,):
        y = stand * span
        nose = root - 0.02 - sweep * y + 0.065
        parts += mirrored(nacelle(nose, y, 0.10 if not four else 0.085, 0.021), "engine")
    outline = [
        (root, 0.0),
        (root - sweep * span, span),
        (root - sweep * span - 0.045, span),
        (root - 0.215, 0.15 * span + 0.04),
        (root - 0.245, 0.0),
    ]
    parts += wing(outline)
    parts += wing(tailplane(-0.375, 0.115, span * 0.37, sweep, 0.045))
    parts += fuselage(tube(width, 0.5, -0.5, nose=1.3, tail=2.6))
    parts += windscreen(0.462, width * 0.62, 0.017)
    parts += fin(-0.34, -0.495, 0.016)
    return parts


def _business_jet(rng: Rng, _: bool) -> list[Part]:
    width = rng.uniform(0.098, 0.112)
    span = rng.uniform(0.44, 0.52)
    sweep = math.tan(math.radians(rng.uniform(22, 30)))
    root = 0.05 + rng.uniform(-0.02, 0.02)
    outline = [
        (root, 0.0),
        (root - 0.05, 0.07),
        (root - 0.05 - sweep * (span - 0.07), span),
        (root - 0.095 - sweep * (span - 0.07), span),
        (root - 0.215, 0.07),
        (root - 0.235, 0.0),
    ]
    parts = wing(outline)
    tip = root - 0.07 - sweep * (span - 0.07)
    parts += mirrored(box(tip + 0.03, tip - 0.035, span - 0.012, span + 0.004), "trim")
    parts += mirrored(nacelle(-0.165, 0.098, 0.17, 0.034), "engine")
    parts += fuselage(tube(width, 0.5, -0.47, nose=2.0, tail=3.0))
    parts += windscreen(0.40, width * 0.62, 0.024)
    parts += fin(-0.31, -0.47, 0.018)
    parts += wing(tailplane(-0.415, 0.085, 0.20, sweep, 0.05))
    return parts


def _fighter(rng: Rng, _: bool) -> list[Part]:
    delta = rng.random() < 0.4
    twin = rng.random() < 0.5
    width = 0.135 if twin else 0.10
    parts: list[Part] = []
    if delta:
        span = rng.uniform(0.29, 0.34)
        parts += wing([(0.13, 0.0), (0.09, 0.05), (-0.33, span), (-0.39, span), (-0.41, 0.0)])
        parts += wing([(0.25, 0.03), (0.19, 0.16), (0.155, 0.16), (0.165, 0.03)])
    else:
        span = rng.uniform(0.30, 0.36)
        parts += wing([(0.22, 0.03), (0.10, 0.075), (-0.10, span), (-0.17, span), (-0.20, 0.0)])
        parts += wing([(-0.27, 0.0), (-0.29, 0.05), (-0.41, 0.22), (-0.48, 0.22), (-0.44, 0.0)])
    if rng.random() < 0.6:
        back = -0.33 if delta else -0.10
        parts += mirrored(box(back + 0.06, back - 0.10, span - 0.004, span + 0.014), "dark")
    profile = [(0.5, 0.004), (0.40, 0.026), (0.28, 0.042), (0.12, width * 0.5), (-0.34, width * 0.5)]
    profile += [(-0.46, width * 0.42)]
    parts += fuselage(profile)
    for y in (-0.033, 0.033) if twin else (0.0,):
        parts.append(Part(np.array(box(-0.445, -0.49, y - 0.026, y + 0.026)), "dark"))
    parts.append(Part(ellipse(0.27, 0.0, 0.085, 0.024), "glass"))
    if twin:
        parts += mirrored(box(-0.22, -0.40, 0.067, 0.079), "trim", tone=0.8)
    else:
        parts += fin(-0.20, -0.44, 0.015)
    return parts


def _glider(rng: Rng, _: bool) -> list[Part]:
    span = 0.5 * rng.uniform(2.1, 2.6)
    root = 0.14
    bend = rng.uniform(0.0, 0.03)
    outline = [
        (root, 0.0),
        (root - 0.008, span * 0.6),
        (root - 0.03 - bend, span),
        (root - 0.065 - bend, span),
        (root - 0.112, span * 0.6),
        (root - 0.128, 0.0),
    ]
    parts = wing(outline, crease=0.0)
    tips = [(root - 0.022 - bend * 0.6, span * 0.86), (root - 0.03 - bend, span)]
    tips += [(root - 0.065 - bend, span), (root - 0.083 - bend * 0.6, span * 0.86)]
    parts += mirrored(tips, "trim")
    profile = [(0.5, 0.012), (0.44, 0.040), (0.28, 0.054), (0.10, 0.046), (-0.06, 0.021), (-0.5, 0.014)]
    parts += fuselage(profile)
    parts.append(Part(ellipse(0.31, 0.0, 0.12, 0.034), "glass"))
    parts += wing([(-0.425, 0.0), (-0.435, 0.21), (-0.485, 0.21), (-0.50, 0.0)], crease=0.0)
    parts += fin(-0.38, -0.51, 0.016)
    return parts


def _propeller(rng: Rng, spinning: bool) -> list[Part]:
    twin = rng.random() < 0.3
    high = not twin and rng.random() < 0.5
    span = rng.uniform(0.60, 0.70)
    chord = rng.uniform(0.17, 0.20)
    taper = rng.uniform(0.75, 1.0) if high else rng.uniform(0.55, 0.9)
    front = rng.uniform(0.20, 0.25)
    slant = (1 - taper) * chord * 0.4
    outline = [
        (front, 0.0),
        (front - slant, span * 0.97),
        (front - slant - 0.02, span),
        (front - slant - chord * taper + 0.02, span),
        (front - slant - chord * taper, span * 0.97),
        (front - chord, 0.0),
    ]
    parts: list[Part] = []
    nose = 0.5 if twin else 0.47
    discs = [(front + 0.12, -0.21), (front + 0.12, 0.21)] if twin else [(nose + 0.015, 0.0)]
    body = fuselage(
        [
            (nose, 0.022 if twin else 0.045),
            (0.42, 0.055),
            (0.25, 0.072),
            (0.0, 0.066),
            (-0.45, 0.018),
            (-0.5, 0.014),
        ]
    )
    if high:
        # The wing lies on the cabin: of the glass only the windscreen is seen.
        parts += body + windscreen(front + 0.03, 0.058, 0.045) + wing(outline, crease=0.0)
        parts.append(Part(np.array(box(front - 0.02, front - chord + 0.02, -0.05, 0.05)), "skin", tone=1.04))
    else:
        parts += wing(outline, crease=0.0) + body
        parts.append(Part(ellipse(0.11, 0.0, 0.12, 0.046), "glass"))
    if twin:
        parts += mirrored(nacelle(front + 0.11, 0.21, 0.26, 0.036), "engine")
    parts += mirrored(
        [(front - slant - 0.005, span * 0.9), *outline[1:5], (front - slant - chord * taper, span * 0.9)],
        "trim",
    )
    parts += wing(tailplane(-0.36, 0.11, 0.23, 0.12, 0.085))
    parts += fin(-0.34, -0.51, 0.018)
    for x, y in discs:
        if spinning:
            parts.append(Part(np.array(box(x + 0.012, x - 0.006, y - 0.135, y + 0.135)), "haze"))
        parts.append(Part(np.array(box(x + 0.014, x - 0.014, y - 0.125, y + 0.125)), "blade"))
    return parts


def _helicopter(rng: Rng, spinning: bool) -> list[Part]:
    blades = int(rng.choice([2, 3, 4, 4, 5]))
    radius = rng.uniform(0.47, 0.54)
    width = rng.uniform(0.075, 0.095)
    hub = 0.20
    first = rng.uniform(0, 2 * math.pi)
    parts = mirrored(box(0.42, 0.02, width + 0.028, width + 0.046), "blade")
    parts += mirrored(box(0.32, 0.30, 0.0, width + 0.035), "blade") + mirrored(
        box(0.10, 0.08, 0.0, width + 0.035), "blade"
    )
    profile = [(0.48, 0.012), (0.455, width * 0.62), (0.39, width * 0.95), (0.24, width), (0.06, width * 0.9)]
    profile += [(-0.06, width * 0.42), (-0.14, 0.030), (-0.5, 0.018)]
    parts += fuselage(profile)
    parts.append(
        Part(
            np.array(
                [
                    (0.468, -0.03),
                    (0.468, 0.03),
                    (0.40, width * 0.80),
                    (0.33, width * 0.78),
                    (0.33, -width * 0.78),
                    (0.40, -width * 0.80),
                ]
            ),
            "glass",
        )
    )
    parts.append(Part(ellipse(0.13, 0.0, 0.10, width * 0.55), "engine"))
    parts += wing([(-0.375, 0.0), (-0.375, 0.13), (-0.43, 0.13), (-0.43, 0.0)], crease=0.0)
    parts += fin(-0.42, -0.55, 0.02)
    parts.append(Part(np.array(box(-0.43, -0.585, 0.026, 0.046)), "blade"))
    if spinning:
        parts.append(Part(ellipse(hub, 0.0, radius, radius), "haze"))
    for k in range(blades):
        angle = first + 2 * math.pi * k / blades
        parts.append(Part(turned(box(radius, 0.0, -0.019, 0.019), angle) + np.array([hub, 0.0]), "blade"))
    parts.append(Part(ellipse(hub, 0.0, 0.035, 0.035), "blade", tone=1.3))
    return parts


_PLANS: Mapping[str, Callable[[Rng, bool], list[Part]]] = MappingProxyType(
    {
        "airliner": _airliner,
        "business jet": _business_jet,
        "fighter": _fighter,
        "glider": _glider,
        "propeller": _propeller,
        "helicopter": _helicopter,
    }
)
