"""The lake: transactions of a lane, replacing rows, conflicts, snapshots."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from storage import schemas
from storage.errors import CommitConflictError, LakeError, UnknownKeyError
from storage.lake import Lake, LaneCommit


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(tmp_path / "lake")


def finding(stem: str, rule: str = "zero_area", dataset: str = "d", batch: int = 1) -> dict[str, object]:
    return {"dataset": dataset, "stem": stem, "sample": stem, "rule": rule, "source": stem, "batch": batch}


def findings(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schemas.FINDINGS)


def stems(lake: Lake) -> list[str]:
    return sorted(lake.read("findings")["stem"].to_pylist())


def test_a_folder_without_tables_is_no_lake_and_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="dropmill ingest"):
        Lake.open(tmp_path)


def test_creating_twice_keeps_what_is_there(lake: Lake) -> None:
    LaneCommit(lake, "main", 1).append("findings", findings(finding("a")))
    again = Lake.create(lake.url)
    assert stems(again) == ["a"]


def test_the_same_batch_lands_once_however_often_it_is_committed(lake: Lake) -> None:
    for _ in range(3):
        LaneCommit(lake, "main", 1).append("findings", findings(finding("a")))
    assert stems(lake) == ["a"]
    assert LaneCommit(lake, "main", 1).has("findings")
    assert not LaneCommit(lake, "main", 2).has("findings")


def test_lanes_do_not_hide_each_others_batches(lake: Lake) -> None:
    LaneCommit(lake, "one", 1).append("findings", findings(finding("a")))
    LaneCommit(lake, "two", 1).append("findings", findings(finding("b")))
    assert stems(lake) == ["a", "b"]


def test_replacing_takes_out_the_named_rows_only(lake: Lake) -> None:
    LaneCommit(lake, "main", 1).append(
        "findings", findings(finding("a"), finding("b"), finding("a", dataset="other"))
    )
    LaneCommit(lake, "main", 2).replace(
        "findings", findings(finding("a", "inverted_box")), ("stem", {"d": {"a", "never seen"}})
    )
    rows = lake.read("findings").select(["dataset", "stem", "rule"]).to_pylist()
    assert sorted(map(str, rows)) == sorted(
        map(
            str,
            [
                {"dataset": "d", "stem": "a", "rule": "inverted_box"},
                {"dataset": "d", "stem": "b", "rule": "zero_area"},
                {"dataset": "other", "stem": "a", "rule": "zero_area"},
            ],
        )
    )


def test_replacing_with_nothing_deletes(lake: Lake) -> None:
    LaneCommit(lake, "main", 1).append("findings", findings(finding("a"), finding("b")))
    LaneCommit(lake, "main", 2).replace("findings", findings(), ("stem", {"d": {"a"}}))
    assert stems(lake) == ["b"]


def test_more_values_than_a_predicate_can_hold_are_replaced_as_well(lake: Lake) -> None:
    names = [f"s{i:05}" for i in range(6_000)]
    LaneCommit(lake, "main", 1).append("findings", findings(*map(finding, [*names, "kept"])))
    LaneCommit(lake, "main", 2).replace(
        "findings", findings(finding("s00000", "inverted_box")), ("stem", {"d": set(names)})
    )
    assert stems(lake) == ["kept", "s00000"]


@pytest.mark.parametrize("name", ["it's", "a,b", "x' OR '1'='1", "ü ñ", "percent%20"])
def test_names_with_quotes_and_signs_are_values_not_sql(lake: Lake, name: str) -> None:
    LaneCommit(lake, "main", 1).append("findings", findings(finding(name), finding("other")))
    LaneCommit(lake, "main", 2).replace("findings", findings(), ("stem", {"d": {name}}))
    assert stems(lake) == ["other"]


def test_a_writer_that_came_between_is_a_conflict_and_not_a_second_copy(lake: Lake) -> None:
    mine, theirs = LaneCommit(lake, "main", 1), LaneCommit(lake, "main", 1)
    mine.look("findings")
    theirs.append("findings", findings(finding("a")))
    with pytest.raises(CommitConflictError) as caught:
        mine.append("findings", findings(finding("a")))
    assert caught.value.transient
    assert caught.value.table == "findings"
    assert stems(lake) == ["a"]


def test_lanes_with_data_sets_of_their_own_do_not_wait_for_each_other(lake: Lake) -> None:
    def rows(dataset: str, *stems: str, batch: int = 1) -> pa.Table:
        return findings(*({**finding(stem, batch=batch), "dataset": dataset} for stem in stems))

    one, two, meddler = LaneCommit(lake, "one", 1), LaneCommit(lake, "two", 1), LaneCommit(lake, "three", 1)
    for commit in (one, two, meddler):
        commit.look("findings")
    one.replace("findings", rows("d", "a", "b"), ("stem", {"d": ["a", "b"]}))
    two.replace("findings", rows("e", "a"), ("stem", {"e": ["a"]}))
    assert two.has("findings")
    with pytest.raises(CommitConflictError):
        meddler.replace("findings", rows("d", "a"), ("stem", {"d": ["a"]}))
    # Also where both write files anew.
    one, two = LaneCommit(lake, "one", 2), LaneCommit(lake, "two", 2)
    two.look("findings")
    one.replace("findings", rows("d", "b", batch=2), ("stem", {"d": ["a", "b"]}))
    two.replace("findings", rows("e", "c", batch=2), ("stem", {"e": ["a"]}))
    left = lake.read("findings").select(["dataset", "stem"]).to_pylist()
    assert sorted(tuple(row.values()) for row in left) == [("d", "b"), ("e", "c")]


def test_what_is_prepared_is_in_no_table_before_it_is_committed_and_in_it_once(lake: Lake) -> None:
    LaneCommit(lake, "main", 1).append("findings", findings(finding("a"), finding("kept")))
    commit = LaneCommit(lake, "main", 2)
    with ThreadPoolExecutor() as pool:
        new = findings(finding("a", rule="tiny", batch=2), finding("b", batch=2))
        put = commit.prepare(pool, "findings", new, ("stem", {"d": ["a", "b"]}))
    assert stems(lake) == ["a", "kept"]
    put()
    assert stems(lake) == ["a", "b", "kept"]
    with ThreadPoolExecutor() as pool:
        LaneCommit(lake, "main", 2).prepare(pool, "findings", new, ("stem", {"d": ["c"]}))()
    assert stems(lake) == ["a", "b", "kept"]


def test_what_is_prepared_is_made_anew_where_another_lane_wrote_meanwhile(lake: Lake) -> None:
    LaneCommit(lake, "one", 1).append("findings", findings(finding("a")))
    LaneCommit(lake, "two", 1).append("findings", findings(finding("x", dataset="e")))
    one, two = LaneCommit(lake, "one", 2), LaneCommit(lake, "two", 2)
    with ThreadPoolExecutor() as pool:
        put = one.prepare(pool, "findings", findings(finding("b", batch=2)), ("stem", {"d": ["a", "b"]}))
    two.replace("findings", findings(finding("y", dataset="e")), ("stem", {"e": ["x", "y"]}))
    put()
    assert stems(lake) == ["b", "y"]


def test_put_replaces_the_row_with_the_same_key(lake: Lake) -> None:
    for state in ("submitted", "succeeded"):
        row = {"run": "it's-1", "state": state}
        lake.put("runs", pa.Table.from_pylist([row], schema=schemas.RUNS), keys=["run"])
    lake.put(
        "runs", pa.Table.from_pylist([{"run": "2", "state": "failed"}], schema=schemas.RUNS), keys=["run"]
    )
    assert sorted((r["run"], r["state"]) for r in lake.read("runs").to_pylist()) == [
        ("2", "failed"),
        ("it's-1", "succeeded"),
    ]


def test_a_snapshot_pins_what_a_run_reads(lake: Lake) -> None:
    LaneCommit(lake, "main", 1).append("findings", findings(finding("a")))
    pinned = lake.snapshot()
    LaneCommit(lake, "main", 2).append("findings", findings(finding("b", batch=2)))
    assert lake.read("findings", version=pinned["findings"])["stem"].to_pylist() == ["a"]
    assert stems(lake) == ["a", "b"]


def test_an_unknown_table_names_the_nearest(lake: Lake) -> None:
    with pytest.raises(UnknownKeyError, match="did you mean 'findings'"):
        lake.read("finding")


def test_a_version_that_never_was_says_so(lake: Lake) -> None:
    with pytest.raises(LakeError, match="findings at 99"):
        lake.read("findings", version=99)


def test_a_lake_from_before_a_column_came_gets_it_and_keeps_its_rows(tmp_path: Path) -> None:
    old = schemas.without(schemas.IMAGES, "phash", "deviation", "pattern")
    folder = tmp_path / "lake"
    table = DeltaTable.create(folder / "tables" / "images", schema=old, name="images")
    write_deltalake(
        table, pa.Table.from_pylist([{"dataset": "d", "sample": "a", "stem": "a"}], schema=old), mode="append"
    )
    lake = Lake.create(folder)
    commit = LaneCommit(lake, "main", 1)
    row = {"dataset": "d", "sample": "b", "stem": "b", "phash": 5}
    commit.replace("images", pa.Table.from_pylist([row], schema=schemas.IMAGES), ("stem", {"d": {"b"}}))
    rows = Lake.open(folder).sql("SELECT sample, phash FROM images ORDER BY sample").to_pylist()
    assert rows == [{"sample": "a", "phash": None}, {"sample": "b", "phash": 5}]
    assert Lake.create(folder).table("images").version() == lake.table("images").version()


def test_rows_in_many_pieces_are_cut_into_files_as_one_piece_is(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist(
        [
            {"dataset": "d", "stem": f"{number % 7}", "instance": number, "bbox": [1.0, number, 2.0, 3.0]}
            for number in range(9_000)
        ],
        schema=schemas.LABELS,
    )
    tables = []
    for piece in (9_000, 70):
        lake = Lake.create(tmp_path / str(piece))
        pieces = pa.Table.from_batches(rows.to_batches(max_chunksize=piece))
        LaneCommit(lake, "main", 1).replace("labels", pieces, ("stem", {"d": list("0123456")}))
        assert len(lake.table("labels").file_uris()) == 2
        tables.append(lake.read("labels").sort_by([("stem", "ascending"), ("instance", "ascending")]))
    assert tables[0].equals(tables[1])
