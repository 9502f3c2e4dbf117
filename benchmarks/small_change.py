"""A change of 100 labels in a lake of a million images, beside the same change in a lake of ten thousand.

Both lakes are written as maintenance leaves them, then the label files of 100 images in a row (as an upload
brings them), and of 100 images from all over, are delivered again. Timed is what the service does with them:
plan the batch, read, parse, check, commit.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from deltalake import CommitProperties

from benchmarks.record import record
from ingest.batch import Committer
from ingest.events import DatasetRule, Event
from ingest.parse import Limits, Parsed, parse_objects
from storage import schemas
from storage.files import commit_files, write_files
from storage.lake import Lake
from storage.object_store import ObjectStore

_BOXES = 5
_CHANGED = 100
_IMAGES_AT_ONCE = 50_000
_KITTI = "{} 0.00 0 -1.58 {:.2f} {:.2f} {:.2f} {:.2f} 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"
_CLASSES = ("Car", "Van", "Pedestrian", "Cyclist", "Truck")


def main() -> None:
    """Measure and print; ``--images`` sets the size of the large lake."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dropmill-small-change-"))
    try:
        mills = {n: _Mill(folder / str(n), n) for n in (arguments.small, arguments.images)}
        rows = []
        for kind in ("in a row", "from all over"):
            seconds: dict[int, list[float]] = {n: [] for n in mills}
            # In turns, so that what else the machine does meets both alike.
            for turn in range(arguments.repeats + 1):
                for images, mill in mills.items():
                    took = mill.change(turn, spread=kind == "from all over")
                    if turn:
                        seconds[images].append(took)
            small, large = (median(seconds[n]) for n in mills)
            rows.append(
                {
                    "100 labels": kind,
                    f"{arguments.small:,} images, s": round(small, 3),
                    f"{arguments.images:,} images, s": round(large, 3),
                    "ratio": round(large / small, 2),
                }
            )
        record(
            "small_change",
            rows,
            packages=["deltalake", "pyarrow", "polars"],
            notes={"boxes_per_image": _BOXES, "repeats": arguments.repeats},
        )
    finally:
        shutil.rmtree(folder)


class _Mill:
    """A lake of ``images`` images, and a bucket that holds the label files that change."""

    def __init__(self, folder: Path, images: int) -> None:
        self._images = images
        self._bucket = folder / "drops"
        self._bucket.mkdir(parents=True)
        self._store = ObjectStore.at(self._bucket)
        self._rule = DatasetRule(bucket="drops")
        lake = Lake.create(folder / "lake")
        _fill(lake, images)
        self._committer = Committer(lake, self._parse, rule=self._rule)

    def change(self, turn: int, *, spread: bool) -> float:
        """Deliver labels again; return the seconds that the batch took."""
        rng = np.random.default_rng(turn)
        if spread:
            chosen = np.sort(rng.choice(self._images, _CHANGED, replace=False))
        else:
            chosen = np.arange(_CHANGED) + int(rng.integers(self._images - _CHANGED))
        events = [self._deliver(int(number), rng) for number in chosen]
        began = time.perf_counter()
        batch = self._committer.plan(events)
        counts = self._committer.run(batch)
        took = time.perf_counter() - began
        assert counts.labels == _CHANGED * _BOXES, counts
        assert counts.annotations == 0, counts
        return took

    def _deliver(self, number: int, rng: np.random.Generator) -> Event:
        key = f"road/label_2/{number:08}.txt"
        corners = rng.uniform(1, 300, (_BOXES, 2))
        text = "".join(_KITTI.format(_CLASSES[i], x, y, x + 40, y + 20) for i, (x, y) in enumerate(corners))
        path = self._bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        info = self._store.head(key)
        assert info is not None
        return self._committer.ledger.put_event(info, self._rule)

    def _parse(self, events: Sequence[Event]) -> Parsed:
        return parse_objects(self._store, events, self._rule, Limits())


def _fill(lake: Lake, images: int) -> None:
    """Write a lake of one batch, file by file as maintenance would have it."""
    for first in range(0, images, _IMAGES_AT_ONCE):
        numbers = np.arange(first, min(first + _IMAGES_AT_ONCE, images))
        for name, columns in _columns(numbers):
            rows = _table(name, columns, len(next(iter(columns.values()))))
            commit_files(lake.table(name), write_files(lake.store, name, rows), CommitProperties())


def _columns(numbers: npt.NDArray[np.int64]) -> Iterator[tuple[str, dict[str, Any]]]:
    stems = np.char.mod("%08d", numbers)
    each = np.repeat(stems, _BOXES)
    images = np.char.add(np.char.add("road/image_2/", stems), ".png")
    labels = np.char.add(np.char.add("road/label_2/", stems), ".txt")
    sources = np.repeat(labels, _BOXES)
    samples = np.char.add("image_2/", stems)
    refs = np.char.add("label_2/", stems)
    rng = np.random.default_rng(int(numbers[0]))
    count = len(each)
    x, y = rng.uniform(1, 300, (2, count))
    instance = np.tile(np.arange(_BOXES), len(numbers))
    category = np.tile(np.array(_CLASSES), len(numbers))
    common = {"dataset": "road", "batch": 0}
    for kind, keys in (("image", images), ("label", labels)):
        yield "objects", {
            "key": keys, **common, "version": "1", "size_bytes": 1_000, "kind": kind, "lane": "main",
            "format": "png" if kind == "image" else "kitti", "state": "done",
        }  # fmt: skip
    yield "images", {
        "stem": stems, **common, "sample": samples, "key": images, "uri": images, "version": "1",
        "size_bytes": 1_000, "width": 1242, "height": 375, "channels": 3, "bit_depth": 8, "format": "png",
        "exif_orientation": 1, "labelled": True,
    }  # fmt: skip
    yield "mentions", {
        "stem": stems, **common, "source": labels, "kind": "label", "format": "kitti", "ref": refs,
        "instances": _BOXES,
    }  # fmt: skip
    box = np.stack([x, y, x + 40, y + 20], axis=1).round(2)
    yield "labels", {
        "stem": each, **common, "source": sources, "instance": instance, "line": instance + 1,
        "format": "kitti", "ref": np.repeat(refs, _BOXES), "category": category,
        "bbox": pa.FixedSizeListArray.from_arrays(pa.array(box.ravel()), 4).cast(pa.list_(pa.float64())),
        "bbox_mode": "xyxy", "truncation": 0.0, "occlusion": 0, "ignore": False,
    }  # fmt: skip
    yield "annotations", {
        "stem": each, **common, "sample": np.repeat(samples, _BOXES), "source": sources,
        "instance": instance, "category": category, "xmin": box[:, 0], "ymin": box[:, 1],
        "xmax": box[:, 2], "ymax": box[:, 3], "truncation": 0.0, "occlusion": 0, "ignore": False,
        "corrected": False,
    }  # fmt: skip
    some = slice(None, None, 10)
    yield "findings", {
        "stem": stems[some], **common, "rule": "outside_image", "severity": "warning",
        "sample": samples[some], "source": labels[some], "instance": 0, "observed": "xmax 1250 of 1242",
    }  # fmt: skip


def _table(name: str, columns: dict[str, Any], rows: int) -> pa.Table:
    """A table of the lake's schema: scalars are repeated, what is not given is null."""
    made = {}
    for field in schemas.TABLES[name]:
        value = columns.get(field.name)
        if value is None:
            made[field.name] = pa.nulls(rows, field.type)
        elif isinstance(value, np.ndarray | pa.Array):
            made[field.name] = pa.array(value).cast(field.type)
        else:
            made[field.name] = pa.repeat(pa.scalar(value, field.type), rows)
    return pa.table(made, schema=schemas.TABLES[name])


if __name__ == "__main__":
    main()
