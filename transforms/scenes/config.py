"""What a set of scenes is made of, and the random streams that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from storage.errors import ConfigError, UnknownKeyError

FREQUENCIES: Mapping[str, float] = MappingProxyType(
    {
        "airliner": 0.42,
        "propeller": 0.23,
        "helicopter": 0.14,
        "business jet": 0.10,
        "fighter": 0.07,
        "glider": 0.04,
    }
)
"""How often each category is drawn, rather uneven on purpose: training must cope with rare classes."""

CATEGORIES: tuple[str, ...] = tuple(FREQUENCIES)

_REFERENCE_PIXELS = 640 * 480


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """A set of scenes. Two equal configurations give the same pictures, byte for byte before encoding.

    A scene depends on everything here but ``images``: more images continue a set, they do not change it.
    Raises :class:`ConfigError` for values that cannot be drawn.
    """

    images: int = 200
    """Number of scenes."""
    width: int = 640
    """Width in pixels, 64 to 8192."""
    height: int = 480
    """Height in pixels, 64 to 8192."""
    seed: int = 0
    """Any integer from 0 up."""
    classes: tuple[str, ...] = CATEGORIES
    """Which of :data:`CATEGORIES` occur, in the order in which formats number them."""
    max_objects: int = 8
    """At most so many aircraft in one scene."""
    negatives: float = 0.08
    """Share of the scenes that have no aircraft, spread evenly over the set; 0 to 1."""
    min_size: float = 24.0
    """Smallest length or span of an aircraft, in pixels of a 640x480 image; scales with the image."""
    max_size: float = 160.0
    """Largest length or span, in the same unit."""
    min_visible: float = 0.25
    """An aircraft is placed only where this share of it, and of all others, stays visible; 0.05 to 1."""
    cut: float = 0.15
    """Share of the aircraft that are placed across the image's edge."""
    clouds: float = 0.35
    """Share of the scenes with clouds, which may hide a part of an aircraft."""
    noise: float = 7.0
    """Largest standard deviation of the sensor's noise, in grey levels; 0 to 30."""

    def __post_init__(self) -> None:
        _whole(self.images, "images", 1, 10_000_000)
        _whole(self.width, "width", 64, 8192)
        _whole(self.height, "height", 64, 8192)
        _whole(self.seed, "seed", 0, 2**63 - 1)
        _whole(self.max_objects, "max_objects", 1, 200)
        for name in ("negatives", "cut", "clouds"):
            _number(getattr(self, name), name, 0.0, 1.0)
        _number(self.min_visible, "min_visible", 0.05, 1.0)
        _number(self.noise, "noise", 0.0, 30.0)
        _number(self.min_size, "min_size", 12.0, 1000.0)
        _number(self.max_size, "max_size", 12.0, 1000.0)
        if self.min_size > self.max_size:
            raise _wrong("min_size", self.min_size, f"at most max_size, which is {self.max_size}")
        if not isinstance(self.classes, (tuple, list)) or not self.classes:
            raise _wrong("classes", self.classes, "a tuple of one or more category names")
        object.__setattr__(self, "classes", tuple(self.classes))
        for name in self.classes:
            if name not in FREQUENCIES:
                raise UnknownKeyError("SceneConfig.classes", str(name), CATEGORIES)
        if len(set(self.classes)) != len(self.classes):
            raise _wrong("classes", self.classes, "every category once")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SceneConfig:
        """Settings by name, as a command line or YAML gives them; unknown names raise UnknownKeyError."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise UnknownKeyError("SceneConfig", str(name), known)
        return cls(**values)

    @property
    def scale(self) -> float:
        """How much larger things are drawn than in a 640x480 image."""
        return math.sqrt(self.width * self.height / _REFERENCE_PIXELS)

    def stream(self, index: int, purpose: str) -> np.random.Generator:
        """The random stream of one scene for one purpose, independent of all others."""
        key = int.from_bytes(purpose.encode(), "little")
        return np.random.default_rng(np.random.SeedSequence([self.seed, index, key]))

    def is_negative(self, index: int) -> bool:
        """Whether scene ``index`` has no aircraft. In every run of 1/negatives scenes there is one."""
        if self.negatives <= 0.0:
            return False
        stratum = math.floor(index * self.negatives + 1e-9)
        first = math.ceil(stratum / self.negatives - 1e-9)
        after = math.ceil((stratum + 1) / self.negatives - 1e-9)
        chosen = int(self.stream(stratum, "negative").integers(first, max(after, first + 1)))
        return index == chosen


def _whole(value: object, name: str, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(name, value, f"a whole number from {low} to {high}")


def _number(value: object, name: str, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _wrong(name, value, f"a number from {low} to {high}")


def _wrong(name: str, found: object, expected: str) -> ConfigError:
    return ConfigError(
        f"SceneConfig.{name}: found {found!r}; expected {expected}", key=name, found=found, expected=expected
    )
