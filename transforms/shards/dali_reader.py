"""Shards read by DALI's own reader: on a GPU with its decoder, or on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import ConfigError
from storage.object_store import ObjectStore
from transforms.augment.pixels import Pixels
from transforms.shards.index import dali_name, shards_of
from transforms.shards.sample import ShardLabels, read_labels


def dali_pipeline(
    folder: Path,
    *,
    batch_size: int,
    threads: int = 2,
    device: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 42,
    shuffle: bool = True,
) -> Any:
    """A DALI pipeline with the outputs ``images`` (HWC, RGB, uint8) and ``labels`` (bytes of JSON).

    ``device`` is a GPU, None the CPU. The order is DALI's own: shuffled within its buffer; ranks take equal
    parts. Raises ConfigError for what is no folder of complete webdataset shards.
    """
    dali: Any = import_module("nvidia.dali")
    fn, types = dali.fn, dali.types
    shards = list(shards_of(ObjectStore.at(folder)))
    if not shards or any(shard.format != "webdataset" for shard in shards):
        raise ConfigError(f"{folder}: no webdataset shards")
    suffixes = sorted({sample.members[0].suffix for shard in shards for sample in shard.samples})

    def build() -> Any:
        images, labels = fn.readers.webdataset(
            name="shards",
            paths=[str(folder / shard.name) for shard in shards],
            index_paths=[str(folder / dali_name(shard.name)) for shard in shards],
            ext=[";".join(suffixes), "json"],
            dtypes=[types.UINT8, types.UINT8],
            random_shuffle=shuffle,
            initial_fill=max(4 * batch_size, 64),
            shard_id=rank,
            num_shards=world_size,
            pad_last_batch=True,
            seed=seed,
        )
        pixels = fn.decoders.image(images, device="cpu" if device is None else "mixed", output_type=types.RGB)
        return pixels, labels

    define = dali.pipeline_def(batch_size=batch_size, num_threads=threads, device_id=device)
    return define(build)()


def batches(pipeline: Any, count: int) -> Iterator[list[tuple[Pixels, ShardLabels]]]:
    """``count`` batches of a pipeline on the CPU, as arrays and labels."""
    for _ in range(count):
        images, labels = pipeline.run()
        yield [(np.array(images[i]), read_labels(np.array(labels[i]).tobytes())) for i in range(len(images))]
