"""SQL over the lake: read only, pinned, and out in every form."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from storage import schemas
from storage.errors import QueryError
from storage.lake import Lake, LaneCommit


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake")
    for number, category in enumerate(("car", "van", "car"), start=1):
        row = {
            "dataset": "road",
            "sample": f"s{number}",
            "stem": f"s{number}",
            "source": f"s{number}.txt",
            "instance": 0,
            "category": category,
            "xmin": 0.0,
            "ymin": 10.0,
            "xmax": 20.0,
            "ymax": 20.0,
            "ignore": False,
            "batch": number,
        }
        LaneCommit(lake, "main", number).append(
            "annotations", pa.Table.from_pylist([row], schema=schemas.ANNOTATIONS)
        )
    return lake


def test_an_answer_is_an_arrow_table_and_a_polars_frame(lake: Lake) -> None:
    rows = lake.sql("SELECT category, boxes, share FROM class_balance ORDER BY boxes DESC")
    assert isinstance(rows.arrow(), pa.Table)
    assert rows.num_rows == 2
    assert rows.polars().row(0) == ("car", 2, pytest.approx(2 / 3))
    assert pl.DataFrame(rows).shape == (2, 3)


def test_boxes_have_their_sizes(lake: Lake) -> None:
    row = lake.sql("SELECT width, height, area, aspect, size_class FROM boxes LIMIT 1").to_pylist()[0]
    assert row == {"width": 20, "height": 10, "area": 200, "aspect": 2, "size_class": "small"}


def test_parameters_are_values(lake: Lake) -> None:
    query = "SELECT count(*) AS n FROM annotations WHERE category = $1"
    assert lake.sql(query, parameters=["car"]).to_pylist() == [{"n": 2}]
    assert lake.sql(query, parameters=["car' OR '1'='1"]).to_pylist() == [{"n": 0}]


def test_the_past_is_read_by_version_and_by_moment(lake: Lake) -> None:
    query = "SELECT count(*) AS n FROM annotations"
    assert lake.sql(query, versions={"annotations": 2}).to_pylist() == [{"n": 2}]
    assert lake.sql(query, at=datetime.now(UTC)).to_pylist() == [{"n": 3}]
    history = lake.table("annotations").history()
    first = min(entry["timestamp"] for entry in history if entry["version"] == 1)
    moment = datetime.fromtimestamp(first / 1000, UTC)
    assert lake.sql(query, at=moment.isoformat()).to_pylist()[0]["n"] in (1, 2)


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM annotations",
        "CREATE TABLE x AS SELECT 1",
        "SELECT 1; SELECT 2",
        "COPY (SELECT 1) TO 'x.csv'",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "PRAGMA database_list",
        "SET memory_limit = '1GB'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT getenv('HOME')",
        "SELECT * FROM lake",
        "SELECT * FROM query('SELECT 1')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
        "EXPLAIN /* */ ANALYZE COPY (SELECT 1) TO 'x.csv'",
        "SELEC 1",
        "",
    ],
)
def test_what_does_more_than_read_the_tables_is_refused(lake: Lake, query: str) -> None:
    with pytest.raises(QueryError):
        lake.sql(query).arrow()


def test_a_wrong_moment_or_table_says_what_was_expected(lake: Lake) -> None:
    with pytest.raises(QueryError, match="ISO 8601"):
        lake.sql("SELECT 1", at="yesterday")
    with pytest.raises(QueryError, match="tables: objects"):
        lake.sql("SELECT 1", versions={"nothing": 1})


def test_json_and_csv_can_be_read_back(lake: Lake) -> None:
    query = "SELECT category, 'a \"b\", c' AS text, [1, 2] AS list, 'NaN'::DOUBLE AS hole FROM boxes LIMIT 1"
    rows = lake.sql(query)
    assert json.loads(rows.json()) == [{"category": "car", "text": 'a "b", c', "list": [1, 2], "hole": None}]
    read = list(csv.DictReader(io.StringIO(rows.csv())))
    assert read[0]["text"] == 'a "b", c'
    assert json.loads(read[0]["list"]) == [1, 2]


def test_all_tables_can_be_listed(lake: Lake) -> None:
    names = set(lake.sql("SHOW TABLES").arrow()["name"].to_pylist())
    assert set(schemas.TABLES) <= names
    assert {"boxes", "class_balance", "waiting", "newest", "quarantine"} <= names
