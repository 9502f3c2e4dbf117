"""Which sample comes when: pure functions of seed, epoch, rank and world size.

An epoch is one sequence of all samples, shuffled within a window of a few shards so that storage is read in
large pieces. Ranks take equal stretches of it. What is left of an epoch after so many samples on each rank
is a sequence again, which any number of ranks can share: a run goes on with more or fewer of them, and
each sample is still seen once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Places = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Done:
    """What a stretch of an epoch has seen: so many samples on each of so many ranks."""

    world_size: int
    samples: int
    """On each rank, padding included."""


def epoch_sequence(
    sizes: Sequence[int], *, seed: int, epoch: int, window: int = 8, shuffle: bool = True
) -> Places:
    """All samples of an epoch in their order, as numbers from 0 through all shards of these ``sizes``.

    Shards are shuffled, then the samples of each ``window`` shards among themselves.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    if not shuffle:
        return np.arange(starts[-1])
    shards = _generator(seed, epoch, "shards").permutation(len(sizes))
    parts = []
    for turn in range(0, len(shards), window):
        chosen = shards[turn : turn + window]
        among = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen])
        parts.append(_generator(seed, epoch, f"samples/{turn}").permutation(among))
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def share_of(sequence: Places, rank: int, world_size: int, *, drop: bool = False) -> Places:
    """The stretch of a rank; all are equally long.

    The sequence begins again where it does not divide evenly; with ``drop`` its end is left out instead.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    each = len(sequence) // world_size if drop else -(-len(sequence) // world_size)
    places = np.arange(rank * each, (rank + 1) * each)
    return sequence[places % len(sequence)] if len(sequence) else sequence


def left_after(sequence: Places, done: Sequence[Done], *, drop: bool = False) -> Places:
    """What is left of an epoch after these stretches, one after the other."""
    for stretch in done:
        seen = [share_of(sequence, rank, stretch.world_size, drop=drop) for rank in range(stretch.world_size)]
        # Padding repeats samples that another rank has: as they come first there, nothing is lost.
        gone = np.concatenate([share[: stretch.samples] for share in seen]) if seen else sequence[:0]
        sequence = sequence[~np.isin(sequence, gone)]
    return sequence


def _generator(seed: int, epoch: int, name: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest)))
