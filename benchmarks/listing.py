"""Reconciliation of a million keys of which none has changed, beside a bare listing of them.

The keys come from a store that holds them in no list: it makes them up as it is asked, as fast as any could
send them. The lake's ledger has every one of them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties

from benchmarks.child import in_child, tell
from benchmarks.record import record
from ingest.batch import Committer
from ingest.events import DatasetRule, Event
from ingest.parse import Parsed
from ingest.reconcile import reconcile
from storage import schemas
from storage.files import commit_files, write_files
from storage.lake import Lake
from storage.object_store import ObjectInfo, ObjectStore

_AT_ONCE = 200_000
_RULE = DatasetRule(bucket="drops")


def main() -> None:
    """Measure and print; ``--keys`` sets how many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    keys = parser.parse_args().keys
    folder = Path(tempfile.mkdtemp(prefix="dropmill-listing-"))
    try:
        _fill(Lake.create(folder / "lake"), keys)
        kinds = ("bare listing", "read the ledger", "reconcile")
        rows = [
            {"what": kind, **in_child("benchmarks.listing", kind, str(folder), str(keys))} for kind in kinds
        ]
    finally:
        shutil.rmtree(folder)
    bare = next(row for row in rows if row["what"] == "bare listing")
    for row in rows:
        row["keys_per_s"] = round(keys / row["seconds"])
        row["times the bare listing"] = f"{row['seconds'] / bare['seconds']:.2f}x"
    record("listing", rows, packages=["deltalake", "polars", "pyarrow"], notes={"keys": keys})


class _MadeUp(ObjectStore):
    """A store of so many keys, in their order, each made when its turn comes."""

    def list_all(self, prefix: str = "") -> Iterator[ObjectInfo]:
        assert not prefix
        for number in range(int(self.options["keys"])):
            yield ObjectInfo(*_listed(number))


def _listed(number: int) -> tuple[str, str, int]:
    return f"road/image_2/{number:09}.png", f"{number * 2_654_435_761 % 2**64:032x}", 1_000


def _fill(lake: Lake, keys: int) -> None:
    now = datetime.now(UTC)
    for start in range(0, keys, _AT_ONCE):
        listed = [_listed(number) for number in range(start, min(start + _AT_ONCE, keys))]
        count = len(listed)
        constants = {"dataset": "road", "kind": "image", "format": "png", "state": "done", "lane": "main"}
        columns: dict[str, Any] = {
            name: pa.repeat(pa.scalar(value), count) for name, value in constants.items()
        }
        columns |= {
            "key": pa.array([k for k, _, _ in listed]),
            "version": pa.array([v for _, v, _ in listed]),
        }
        columns |= {"size_bytes": pa.array(np.full(count, 1_000)), "batch": pa.array(np.full(count, 1))}
        columns |= {"seen_at": pa.repeat(pa.scalar(now, schemas.UTC_TIME), count)}
        rows = pa.table({f.name: columns.get(f.name, pa.nulls(count, f.type)) for f in schemas.OBJECTS})
        rows = rows.cast(schemas.OBJECTS)
        commit_files(lake.table("objects"), write_files(lake.store, "objects", rows), CommitProperties())


def _nothing(events: Sequence[Event]) -> Parsed:
    assert not events
    return Parsed()


def _measure(kind: str, folder: Path, keys: int) -> dict[str, Any]:
    store = _MadeUp("made-up://drops", {"keys": keys})
    if kind == "bare listing":
        assert sum(1 for _ in store.list_all()) == keys
        return {}
    committer = Committer(Lake.open(folder / "lake"), _nothing, rule=_RULE)
    if kind == "reconcile":
        done = reconcile(store, committer, _RULE)
        assert (done.listed, done.batches) == (keys, 0), done
    return {}


if __name__ == "__main__":
    if len(sys.argv) == 4:
        what, where, count = sys.argv[1:]
        tell(lambda: _measure(what, Path(where), int(count)))
    else:
        main()
