"""Quarantine and replay on the command line, as their users run them."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dropmill.cli import main
from ingest.batch import Committer
from ingest.lease import lease_of
from ingest.reconcile import reconcile
from storage.lake import Lake
from storage.object_store import ObjectStore
from tests.ingest.mill import KITTI_CAR, Mill
from tests.s3_server import client, options, s3_server

pytestmark = pytest.mark.slow


def run(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        patch.setattr(sys, "argv", ["dropmill", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0), out.getvalue()


def where(mill: Mill) -> tuple[str, ...]:
    return "--bucket", str(mill.folder), "--lake", str(mill.lake_folder)


def test_quarantine_is_listed_tried_again_and_dropped(mill: Mill) -> None:
    mill.image("d/a.png")
    mill.write("d/a.txt", KITTI_CAR.format(1, 1, 5, 5))
    for name in ("b.png", "c.png"):
        mill.write(f"d/{name}", b"\x89PNG\r\n\x1a\n broken")
    mill.ingest()
    _, listed = run("quarantine", "list", "--lake", str(mill.lake_folder), "--json")
    assert [json.loads(line)["key"] for line in listed.splitlines()] == ["d/b.png", "d/c.png"]

    status, said = run("quarantine", "retry", "--all", *where(mill))
    assert (status, "0 out of quarantine, 2 still in it" in said) == (1, True), said
    status, said = run("quarantine", "drop", "d/c.png", *where(mill))
    assert (status, "1 out of quarantine, 0 still in it" in said) == (0, True), said
    assert mill.rows("SELECT key FROM quarantine") == [{"key": "d/b.png"}]
    assert mill.rows("SELECT source FROM findings WHERE rule = 'unreadable_file'") == [{"source": "d/b.png"}]
    # It stays out while it is as it was, and comes back when it changes.
    assert mill.ingest().quarantined == 0
    mill.write("d/c.png", b"\x89PNG\r\n\x1a\n broken otherwise")
    assert mill.ingest().quarantined == 1
    status, said = run("quarantine", "drop", "d/never.png", *where(mill))
    assert (status, "not in quarantine" in said) == (2, True), said


def test_a_lane_that_a_service_has_is_not_touched(mill: Mill) -> None:
    mill.write("d/b.png", b"\x89PNG\r\n\x1a\n broken")
    mill.ingest()
    mill.image("d/new.png")
    before = mill.lake.snapshot()
    lease = lease_of(ObjectStore.at(mill.lake_folder), "main")
    assert lease.take()
    try:
        ended = [
            run("quarantine", "drop", "--all", *where(mill)),
            run("ingest", str(mill.folder), "--lake", str(mill.lake_folder)),
        ]
    finally:
        lease.release()
    for status, said in ended:
        assert (status, "lane main is held" in said) == (1, True), said
    assert mill.lake.snapshot() == before


def test_a_lake_at_an_endpoint_is_reached_as_the_configuration_says(mill: Mill) -> None:
    pytest.importorskip("moto.server", reason="moto is not installed")
    mill.write("d/b.png", b"\x89PNG\r\n\x1a\n broken")
    config = mill.folder.parent / "dropmill.yaml"
    with s3_server() as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.s3_options._FOUND", {})
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "any")
        client("s3", url).create_bucket(Bucket="lakes")
        access = {"endpoint_url": url, "region": "us-east-1"}
        config.write_text(
            yaml.safe_dump({"bucket": str(mill.folder), "lake": "s3://lakes/one", "lake_access": access})
        )
        lake = Lake.create("s3://lakes/one", options(url))
        reconcile(mill.store, Committer(lake, mill.parse, rule=mill.rule), mill.rule)
        asked = {
            command: run(*command.split(), "-c", str(config))
            for command in ("sql --json SELECT/**/key/**/FROM/**/quarantine", "quarantine list --json",
                            "status --json", "lake history --json objects", "quarantine drop --all")
        }  # fmt: skip
    assert {status for status, _ in asked.values()} == {0}, asked
    (found, listed, _, history, dropped) = (said for _, said in asked.values())
    assert json.loads(found) == [{"key": "d/b.png"}]
    assert json.loads(listed)["key"] == "d/b.png"
    assert json.loads(history)[0]["batch"] == 1
    assert "1 out of quarantine" in dropped
    status, said = run("sql", "SELECT 1")
    assert (status, "--lake, or -c" in said) == (2, True), said


def test_replay_derives_again_by_the_rules_of_today_without_the_bucket(
    new_mill: Callable[..., Mill], tmp_path: Path
) -> None:
    mill = new_mill(correct=False)
    for name in "ab":
        mill.image(f"d/image_2/{name}.png")
        mill.write(f"d/label_2/{name}.txt", KITTI_CAR.format(1, 1, 120, 9))
    mill.ingest()
    mill.image("d/image_2/c.png")
    mill.ingest()
    version = mill.lake.snapshot()["labels"]
    mill.write("d/label_2/c.txt", KITTI_CAR.format(1, 1, 130, 9))
    mill.ingest()
    mill.folder.rename(tmp_path / "away")
    assert mill.rows("SELECT count(*) AS n FROM annotations WHERE corrected") == [{"n": 0}]
    status, said = run("replay", *where(mill), "--dataset", "d", "--from-version", str(version), "--json")
    assert (status, json.loads(said)["samples"]) == (0, 1), said
    assert mill.rows("SELECT sample FROM annotations WHERE corrected") == [{"sample": "image_2/c"}]
    status, said = run("replay", *where(mill), "--dataset", "d")
    assert status == 0, said
    assert mill.rows("SELECT count(*) AS n FROM annotations WHERE corrected") == [{"n": 3}]
    (tmp_path / "away").rename(mill.folder)
    fresh = new_mill()
    fresh.folder.rmdir()
    mill.folder.rename(fresh.folder)
    fresh.ingest()
    assert mill.tables() == fresh.tables()
    status, said = run("replay", *where(mill), "--dataset", "e")
    assert (status, "known: d" in said) == (2, True), said
