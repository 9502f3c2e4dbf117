"""Upkeep: by the service at quiet times, and on the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import dropmill.maintenance
from dropmill.cli import cli
from dropmill.maintenance import maintain
from storage import schemas
from storage.errors import CommitConflictError, QueryError, UnknownKeyError
from storage.lake import Lake, LaneCommit


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake")
    for number in range(1, 11):
        row = {"dataset": "d", "stem": f"s{number}", "sample": f"s{number}", "rule": "r", "batch": number}
        LaneCommit(lake, "main", number).append(
            "findings", pa.Table.from_pylist([row], schema=schemas.FINDINGS)
        )
    return lake


def test_a_quiet_time_compacts_what_is_worth_it_and_the_next_one_has_nothing_to_do(lake: Lake) -> None:
    done = maintain(lake)
    assert {name: one.files_after for name, one in done.compacted.items()} == {"findings": 1}
    assert lake.read("findings").num_rows == 10
    assert maintain(lake).compacted == {}


def test_a_vacuum_is_due_once_a_day(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        dropmill.maintenance,
        "vacuum",
        lambda _lake, retention: calls.append(retention) or {"findings": ["x"]},
    )
    now = datetime.now(UTC)
    assert maintain(lake, now=now).deleted == 1
    assert maintain(lake, now=now + timedelta(hours=23)).deleted == 0
    assert maintain(lake, now=now + timedelta(hours=25)).deleted == 1
    assert calls == [timedelta(days=7)] * 2


def test_who_asks_to_stop_is_heard(lake: Lake) -> None:
    before = lake.snapshot()
    maintain(lake, stopping=lambda: True)
    assert lake.snapshot() == before


def test_a_batch_that_comes_between_goes_first(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise CommitConflictError("busy")

    monkeypatch.setattr(dropmill.maintenance, "compact", busy)
    assert maintain(lake).compacted == {}


def ask(*words: object) -> str:
    answer = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False, standalone_mode=False)
    return answer.output


def test_the_command_line_optimizes_shows_the_history_and_vacuums(lake: Lake) -> None:
    folder = lake.store.root
    pin = {"run": "r", "snapshot": json.dumps({"findings": 4})}
    lake.put("runs", pa.Table.from_pylist([pin], schema=schemas.RUNS), keys=["run"])
    (done,) = json.loads(ask("lake", "optimize", "--lake", folder, "--table", "findings", "--json"))
    assert done == {"table": "findings", "files_before": 10, "files_after": 1, "rows_written": 10}
    rows = json.loads(ask("lake", "history", "findings", "--lake", folder, "--json"))
    assert [row["version"] for row in rows] == list(range(11, -1, -1))
    assert rows[0]["operation"] == "compaction"
    assert (rows[1]["lane"], rows[1]["batch"]) == ("main", 10)
    assert [row["version"] for row in rows if row["pinned"]] == [4]
    gone = json.loads(ask("lake", "vacuum", "--lake", folder, "--dry-run", "--json"))
    assert {row["would go"] for row in gone} == {0}
    assert "findings" in ask("lake", "vacuum", "--lake", folder)
    with pytest.raises(UnknownKeyError, match="did you mean 'findings'"):
        ask("lake", "optimize", "--lake", folder, "--table", "finding")


def test_the_sql_command_lists_tables_writes_parquet_and_keeps_its_limits(lake: Lake, tmp_path: Path) -> None:
    folder = lake.store.root
    listed = ask("sql", "--lake", folder, "--tables", "--json")
    columns = {row["name"]: row["columns"] for row in json.loads(listed)}
    assert "size_class varchar" in columns["boxes"]
    assert set(columns) >= set(schemas.TABLES)
    ask("sql", "SELECT stem FROM findings", "--lake", folder, "--parquet", tmp_path / "f.parquet")
    assert pq.read_table(tmp_path / "f.parquet").num_rows == 10
    version = ask("sql", "SELECT count(*) AS n FROM findings AT (VERSION => 3)", "--lake", folder, "--json")
    assert json.loads(version) == [{"n": 3}]
    with pytest.raises(QueryError, match="more than 5 rows"):
        ask("sql", "SELECT * FROM findings", "--lake", folder, "--max-rows", 5)
    helped = ask("sql", "--help")
    assert "image_labels" in helped
    assert "the last word on every object" in helped
