"""The tables are plain Delta tables: other programs open them, and what they write is read."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake

from storage import schemas
from storage.compaction import compact
from storage.errors import LakeError
from storage.lake import Lake, LaneCommit

QUESTION = "SELECT category, count(*) AS boxes FROM annotations GROUP BY category ORDER BY category"


def boxes(*stems: str, category: str = "car") -> pa.Table:
    rows = [
        {
            "dataset": "road",
            "stem": stem,
            "sample": stem,
            "source": f"{stem}.txt",
            "instance": 0,
            "category": category,
            "xmin": 1.5,
            "ymin": 2.0,
            "xmax": 3.0,
            "ymax": 4.0,
            "ignore": False,
            "batch": 1,
        }
        for stem in stems
    ]
    return pa.Table.from_pylist(rows, schema=schemas.ANNOTATIONS)


@pytest.fixture(params=["lake", "ü ñ 100% 'x' a+b", "glob *?"])
def lake(tmp_path: Path, request: pytest.FixtureRequest) -> Lake:
    lake = Lake.create(tmp_path / request.param)
    LaneCommit(lake, "main", 1).replace(
        "annotations", boxes("a", "b", "c"), ("stem", {"road": ["a", "b", "c"]})
    )
    LaneCommit(lake, "main", 2).replace("annotations", boxes("b", category="van"), ("stem", {"road": ["b"]}))
    LaneCommit(lake, "main", 3).append("annotations", boxes("d"))
    compact(lake, "annotations")
    return lake


EXPECTED = [{"category": "car", "boxes": 3}, {"category": "van", "boxes": 1}]


def test_our_sql_reads_it_wherever_it_lies(lake: Lake) -> None:
    assert lake.sql(QUESTION).to_pylist() == EXPECTED
    assert lake.sql("SELECT count(*) AS n FROM annotations AT (VERSION => 1)").to_pylist() == [{"n": 3}]


@pytest.mark.parametrize("name", ["a[b", "a^b", "a|b", "a%20b"])
def test_a_folder_that_delta_cannot_use_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(LakeError, match="take another"):
        Lake.create(tmp_path / name)


def test_polars_scans_it(lake: Lake) -> None:
    if "%" in lake.url or "*" in lake.url:
        pytest.skip("polars takes these signs of a path for its own")
    frame = pl.scan_delta(str(lake.store.root / "tables" / "annotations"))
    counts = frame.group_by("category").agg(boxes=pl.len().cast(pl.Int64)).sort("category").collect()
    assert counts.to_dicts() == EXPECTED


def test_duckdb_reads_its_arrow_data_set_and_its_files(lake: Lake) -> None:
    table = DeltaTable(str(lake.store.root / "tables" / "annotations"))
    with duckdb.connect() as connection:
        connection.register("annotations", table.to_pyarrow_dataset())
        assert connection.sql(QUESTION).to_arrow_table().to_pylist() == EXPECTED
    with duckdb.connect() as connection:
        connection.register("annotations", table.to_pyarrow_table())
        assert connection.sql(QUESTION).to_arrow_table().to_pylist() == EXPECTED


def test_datafusion_reads_it(lake: Lake) -> None:
    table = DeltaTable(str(lake.store.root / "tables" / "annotations"))
    answer = pa.table(QueryBuilder().register("annotations", table).execute(QUESTION))
    assert [tuple(row.values()) for row in answer.to_pylist()] == [("car", 3), ("van", 1)]


def test_pandas_reads_it(lake: Lake) -> None:
    pytest.importorskip("pandas")
    frame = DeltaTable(str(lake.store.root / "tables" / "annotations")).to_pandas()
    assert frame["category"].value_counts().to_dict() == {"car": 3, "van": 1}
    assert frame["xmin"].tolist() == [1.5] * 4


def test_it_asks_for_no_new_reader(lake: Lake) -> None:
    protocol = lake.table("annotations").protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert not protocol.reader_features


@pytest.fixture
def table(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake")
    LaneCommit(lake, "main", 1).append("annotations", boxes("a"))
    return lake


def test_files_that_are_older_than_a_column_are_read(table: Lake) -> None:
    wider = boxes("b").append_column("mood", pa.array(["good"]))
    write_deltalake(table.table("annotations"), wider, mode="append", schema_mode="merge")
    rows = table.sql("SELECT stem, mood FROM annotations ORDER BY stem").to_pylist()
    assert rows == [{"stem": "a", "mood": None}, {"stem": "b", "mood": "good"}]


def test_a_column_that_no_file_has_yet_is_null(table: Lake) -> None:
    wider = boxes("b").append_column("mood", pa.array(["good"])).slice(0, 0)
    write_deltalake(table.table("annotations"), wider, mode="append", schema_mode="merge")
    assert table.sql("SELECT stem, mood FROM annotations").to_pylist() == [{"stem": "a", "mood": None}]


def test_a_table_that_others_gave_partitions_is_read_and_not_written(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    address = tmp_path / "lake" / "tables" / "annotations"
    write_deltalake(
        str(address), boxes("a", "b"), mode="overwrite", schema_mode="overwrite", partition_by=["category"]
    )
    assert lake.sql("SELECT stem, category FROM annotations ORDER BY stem").to_pylist() == [
        {"stem": "a", "category": "car"},
        {"stem": "b", "category": "car"},
    ]
    with pytest.raises(LakeError, match="partitions"):
        LaneCommit(lake, "main", 1).replace("annotations", boxes("a"), ("stem", {"road": ["a"]}))


def test_rows_that_others_deleted_are_gone(table: Lake) -> None:
    LaneCommit(table, "main", 2).append("annotations", boxes("b", "c"))
    table.table("annotations").delete("stem = 'b'")
    assert table.sql("SELECT stem FROM annotations ORDER BY stem").column("stem").to_pylist() == ["a", "c"]
