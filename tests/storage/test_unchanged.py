"""A batch writes the groups that it changes, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage import schemas
from storage.lake import Lake, LaneCommit


def boxes(batch: int, **xmin_of: float | None) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "dataset": "road",
            "stem": stem,
            "source": f"{stem}.txt",
            "instance": i,
            "xmin": xmin,
            "batch": batch,
        }
        for stem, xmin in xmin_of.items()
        for i in range(2)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.ANNOTATIONS)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path)
    replace(lake, 1, boxes(1, a=1.0, b=float("nan"), c=None), "abc")
    return lake


def replace(lake: Lake, batch: int, rows: pa.Table, stems: str) -> None:
    LaneCommit(lake, "main", batch).replace("annotations", rows, ("stem", {"road": list(stems)}))


def batches(lake: Lake) -> dict[str, int]:
    rows = lake.read("annotations", columns=["stem", "batch"]).to_pylist()
    return {row["stem"]: row["batch"] for row in rows}


def test_groups_that_are_stored_as_they_come_keep_their_batch(lake: Lake) -> None:
    replace(lake, 2, boxes(2, a=1.5, b=float("nan"), c=None), "abc")
    assert batches(lake) == {"a": 2, "b": 1, "c": 1}
    assert lake.read("annotations").num_rows == 6


def test_nothing_is_committed_where_nothing_differs(lake: Lake) -> None:
    version = lake.table("annotations").version()
    replace(lake, 2, boxes(2, c=None, a=1.0, b=float("nan")), "abc")
    assert lake.table("annotations").version() == version


def test_a_group_that_loses_or_gains_a_row_is_written_anew(lake: Lake) -> None:
    replace(
        lake, 2, pa.concat_tables([boxes(2, a=1.0).slice(0, 1), boxes(2, c=None), boxes(2, d=4.0)]), "abcd"
    )
    assert batches(lake) == {"a": 2, "c": 1, "d": 2}
    assert lake.read("annotations").num_rows == 5


def test_lists_are_compared_by_their_numbers(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    for batch, end in ((1, 3.0), (2, 3.0), (3, 4.0)):
        row = {"dataset": "road", "stem": "a", "source": "a.txt", "instance": 0, "bbox": [1.0, 2.0, 3.0, end]}
        rows = pa.Table.from_pylist([{**row, "batch": batch}], schema=schemas.LABELS)
        keys = {"road": ["a.txt"]}
        LaneCommit(lake, "main", batch).replace("labels", rows, ("source", keys), ("stem", {"road": ["a"]}))
    assert lake.read("labels", columns=["batch", "bbox"]).to_pylist() == [
        {"batch": 3, "bbox": [1.0, 2.0, 3.0, 4.0]}
    ]
    assert lake.table("labels").version() == 2
