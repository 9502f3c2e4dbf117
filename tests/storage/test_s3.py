"""A lake on S3: an HTTP server on this machine that speaks its protocol."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from storage import schemas
from storage.compaction import compact
from storage.errors import QueryError
from storage.lake import Lake, LaneCommit
from storage.retention import vacuum

pytest.importorskip("s3fs", reason="the extra s3 is not installed")
pytest.importorskip("moto.server", reason="moto[server] is not installed")


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, object]]:
    """A process of its own: Delta's reader waits for the answer without letting other threads run."""
    code = (
        "import sys; from moto.server import ThreadedMotoServer as S; s = S('127.0.0.1', 0); s.start();"
        "print(s.get_host_and_port()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        port = next(int(line) for line in process.stdout if line.strip().isdigit())
        url = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{url}/lakes", method="PUT")).close()
        region = {"region_name": "us-east-1"}
        yield {"key": "any", "secret": "any", "endpoint_url": url, "client_kwargs": region}
        process.stdin.close()


@pytest.mark.slow
def test_a_lake_on_s3_is_changed_queried_compacted_and_vacuumed(options: dict[str, object]) -> None:
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
