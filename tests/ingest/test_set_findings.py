"""Findings about whole data sets: written once for a batch, replaced as a whole, judged by the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.gates import judge_dataset
from ingest.set_findings import TableSuite, note_batch, note_run, run_suites_on_table
from quality.gate import Thresholds, Verdict
from quality.limits import Limits
from quality.selection import Selection
from storage.errors import ConfigError, UnknownKeyError
from tests.ingest.mill import KITTI_CAR, Mill

_RULES = Selection(limits=Limits(min_drift_boxes=4))


def drop(mill: Mill, stem: str, *names: str) -> None:
    mill.image(f"d/{stem}.png")
    lines = [
        KITTI_CAR.format(20 * i, 10, 20 * i + 10, 20).replace("Car", name) for i, name in enumerate(names)
    ]
    mill.write(f"d/{stem}.txt", "".join(lines))
    mill.ingest()


def set_findings(mill: Mill) -> list[tuple[object, ...]]:
    rows = mill.rows("SELECT rule, stem, batch FROM findings WHERE stem LIKE '/%' ORDER BY ALL")
    return [tuple(row.values()) for row in rows]


def suite_of(path: Path, *expectations: dict[str, object], name: str = "mine") -> Path:
    path.write_text(json.dumps({"name": name, "expectations": list(expectations)}))
    return path


def in_set(*values: str, severity: str = "critical") -> dict[str, object]:
    return {
        "type": "expect_column_values_to_be_in_set",
        "kwargs": {"column": "category", "value_set": list(values)},
        "severity": severity,
    }


def test_drift_is_noted_once_for_a_batch_and_goes_when_the_mix_is_as_before(mill: Mill) -> None:
    drop(mill, "a", *["Car"] * 4)
    assert note_batch(mill.lake, rules=_RULES)
    assert set_findings(mill) == []
    drop(mill, "b", *["Van"] * 4)
    assert note_batch(mill.lake, rules=_RULES)
    assert set_findings(mill) == [("class_drift", "/drop/drift", 2)]
    version = mill.lake.table("findings").version()
    assert not note_batch(mill.lake, rules=_RULES), "the same batch again"
    assert mill.lake.table("findings").version() == version
    drop(mill, "c", *["Car"] * 2, *["Van"] * 2)
    assert note_batch(mill.lake, rules=_RULES)
    assert set_findings(mill) == []


def test_what_belongs_to_a_sample_is_left_alone_by_findings_about_the_set_and_the_other_way(
    mill: Mill,
) -> None:
    drop(mill, "a", *["Car"] * 4)
    drop(mill, "b", *["Van"] * 4)
    mill.write("d/b.txt", KITTI_CAR.format(1, 1, 2, 9).replace("Car", "Van") * 4)
    mill.ingest()
    own = mill.tables()["findings"]
    note_batch(mill.lake, rules=_RULES)
    assert mill.tables()["findings"] == own
    before = set_findings(mill)
    drop(mill, "a", *["Car"] * 3)
    assert set_findings(mill) == before


@pytest.mark.slow
class TestSuites:
    """Suites of users' own, which need Great Expectations."""

    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("great_expectations", reason="great-expectations is not installed")

    def test_what_a_users_suite_finds_after_a_batch_fails_the_gate_until_it_is_met(
        self, mill: Mill, tmp_path: Path
    ) -> None:
        drop(mill, "a", "Car", "Bus", "Car")
        suites = [TableSuite(source=str(suite_of(tmp_path / "mine.json", in_set("Car"))))]
        assert note_batch(mill.lake, suites)
        (row,) = mill.rows("SELECT * FROM findings WHERE stem LIKE '/%'")
        assert row["rule"] == "expect_column_values_to_be_in_set"
        assert (row["severity"], row["stem"], row["batch"]) == ("error", "/drop/annotations/mine", 1)
        assert (row["sample"], row["source"], row["instance"]) == ("a", "d/a.txt", 1)
        assert row["observed"] == "mine: category Bus"
        state = judge_dataset(mill.lake, "d")
        assert state.gate.verdict is Verdict.FAIL
        assert state.gate.reasons[0] == "1 critical expectations are not met, more than 0"
        assert judge_dataset(mill.lake, "d", Thresholds(fail_expectations=None)).gate.verdict is Verdict.WARN
        docs = list((mill.lake_folder / "artifacts" / "expectations" / "d" / "annotations").rglob("*.html"))
        assert len(docs) >= 3
        assert not any("http://" in page.read_text() or "<script" in page.read_text() for page in docs)

        drop(mill, "a", "Car", "Car")
        assert note_batch(mill.lake, suites)
        assert set_findings(mill) == []
        assert judge_dataset(mill.lake, "d").gate.verdict is Verdict.PASS

    def test_a_suite_that_cannot_be_run_is_a_finding_and_stops_nothing(
        self, mill: Mill, tmp_path: Path
    ) -> None:
        drop(mill, "a", "Car")
        assert note_batch(mill.lake, [TableSuite(source=str(tmp_path / "none.json"))])
        (row,) = mill.rows("SELECT rule, severity, observed FROM findings WHERE stem LIKE '/%'")
        assert (row["rule"], row["severity"]) == ("expectations_not_run", "error")
        assert "none.json" in str(row["observed"])

    def test_runs_on_command_replace_their_own_findings_alone(self, mill: Mill, tmp_path: Path) -> None:
        drop(mill, "a", "Car", "Bus")
        cars = suite_of(tmp_path / "cars.json", in_set("Car", severity="warning"), name="cars")
        wide = {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "width", "min_value": 200, "max_value": 300},
        }
        wide_images = suite_of(tmp_path / "wide.json", wide, name="wide")
        for _ in range(2):
            for table, path in (("annotations", cars), ("images", wide_images)):
                note_run(mill.lake, run_suites_on_table(mill.lake, "d", [str(path)], table=table))
        assert [(rule, stem) for rule, stem, _ in set_findings(mill)] == [
            ("expect_column_values_to_be_between", "/run/images/wide"),
            ("expect_column_values_to_be_in_set", "/run/annotations/cars"),
        ]
        note_batch(mill.lake)
        assert len(set_findings(mill)) == 2
        suite_of(cars, in_set("Car", "Bus"), name="cars")
        note_run(mill.lake, run_suites_on_table(mill.lake, "d", [str(cars)], docs=tmp_path / "docs"))
        assert [stem for _, stem, _ in set_findings(mill)] == ["/run/images/wide"]
        assert (tmp_path / "docs" / "index.html").is_file()

    def test_what_cannot_be_looked_at_is_refused_by_name(self, mill: Mill, tmp_path: Path) -> None:
        drop(mill, "a", "Car")
        path = str(suite_of(tmp_path / "mine.json", in_set("Car")))
        with pytest.raises(UnknownKeyError, match="did you mean 'images'"):
            run_suites_on_table(mill.lake, "d", [path], table="image")
        with pytest.raises(ConfigError, match="no rows of the data set 'e'"):
            run_suites_on_table(mill.lake, "e", [path])

    @pytest.mark.parametrize(
        "condition",
        ["@pd.io.common.os.system('true')", "category.__class__", {"column": {"name": "a.__init__"}}],
    )
    def test_conditions_that_reach_for_more_than_columns_are_refused(
        self, mill: Mill, tmp_path: Path, condition: object
    ) -> None:
        drop(mill, "a", "Car")
        entry = in_set("Car")
        entry["kwargs"] |= {"row_condition": condition, "condition_parser": "pandas"}  # type: ignore[operator]
        path = suite_of(tmp_path / "mine.json", entry)
        with pytest.raises(ConfigError, match="could run code"):
            run_suites_on_table(mill.lake, "d", [str(path)])


def test_one_lake_can_hold_several_sets_with_findings_of_their_own(new_mill: Callable[..., Mill]) -> None:
    mill = new_mill()
    for dataset in ("d", "e"):
        for stem, name in (("a", "Car"), ("b", "Van" if dataset == "e" else "Car")):
            mill.image(f"{dataset}/{stem}.png")
            boxes = [KITTI_CAR.format(20 * i, 1, 20 * i + 9, 9).replace("Car", name) for i in range(4)]
            mill.write(f"{dataset}/{stem}.txt", "".join(boxes))
            mill.ingest()
    note_batch(mill.lake, rules=_RULES)
    rows = mill.rows("SELECT dataset FROM findings WHERE stem LIKE '/%'")
    assert rows == [{"dataset": "e"}]
