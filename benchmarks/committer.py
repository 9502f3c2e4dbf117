"""Where the one committer of a lane saturates: its time per batch and per object, and a queue made of that.

Measured: batches of several sizes through parsing and committing on a disk, what they cost beside a bare
append of the same annotations to one Delta table, and how many requests a batch makes to an object store.
Simulated, from these: how long an object waits until its rows can be queried, at growing rates of arrival.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.transaction import AddAction
from PIL import Image

from benchmarks.record import record
from ingest.batch import Committer
from ingest.events import DatasetRule, Event
from ingest.parse import Limits, Parsed, parse_objects
from storage.errors import CommitConflictError
from storage.lake import Lake
from storage.layout import LAYOUTS, may_hold
from storage.object_store import ObjectStore

_BOXES = 5
_ROWS = LAYOUTS["annotations"].rows_per_file
_PARSERS = (1, 2, 8, 32)
_LINE = "Car 0.00 0 -1.58 {:.2f} {:.2f} {:.2f} {:.2f} 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"


def main() -> None:
    """Measure, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="*", default=[1, 10, 100, 1_000])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dropmill-committer-"))
    try:
        mill = _Mill(folder)
        mill.batch(arguments.pairs[-1])  # what the first use of things takes is not counted
        measured = [_measure(mill, pairs, arguments.repeats) for pairs in arguments.pairs]
        size = _sizes(folder / "lake", mill.pairs)
        lanes = [_lanes(folder / f"{count} lanes", count) for count in (1, 2)]
        logs = [_log(folder / f"{files} files", files) for files in (1_000, 10_000, 100_000)]
    finally:
        shutil.rmtree(folder)
    cost = fit(measured)
    parse_s = measured[-1]["parse, ms an object"] / 1_000
    requests = _requests(arguments.pairs[-2])
    rates = (10, 30, 100, 300, 1_000, 3_000, 10_000)
    queue = [{"objects a second": rate, **_lags(rate, cost, parse_s)} for rate in rates]
    store = [_on_store(cost, parse_s, requests, latency_ms) for latency_ms in (0, 5, 10, 20, 50)]
    record(
        "committer",
        measured,
        packages=["deltalake", "polars", "pyarrow"],
        notes={
            "fixed_s": round(cost.fixed_s, 4),
            "per_object_s": round(cost.object_s, 6),
            "parse_per_object_s": round(parse_s, 6),
            "saturates_at_objects_a_second": {
                str(n): round(1 / (cost.object_s + parse_s / n + cost.fixed_s / 2_000)) for n in _PARSERS
            },
            "requests_of_a_batch": requests,
            "lake_bytes_an_image": size,
            "lanes_on_one_lake": lanes,
            "files_of_a_table": logs,
            "simulated": queue,
            "simulated_on_a_store": store,
        },
    )
    for found in (*queue, *store, *lanes, *logs, requests, size):
        print(found)


def _lags(rate: float, cost: Cost, parse_s: float) -> dict[str, float | str]:
    found = {}
    for parsers in _PARSERS:
        lag = simulate(rate, cost, parse_s, parsers)[1]
        found[f"{parsers} parsing CPUs: p99, s"] = lag if np.isfinite(lag) else "grows without end"
    return found


def _on_store(
    cost: Cost, parse_s: float, requests: dict[str, int], latency_ms: float
) -> dict[str, float | str]:
    """The same where each request of a commit waits for the one before it: the worst case."""
    count = sum(number for kind, number in requests.items() if kind != "objects")
    slower = Cost(cost.fixed_s + count * latency_ms / 1_000, cost.object_s)
    lag = simulate(100, slower, parse_s, 8)[1]
    return {
        "ms a request": latency_ms,
        "saturates at objects a second": round(1 / (slower.fixed_s / 2_000 + slower.object_s + parse_s / 8)),
        "p99 at 100 objects a second, s": lag if np.isfinite(lag) else "grows without end",
    }


@dataclass(frozen=True)
class Cost:
    """What the committer needs for a batch: seconds of its own, and seconds for each object."""

    fixed_s: float
    object_s: float


def fit(measured: Sequence[dict[str, Any]]) -> Cost:
    """The line through the measured batches, by relative least squares."""
    objects = np.array([2.0 * row["pairs"] for row in measured])
    seconds = np.array([row["commit, s"] for row in measured])
    terms = np.stack([np.ones_like(objects), objects], axis=1) / seconds[:, None]
    fixed, each = np.linalg.lstsq(terms, np.ones_like(seconds), rcond=None)[0]
    return Cost(max(float(fixed), 0.0), max(float(each), 0.0))


def simulate(
    rate: float,
    cost: Cost,
    parse_s: float,
    parsers: int,
    *,
    batch_objects: int = 2_000,
    duration_s: float = 600.0,
    seed: int = 0,
) -> tuple[float, float]:
    """Median and 99th percentile of the seconds from arrival to commit, at ``rate`` objects a second.

    Arrivals are a Poisson process. The committer takes what waits, at most ``batch_objects``, has it parsed
    by ``parsers`` CPUs and commits it; then it takes the next. Infinite where the last tenth of the arrivals
    waits more than half as long again as the tenth in the middle: then the queue grows without end.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, int(rate * duration_s)))
    done = np.empty_like(arrivals)
    now, first = 0.0, 0
    while first < len(arrivals):
        now = max(now, arrivals[first])
        last = min(int(np.searchsorted(arrivals, now, side="right")), first + batch_objects)
        now += cost.fixed_s + (last - first) * (cost.object_s + parse_s / min(parsers, last - first))
        done[first:last] = now
        first = last
    lag = done - arrivals
    middle, end = (lag[int(len(lag) * a) : int(len(lag) * b)].mean() for a, b in ((0.45, 0.55), (0.9, 1.0)))
    if end > 1.5 * middle and end > 5:
        return float("inf"), float("inf")
    return round(float(np.median(lag)), 2), round(float(np.percentile(lag, 99)), 2)


class _Mill:
    """A bucket that gets images with labels, and the committer that takes them."""

    def __init__(self, folder: Path, *, lake: Path | Lake | None = None, lane: str = "main") -> None:
        self._bucket = folder / "drops"
        for name in ("images", "labels"):
            (self._bucket / "road" / name).mkdir(parents=True)
        self._store = ObjectStore.at(self._bucket)
        self._rule = DatasetRule(bucket="drops", name=lane)
        self.lake = lake if isinstance(lake, Lake) else Lake.create(lake or folder / "lake")
        self._committer = Committer(self.lake, self._parse, rule=self._rule, lane=lane)
        self._peer = folder / "peer"
        self.pairs = 0
        self.parse_s = 0.0
        picture = io.BytesIO()
        Image.new("RGB", (1242, 375)).save(picture, "PNG")
        self._picture = picture.getvalue()
        self._rng = np.random.default_rng(0)

    def batch(self, pairs: int) -> tuple[float, float, float]:
        """Drop so many pairs and commit them: seconds of parsing, of all else, and of the bare append."""
        events = self.drop(pairs)
        self.parse_s = 0.0
        began = time.perf_counter()
        number = self.commit(events)
        took = time.perf_counter() - began
        rows = self.lake.sql("SELECT * FROM annotations WHERE batch = $1", parameters=[number]).arrow()
        assert rows.num_rows == pairs * _BOXES
        began = time.perf_counter()
        write_deltalake(self._peer, rows, mode="append")
        return self.parse_s, took - self.parse_s, time.perf_counter() - began

    def commit(self, events: Sequence[Event]) -> int:
        """Plan a batch and run it; its number."""
        batch = self._committer.plan(events)
        self._committer.run(batch)
        return batch.number

    def drop(self, pairs: int) -> list[Event]:
        """Write so many images with labels."""
        return [event for _ in range(pairs) for event in self._drop()]

    def _drop(self) -> list[Event]:
        corners = self._rng.uniform(1, 300, (_BOXES, 2))
        text = "".join(_LINE.format(x, y, x + 40, y + 20) for x, y in corners)
        name = f"{self.pairs:08}"
        self.pairs += 1
        events = []
        for key, data in ((f"images/{name}.png", self._picture), (f"labels/{name}.txt", text.encode())):
            (self._bucket / "road" / key).write_bytes(data)
            info = self._store.head(f"road/{key}")
            assert info is not None
            events.append(self._committer.ledger.put_event(info, self._rule))
        return events

    def _parse(self, events: Sequence[Event]) -> Parsed:
        began = time.perf_counter()
        parsed = parse_objects(self._store, events, self._rule, Limits())
        self.parse_s += time.perf_counter() - began
        return parsed


def _measure(mill: _Mill, pairs: int, repeats: int) -> dict[str, Any]:
    parse, commit, append = (
        median(values) for values in zip(*(mill.batch(pairs) for _ in range(repeats)), strict=True)
    )
    return {
        "pairs": pairs,
        "parse, ms an object": round(parse / pairs / 2 * 1_000, 3),
        "commit, s": round(commit, 4),
        "bare append of the annotations, s": round(append, 4),
        "times a bare append": round(commit / append, 1),
        "objects a second": round(2 * pairs / (parse + commit)),
    }


def _sizes(lake: Path, pairs: int) -> dict[str, float]:
    """Bytes an image in each table as ingest leaves it, files that were replaced left out."""
    found = {}
    for table in sorted((lake / "tables").iterdir()):
        opened = Lake.open(lake).table(table.name)
        added = opened.get_add_actions(flatten=True)
        found[table.name] = round(sum(added["size_bytes"].to_pylist()) / pairs, 1)
    return {name: size for name, size in found.items() if size}


def _lanes(folder: Path, count: int) -> dict[str, float | int]:
    """Objects a second of so many committers at once, each in a lane of its own, all in one lake."""
    Lake.create(folder / "lake")
    with get_context("spawn").Pool(count) as pool:
        done = pool.starmap(_in_lane, [(folder, f"lane{i}", 20, 100) for i in range(count)])
    objects = sum(one[0] for one in done)
    return {
        "lanes": count,
        "objects a second": round(objects / max(one[1] for one in done)),
        "batches given up": sum(one[2] for one in done),
    }


def _in_lane(folder: Path, lane: str, batches: int, pairs: int) -> tuple[int, float, int]:
    mill = _Mill(folder / lane, lake=folder / "lake", lane=lane)
    mill.commit(mill.drop(pairs))
    dropped = [mill.drop(pairs) for _ in range(batches)]
    given_up = 0
    began = time.perf_counter()
    for events in dropped:
        try:
            mill.commit(events)
        except CommitConflictError:
            # The service would run it again; here it is counted.
            given_up += 1
    return 2 * pairs * (batches - given_up), time.perf_counter() - began, given_up


def _log(folder: Path, files: int) -> dict[str, float | int]:
    """What a table of so many files takes to be opened, and to be asked which of them hold some rows."""
    schema = pa.schema([pa.field("dataset", pa.string()), pa.field("stem", pa.string())])
    table = DeltaTable.create(str(folder), schema)
    for first in range(0, files, 20_000):
        actions = []
        for number in range(first, min(first + 20_000, files)):
            low, high = (
                {"dataset": "road", "stem": f"{n:012}"} for n in (number * _ROWS, number * _ROWS + _ROWS - 1)
            )
            stats = {"numRecords": _ROWS, "minValues": low, "maxValues": high, "nullCount": {}}
            actions.append(AddAction(f"part-{number}.parquet", 200_000, {}, 0, True, json.dumps(stats)))
        table.create_write_transaction(actions, "append", table.schema())
    DeltaTable(str(folder)).create_checkpoint()
    began = time.perf_counter()
    opened = DeltaTable(str(folder))
    open_s = time.perf_counter() - began
    began = time.perf_counter()
    held = pa.table(opened.get_add_actions(flatten=True))
    may_hold(held, "stem", {"road": [f"{n:012}" for n in range(0, _ROWS * files, _ROWS * files // 100)]})
    return {
        "files": files,
        "rows": files * _ROWS,
        "open, s": round(open_s, 3),
        "find files of 100 keys, s": round(time.perf_counter() - began, 3),
        "checkpoint, MB": round(sum(f.stat().st_size for f in folder.rglob("*.checkpoint.parquet")) / 1e6, 1),
    }


def _requests(pairs: int) -> dict[str, int]:
    """Requests that the commit of a batch makes to an object store, by kind."""
    from tests.s3_server import Proxy, client, options, s3_server

    with s3_server() as url, tempfile.TemporaryDirectory() as folder:
        client("s3", url).create_bucket(Bucket="lake")
        proxy = Proxy(url)
        # Clients that have read enough hang up, which the proxy would say at length.
        with redirect_stderr(io.StringIO()):
            mill = _Mill(Path(folder), lake=Lake.create("s3://lake", options(proxy.url)))
            mill.commit(mill.drop(pairs))
            events = mill.drop(pairs)
            proxy.requests.clear()
            mill.commit(events)
        kinds = Counter(
            "LIST" if method == "GET" and "list-type=2" in path else method for method, path in proxy.requests
        )
        proxy.close()
        return {"objects": 2 * pairs, **kinds}


if __name__ == "__main__":
    main()
