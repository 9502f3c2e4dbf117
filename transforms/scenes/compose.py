"""A scene: aircraft are placed on a site so that each stays visible, then everything is painted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter

from transforms.scenes.aircraft import SIZES, Sprite, draw_aircraft
from transforms.scenes.config import FREQUENCIES, SceneConfig
from transforms.scenes.fields import Pixels
from transforms.scenes.ground import paint_ground
from transforms.scenes.site import Site, choose_site
from transforms.scenes.weather import Weather, choose_weather, cloud_shadow, through_weather

Mask = npt.NDArray[np.bool_]

_TRIES = 14
_HIDES = 153
"""Clouds of this opacity (of 255) or more hide what is below them."""
_PARKED_OVERLAP = 0.05
"""Share of the smaller one of two parked aircraft that the other may hide."""
_LEAST_SIDE = 8
"""No visible part of an aircraft is labelled that is narrower than this, in pixels of a 640x480 image."""


@dataclass(frozen=True)
class SceneObject:
    """An aircraft as it is seen."""

    category: str
    box: tuple[int, int, int, int]
    """xmin, ymin, xmax, ymax of the visible pixels, in pixel edges: xmax - xmin is their number across."""
    mask: Mask
    """(ymax - ymin, xmax - xmin): which pixels of the box are visible ones of the aircraft."""
    visible: float
    """Visible pixels, as a share of all that the aircraft would cover if nothing cut or hid it."""
    truncated: float
    """Share that lies outside of the image."""
    occlusion: int
    """Of what lies inside: 0 less than 5 % hidden, 1 less than 40 %, 2 less than 70 %, 3 more."""


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it."""

    image: Pixels
    """(H, W, 3), RGB."""
    objects: tuple[SceneObject, ...]

    def mask_of(self, item: SceneObject) -> Mask:
        """The visible pixels of one object in the whole image, (H, W)."""
        whole = np.zeros(self.image.shape[:2], dtype=np.bool_)
        xmin, ymin, xmax, ymax = item.box
        whole[ymin:ymax, xmin:xmax] = item.mask
        return whole


@dataclass(frozen=True)
class _Placed:
    category: str
    sprite: Sprite
    flying: bool
    height: float
    """Above the ground, in pixels."""


@dataclass(frozen=True)
class Arrangement:
    """A scene before it is painted: enough to know its objects."""

    site: Site
    weather: Weather
    placed: tuple[_Placed, ...]
    objects: tuple[SceneObject, ...]


def render_scene(config: SceneConfig, index: int) -> Scene:
    """Scene number ``index`` of a set: a function of its two arguments alone, in any order or process."""
    arrangement = arrange_scene(config, index)
    return Scene(_paint(arrangement, config.stream(index, "paint")), arrangement.objects)


def arrange_scene(config: SceneConfig, index: int) -> Arrangement:
    """Where the aircraft of scene ``index`` are, without painting it: a fraction of the work."""
    size = (config.width, config.height, config.scale)
    site = choose_site(config.stream(index, "site"), *size)
    weather = choose_weather(config.stream(index, "sky"), *size, clouds=config.clouds, noise=config.noise)
    if config.is_negative(index):
        return Arrangement(site, weather, (), ())
    canvas = _Canvas(config, weather)
    rng = config.stream(index, "crowd")
    wanted = 1 + int(config.max_objects * float(rng.beta(1.1, 2.0)))
    closeness = float(rng.uniform(0.66, 1.25))
    weights = np.array([FREQUENCIES[name] for name in config.classes])
    weights /= weights.sum()
    kinds = rng.choice(len(config.classes), size=min(wanted, config.max_objects), p=weights)
    for number, kind in enumerate(kinds):
        # Each aircraft has its own stream, so that a change to one moves no other.
        own = config.stream(index, f"craft {number}")
        for _ in range(_TRIES):
            candidate = _candidate(config, site, config.classes[int(kind)], closeness, own)
            if candidate is not None and canvas.accept(candidate):
                break
    return Arrangement(site, weather, tuple(canvas.placed), canvas.objects())


def _candidate(
    config: SceneConfig, site: Site, category: str, closeness: float, rng: np.random.Generator
) -> _Placed | None:
    size = SIZES[category] * closeness * float(rng.uniform(0.88, 1.12))
    size = min(max(size, config.min_size), config.max_size) * config.scale
    if rng.random() < config.cut:
        x, y = _across_edge(config, size, rng)
    else:
        margin = size * 0.45
        x = float(rng.uniform(margin, max(margin + 1, config.width - margin)))
        y = float(rng.uniform(margin, max(margin + 1, config.height - margin)))
    flying = site.airfield is None or rng.random() < 0.10
    heading = float(rng.uniform(0, 2 * math.pi))
    height = size * float(rng.uniform(0.4, 1.5))
    if not flying and site.airfield is not None:
        parked = site.airfield.parking(x, y, size, rng)
        if parked is None:
            return None
        heading = parked
        height = size * (0.05 if category == "glider" else 0.085)
    sprite = draw_aircraft(category, size, heading, (x, y), site.sun, rng, flying=flying)
    return _Placed(category, sprite, flying, height)


def _across_edge(config: SceneConfig, size: float, rng: np.random.Generator) -> tuple[float, float]:
    beyond = float(rng.uniform(-0.30, 0.22)) * size
    along = float(rng.uniform(0.05, 0.95))
    side = int(rng.integers(4))
    if side < 2:
        return (-beyond if side == 0 else config.width + beyond), along * config.height
    return along * config.width, (-beyond if side == 2 else config.height + beyond)


class _Canvas:
    """Which aircraft is seen at each pixel, kept while they are placed one above the other."""

    def __init__(self, config: SceneConfig, weather: Weather) -> None:
        self.placed: list[_Placed] = []
        self._owner = np.full((config.height, config.width), -1, dtype=np.int16)
        self._clear: Mask | None = None
        if weather.clouds is not None:
            self._clear = np.asarray(weather.clouds) < _HIDES
        self._whole: list[int] = []
        self._inside: list[int] = []
        self._seen: list[int] = []
        self._windows: list[tuple[slice, slice]] = []
        self._least_visible = config.min_visible
        self._least_side = max(2.0, _LEAST_SIDE * config.scale)

    def accept(self, candidate: _Placed) -> bool:
        """Place ``candidate`` above the others if all of them stay visible enough."""
        height, width = self._owner.shape
        sprite = candidate.sprite
        rows, columns = sprite.covered.shape
        window = (
            slice(max(0, sprite.top), max(0, min(height, sprite.top + rows))),
            slice(max(0, sprite.left), max(0, min(width, sprite.left + columns))),
        )
        part = sprite.covered[
            window[0].start - sprite.top : window[0].stop - sprite.top,
            window[1].start - sprite.left : window[1].stop - sprite.left,
        ]
        clear = part if self._clear is None else part & self._clear[window]
        whole, seen = int(sprite.covered.sum()), int(clear.sum())
        if not whole or seen / whole < self._least_visible or not self._large_enough(clear):
            return False
        below = self._owner[window]
        hidden = np.bincount(below[clear] + 1, minlength=len(self.placed) + 1)[1:]
        for number in np.flatnonzero(hidden):
            left = self._seen[number] - int(hidden[number])
            if left / self._whole[number] < self._least_visible:
                return False
            # On the ground a wing may reach over another's, but not more.
            grounded = not (candidate.flying or self.placed[number].flying)
            if grounded and hidden[number] > _PARKED_OVERLAP * min(whole, self._whole[number]):
                return False
        before = below.copy()
        below[part] = len(self.placed)
        for number in np.flatnonzero(hidden):
            if not self._large_enough(self._visible(int(number))):
                below[...] = before
                return False
        for number in np.flatnonzero(hidden):
            self._seen[number] -= int(hidden[number])
        self.placed.append(candidate)
        self._whole.append(whole)
        self._inside.append(int(part.sum()))
        self._seen.append(seen)
        self._windows.append(window)
        return True

    def objects(self) -> tuple[SceneObject, ...]:
        """What is seen of each, in the order in which they were placed."""
        return tuple(self._object(number) for number in range(len(self.placed)))

    def _visible(self, number: int) -> Mask:
        window = self._windows[number]
        mask: Mask = self._owner[window] == number
        return mask if self._clear is None else mask & self._clear[window]

    def _large_enough(self, mask: Mask) -> bool:
        xmin, ymin, xmax, ymax = _extent(mask)
        return min(xmax - xmin, ymax - ymin) >= self._least_side

    def _object(self, number: int) -> SceneObject:
        mask = self._visible(number)
        xmin, ymin, xmax, ymax = _extent(mask)
        rows, columns = self._windows[number]
        whole, inside, seen = self._whole[number], self._inside[number], int(mask.sum())
        hidden = 1 - seen / inside
        return SceneObject(
            category=self.placed[number].category,
            box=(xmin + columns.start, ymin + rows.start, xmax + columns.start, ymax + rows.start),
            mask=mask[ymin:ymax, xmin:xmax].copy(),
            visible=seen / whole,
            truncated=1 - inside / whole,
            occlusion=sum(hidden >= level for level in (0.05, 0.4, 0.7)),
        )


def _extent(mask: Mask) -> tuple[int, int, int, int]:
    """xmin, ymin, xmax, ymax of the true pixels, in pixel edges; zeros where there are none."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _paint(arrangement: Arrangement, rng: np.random.Generator) -> Pixels:
    site, weather = arrangement.site, arrangement.weather
    picture = paint_ground(site, rng)
    shade = cloud_shadow(weather, site.sun, site.scale)
    for item in arrangement.placed:
        shade = shade or Image.new("L", picture.size)
        _throw_shadow(shade, item, site)
    if shade is not None:
        strength = 0.45 if site.terrain == "sea" else 1.0
        picture.paste((12, 16, 28), (0, 0), shade.point([round(v * strength) for v in range(256)]))
    for item in arrangement.placed:
        sprite = item.sprite
        picture.paste(sprite.picture, (sprite.left, sprite.top), sprite.picture)
    return through_weather(picture, weather, rng)


def _throw_shadow(shade: Image.Image, item: _Placed, site: Site) -> None:
    """Add the aircraft's shadow on the ground to ``shade``: sharp when it is parked, soft when it is high."""
    sprite = item.sprite
    throw = item.height / math.tan(site.sun.elevation)
    soft = min(4.0, 0.5 + 0.03 * throw)
    border = math.ceil(soft * 2) + 2
    width, height = sprite.picture.size
    shape = Image.new("L", (width + 2 * border, height + 2 * border))
    shape.paste(sprite.picture.getchannel("A").point([v * 150 // 255 for v in range(256)]), (border, border))
    shape = shape.filter(ImageFilter.BoxBlur(soft))
    left = round(sprite.left - border - site.sun.towards[0] * throw)
    top = round(sprite.top - border - site.sun.towards[1] * throw)
    area = (left, top, left + shape.width, top + shape.height)
    shade.paste(ImageChops.lighter(shade.crop(area), shape), (left, top))
