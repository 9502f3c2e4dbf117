"""Where the one committer of a lane saturates: its time per batch and per object, and a queue made of that.

Measured: batches of several sizes through parsing and committing on a disk, what they cost beside a bare
append of the same annotations to one Delta table, and how many requests a batch makes to an object store.
Simulated, from these: how long an object waits until its rows can be queried, at growing rates of arrival.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from deltalake import write_deltalake
from PIL import Image

from benchmarks.record import record
from ingest.batch import Committer
from ingest.events import DatasetRule, Event
from ingest.parse import Limits, Parsed, parse_objects
from storage.lake import Lake
from storage.object_store import ObjectStore

_BOXES = 5
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
        mill.batch(arguments.pairs[-1])
        measured = [_measure(mill, pairs, arguments.repeats) for pairs in arguments.pairs]
        size = _sizes(folder / "lake", mill.pairs)
    finally:
        shutil.rmtree(folder)
    cost = fit(measured)
    parse_s = measured[-1]["parse, ms an object"] / 1_000
    requests = _requests(arguments.pairs[-2])
    rates = (10, 30, 100, 300, 1_000, 3_000, 10_000)
    queue = [{"objects a second": rate, **_lags(rate, cost, parse_s)} for rate in rates]
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
            "lake_bytes": size,
            "simulated": queue,
        },
    )
    for row in queue:
        print(row)
    print({"requests": requests, "lake_bytes": size})


def _lags(rate: float, cost: Cost, parse_s: float) -> dict[str, float | str]:
    found = {}
    for parsers in _PARSERS:
        lag = simulate(rate, cost, parse_s, parsers)[1]
        found[f"{parsers} parsing CPUs: p99, s"] = lag if np.isfinite(lag) else "grows without end"
    return found


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

    def __init__(self, folder: Path) -> None:
        self._bucket = folder / "drops"
        for name in ("images", "labels"):
            (self._bucket / "road" / name).mkdir(parents=True)
        self._store = ObjectStore.at(self._bucket)
        self._rule = DatasetRule(bucket="drops")
        self.lake = Lake.create(folder / "lake")
        self._committer = Committer(self.lake, self._parse, rule=self._rule)
        self._peer = folder / "peer"
        self.pairs = 0
        self.parse_s = 0.0
        picture = io.BytesIO()
        Image.new("RGB", (1242, 375)).save(picture, "PNG")
        self._picture = picture.getvalue()
        self._rng = np.random.default_rng(0)

    def batch(self, pairs: int) -> tuple[float, float, float]:
        """Drop so many pairs and commit them: seconds of parsing, of all else, and of the bare append."""
        events = [event for _ in range(pairs) for event in self._drop()]
        self.parse_s = 0.0
        began = time.perf_counter()
        batch = self._committer.plan(events)
        counts = self._committer.run(batch)
        took = time.perf_counter() - began
        assert counts.annotations == pairs * _BOXES, counts
        rows = self.lake.sql("SELECT * FROM annotations WHERE batch = $1", parameters=[batch.number]).arrow()
        began = time.perf_counter()
        write_deltalake(self._peer, rows, mode="append")
        return self.parse_s, took - self.parse_s, time.perf_counter() - began

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


def _requests(pairs: int) -> dict[str, int]:
    """Requests that the commit of a batch makes to an object store, by kind."""
    from tests.s3_server import Proxy, client, options, s3_server

    with s3_server() as url, tempfile.TemporaryDirectory() as folder:
        client("s3", url).create_bucket(Bucket="lake")
        proxy = Proxy(url)
        mill = _Mill(Path(folder))
        lake = Lake.create("s3://lake", options(proxy.url))
        mill.lake = lake
        mill._committer = Committer(lake, mill._parse, rule=mill._rule)  # noqa: SLF001
        first = [event for _ in range(pairs) for event in mill._drop()]  # noqa: SLF001
        mill._committer.run(mill._committer.plan(first))  # noqa: SLF001
        second = [event for _ in range(pairs) for event in mill._drop()]  # noqa: SLF001
        proxy.requests.clear()
        mill._committer.run(mill._committer.plan(second))  # noqa: SLF001
        kinds = Counter(
            "LIST" if method == "GET" and "list-type=2" in path else method for method, path in proxy.requests
        )
        proxy.close()
        return {"objects": 2 * pairs, **kinds}


if __name__ == "__main__":
    main()
