"""Shards in training: samples by number, in the order of an epoch, on each rank its own.

``ShardDataset`` is a map-style dataset for any DataLoader. ``ShardLoader`` reads and decodes with threads in
this process: nothing is pickled, and no picture is copied between processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from storage.errors import ConfigError, UnreadableError
from storage.object_store import ObjectStore
from transforms.augment.pixels import decode
from transforms.kept_memory import keep_freed_memory
from transforms.shards.files import ShardFiles
from transforms.shards.index import Located, Shard, shards_of
from transforms.shards.order import Done, Places, epoch_sequence, left_after, share_of
from transforms.shards.sample import ShardLabels, read_labels, sample_of

Decode = Callable[[bytes, str], Any]


@dataclass(frozen=True, eq=False)
class ShardItem:
    """A sample: ``image [height, width, 3]`` uint8 RGB (or what ``decode`` made of it) and its labels."""

    sample: str
    image: Any
    labels: ShardLabels


def pixels_of(data: bytes, path: str) -> torch.Tensor:
    """The pixels ``[height, width, 3]`` RGB of a file."""
    return torch.from_numpy(decode(data, path))


class ShardDataset(Dataset[ShardItem]):
    """All samples of a complete set of webdataset shards, by number.

    ``url`` is a folder or object store. Shards of a store are copied whole to ``cache_dir`` when they are
    first read; the least recently used go when the copies pass ``cache_bytes``. Only those copies are ever
    deleted.
    """

    def __init__(
        self,
        url: str | Path,
        *,
        options: Mapping[str, Any] | None = None,
        decode: Decode = pixels_of,
        cache_dir: Path | None = None,
        cache_bytes: int = 64 << 30,
    ) -> None:
        self._store = ObjectStore.at(url, options)
        self._shards: list[Shard] = list(shards_of(self._store))
        if any(shard.format != "webdataset" for shard in self._shards):
            raise ConfigError(f"{self._store.url}: TFRecord shards; expected webdataset")
        if not self._store.is_directory and cache_dir is None:
            raise ConfigError(
                f"{self._store.url}: an object store needs cache_dir, a folder for copies of shards"
            )
        self._decode = decode
        self._files = ShardFiles(cache_dir, cache_bytes)
        self.sizes: tuple[int, ...] = tuple(len(shard.samples) for shard in self._shards)
        """Samples of each shard."""
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> ShardItem:
        shard, located = self._at(number)
        image, labels = self._bytes(shard, located)
        return ShardItem(
            sample_of(located.key), self._decode(image, f"{shard.name}:{located.key}"), _labels(labels, shard)
        )

    def key(self, number: int) -> str:
        """The sample of a number, without reading it."""
        return sample_of(self._at(number)[1].key)

    def _at(self, number: int) -> tuple[Shard, Located]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        shard = self._shards[place]
        return shard, shard.samples[number - int(self._starts[place])]

    def _bytes(self, shard: Shard, located: Located) -> tuple[bytes, bytes]:
        image = located.members[0]
        labels = next(member for member in located.members if member.suffix == "json")
        # They lie side by side: one read brings both.
        start = min(image.offset, labels.offset)
        end = max(image.offset + image.size, labels.offset + labels.size)
        data = self._files.read(self._store, shard.name, shard.sha256, start, end - start)
        return (
            data[image.offset - start : image.offset - start + image.size],
            data[labels.offset - start : labels.offset - start + labels.size],
        )


@dataclass(kw_only=True)
class Progress:
    """Where a run is within an epoch; the same on every rank, and plain values in a checkpoint."""

    epoch: int = 0
    done: list[Done] = field(default_factory=list)
    """Stretches of this epoch that were finished, with the number of ranks that they had."""

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {"epoch": self.epoch, "done": [[one.world_size, one.samples] for one in self.done]}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Progress:
        """From plain values."""
        return cls(epoch=int(state["epoch"]), done=[Done(int(w), int(n)) for w, n in state["done"]])


class EpochSampler(Sampler[int]):
    """The numbers that one rank reads in one epoch, from where the epoch was left."""

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 42,
        progress: Progress | None = None,
        window: int = 8,
        shuffle: bool = True,
        drop: bool = False,
    ) -> None:
        self._sizes = tuple(sizes)
        self._rank, self._world_size = rank, world_size
        self._seed, self._window = seed, window
        self._shuffle, self._drop = shuffle, drop
        self.progress = progress or Progress()

    def numbers(self) -> Places:
        """The numbers, in order."""
        whole = epoch_sequence(
            self._sizes,
            seed=self._seed,
            epoch=self.progress.epoch,
            window=self._window,
            shuffle=self._shuffle,
        )
        left = left_after(whole, self.progress.done, drop=self._drop)
        return share_of(left, self._rank, self._world_size, drop=self._drop)

    def after(self, samples: int) -> Progress:
        """Where the run is when every rank has had so many samples of this stretch."""
        if samples >= len(self):
            return Progress(epoch=self.progress.epoch + 1)
        return Progress(
            epoch=self.progress.epoch, done=[*self.progress.done, Done(self._world_size, samples)]
        )

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers().tolist())

    def __len__(self) -> int:
        return len(self.numbers())


class ShardLoader:
    """Batches of a rank, read and decoded by threads, a few batches ahead."""

    def __init__(
        self,
        dataset: ShardDataset,
        sampler: EpochSampler,
        *,
        batch_size: int,
        threads: int = 2,
        ahead: int = 4,
    ) -> None:
        self._dataset, self._sampler = dataset, sampler
        self._batch_size, self._threads, self._ahead = batch_size, threads, ahead

    def __iter__(self) -> Iterator[list[ShardItem]]:
        keep_freed_memory()
        numbers = self._sampler.numbers().tolist()
        batches = (numbers[i : i + self._batch_size] for i in range(0, len(numbers), self._batch_size))
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: deque[list[Future[ShardItem]]] = deque()
            for batch in batches:
                waiting.append([pool.submit(self._dataset.__getitem__, number) for number in batch])
                if len(waiting) > self._ahead:
                    yield [item.result() for item in waiting.popleft()]
            while waiting:
                yield [item.result() for item in waiting.popleft()]

    def __len__(self) -> int:
        return (len(self._sampler) + self._batch_size - 1) // self._batch_size


def _labels(data: bytes, shard: Shard) -> ShardLabels:
    try:
        return read_labels(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableError(shard.name, str(error), expected="labels as JSON") from None
