"""Training samples from a pinned snapshot of the lake."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl

from storage.errors import TrainingError
from storage.lake import Lake, Snapshot
from storage.object_store import ObjectStore
from training.samples import Sample

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
