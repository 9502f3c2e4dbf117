"""The command line, run as people and scripts run it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

import dropmill
from dropmill.cli import cli
from tests.ingest.mill import KITTI_CAR, Mill, picture


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dropmill", *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def filled(mill: Mill) -> Mill:
    for name in "ab":
        mill.write(f"road/image_2/{name}.png", picture(100, 50))
        mill.write(f"road/label_2/{name}.txt", KITTI_CAR.format(1, 1, 120, 9))
        mill.ingest()
    return mill


@pytest.mark.slow
def test_ingest_ends_with_one_line_of_json_and_its_status_tells_of_quarantine(mill: Mill) -> None:
    mill.write("road/image_2/a.png", picture(100, 50))
    mill.write("road/label_2/a.txt", KITTI_CAR.format(1, 1, 120, 9))
    mill.write("road/bad.xml", "<annotation>")
    command = ("ingest", mill.folder, "--lake", mill.lake_folder, "--json")
    first = run(*command)
    assert first.returncode == 1
    result = json.loads(first.stdout.splitlines()[-1])
    seconds = result.pop("seconds")
    assert seconds > 0
    assert result == {
        "batches": 1,
        "images": 1,
        "labels": 1,
        "annotations": 1,
        "findings": 2,
        "quarantined": 1,
        "removed": 0,
    }
    before = mill.lake.snapshot()
    second = run(*command)
    assert second.returncode == 0
    assert json.loads(second.stdout.splitlines()[-1])["batches"] == 0
    assert mill.lake.snapshot() == before


def test_sql_prints_a_table_json_or_csv_and_reads_the_past(filled: Mill) -> None:
    query = "SELECT sample, xmax FROM annotations ORDER BY sample"
    lake = ("--lake", filled.lake_folder)
    shown = run("sql", query, *lake)
    assert shown.returncode == 0
    assert "image_2/a" in shown.stdout
    assert "2 rows" in shown.stdout
    assert json.loads(run("sql", query, *lake, "--json").stdout) == [
        {"sample": "image_2/a", "xmax": 100.0},
        {"sample": "image_2/b", "xmax": 100.0},
    ]
    rows = list(csv.DictReader(io.StringIO(run("sql", query, *lake, "--csv").stdout)))
    assert [row["sample"] for row in rows] == ["image_2/a", "image_2/b"]
    past = run("sql", query, *lake, "--json", "--version", "annotations=1")
    assert len(json.loads(past.stdout)) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sql", "DROP TABLE annotations", "--lake", "{lake}"), "read only"),
        (("sql", "SELECT nothing FROM annotations", "--lake", "{lake}"), "nothing"),
        (("sql", "SELECT 1", "--lake", "{lake}", "--version", "annotations"), "TABLE=N"),
        (("sql", "SELECT 1", "--lake", "/nowhere/at/all"), "no lake is here"),
        (("status", "--lake", "/nowhere/at/all"), "no lake is here"),
        (("ingest", "/nowhere/at/all", "--lake", "{lake}"), "no such folder"),
        (("ingest", "{lake}", "--lake", "{lake}"), "inside each other"),
        (("serve", "-c", "/nowhere/dropmill.yaml"), "cannot be read"),
        (("nonsense",), "No such command"),
        (("sql",), "give a QUERY"),
        (("model", "detectnet_v2", "train", "--lake", "{lake}"), "--lake goes with --dataset"),
        (("model", "detectnet_v2", "train", "--lake", "{lake}", "--dataset", "none"), "data sets: ['road']"),
        (("demo", "{lake}", "--out", "{lake}"), "would remove"),
    ],
)
def test_bad_input_is_one_line_and_a_status_that_is_not_zero(
    filled: Mill, words: tuple[str, ...], said: str
) -> None:
    ended = run(*(word.format(lake=filled.lake_folder) for word in words))
    assert ended.returncode in (1, 2)
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_status_tells_rows_classes_and_findings(filled: Mill) -> None:
    shown = run("status", "--lake", filled.lake_folder)
    assert shown.returncode == 0
    for word in ("annotations", "road", "gate", "100.0%", "beyond_image", "clipped to"):
        assert word in shown.stdout
    report = json.loads(run("status", "--lake", filled.lake_folder, "--json").stdout)
    assert report["rows"]["annotations"] == 2
    assert report["datasets"][0]["classes"][0] == {
        "category": "Car",
        "boxes": 2,
        "images": 2,
        "share": 1.0,
        "ratio_to_largest": 1.0,
        "effective_number": 2.0,
        "weight": 1.0,
    }
    assert len(report["answers"]) == 3


def test_python_opens_the_same_lake(filled: Mill) -> None:
    lake = dropmill.open(filled.lake_folder)
    rows = lake.sql("SELECT count(*) AS n FROM annotations")
    assert rows.to_pylist() == [{"n": 2}]
    assert rows.polars()["n"].to_list() == [2]


def test_scenes_are_written_and_counted(tmp_path: Path) -> None:
    words = ("scenes", tmp_path / "s", "--images", 20, "--width", 160, "--height", 128, "--json")
    counts = json.loads(run(*words, "--format", "coco").stdout.splitlines()[-1])
    assert counts["images"] == 20
    assert counts["defects"]["zero_area"] >= 1
    again = run(*words)
    assert again.returncode == 2
    assert "not empty" in again.stderr


def test_help_lists_every_command() -> None:
    shown = run("--help").stdout
    for name in ("serve", "ingest", "sql", "status", "demo", "scenes", "jobs", "model"):
        assert name in shown
        assert get_command(name).help


def get_command(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command
    return command
