"""The page over a million images: its answers, and the largest contentful paint in a headless Chromium.

The lake is written directly: images (the first with pictures), eight boxes each, a finding for every
twentieth box, in two data sets. Every question is asked of a server in a process of its own, first with
nothing read yet, then again; the peer is the same page of samples by ``ORDER BY … LIMIT … OFFSET`` in
DuckDB over the same files, asked in the same run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.filled_tables import add_rows
from benchmarks.record import record
from storage.lake import Lake
from storage.object_store import ObjectStore

_BOXES = 8
_AT_ONCE = 250_000
_PICTURES = 200
_RARE = 100_000


def main() -> None:
    """Measure and print; ``--images`` sets the size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--lake", type=Path, help="Keep the lake here, and take it where it is there already."
    )
    arguments = parser.parse_args()
    folder = arguments.lake or Path(tempfile.mkdtemp(prefix="dropmill-page-"))
    began = time.perf_counter()
    if not (folder / "lake").is_dir():
        fill(folder, arguments.images)
    print(f"the lake is there after {time.perf_counter() - began:.0f} s", flush=True)
    cache = Path(tempfile.mkdtemp(prefix="dropmill-cache-"))
    try:
        with _Served(folder / "lake", cache) as served:
            rows = _answers(served, folder / "lake", arguments.images, arguments.repeats)
            paints = _paints(served, arguments.repeats)
        with _Served(folder / "lake", cache) as served:
            row, _ = _asked(served, "data sets after a restart", "datasets", {}, 1)
            rows.append(row)
        record(
            "page",
            rows + paints,
            packages=["duckdb", "deltalake", "polars", "fastapi"],
            notes={"images": arguments.images, "annotations": arguments.images * _BOXES},
        )
    finally:
        shutil.rmtree(cache)
        if not arguments.lake:
            shutil.rmtree(folder)


def fill(folder: Path, images: int) -> None:
    """Write the lake, and the pictures of its first images."""
    lake = Lake.create(folder / "lake")
    pictures = folder / "bucket"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    store = ObjectStore.at(pictures)
    found: dict[str, tuple[str, int]] = {}
    for number in range(_PICTURES):
        noise = rng.integers(0, 255, (15, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480)).save(pictures / f"{number:08}.jpg", quality=85)
        info = store.head(f"{number:08}.jpg")
        assert info is not None
        found[f"{number:08}"] = (info.version, info.size_bytes)
    for batch, first in enumerate(range(0, images, _AT_ONCE), start=1):
        _add_batch(
            lake, store.url, rng, batch, np.arange(first, min(first + _AT_ONCE, images)), images, found
        )


def _add_batch(
    lake: Lake,
    bucket: str,
    rng: Any,
    batch: int,
    numbers: Any,
    images: int,
    pictures: dict[str, tuple[str, int]],
) -> None:
    names = np.char.mod("%08d", numbers)
    count = len(names)
    dataset = np.where(numbers < images // 2, "road", "street")
    known = [pictures.get(name, ("1", 100_000)) for name in names] if batch == 1 else None
    now = datetime(2026, 1, 1, tzinfo=UTC)
    add_rows(lake, "images", count, {
        "dataset": dataset, "sample": names, "stem": names, "key": np.char.add(names, ".jpg"),
        "uri": np.char.add(np.char.add(bucket + "/", names), ".jpg"), "format": "jpeg",
        "version": np.array([one[0] for one in known]) if known else "1",
        "size_bytes": np.array([one[1] for one in known]) if known else 100_000,
        "width": 640, "height": 480, "channels": 3, "labelled": True, "batch": batch,
        "split": np.where(numbers % 10 == 0, "val", "train"),
    })  # fmt: skip
    boxes = count * _BOXES
    stems, sets = np.repeat(names, _BOXES), np.repeat(dataset, _BOXES)
    share = 1 / np.arange(1, 41)
    classes = np.array([f"class_{number:02}" for number in range(40)])
    category = rng.choice(classes, boxes, p=share / share.sum()).astype(object)
    category[(np.repeat(numbers, _BOXES) % _RARE == _RARE - 1) & (np.arange(boxes) % _BOXES == 0)] = "rare"
    x, y = rng.uniform(0, 560, boxes).round(1), rng.uniform(0, 420, boxes).round(1)
    common = {"dataset": sets, "stem": stems, "source": np.char.add(stems, ".txt"), "batch": batch}
    common["instance"] = np.arange(boxes) % _BOXES
    made = {"category": category, "xmin": x, "ymin": y, "xmax": x + 60, "ymax": y + 40, "ignore": False}
    add_rows(
        lake, "annotations", boxes, {**common, **made, "sample": stems, "iscrowd": False, "corrected": False}
    )
    corners = pa.array(np.tile([1.0, 2.0, 3.0, 4.0], boxes))
    bbox = pa.ListArray.from_arrays(pa.array(np.arange(0, 4 * boxes + 1, 4), pa.int32()), corners)
    add_rows(
        lake, "labels", boxes, {**common, "ref": stems, "category": category, "bbox": bbox, "format": "kitti"}
    )
    some = np.sort(rng.choice(boxes, boxes // 20, replace=False))
    add_rows(lake, "findings", len(some), {
        "dataset": sets[some], "sample": stems[some], "stem": stems[some], "source": common["source"][some],
        "instance": some % _BOXES, "rule": rng.choice(np.array(["duplicate_box", "tiny_box"]), len(some)),
        "severity": "warning", "batch": batch, "observed": "as it is",
    })  # fmt: skip
    for kind, ending in (("image", ".jpg"), ("label", ".txt")):
        add_rows(lake, "objects", count, {
            "dataset": dataset, "key": np.char.add(names, ending), "version": "1", "size_bytes": 100_000,
            "kind": kind, "state": np.where(numbers % 20_000 == 7, "quarantined", "done"), "lane": "main",
            "batch": batch, "seen_at": now,
        })  # fmt: skip
    row = {
        "lane": "main",
        "number": batch,
        "state": "done",
        "planned_at": now,
        "done_at": now,
        "images": count,
    }
    add_rows(lake, "batches", 1, row)


class _Served:
    """``dropmill page`` in a process of its own."""

    def __init__(self, lake: Path, cache: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "dropmill",
            "page",
            "--lake",
            str(lake),
            "--port",
            "0",
            "--cache",
            str(cache),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip().rstrip("/")
        assert self.url, "the page did not start"
        while True:
            try:
                self.get("now", {})
            except OSError:
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def get(self, path: str, parameters: dict[str, Any]) -> Any:
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=300) as answer:
            return json.load(answer)


def _answers(served: _Served, folder: Path, images: int, repeats: int) -> list[dict[str, object]]:
    middle = json.dumps(["street", f"{images * 3 // 4:08}", ""])
    deep = {"after": middle, "limit": 48}
    rows = []
    for name, path, parameters in (
        ("first page of the gallery", "samples", {"limit": 48}),
        ("a page from the middle", "samples", deep),
        ("a page of one split", "samples", {**deep, "split": "val"}),
        ("a page of a common class", "samples", {**deep, "category": "class_03"}),
        (
            "a page of a class of one box in 4,000",
            "samples",
            {"category": "class_39", "split": "val", "limit": 48},
        ),
        ("a page of a finding", "samples", {**deep, "rule": "tiny_box"}),
        ("a page of a class and a finding", "samples", {**deep, "rule": "tiny_box", "category": "class_07"}),
        (f"one step of the search for one image in {_RARE:,}", "samples", {"category": "rare", "limit": 48}),
        ("one sample", "sample", {"dataset": "street", "sample": f"{images * 3 // 4:08}"}),
        ("quarantine", "quarantine", {}),
        ("batches", "batches", {}),
        ("what has changed", "now", {}),
        ("data sets while they are counted", "datasets", {}),
    ):
        row, _ = _asked(served, name, path, parameters, repeats)
        rows.append(row)
    offset = _best(lambda: _by_offset(folder, images), repeats)
    rows[1] |= {
        "by OFFSET in DuckDB, ms": offset,
        "ratio": round(float(str(rows[1]["again, ms"])) / offset, 3),
    }
    began = time.perf_counter()
    counted = served.get("datasets", {"wait_s": 60})
    while counted["state"] != "current":
        counted = served.get("datasets", {"wait_s": 60})
    rows.append(
        {
            "what": "counting in the background, as the server says",
            "first, ms": round(counted["seconds"] * 1000),
        }
    )
    print(f"counted after {time.perf_counter() - began:.1f} s more", flush=True)
    row, _ = _asked(served, "data sets, counted", "datasets", {}, repeats)
    row2, found = _asked(
        served, "a rare class to the end, step by step", "samples", {"category": "rare"}, 1, whole=True
    )
    assert found == images // _RARE, found
    return [*rows, row, row2]


def _asked(
    served: _Served, name: str, path: str, parameters: dict[str, Any], repeats: int, *, whole: bool = False
) -> tuple[dict[str, object], int]:
    """Milliseconds of the first answer and the median of the next ones; the longest of all requests."""
    taken: list[float] = []
    found = 0

    def once(more: dict[str, Any]) -> Any:
        began = time.perf_counter()
        answer = served.get(path, {**parameters, **more})
        taken.append(1000 * (time.perf_counter() - began))
        return answer

    if whole:
        answer = once({})
        found += len(answer["samples"])
        while answer["next"]:
            answer = once({"after": answer["next"]})
            found += len(answer["samples"])
    else:
        for _ in range(repeats + 1):
            once({})
    row: dict[str, object] = {"what": name, "first, ms": round(taken[0]), "requests": len(taken)}
    row["again, ms"] = round(statistics.median(taken[1:]), 1) if taken[1:] else None
    row |= {"longest, ms": round(max(taken)), "by OFFSET in DuckDB, ms": None, "ratio": None}
    return row, found


def _by_offset(folder: Path, images: int) -> None:
    lake = Lake.open(folder)
    lake.sql(
        f"""SELECT dataset, sample, uri, version, width, height, split FROM images
            ORDER BY dataset, stem, sample LIMIT 48 OFFSET {images * 3 // 4}"""
    ).to_pylist()


def _best(work: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return round(1000 * statistics.median(taken), 1)


def _paints(served: _Served, repeats: int) -> list[dict[str, object]]:
    """The largest contentful paint of two views, each in a browser of its own that has nothing cached."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return [{"what": "largest contentful paint: no chromium on PATH"}]
    from tests.dropmill.browser import Browser

    rows: list[dict[str, object]] = []
    for name, place in (("data sets", "#/"), ("gallery with pictures", "#/gallery?dataset=road")):
        taken = []
        for _ in range(repeats):
            with Browser(chromium) as browser:
                browser.look(1280, 900)
                browser.call("Page.addScriptToEvaluateOnNewDocument", source=_OBSERVER)
                browser.open(f"{served.url}/{place}")
                browser.wait(_SHOWN[place[:9]])
                taken.append(float(browser.wait("globalThis.largestPaint?.at")))
        rows.append({
            "what": f"largest contentful paint, {name}", "first, ms": round(taken[0]), "requests": len(taken),
            "again, ms": round(statistics.median(taken[1:] or taken)), "longest, ms": round(max(taken)),
        })  # fmt: skip
    return rows


_OBSERVER = """new PerformanceObserver((list) => { const last = list.getEntries().at(-1);
  globalThis.largestPaint = { at: last.startTime, size: last.size }; })
  .observe({ type: 'largest-contentful-paint', buffered: true });"""
_SHOWN = {
    "#/": "document.querySelectorAll('.cards .card').length > 0",
    "#/gallery": (
        "(() => { const all = [...document.querySelectorAll('.gallery img')].slice(0, 12);"
        " return all.length === 12 && all.every((i) => i.complete && i.naturalWidth > 0); })()"
    ),
}

if __name__ == "__main__":
    main()
