"""What a vacuum takes away, and what it leaves."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import storage.retention
from storage import schemas
from storage.compaction import compact
from storage.errors import LakeError
from storage.lake import Lake, LaneCommit
from storage.retention import pinned_versions, vacuum


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake")
    for number in range(1, 61):
        row = {"dataset": "d", "stem": "s", "sample": "s", "rule": f"rule {number}", "batch": number}
        LaneCommit(lake, "main", number).replace(
            "findings", pa.Table.from_pylist([row], schema=schemas.FINDINGS), ("stem", {"d": ["s"]})
        )
    return lake


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> timedelta:
    """A retention by which everything on this disk is old."""
    monkeypatch.setattr(storage.retention, "_LOG_RETENTION", timedelta(0))
    monkeypatch.setattr(storage.retention, "_LEAST", timedelta(0))
    return timedelta(0)


def pin(lake: Lake, **versions: int) -> None:
    row = {"run": "r1", "state": "succeeded", "snapshot": json.dumps(versions)}
    lake.put("runs", pa.Table.from_pylist([row], schema=schemas.RUNS), keys=["run"])


def rules(lake: Lake, version: int | None = None) -> list[str]:
    return lake.read("findings", version=version)["rule"].to_pylist()


def test_a_vacuum_within_the_retention_takes_nothing(lake: Lake) -> None:
    assert vacuum(lake)["findings"] == []
    assert rules(lake, 5) == ["rule 5"]


def test_a_vacuum_takes_what_no_version_in_use_needs(lake: Lake, late: timedelta) -> None:
    files = sum(1 for _ in (lake.store.root / "tables" / "findings").glob("*.parquet"))
    would = vacuum(lake, retention=late, dry_run=True)["findings"]
    assert sum(1 for _ in (lake.store.root / "tables" / "findings").glob("*.parquet")) == files
    gone = vacuum(lake, retention=late)["findings"]
    assert sorted(would) == sorted(gone)
    assert len(gone) == 59
    assert rules(lake) == ["rule 60"]


def test_the_version_that_a_run_was_made_from_stays_readable(lake: Lake, late: timedelta) -> None:
    pin(lake, findings=7, annotations=0)
    assert pinned_versions(lake)["findings"] == {7}
    compact(lake, "findings")
    vacuum(lake, retention=late)
    assert rules(lake, 7) == ["rule 7"]
    assert rules(lake) == ["rule 60"]
    answer = lake.sql("SELECT rule FROM findings", versions={"findings": 7})
    assert answer.to_pylist() == [{"rule": "rule 7"}]


def test_the_log_is_shortened_to_the_oldest_version_in_use(lake: Lake, late: timedelta) -> None:
    log = lake.store.root / "tables" / "findings" / "_delta_log"
    pin(lake, findings=30)
    vacuum(lake, retention=late)
    versions = sorted(int(path.name[:20]) for path in log.glob("*.json"))
    assert versions[0] == 24
    assert rules(lake, 30) == ["rule 30"]
    with pytest.raises(LakeError):
        lake.read("findings", version=10)
    assert LaneCommit(lake, "main", 60).has("findings")
    assert not LaneCommit(lake, "main", 61).has("findings")


def test_pins_that_no_longer_exist_and_unreadable_snapshots_stop_nothing(lake: Lake, late: timedelta) -> None:
    rows = [
        {"run": str(i), "snapshot": text} for i, text in enumerate(['{"findings": 999}', "{", "[]", None])
    ]
    lake.put("runs", pa.Table.from_pylist(rows, schema=schemas.RUNS), keys=["run"])
    vacuum(lake, retention=late)
    assert rules(lake) == ["rule 60"]


def test_a_retention_that_would_hurt_batches_under_way_is_refused(lake: Lake) -> None:
    with pytest.raises(LakeError, match="at least an hour"):
        vacuum(lake, retention=timedelta(minutes=5))
