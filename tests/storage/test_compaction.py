"""Files of the tables: their layout, their compaction, and what a change touches."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import CommitProperties, Transaction, write_deltalake

import storage.compaction
import storage.layout
from storage import schemas
from storage.compaction import compact, needs_compaction
from storage.errors import CommitConflictError
from storage.lake import Lake, LaneCommit
from storage.layout import Layout, may_hold


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setitem(
        storage.layout.LAYOUTS, "findings", Layout(100, ("dataset", "stem", "source", "instance"))
    )
    return Lake.create(tmp_path / "lake")


def findings(*stems: str, dataset: str = "d", rule: str = "zero_area", batch: int = 1) -> pa.Table:
    rows = [
        {"dataset": dataset, "stem": stem, "sample": stem, "rule": rule, "batch": batch} for stem in stems
    ]
    return pa.Table.from_pylist(rows, schema=schemas.FINDINGS)


def names(first: int, last: int) -> list[str]:
    return [f"s{number:05}" for number in range(first, last)]


def land(lake: Lake, number: int, rows: pa.Table) -> None:
    keys: dict[str, set[str]] = {}
    for row in rows.select(["dataset", "stem"]).to_pylist():
        keys.setdefault(row["dataset"], set()).add(row["stem"])
    LaneCommit(lake, "main", number).replace("findings", rows, ("stem", keys))


def file_rows(lake: Lake) -> list[int]:
    return sorted(lake.files("findings").actions["num_records"].to_pylist())


def contents(lake: Lake) -> list[str]:
    return sorted(map(str, lake.read("findings").to_pylist()))


def ranges(lake: Lake) -> list[tuple[str, str, str]]:
    actions = lake.files("findings").actions
    columns = ("min.dataset", "min.stem", "max.stem")
    return sorted(zip(*(actions[column].to_pylist() for column in columns), strict=True))


def test_small_batches_become_files_of_the_layout_and_keep_every_row(lake: Lake) -> None:
    order = names(0, 1_000)
    random.Random(1).shuffle(order)
    for number in range(20):
        land(lake, number + 1, findings(*order[number * 50 : number * 50 + 50]))
    before = contents(lake)
    assert needs_compaction(lake, "findings") == 20
    done = compact(lake, "findings")
    assert (done.files_before, done.files_after, done.rows_written) == (20, 10, 1_000)
    assert contents(lake) == before
    assert file_rows(lake) == [100] * 10
    found = ranges(lake)
    assert all(one[2] < two[1] for one, two in pairwise(found))


def test_a_second_compaction_finds_nothing_to_do(lake: Lake) -> None:
    for number in range(6):
        land(lake, number + 1, findings(*names(number * 30, number * 30 + 30), dataset="ab"[number % 2]))
    compact(lake, "findings")
    version = lake.table("findings").version()
    assert compact(lake, "findings").rows_written == 0
    assert lake.table("findings").version() == version


def test_compaction_in_parts_that_fit_into_memory_gives_the_same(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.compaction, "_ROWS_AT_ONCE", 150)
    order = names(0, 600)
    random.Random(2).shuffle(order)
    for number in range(12):
        land(lake, number + 1, findings(*order[number * 50 : number * 50 + 50]))
    before = contents(lake)
    compact(lake, "findings")
    assert contents(lake) == before
    assert max(file_rows(lake)) <= 200
    assert needs_compaction(lake, "findings") == 0


def test_files_that_others_appended_are_brought_into_the_layout(lake: Lake) -> None:
    mixed = pa.concat_tables([findings(*names(0, 20), dataset="a"), findings(*names(0, 20), dataset="b")])
    write_deltalake(lake.table("findings"), mixed, mode="append")
    write_deltalake(lake.table("findings"), findings(*names(20, 30), dataset="a"), mode="append")
    before = contents(lake)
    compact(lake, "findings")
    compact(lake, "findings")
    assert contents(lake) == before
    assert [(row[0], row[1], row[2]) for row in ranges(lake)] == [
        ("a", "s00000", "s00029"),
        ("b", "s00000", "s00019"),
    ]


def test_a_change_touches_only_the_files_that_hold_what_changes(lake: Lake) -> None:
    land(lake, 1, findings(*names(0, 1_000)))
    before = set(lake.table("findings").file_uris())
    assert len(before) == 10
    land(lake, 2, findings("s00150", "s00151", rule="inverted_box", batch=2))
    after = set(lake.table("findings").file_uris())
    assert len(before - after) == 1
    assert len(after - before) == 1
    rows = lake.read("findings", where=pc.field("batch") == 2)
    assert sorted(rows["stem"].to_pylist()) == ["s00150", "s00151"]
    assert lake.read("findings").num_rows == 1_000


def test_a_file_that_outgrows_the_layout_is_cut(lake: Lake) -> None:
    land(lake, 1, findings(*names(0, 100)))
    rows = pa.concat_tables([findings(*names(40, 60), rule=f"rule {i}", batch=2) for i in range(10)])
    land(lake, 2, rows)
    assert file_rows(lake) == [93, 93, 94]
    assert lake.read("findings").num_rows == 280


def test_statistics_choose_the_files_that_may_hold_a_key_and_no_others(lake: Lake) -> None:
    land(lake, 1, findings(*names(0, 300), dataset="a"))
    land(lake, 2, findings(*names(0, 100), dataset="b"))
    files = lake.files("findings")
    assert may_hold(files.actions, "stem", {"a": ["s00150"]}).sum() == 1
    assert may_hold(files.actions, "stem", {"a": ["s00000", "s00299"]}).sum() == 2
    assert may_hold(files.actions, "stem", {"a": ["s00050"], "b": ["s00050"]}).sum() == 2
    assert may_hold(files.actions, "stem", {"c": ["s00050"], "a": ["t"], "b": []}).sum() == 0


def test_a_batch_that_meets_a_compaction_is_a_conflict_and_doubles_nothing(lake: Lake) -> None:
    for number in range(4):
        land(lake, number + 1, findings(*names(number * 10, number * 10 + 10)))
    commit = LaneCommit(lake, "main", 9)
    commit.look("findings")
    compact(lake, "findings")
    with pytest.raises(CommitConflictError):
        commit.replace("findings", findings("s00005", rule="new"), ("stem", {"d": ["s00005"]}))
    assert lake.read("findings").num_rows == 40


def test_a_compaction_that_meets_a_batch_gives_way(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        land(lake, number + 1, findings(*names(number * 10, number * 10 + 10)))
    write = storage.compaction.write_files

    def batch_comes_between(*args: object, **options: object) -> object:
        land(lake, 9, findings("s00005", rule="new", batch=9))
        return write(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(storage.compaction, "write_files", batch_comes_between)
    with pytest.raises(CommitConflictError):
        compact(lake, "findings")
    assert lake.read("findings").num_rows == 40
    assert lake.read("findings", where=pc.field("rule") == "new").num_rows == 1


def test_the_ledger_of_objects_keeps_the_order_in_which_its_rows_came(lake: Lake) -> None:
    for number in range(5):
        rows = [{"key": f"{9 - number}.png", "batch": number, "dataset": "d", "state": "done"}]
        LaneCommit(lake, "main", number + 1).append(
            "objects", pa.Table.from_pylist(rows, schema=schemas.OBJECTS)
        )
    compact(lake, "objects")
    assert lake.read("objects")["batch"].to_pylist() == [0, 1, 2, 3, 4]
    assert len(lake.table("objects").file_uris()) == 1


def test_numbers_that_are_no_numbers_and_rows_without_a_stem_are_kept(lake: Lake) -> None:
    row = {"dataset": "d", "sample": "s", "xmin": float("nan"), "xmax": float("inf"), "batch": 1}
    rows = pa.Table.from_pylist([row, {**row, "stem": "s"}], schema=schemas.ANNOTATIONS)
    LaneCommit(lake, "main", 1).replace("annotations", rows, ("stem", {"d": ["s"]}))
    LaneCommit(lake, "main", 2).append("annotations", rows)
    compact(lake, "annotations")
    compact(lake, "annotations")
    assert lake.read("annotations").num_rows == 4
    assert lake.sql("SELECT count(*) AS n FROM annotations WHERE isnan(xmin)").to_pylist() == [{"n": 4}]


def test_transactions_of_lanes_outlive_checkpoints_compaction_and_log_clean_up(lake: Lake) -> None:
    land(lake, 7, findings("a"))
    table = lake.table("findings")
    for number in range(60):
        write_deltalake(
            table,
            findings(f"b{number}"),
            mode="append",
            commit_properties=CommitProperties(app_transactions=[Transaction("other", number)]),
        )
    compact(lake, "findings")
    table = lake.table("findings")
    table.create_checkpoint()
    table.cleanup_metadata()
    log = Path(lake.store.root) / "tables" / "findings" / "_delta_log"
    for file in sorted(log.glob("*.json"))[:-1]:
        file.unlink()
    again = lake.table("findings")
    assert again.transaction_version("main") == 7
    assert again.transaction_version("other") == 59
    assert LaneCommit(lake, "main", 7).has("findings")
    assert not LaneCommit(lake, "main", 8).has("findings")
