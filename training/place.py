"""Which of the processes that train together this one is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Place:
    """Number ``rank`` of ``world`` processes; where there are several, torch.distributed is initialised."""

    rank: int = 0
    world: int = 1
