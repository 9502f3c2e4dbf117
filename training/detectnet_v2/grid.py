"""What the two outputs of a network mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from training.detectnet_v2.spec import STRIDE


class Grid(Protocol):
    """What the outputs of a network mean."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the coverage channels."""

    @property
    def stride(self) -> int:
        """Pixels of the input per cell."""

    @property
    def scale(self) -> float:
        """What distances are divided by."""

    @property
    def offset(self) -> float:
        """Pixels by which a cell's corner is shifted."""


@dataclass(frozen=True, kw_only=True)
class OutputGrid:
    """A ``Grid`` as plain values."""

    classes: tuple[str, ...]
    stride: int = STRIDE
    scale: float = 35.0
    offset: float = 0.5
