"""Opening a lake whose tables have a thousand commits each, and asking it a first question."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pyarrow as pa

from benchmarks.record import record
from storage import schemas
from storage.compaction import compact
from storage.lake import Lake, LaneCommit

_BUSY = ("objects", "images", "annotations", "findings")


def main() -> None:
    """Measure and print; ``--commits`` sets how many commits each of four tables has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dropmill-open-"))
    try:
        _commit(Lake.create(folder), arguments.commits)
        rows = [_times("as the commits left it", folder, arguments.repeats)]
        lake = Lake.open(folder)
        began = time.perf_counter()
        for name in _BUSY:
            compact(lake, name)
        took = time.perf_counter() - began
        rows.append(_times("after compaction", folder, arguments.repeats))
        record(
            "open_lake",
            rows,
            packages=["deltalake", "duckdb", "pyarrow"],
            notes={"commits_per_table": arguments.commits, "compaction_s": round(took, 2)},
        )
    finally:
        shutil.rmtree(folder)


def _commit(lake: Lake, commits: int) -> None:
    for number in range(1, commits + 1):
        commit = LaneCommit(lake, "main", number)
        stem = f"{number:06}"
        for name in _BUSY:
            row = {
                "dataset": "d",
                "stem": stem,
                "sample": stem,
                "key": stem,
                "batch": number,
                "ignore": False,
            }
            known = {field.name: row.get(field.name) for field in schemas.TABLES[name]}
            rows = pa.Table.from_pylist([known], schema=schemas.TABLES[name])
            if name == "objects":
                commit.append(name, rows)
            else:
                commit.replace(name, rows, ("stem", {"d": [stem]}))


def _times(what: str, folder: Path, repeats: int) -> dict[str, object]:
    def open_all() -> None:
        Lake.open(folder).snapshot()

    def first_question() -> None:
        Lake.open(folder).sql("SELECT count(*) FROM annotations JOIN images USING (dataset, sample)")

    files = len(Lake.open(folder).table("annotations").file_uris())
    return {
        "lake": what,
        "files of annotations": files,
        "open all 12 tables, ms": _milliseconds(open_all, repeats),
        "open and ask two tables, ms": _milliseconds(first_question, repeats),
    }


def _milliseconds(work: Callable[[], None], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return round(median(taken) * 1000, 1)


if __name__ == "__main__":
    main()
