"""The stage of the lake that augments: a snapshot of a data set to shards, with rows that say from what."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from dropmill.augmentation import actors_of, repeat_factors_of
from storage import schemas
from storage.errors import ConfigError, StoreError, SupersededError
from storage.lake import Lake, Snapshot
from storage.object_store import ObjectStore
from transforms.augment.balance import count_objects, imbalance
from transforms.augment.executor import carry_out
from transforms.augment.generate import settings_of, work_of
from transforms.augment.into_shards import plans_into_shards
from transforms.augment.sample import LabelledImage, Objects, no_objects, objects_of
from transforms.augment.spec import AugmentSpec

log = logging.getLogger(__name__)

TABLES = ("images", "annotations", "masks")
"""What augmented shards are made from."""


@dataclass(frozen=True, kw_only=True)
class AugmentedSet:
    """What was written: the run's name, its folder, and counts."""

    run: str
    uri: str
    shards: int
    written: int
    samples: int
    failed: dict[str, str]
    before: dict[str, int]
    after: dict[str, int]


def augment_lake(
    lake: Lake,
    dataset: str,
    spec: AugmentSpec,
    *,
    snapshot: Snapshot | None = None,
    split: str | None = None,
    only: frozenset[str] | None = None,
    run: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> AugmentedSet:
    """Augment a data set, as it is at ``snapshot``, into ``artifacts/shards/<run>`` of the lake.

    The run's name follows from the data set, the versions of its tables and the spec: the same again finds
    its shards and writes only what is missing. Rows go to ``shards`` and ``runs`` when all shards are there.
    ``split`` takes only the images of one split, ``only`` those of these ids. ``run`` is a row of ``runs``
    that its caller writes. Raises ConfigError where there is no labelled image.
    """
    versions = {name: (snapshot or lake.snapshot())[name] for name in TABLES}
    images, sizes = read_labelled(lake, dataset, versions, split)
    images = tuple(image for image in images if only is None or image.sample in only)
    if not images:
        of = f" of split {split!r}" if split else ""
        raise ConfigError(f"{lake.url}: data set {dataset!r} has no labelled image{of} to augment")
    # Where results go, and who works on them, changes none of them.
    parameters = spec.model_dump(
        mode="json", exclude={"results_dir", "workers", "actors"}, exclude_defaults=True
    )
    said = json.dumps({"parameters": parameters, "split": split}, sort_keys=True)
    mine = run is None
    run = run or f"{dataset}-augment-{hashlib.sha256(f'{versions}{said}'.encode()).hexdigest()[:12]}"
    started = datetime.now(UTC)
    if mine:
        _put_run(lake, run, dataset, versions, said, state="submitted", started=started, images=len(images))
    work = work_of(spec, None, images, repeat_factors_of(images))
    every = len(work.plans)
    actors = actors_of(spec)
    if actors:
        from dropmill.augmentation_actors import spread_over

        spread = spread_over(actors, read_object)
    else:

        def spread(plans: Any, known: Any, how: Any) -> Any:
            return carry_out(plans, known, read_object, how)

    store = lake.artifacts.below("shards", run)
    report = plans_into_shards(
        spec,
        work,
        store,
        spread,
        settings_of(spec),
        sizes=sizes,
        made_from={"dataset": dataset, "snapshot": versions, "run": run},
        progress=lambda done: progress(done, every),
    )
    rows = [
        {
            "dataset": dataset,
            "uri": store.uri(shard.name),
            "samples": shard.samples,
            "size_bytes": shard.size_bytes,
            "sha256": shard.sha256,
            "run": run,
            "made_at": datetime.now(UTC),
            "format": report.index.format,
            "objects": json.dumps(shard.objects),
            "snapshot": json.dumps(versions),
            "parameters": said,
        }
        for shard in report.index.shards
    ]
    lake.put("shards", pa.Table.from_pylist(rows, schema=schemas.SHARDS), keys=["uri"])
    after = count_objects(work.placed)
    samples = sum(shard.samples for shard in report.index.shards)
    metrics = {
        "samples": samples,
        "shards": len(rows),
        "failed": len(report.failed),
        "imbalance_before": imbalance(work.before),
        "imbalance_after": imbalance(after),
    }
    if mine:
        _put_run(
            lake, run, dataset, versions, said, state="succeeded", started=started, images=len(images),
            metrics=metrics, outputs={"shards": store.url}, failed=report.failed,
        )  # fmt: skip
    return AugmentedSet(
        run=run,
        uri=store.url,
        shards=len(rows),
        written=report.written,
        samples=samples,
        failed=report.failed,
        before=work.before,
        after=after,
    )


def read_labelled(
    lake: Lake, dataset: str, versions: Snapshot, split: str | None = None
) -> tuple[tuple[LabelledImage, ...], dict[str, int]]:
    """The labelled images of a data set with their objects and masks, and their bytes by sample.

    A mask that the label has stands before one that a model has made of the same box; of those the best
    scored counts.
    """
    images = lake.sql(
        """SELECT sample, key, uri, version, size_bytes, width, height, split FROM images
           WHERE dataset = $1 AND labelled AND ($2 IS NULL OR split = $2) ORDER BY sample""",
        parameters=[dataset, split],
        versions={"images": versions["images"]},
    ).to_pylist()
    boxes = lake.sql(
        """WITH best AS (SELECT source, instance, xmin, ymin, xmax, ymax,
                                arg_max(rle, coalesce(score, 0)) AS rle
                         FROM masks WHERE dataset = $1 GROUP BY ALL)
           SELECT sample, category, ignore OR iscrowd AS ignore, xmin, ymin, xmax, ymax,
                  coalesce(nullif(segmentation, '[]'), rle) AS segmentation
           FROM annotations LEFT JOIN best USING (source, instance, xmin, ymin, xmax, ymax)
           WHERE dataset = $1 AND isfinite(xmin) AND isfinite(ymin) AND xmax > xmin AND ymax > ymin
           ORDER BY sample, source, instance""",
        parameters=[dataset],
        versions={name: versions[name] for name in ("annotations", "masks")},
    ).polars()
    by_sample = {str(key[0]): frame for key, frame in boxes.partition_by("sample", as_dict=True).items()}
    found = tuple(
        LabelledImage(
            sample=row["sample"],
            name=f"{row['sample']}{_suffix(row['key'])}",
            uri=f"{row['uri']}#{row['version']}",
            version=row["version"],
            width=row["width"],
            height=row["height"],
            objects=_objects(by_sample.get(row["sample"])),
            split=row["split"],
        )
        for row in images
    )
    return found, {row["sample"]: row["size_bytes"] for row in images}


def read_object(address: str) -> bytes:
    """The bytes of an image at the version that the snapshot speaks of: ``<uri>#<version>``.

    Raises SupersededError where it has been replaced since, StoreError where it is gone.
    """
    uri, _, version = address.rpartition("#")
    folder, _, name = uri.rpartition("/")
    store = ObjectStore(folder)
    info = store.head(name)
    if info is None:
        raise StoreError(f"{uri}: it is not there any more")
    if info.version != version:
        raise SupersededError(f"{uri}: it has been replaced since the snapshot")
    with store.open(name, info) as file:
        return file.read()


def _objects(frame: pl.DataFrame | None) -> Objects:
    if frame is None:
        return no_objects()
    return objects_of(
        frame.select("xmin", "ymin", "xmax", "ymax").to_numpy(),
        frame["category"].fill_null("").to_list(),
        frame["ignore"].fill_null(value=False).to_list(),
        list(range(frame.height)),
        frame["segmentation"].to_list(),
    )


def _suffix(key: str) -> str:
    stem, point, suffix = key.rpartition(".")
    return f".{suffix}" if point and stem and "/" not in suffix else ""


def _put_run(
    lake: Lake,
    run: str,
    dataset: str,
    versions: Snapshot,
    parameters: str,
    *,
    state: str,
    started: datetime,
    images: int,
    metrics: dict[str, Any] | None = None,
    outputs: dict[str, str] | None = None,
    failed: dict[str, str] | None = None,
) -> None:
    error = None
    if failed:
        first = next(iter(failed.items()))
        error = f"{len(failed)} outputs were not made; {first[0]}: {first[1]}"
    row = {
        "run": run,
        "pipeline": "augmentation",
        "step": "augment",
        "dataset": dataset,
        "state": state,
        "snapshot": json.dumps(versions),
        "parameters": parameters,
        "metrics": json.dumps(metrics or {}),
        "outputs": json.dumps(outputs or {}),
        "labelled_images": images,
        "error": error,
        "submitted_at": started,
        "ended_at": datetime.now(UTC) if state == "succeeded" else None,
    }
    lake.put("runs", pa.Table.from_pylist([row], schema=schemas.RUNS), keys=["run"])
