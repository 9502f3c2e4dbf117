"""The samples that a step learns from and is measured on: those of its execution's snapshot."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from dropmill.lake_samples import LakeSamples, read_lake_shards, read_samples
from dropmill.pipelines.step_run import StepRun
from training.samples import Sample, split_samples, without

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The samples of a run: ``train`` may be augmented, ``val`` and ``test`` never are."""

    read: LakeSamples
    train: list[Sample]
    val: list[Sample]
    test: list[Sample]


def read_data(run: StepRun, seed: int) -> Data:
    """The samples of the pinned snapshot; those to learn from are of the execution's shards, if any."""
    read = read_samples(run.lake, run.dataset, run.snapshot)
    if read.moved:
        log.warning("images have moved since the snapshot", extra={"images": len(read.moved)})
    train, val = split_samples(read.samples, seed=seed)
    test = [sample for sample in read.samples if sample.split == "test"]
    shards = run.input("shards")
    if shards is not None:
        found = read_lake_shards(run.lake, run.dataset, shards.name)
        train = without(found.samples, [*val, *test])
    run.metrics |= {"train_images": len(train), "val_images": len(val), "moved_images": len(read.moved)}
    return Data(read, train, val, test)


def ids_of(samples: Sequence[Sample]) -> list[str]:
    """The images of the lake that are in samples, augmented or not."""
    return sorted({name for sample in samples for name in (sample.made_from or (sample.id,))})
