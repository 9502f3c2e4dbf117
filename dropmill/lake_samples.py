"""Training samples from a pinned snapshot of the lake."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl

from storage.errors import TrainingError
from storage.lake import Lake, Snapshot
from storage.object_store import ObjectStore
from training.samples import Sample
from training.shard_samples import read_shard_samples

_LOOKS_AT_ONCE = 16


@dataclass(frozen=True)
class LakeSamples:
    """Labelled images, those without objects among them, in the order of their names."""

    samples: tuple[Sample, ...]
    moved: tuple[str, ...]
    """Left out: images that have been replaced or removed since the snapshot."""

    def categories(self) -> tuple[str, ...]:
        """The categories that have objects, most frequent first."""
        counts = Counter(
            category
            for sample in self.samples
            for category, ignore in zip(sample.categories, sample.ignore, strict=True)
            if not ignore
        )
        return tuple(sorted(counts, key=lambda name: (-counts[name], name)))


def read_samples(lake: Lake, dataset: str, snapshot: Snapshot) -> LakeSamples:
    """The labelled images of a data set with their boxes, as the tables were at ``snapshot``.

    The pixels are read from the bucket, which has no versions on a disk: an image that is no longer the one
    that the snapshot speaks of is left out. Raises TrainingError where nothing is left.
    """
    versions = {name: snapshot[name] for name in ("images", "annotations")}
    images = lake.sql(
        """SELECT sample, uri, version, width, height, split FROM images
           WHERE dataset = $1 AND labelled ORDER BY sample""",
        parameters=[dataset],
        versions=versions,
    ).to_pylist()
    boxes = lake.sql(
        """SELECT sample, category, ignore, xmin, ymin, xmax, ymax, segmentation FROM annotations
           WHERE dataset = $1 ORDER BY sample, source, instance""",
        parameters=[dataset],
        versions=versions,
    ).polars()
    by_sample = {str(key[0]): frame for key, frame in boxes.partition_by("sample", as_dict=True).items()}
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        here = list(pool.map(_is_here, [(row["uri"], row["version"]) for row in images]))
    samples = tuple(
        sample_of(row, by_sample.get(row["sample"], boxes.clear()))
        for row, present in zip(images, here, strict=True)
        if present
    )
    moved = tuple(row["sample"] for row, present in zip(images, here, strict=True) if not present)
    if not samples:
        raise TrainingError(
            f"{lake.url}: data set {dataset!r} has no labelled image to train on "
            f"({len(moved)} were moved or removed)"
        )
    return LakeSamples(samples, moved)


@dataclass(frozen=True)
class LakeShards:
    """Samples of shards that were made from a data set, with the run that made them."""

    run: str
    uri: str
    """Folder or URL of the shards."""
    snapshot: Snapshot
    """Versions of the tables that they were made from."""
    samples: tuple[Sample, ...]


def read_lake_shards(lake: Lake, dataset: str, run: str | None = None) -> LakeShards:
    """The shards that a run has made from a data set; without ``run`` those of the newest one.

    Raises TrainingError where there are none, ConfigError for shards of another format than webdataset.
    """
    rows = lake.sql(
        """SELECT run, uri, snapshot FROM shards
           WHERE dataset = $1 AND ($2 IS NULL OR run = $2) ORDER BY made_at DESC, run, uri LIMIT 1""",
        parameters=[dataset, run],
    ).to_pylist()
    if not rows:
        of = f" of run {run!r}" if run else ""
        raise TrainingError(
            f"{lake.url}: no shards{of} of data set {dataset!r}; `dropmill dataset augmentation` with --lake "
            "makes some"
        )
    folder = rows[0]["uri"].rpartition("/")[0]
    return LakeShards(
        run=rows[0]["run"],
        uri=folder,
        snapshot=json.loads(rows[0]["snapshot"]),
        samples=tuple(read_shard_samples(folder, options=lake.store.options)),
    )


def _is_here(image: tuple[str, str]) -> bool:
    uri, version = image
    folder, _, name = uri.rpartition("/")
    # The address is spelt as its store spells it, so it is taken as it is.
    info = ObjectStore(folder).head(name)
    return info is not None and info.version == version


def sample_of(row: dict[str, object], boxes: pl.DataFrame) -> Sample:
    """A sample of a row of ``images`` and its rows of ``annotations``."""
    # Without corrections a box may be anything; what has no area within the image cannot be learnt.
    sound = boxes.filter(
        pl.all_horizontal(pl.col(name).is_finite() for name in ("xmin", "ymin", "xmax", "ymax"))
        & (pl.col("xmax") > pl.col("xmin"))
        & (pl.col("ymax") > pl.col("ymin"))
    )
    return Sample(
        id=str(row["sample"]),
        uri=str(row["uri"]),
        width=int(str(row["width"])),
        height=int(str(row["height"])),
        split=None if row["split"] is None else str(row["split"]),
        boxes=sound.select("xmin", "ymin", "xmax", "ymax").to_numpy().astype(np.float64).reshape(-1, 4),
        categories=tuple(sound["category"].to_list()),
        ignore=sound["ignore"].fill_null(value=False).to_numpy().astype(bool),
        shapes=tuple(sound["segmentation"].to_list()) if sound["segmentation"].count() else (),
    )
