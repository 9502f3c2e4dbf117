"""A COCO file that names 100,000 images, half of which arrive later: what each slice of them costs.

The file is delivered alone; its labels wait. Then images come, in slices of growing size in the order of
their names, and at last some from all over. Timed is what the service does with a slice: plan, read, join
with what waits, check, commit. The peer is pycocotools loading the file, which is what each slice costs where
nothing is kept of the file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from benchmarks.record import record
from ingest.batch import Committer
from ingest.events import DatasetRule, Event
from ingest.parse import Limits, Parsed, parse_objects
from ingest.reconcile import cut
from storage.lake import Lake
from storage.object_store import ObjectStore

_BOXES = 3
_BATCH = 5_000


def main() -> None:
    """Measure and print; ``--images`` sets how many the file names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    images = parser.parse_args().images
    folder = Path(tempfile.mkdtemp(prefix="dropmill-late-"))
    try:
        mill = _Mill(folder)
        numbers = list(range(images))
        late = np.random.default_rng(0).choice(np.arange(images // 2, images), 100, replace=False).tolist()
        first, second = images // 1_000, images // 100
        slices = [
            ("in a row", numbers[:first]),
            ("in a row", numbers[first : first + second]),
            ("in a row", numbers[first + second : images // 2 - len(late)]),
            ("from all over", late),
        ]
        rows = [{"what comes": "the file", "objects": 1, "seconds": mill.deliver_labels(images)}]
        peer = _load(mill.labels)
        for how, part in slices:
            took = mill.deliver_images(part)
            rows.append({"what comes": f"images {how}", "objects": len(part), "seconds": took})
        mill.check(images, sum(len(part) for _, part in slices))
        for row in rows:
            row["ms an object"] = round(1_000 * row["seconds"] / row["objects"], 2)
            row["beside loading the file"] = f"{row['seconds'] / peer:.2f}x"
            row["seconds"] = round(row["seconds"], 2)
        size = round(mill.labels.stat().st_size / 1e6, 1)
        notes = {"images": images, "boxes": images * _BOXES, "file_mb": size, "pycocotools_s": round(peer, 2)}
    finally:
        shutil.rmtree(folder)
    record("late_images", rows, packages=["deltalake", "polars", "pycocotools"], notes=notes)


class _Mill:
    """A bucket with one data set, and the committer that takes what comes."""

    def __init__(self, folder: Path) -> None:
        self._bucket = folder / "drops"
        (self._bucket / "set" / "images").mkdir(parents=True)
        self.labels = self._bucket / "set" / "instances.json"
        self._store = ObjectStore.at(self._bucket)
        self._rule = DatasetRule(bucket="drops")
        self._lake = Lake.create(folder / "lake")
        self._committer = Committer(self._lake, self._parse, rule=self._rule)
        picture = io.BytesIO()
        Image.new("RGB", (64, 48)).save(picture, "PNG")
        self._picture = picture.getvalue()

    def deliver_labels(self, images: int) -> float:
        """Drop the file that names so many images; seconds until it is in the tables."""
        rng = np.random.default_rng(0)
        content = {
            "images": [
                {"id": i, "file_name": f"{i:08}.png", "width": 64, "height": 48} for i in range(images)
            ],
            "annotations": [
                {"id": i, "image_id": i // _BOXES, "category_id": 1, "bbox": [x, y, 8, 6], "iscrowd": 0}
                for i, (x, y) in enumerate(rng.integers(1, 40, (images * _BOXES, 2)).tolist())
            ],
            "categories": [{"id": 1, "name": "car"}],
        }
        self.labels.write_text(json.dumps(content))
        return self._commit(["set/instances.json"])

    def deliver_images(self, numbers: Sequence[int]) -> float:
        """Drop images; seconds until they are in the tables with their boxes."""
        keys = [f"set/images/{number:08}.png" for number in numbers]
        for key in keys:
            (self._bucket / key).write_bytes(self._picture)
        return self._commit(keys)

    def check(self, named: int, came: int) -> None:
        """Boxes of what came are there, and what did not come waits."""
        found = self._lake.sql("SELECT (SELECT count(*) FROM annotations), (SELECT count(*) FROM labels)")
        assert list(found.to_pylist()[0].values()) == [came * _BOXES, named * _BOXES], found.to_pylist()

    def _commit(self, keys: Sequence[str]) -> float:
        events = [self._event(key) for key in keys]
        began = time.perf_counter()
        for batch in cut(events, _BATCH):
            self._committer.run(self._committer.plan(batch))
        return time.perf_counter() - began

    def _event(self, key: str) -> Event:
        info = self._store.head(key)
        assert info is not None
        return self._committer.ledger.put_event(info, self._rule)

    def _parse(self, events: Sequence[Event]) -> Parsed:
        return parse_objects(self._store, events, self._rule, Limits())


def _load(file: Path) -> float:
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        COCO(str(file))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
