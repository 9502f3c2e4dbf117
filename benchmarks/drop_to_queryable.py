"""A folder that receives files, and how soon each is in the tables; beside a watcher that only writes names.

First 50 objects a second for half a minute, then as many pairs of image and label as were asked for at once.
The service is a process of its own, as its users run it, with Ray warm. An object is in the tables when the
last of them, ``objects``, is committed; the times of commits are those of the files of the table's log. The
peer sees the same files through the same notifications, and appends key and size to a Delta table: what no
service on Delta can do without.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import yaml
from deltalake import DeltaTable, write_deltalake
from PIL import Image

from benchmarks.record import record
from ingest.watch import DirectoryWatch
from storage.lake import Lake
from storage.object_store import ObjectStore

_RATE = 50
_KITTI = "Car 0.00 0 -1.58 {:.2f} {:.2f} {:.2f} {:.2f} 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"
_PATIENCE_S = 280.0


def main() -> None:
    """Measure and print; ``--pairs`` sets how many arrive at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--pairs", type=int, default=100_000)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dropmill-drop-"))
    try:
        rows = [
            {"service": "watcher that appends names", **_peer(folder / "peer", arguments.seconds)},
            {"service": "dropmill serve", **_service(folder / "ours", arguments.seconds, 0)},
        ]
        rows.append(
            {"service": "dropmill serve, all at once", **_service(folder / "many", 0, arguments.pairs)}
        )
    finally:
        shutil.rmtree(folder)
    base = rows[0]["p50_s"]
    for row in rows:
        row["p50 beside the peer"] = f"{row['p50_s'] / base:.1f}x" if row.get("p50_s") else None
    names = list(dict.fromkeys(name for row in rows for name in row))
    rows = [{name: row.get(name) for name in names} for row in rows]
    record("drop_to_queryable", rows, packages=["ray", "deltalake", "watchdog"], notes={"rate_per_s": _RATE})


def _service(folder: Path, seconds: int, pairs: int) -> dict[str, Any]:
    bucket = folder / "drops"
    bucket.mkdir(parents=True)
    (folder / "dropmill.yaml").write_text(yaml.safe_dump({"bucket": "drops", "lake": "lake"}))
    log = folder / "log.jsonl"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "dropmill", "serve", "-c", str(folder / "dropmill.yaml")]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        _wait(lambda: b'"serving"' in log.read_bytes(), process)
        # Workers of Ray start with the first batch.
        _drop(bucket, 0, 8)
        _wait(lambda: _known(folder / "lake") >= 16, process)
        if pairs:
            return _flood(bucket, folder / "lake", process, pairs)
        written = _drop_steadily(bucket, seconds)
        _wait(lambda: _known(folder / "lake") >= len(written) + 16, process)
        return _latencies(written, _commit_times(folder / "lake"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _flood(bucket: Path, lake: Path, process: subprocess.Popen[bytes], pairs: int) -> dict[str, Any]:
    memory: list[tuple[int, float]] = []
    began = time.monotonic()
    writer = threading.Thread(target=_drop, args=(bucket, 1_000_000, pairs))
    writer.start()
    service = psutil.Process(process.pid)
    while (known := _known(lake)) < 2 * pairs + 16:
        if process.poll() is not None or time.monotonic() - began > _PATIENCE_S:
            break
        memory.append((known, service.memory_info().rss / 1e9))
        time.sleep(0.5)
    took = time.monotonic() - began
    writer.join()
    done = (known - 16) // 2
    half = [rss for count, rss in memory if 2 * 0.25 * pairs <= count <= pairs] or [memory[0][1]]
    return {
        "pairs": done,
        "pairs_per_s": round(done / took),
        "seconds": round(took, 1),
        "rss_gb_at_half": round(max(half), 2),
        "rss_gb_at_end": round(memory[-1][1], 2),
    }


def _peer(folder: Path, seconds: int) -> dict[str, Any]:
    bucket, table = folder / "drops", str(folder / "table")
    bucket.mkdir(parents=True)
    DeltaTable.create(table, schema=pa.schema([("key", pa.string()), ("size_bytes", pa.int64())]))
    watch = DirectoryWatch(ObjectStore.at(bucket))
    watch.start()
    stop = threading.Event()
    found: dict[str, float] = {}

    def append() -> None:
        while not stop.wait(0.05):
            hints = watch.take(10_000)
            if hints:
                keys = [hint.key for hint in hints]
                sizes = [hint.info.size_bytes if hint.info else 0 for hint in hints]
                write_deltalake(table, pa.table({"key": keys, "size_bytes": sizes}), mode="append")
                found.update(dict.fromkeys(keys, time.time()))

    thread = threading.Thread(target=append)
    thread.start()
    written = _drop_steadily(bucket, seconds)
    _wait(lambda: len(found) >= len(written), None)
    stop.set()
    thread.join()
    watch.stop()
    return _latencies(written, found)


def _drop(bucket: Path, first: int, pairs: int) -> None:
    for number in range(first, first + pairs):
        for key, data in _pair(number):
            _write(bucket / key, data)


def _drop_steadily(bucket: Path, seconds: int) -> dict[str, float]:
    """Write at the rate; returns key to the time at which its file was complete."""
    written: dict[str, float] = {}
    began = time.monotonic()
    for index in range(seconds * _RATE // 2):
        for place, (key, data) in enumerate(_pair(index + 100)):
            time.sleep(max(began + (2 * index + place) / _RATE - time.monotonic(), 0))
            _write(bucket / key, data)
            written[key] = time.time()
    return written


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _png() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((320, 96)).convert("RGB").save(file, "PNG")
    return file.getvalue()


_PNG = _png()


def _pair(number: int) -> list[tuple[str, bytes]]:
    corner = number % 200
    text = "".join(_KITTI.format(corner + i, 10, corner + i + 30, 60) for i in range(5))
    name = f"road/{{}}_2/{number // 1_000:05}/{number:08}.{{}}"
    return [(name.format("image", "png"), _PNG), (name.format("label", "txt"), text.encode())]


def _known(lake: Path) -> int:
    try:
        (row,) = Lake.open(lake).sql("SELECT count(*) AS n FROM objects").to_pylist()
    except Exception:  # noqa: BLE001 - no lake yet
        return 0
    return int(row["n"])


def _commit_times(lake: Path) -> dict[str, float]:
    """Key to the moment at which the batch that brought it was in the last table."""
    times: dict[int, float] = {}
    for path in (lake / "tables" / "objects" / "_delta_log").glob("*.json"):
        for line in path.read_text().splitlines():
            info = json.loads(line).get("commitInfo", {})
            if "batch" in info:
                times[int(info["batch"])] = path.stat().st_mtime
    rows = Lake.open(lake).sql("SELECT key, min(batch) AS batch FROM objects GROUP BY key").to_pylist()
    return {row["key"]: times[row["batch"]] for row in rows if row["batch"] in times}


def _latencies(written: dict[str, float], found: dict[str, float]) -> dict[str, Any]:
    waited = np.array([found[key] - at for key, at in written.items()])
    p50, p99 = np.percentile(waited, [50, 99])
    return {
        "objects": len(waited),
        "p50_s": round(float(p50), 3),
        "p99_s": round(float(p99), 3),
        "worst_s": round(float(waited.max()), 3),
    }


def _wait(so: Callable[[], bool], process: subprocess.Popen[bytes] | None) -> None:
    began = time.monotonic()
    while not so():
        if (process and process.poll() is not None) or time.monotonic() - began > 120:
            raise RuntimeError("the service does not get on")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
