"""Masks for the boxes of a lake: what changed is labelled by actors on Ray Data, and committed in slices.

1. Boxes without a mask of this model's version, and masks whose box, image or annotation has changed.
2. Actors hold the model; they are given images with their boxes, and decode each image once.
3. A slice of the images that are done is one commit of findings and one of masks.

Whatever ends the stage, what is committed stays, and the next call goes on with the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa

from dropmill.masks_actors import stream
from dropmill.masks_config import MasksConfig
from dropmill.masks_work import DONE, IMAGES, RULES
from storage import schemas
from storage.errors import CommitConflictError
from storage.lake import Lake, LaneCommit, Snapshot

log = logging.getLogger(__name__)

_LANE = "masks"
_IMAGES_A_COMMIT = 2_000
_IMAGES_A_SLICE = 50_000
_COMMIT_TRIES = 8
_STEM = "/masks"
"""Findings of masks stand under a stem of their own, so that no batch replaces them."""

_VALID = """
SELECT m.sample, m.source, m.instance FROM masks m
JOIN annotations a ON a.dataset = m.dataset AND a.source = m.source AND a.instance = m.instance
                  AND a.sample = m.sample
JOIN images i ON i.dataset = m.dataset AND i.sample = m.sample AND i.version = m.image_version
WHERE m.dataset = $1 AND m.model = $2 AND m.model_version = $3
  AND m.xmin = a.xmin AND m.ymin = a.ymin AND m.xmax = a.xmax AND m.ymax = a.ymax"""
_PENDING = f"""
SELECT DISTINCT a.sample FROM annotations a
WHERE a.dataset = $1 AND NOT coalesce(a.ignore AND NOT coalesce(a.iscrowd, false), false)
  AND NOT EXISTS (SELECT 1 FROM ({_VALID}) v
                  WHERE v.sample = a.sample AND v.source = a.source AND v.instance = a.instance)
UNION
SELECT DISTINCT m.sample FROM masks m
WHERE m.dataset = $1 AND m.model = $2 AND m.model_version = $3
  AND NOT EXISTS (SELECT 1 FROM ({_VALID}) v
                  WHERE v.sample = m.sample AND v.source = m.source AND v.instance = m.instance)
UNION
SELECT DISTINCT f.sample FROM findings f
WHERE f.dataset = $1 AND f.stem = '{_STEM}'
  AND NOT EXISTS (SELECT 1 FROM annotations a WHERE a.dataset = f.dataset AND a.sample = f.sample
                  AND a.source = f.source AND a.instance = f.instance)
ORDER BY 1"""
_WANTED = f"""
SELECT a.sample, i.uri, i.version, a.source, a.instance, a.category, coalesce(a.iscrowd, false) AS crowd,
       [a.xmin, a.ymin, a.xmax, a.ymax] AS box
FROM annotations a JOIN images i ON i.dataset = a.dataset AND i.sample = a.sample
WHERE a.dataset = $1 AND list_contains($4, a.sample)
  AND NOT coalesce(a.ignore AND NOT coalesce(a.iscrowd, false), false)
  AND NOT EXISTS (SELECT 1 FROM ({_VALID}) v
                  WHERE v.sample = a.sample AND v.source = a.source AND v.instance = a.instance)
ORDER BY a.sample, a.source, a.instance"""
_KEPT = f"""
SELECT m.* FROM masks m SEMI JOIN ({_VALID}) v USING (sample, source, instance)
WHERE m.dataset = $1 AND m.model = $2 AND m.model_version = $3 AND list_contains($4, m.sample)"""


@dataclass(frozen=True, kw_only=True)
class Masked:
    """What a call did: images looked at, masks made, boxes that could have none, and by which model."""

    images: int
    masks: int
    without_mask: int
    model: str
    model_version: str


def mask_lake(
    lake: Lake,
    dataset: str,
    config: MasksConfig,
    *,
    run: str | None = None,
    use_gpu: bool = False,
    versions: Snapshot | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Masked:
    """Give every box of a data set a mask of this model's version; Ray is connected already.

    Regions to be ignored get none; crowds, boxes without area in their image, and images that are gone or
    unreadable become findings. ``versions`` of ``annotations`` and ``images`` say which boxes; without them
    the newest. ``progress`` is told images done and all. Raises ConfigError or TrainingError
    for a model that cannot be loaded.
    """
    labeler = config.labeler(use_gpu=use_gpu)
    model, version = labeler.name, labeler.version
    del labeler
    pinned = {name: versions[name] for name in ("annotations", "images")} if versions else None
    pending = _pending(lake, dataset, model, version, pinned)
    masks = without = done = 0
    for first in range(0, len(pending), _IMAGES_A_SLICE):
        samples = pending[first : first + _IMAGES_A_SLICE]
        images = _wanted(lake, dataset, model, version, samples, pinned)
        for names, rows in _labelled(images, samples, config, use_gpu=use_gpu):
            kept = _commit(lake, dataset, model, version, names, rows, run, pinned)
            made = rows.num_rows - rows["rle"].null_count
            masks, without, done = masks + made, without + rows.num_rows - made, done + len(names)
            log.info(
                "masks committed",
                extra={"dataset": dataset, "images": len(names), "masks": made, "kept": kept, "done": done},
            )
            if progress is not None:
                progress(done, len(pending))
    return Masked(images=done, masks=masks, without_mask=without, model=model, model_version=version)


def _pending(lake: Lake, dataset: str, model: str, version: str, pinned: Snapshot | None) -> list[str]:
    """The samples that have something to do, in the order of their names."""
    found = lake.sql(_PENDING, parameters=[dataset, model, version], versions=pinned).arrow()
    return [str(name) for name in found["sample"].to_pylist() if name is not None]


def _wanted(
    lake: Lake, dataset: str, model: str, version: str, samples: list[str], pinned: Snapshot | None
) -> pa.Table:
    """One row for each image of ``samples`` that has boxes without a mask."""
    boxes = lake.sql(_WANTED, parameters=[dataset, model, version, samples], versions=pinned).polars()
    grouped = boxes.group_by("sample", "uri", "version", maintain_order=True).agg(
        pl.col("source").alias("sources"),
        pl.col("instance").alias("instances"),
        pl.col("category").alias("categories"),
        pl.col("crowd").alias("crowds"),
        pl.col("box").alias("boxes"),
    )
    return grouped.to_arrow().cast(IMAGES)


def _labelled(
    images: pa.Table, samples: list[str], config: MasksConfig, *, use_gpu: bool
) -> Iterator[tuple[list[str], pa.Table]]:
    """Samples that are done, with the rows of their boxes, a commit's worth at a time.

    Samples without any box to label (theirs were removed) are done at once.
    """
    todo = set(images["sample"].to_pylist())
    names: list[str] = [name for name in samples if name not in todo]
    parts = [DONE.empty_table()]
    for part in stream(images, config, use_gpu=use_gpu):
        parts.append(part)
        names += pl.Series(part["sample"]).unique(maintain_order=True).to_list()
        if len(names) >= _IMAGES_A_COMMIT:
            yield names, pa.concat_tables(parts)
            names, parts = [], [DONE.empty_table()]
    if names:
        yield names, pa.concat_tables(parts)


def _commit(
    lake: Lake,
    dataset: str,
    model: str,
    version: str,
    names: list[str],
    rows: pa.Table,
    run: str | None,
    pinned: Snapshot | None,
) -> int:
    """Put the masks and findings of ``names`` into the lake; masks that are still right stay. Returns those.

    Findings go first: after a crash between the two, the boxes have no mask and are done again.
    """
    samples = {dataset: names}
    for attempt in range(_COMMIT_TRIES):
        kept = lake.sql(_KEPT, parameters=[dataset, model, version, names], versions=pinned).arrow()
        kept = kept.select(schemas.MASKS.names).cast(schemas.MASKS)
        number = 1 + max(lake.table(name).transaction_version(_LANE) or 0 for name in ("findings", "masks"))
        commit = LaneCommit(lake, _LANE, number)
        commit.look("findings", "masks")
        try:
            commit.replace(
                "findings", _findings(dataset, rows), ("stem", {dataset: [_STEM]}), ("sample", samples)
            )
            made = _masks(dataset, rows, model, version, run)
            commit.replace(
                "masks",
                pa.concat_tables([kept, made]),
                ("model", {dataset: [model]}),
                ("model_version", {dataset: [version]}),
                ("sample", samples),
            )
            return int(kept.num_rows)
        except CommitConflictError:
            log.info("another writer was faster", extra={"attempt": attempt + 1})
            if attempt + 1 == _COMMIT_TRIES:
                raise
    raise AssertionError


def _masks(dataset: str, rows: pa.Table, model: str, version: str, run: str | None) -> pa.Table:
    frame = pl.DataFrame(rows).filter(pl.col("rle").is_not_null())
    corners = ("xmin", "ymin", "xmax", "ymax")
    return (
        frame.with_columns(
            *[pl.col("box").list.get(place).alias(name) for place, name in enumerate(corners)],
            pl.lit(dataset).alias("dataset"),
            pl.lit(model).alias("model"),
            pl.lit(version).alias("model_version"),
            pl.lit(run, pl.String).alias("run"),
            pl.lit(datetime.now(UTC)).alias("made_at"),
        )
        .select(schemas.MASKS.names)
        .to_arrow()
        .cast(schemas.MASKS)
    )


def _findings(dataset: str, rows: pa.Table) -> pa.Table:
    frame = pl.DataFrame(rows).filter(pl.col("rule").is_not_null())
    return (
        frame.with_columns(
            pl.lit(dataset).alias("dataset"),
            pl.col("rule").replace_strict(RULES, return_dtype=pl.String).alias("severity"),
            pl.lit(_STEM).alias("stem"),
            pl.lit(None, pl.Int64).alias("line"),
            pl.lit("no mask").alias("correction"),
            pl.lit(None, pl.Int64).alias("batch"),
        )
        .select(schemas.FINDINGS.names)
        .to_arrow()
        .cast(schemas.FINDINGS)
    )
