"""A lake on S3: an HTTP server on this machine that speaks its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from storage import schemas
from storage.compaction import compact
from storage.errors import QueryError
from storage.lake import Lake, LaneCommit
from storage.retention import vacuum
from tests.s3_server import client, s3_server
from tests.s3_server import options as server_options

pytest.importorskip("s3fs", reason="the extra s3 is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, Any]]:
    with s3_server() as url:
        client("s3", url).create_bucket(Bucket="lakes")
        yield server_options(url)


@pytest.mark.slow
def test_a_lake_on_s3_is_changed_queried_compacted_and_vacuumed(options: dict[str, Any]) -> None:
    lake = Lake.create("s3://lakes/one", options)

    def findings(*stems: str, rule: str) -> pa.Table:
        rows = [{"dataset": "d", "stem": stem, "rule": rule, "batch": 1} for stem in stems]
        return pa.Table.from_pylist(rows, schema=schemas.FINDINGS)

    for number, (stem, rule) in enumerate([("a", "x"), ("b", "x"), ("c", "x"), ("b", "y")], start=1):
        LaneCommit(lake, "main", number).replace(
            "findings", findings(stem, rule=rule), ("stem", {"d": [stem]})
        )
    query = "SELECT stem, rule FROM findings ORDER BY stem"
    expected = [{"stem": "a", "rule": "x"}, {"stem": "b", "rule": "y"}, {"stem": "c", "rule": "x"}]
    assert lake.sql(query).to_pylist() == expected
    assert lake.sql("SELECT rule FROM findings AT (VERSION => 3) WHERE stem = 'b'").to_pylist() == [
        {"rule": "x"}
    ]
    assert compact(lake, "findings").files_after == 1
    assert lake.sql(query).to_pylist() == expected
    assert vacuum(lake)["findings"] == []
    assert Lake.open("s3://lakes/one", options).sql(query, at=datetime.now(UTC) + timedelta(1)).num_rows == 3
    with pytest.raises(QueryError):
        lake.sql("SELECT * FROM findings, read_parquet('s3://lakes/one/tables/findings/*.parquet')")
