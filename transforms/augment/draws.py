"""Random draws that depend on nothing but the seed, the sample, its copy and the name of what is drawn.

So the same seed gives the same plan on any number of workers, in any order, and a new kind of draw changes
none of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


class Draws:
    """The draws for one output."""

    def __init__(self, seed: int, key: str, copy: int = 0) -> None:
        self._prefix = f"{seed}\0{copy}\0{key}\0".encode()

    def bits(self, name: str) -> int:
        """64 bits."""
        return int.from_bytes(hashlib.blake2b(self._prefix + name.encode(), digest_size=8).digest())

    def unit(self, name: str) -> float:
        """A number in [0, 1)."""
        return (self.bits(name) >> 11) / 2**53

    def among(self, name: str, count: int) -> int:
        """A whole number from 0 to ``count`` - 1."""
        return min(int(self.unit(name) * count), count - 1)

    def number(self, name: str, values: Sequence[float], default: float) -> float:
        """A number by the rule of the spec's lists (see :mod:`transforms.augment.spec`)."""
        if not values:
            return default
        if len(values) == 1:
            return values[0]
        if len(values) == 2:
            return values[0] + (values[1] - values[0]) * self.unit(name)
        return values[self.among(name, len(values))]

    def whole(self, name: str, values: Sequence[float], default: int) -> int:
        """The same in whole numbers; of two values both ends are drawn as often as what is between."""
        if len(values) == 2:
            low, high = sorted(round(value) for value in values)
            return low + self.among(name, high - low + 1)
        return round(self.number(name, values, default))

    def yes(self, name: str, chance: float) -> bool:
        """True with this chance; True and False are certain."""
        return self.unit(name) < chance
