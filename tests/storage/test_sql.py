"""SQL over the lake: read only, pinned, and out in every form."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from storage import schemas
from storage.errors import DropmillError, QueryError
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


def test_a_version_can_stand_in_the_query(lake: Lake) -> None:
    query = """
        SELECT (SELECT count(*) FROM annotations) AS now,
               (SELECT count(*) FROM annotations AT (VERSION => 1)) AS first,
               (SELECT count(*) FROM boxes at (version => 2) b WHERE b.width > 0) AS second,
               (SELECT sum(boxes) FROM class_balance AT (VERSION => 2)) AS of_a_view"""
    row = lake.sql(query).to_pylist()[0]
    assert row == {"now": 3, "first": 1, "second": 2, "of_a_view": 2}


def test_two_versions_can_be_compared(lake: Lake) -> None:
    query = """
        SELECT sample FROM annotations
        EXCEPT SELECT annotations.sample FROM annotations AT (VERSION => 2)"""
    assert lake.sql(query).to_pylist() == [{"sample": "s3"}]


def test_a_moment_can_stand_in_the_query(lake: Lake) -> None:
    now = datetime.now(UTC).isoformat()
    query = f"SELECT count(*) AS n FROM image_labels AT (TIMESTAMP => '{now}')"
    assert lake.sql(query).to_pylist() == [{"n": 0}]


def test_what_looks_like_a_version_inside_of_a_text_or_comment_is_none(lake: Lake) -> None:
    query = """SELECT 'annotations AT (VERSION => 1)' AS text, "at" -- annotations AT (VERSION => 77)
        FROM (SELECT 1 AS "at") /* annotations AT (VERSION => 99) */"""
    assert lake.sql(query).to_pylist() == [{"text": "annotations AT (VERSION => 1)", "at": 1}]


@pytest.mark.parametrize(
    ("clause", "said"),
    [
        ("annotations AT (VERSION => 99)", "at 99"),
        ("annotations AT (VERSION => '3')", "whole number"),
        ("annotations AT (VERSION => -1)", "whole number"),
        ("annotations AT (TIMESTAMP => 'yesterday')", "ISO 8601"),
        ("nothing AT (VERSION => 1)", "no table 'nothing'"),
        ("image_labels AT (VERSION => 1)", "annotations, images"),
    ],
)
def test_a_version_that_cannot_be_had_says_why(lake: Lake, clause: str, said: str) -> None:
    with pytest.raises(DropmillError, match=said):
        lake.sql(f"SELECT * FROM {clause}")


@pytest.mark.parametrize(
    "statement",
    [
        "WITH x AS (COPY (SELECT 1 AS rule) TO '{file}' (FORMAT parquet)) SELECT * FROM x, annotations",
        "EXPLAIN ANALYZE COPY (SELECT 1 AS rule) TO '{file}' (FORMAT parquet)",
        "EXPLAIN ANALYZE WITH x AS (COPY (SELECT 1) TO '{file}') SELECT * FROM x, annotations",
        "SELECT * FROM annotations, query('WITH x AS (COPY (SELECT 1) TO ''{file}'') SELECT * FROM x')",
        "SELECT * FROM annotations, system.main.\"QUERY\"('SELECT 1')",
        "WITH x AS (DELETE FROM annotations RETURNING *) SELECT * FROM x",
        "COPY annotations TO '{file}'",
        "WITH RECURSIVE x AS (COPY annotations TO '{file}') SELECT 1 FROM annotations",
        "SELECT (WITH x AS (COPY annotations TO '{file}') SELECT 1) FROM annotations",
    ],
)
def test_no_query_writes_to_the_files_that_it_may_read(lake: Lake, statement: str) -> None:
    files = [Path(file) for file in lake.table("annotations").file_uris()]
    before = [file.read_bytes() for file in files]
    with pytest.raises(QueryError):
        lake.sql(statement.format(file=files[0]))
    assert [file.read_bytes() for file in files] == before
    assert len(list(files[0].parent.iterdir())) == len(files) + 1


def test_a_query_cannot_read_the_log_or_a_table_that_it_does_not_name(lake: Lake) -> None:
    folder = lake.store.root / "tables" / "annotations"
    with pytest.raises(QueryError):
        lake.sql(f"SELECT * FROM annotations, read_text('{folder}/_delta_log/00000000000000000000.json')")
    with pytest.raises(QueryError):
        lake.sql(f"SELECT * FROM read_parquet('{folder}/*.parquet'), annotations")


def test_too_many_rows_are_an_error_and_not_a_part_of_the_answer(lake: Lake) -> None:
    assert lake.sql("SELECT * FROM range(10)", max_rows=10).num_rows == 10
    with pytest.raises(QueryError, match="more than 9 rows"):
        lake.sql("SELECT * FROM range(10)", max_rows=9)
    assert lake.sql("SELECT * FROM range(10)", max_rows=None).num_rows == 10


def test_a_query_that_runs_away_is_stopped(lake: Lake) -> None:
    with pytest.raises(QueryError, match=r"stopped after 0\.2 s"):
        lake.sql("SELECT count(*) FROM range(10000000) a, range(10000000) b", timeout_s=0.2)
    with pytest.raises(QueryError, match="stopped after"):
        lake.sql("WITH RECURSIVE t AS (SELECT 1 UNION ALL SELECT 1 FROM t) SELECT * FROM t", timeout_s=0.2)


def test_a_query_that_needs_too_much_memory_is_refused(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.sql._MAX_SPILL", "1MB")
    with pytest.raises(QueryError, match="more memory"):
        lake.sql("SELECT list(range) AS all FROM range(100000000)", memory_limit="50MB")
    with pytest.raises(QueryError, match="4GB"):
        lake.sql("SELECT 1", memory_limit="4GB'; SET threads = 1; --")


def test_an_answer_that_is_larger_than_the_memory_is_refused(lake: Lake) -> None:
    with pytest.raises(QueryError, match="the answer alone needs more memory"):
        lake.sql("SELECT range, repeat('x', 1000) AS text FROM range(10000)", memory_limit="5MB")


def test_what_is_nested_too_deep_says_so(lake: Lake) -> None:
    with pytest.raises(QueryError, match="nested too deep"):
        lake.sql("SELECT * FROM (" * 900 + "SELECT 1" + ")" * 900)


def test_a_table_that_is_not_there_names_the_nearest(lake: Lake) -> None:
    with pytest.raises(QueryError, match="no table or view 'annotation'; did you mean 'annotations'"):
        lake.sql("SELECT * FROM annotation")
    with pytest.raises(QueryError, match=r"no table or view 'zzz'; there are objects, .*boxes"):
        lake.sql("SELECT * FROM zzz")


def test_a_pivot_needs_its_values(lake: Lake) -> None:
    with pytest.raises(QueryError, match="name the values: PIVOT"):
        lake.sql("PIVOT annotations ON category USING count(*)")
    rows = lake.sql("PIVOT annotations ON category IN ('car', 'van') USING count(*) GROUP BY dataset")
    assert {"car", "van"} <= set(rows.column_names)


@pytest.mark.parametrize("way", ["to_pylist", "json", "csv", "pandas"])
def test_a_value_that_python_does_not_have_is_an_error_that_says_what_to_do(lake: Lake, way: str) -> None:
    rows = lake.sql("SELECT '290000-01-01'::date AS day")
    with pytest.raises(QueryError, match="column::VARCHAR"):
        getattr(rows, way)()
    assert lake.sql("SELECT '290000-01-01'::date::VARCHAR AS day").to_pylist() == [{"day": "290000-01-01"}]


def test_a_query_that_was_explained_is_one_that_reads(lake: Lake) -> None:
    plan = lake.sql("EXPLAIN SELECT count(*) FROM annotations").to_pylist()
    assert "PARQUET" in str(plan)


@pytest.mark.parametrize(
    "query",
    [
        "SHOW TABLES",
        "DESCRIBE annotations",
        "SUMMARIZE annotations",
        "FROM annotations",
        "VALUES (1), (2)",
        "(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT * FROM t",
        "SELECT category, row_number() OVER (ORDER BY sample) AS n FROM annotations QUALIFY n = 1",
        "SELECT unnest(quantile_cont(xmax, [0.1, 0.9])) FROM annotations",
        "PIVOT annotations ON category IN ('car', 'van') USING count(*)",
    ],
)
def test_reading_takes_many_forms(lake: Lake, query: str) -> None:
    assert lake.sql(query).num_rows > 0


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


def test_parquet_and_pandas_hold_the_same_rows(lake: Lake, tmp_path: Path) -> None:
    rows = lake.sql("SELECT sample, width, [1, 2] AS list FROM boxes ORDER BY sample")
    assert pl.read_parquet(rows.parquet(tmp_path / "rows.parquet")).equals(rows.polars())
    pandas = pytest.importorskip("pandas")
    assert isinstance(rows.pandas(), pandas.DataFrame)
    assert rows.pandas()["sample"].tolist() == ["s1", "s2", "s3"]


def test_an_image_has_its_classes_and_how_many_of_each(lake: Lake) -> None:
    images = [{"dataset": "road", "sample": name, "labelled": True} for name in ("s1", "none")]
    LaneCommit(lake, "main", 9).append("images", pa.Table.from_pylist(images, schema=schemas.IMAGES))
    more = [
        {"dataset": "road", "sample": "s1", "category": category, "ignore": category == "DontCare"}
        for category in ("car", "bus", "DontCare")
    ]
    LaneCommit(lake, "main", 9).append("annotations", pa.Table.from_pylist(more, schema=schemas.ANNOTATIONS))
    rows = lake.sql(
        "SELECT sample, boxes, ignored, categories, counts FROM image_labels ORDER BY boxes"
    ).to_pylist()
    assert rows == [
        {"sample": "none", "boxes": 0, "ignored": 0, "categories": [], "counts": []},
        {"sample": "s1", "boxes": 3, "ignored": 1, "categories": ["bus", "car"], "counts": [1, 2]},
    ]


def test_the_latest_findings_are_those_of_the_newest_batch_of_each_data_set(lake: Lake) -> None:
    rows = [{"dataset": d, "rule": f"{d}{n}", "batch": n} for d, n in (("a", 1), ("a", 2), ("b", 1))]
    LaneCommit(lake, "main", 9).append("findings", pa.Table.from_pylist(rows, schema=schemas.FINDINGS))
    found = lake.sql("SELECT rule FROM latest_findings ORDER BY rule").column("rule").to_pylist()
    assert found == ["a2", "b1"]


def test_all_tables_can_be_listed(lake: Lake) -> None:
    names = set(lake.sql("SHOW TABLES").arrow()["name"].to_pylist())
    assert set(schemas.TABLES) <= names
    assert {"boxes", "class_balance", "waiting", "newest", "quarantine"} <= names


def test_three_tables_of_one_data_set_are_joined_by_more_than_the_data_set(tmp_path: Path) -> None:
    """Findings and images have nothing but their data set in common: all pairs are 400 million rows."""
    lake = Lake.create(tmp_path)
    count = 20_000
    samples = pa.array([f"{number:05}" for number in range(count)])
    known = {"dataset": pa.repeat("road", count), "sample": samples, "stem": samples, "source": samples}
    for name in ("images", "annotations", "findings"):
        columns = [known.get(field.name, pa.nulls(count, field.type)) for field in schemas.TABLES[name]]
        rows = pa.table(columns, schema=schemas.TABLES[name])
        LaneCommit(lake, "main", 1).replace(name, rows, ("stem", {"road": samples.to_pylist()}))
    query = """SELECT count(*) AS n FROM findings f
        JOIN annotations a ON f.dataset = a.dataset AND f.source = a.source
        JOIN images i ON a.dataset = i.dataset AND a.sample = i.sample"""
    plan = lake.sql(f"EXPLAIN {query}").to_pylist()[0]["explain_value"]
    assert "sample = sample" in plan
    assert "source = source" in plan
    assert lake.sql(query, memory_limit="300MB").to_pylist() == [{"n": count}]


def test_the_query_of_the_page_on_sql_compares_two_versions(lake: Lake) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
    (query,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    assert sorted(lake.sql(query).polars().rows()) == [("car", 1), ("van", 1)]
