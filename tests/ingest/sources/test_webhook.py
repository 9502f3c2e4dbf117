"""Notifications by POST: proven, noted, accepted; and what was noted survives."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest

from ingest.sources.spool import Spool
from ingest.sources.webhook import NotProvenError, Webhook
from storage.errors import StoreError, UnreadableError

SECRET = "s3cret"


def body(*keys: str, bucket: str = "drops") -> bytes:
    records = [
        {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}
        for key in keys
    ]
    return json.dumps({"Records": records}).encode()


def bearer(secret: str = SECRET) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def hook(folder: Path, prefix: str = "") -> Webhook:
    return Webhook(folder, secret=SECRET, bucket="drops", prefix=prefix)


def test_what_was_accepted_is_there_for_the_next_process_until_it_is_committed(tmp_path: Path) -> None:
    first = hook(tmp_path)
    assert first.accept(body("d/a.png", "d/b.png"), bearer()) == 2
    assert [hint.key for hint in first.take(10)] == ["d/a.png", "d/b.png"]
    assert first.take(10) == []
    # The process is killed before it commits.
    second = hook(tmp_path)
    hints = second.take(10)
    assert [hint.key for hint in hints] == ["d/a.png", "d/b.png"]
    second.acknowledge(hint.receipt for hint in hints)
    assert hook(tmp_path).take(10) == []


def test_notes_that_were_given_back_come_again(tmp_path: Path) -> None:
    webhook = hook(tmp_path)
    webhook.accept(body("d/a.png"), bearer())
    webhook.give_back([hint.receipt for hint in webhook.take(10)], "for now")
    assert [hint.key for hint in webhook.take(10)] == ["d/a.png"]


def test_a_signature_proves_the_body_and_no_other(tmp_path: Path) -> None:
    webhook = hook(tmp_path)
    data = body("d/a.png")
    digest = hmac.new(SECRET.encode(), data, hashlib.sha256).hexdigest()
    assert webhook.accept(data, {"x-dropmill-signature": f"sha256={digest}"}) == 1
    with pytest.raises(NotProvenError):
        webhook.accept(body("d/b.png"), {"x-dropmill-signature": f"sha256={digest}"})
    for headers in ({}, bearer("wrong"), bearer(""), {"x-dropmill-signature": "", **bearer()}):
        with pytest.raises(NotProvenError):
            webhook.accept(data, headers)


def test_other_buckets_and_prefixes_are_not_ours(tmp_path: Path) -> None:
    webhook = hook(tmp_path, prefix="in/")
    assert webhook.accept(body("in/a.png", bucket="others"), bearer()) == 0
    assert webhook.accept(body("in/a.png", "out/b.png"), bearer()) == 1
    assert [hint.key for hint in webhook.take(10)] == ["a.png"]


def test_what_is_no_notification_is_refused_and_not_noted(tmp_path: Path) -> None:
    webhook = hook(tmp_path)
    with pytest.raises(UnreadableError):
        webhook.accept(b"<xml/>", bearer())
    assert webhook.pending() == 0


def test_a_full_spool_and_a_disk_that_refuses_accept_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", most=1)
    spool.put(b"1")
    with pytest.raises(StoreError, match="full"):
        spool.put(b"2")
    gone = Spool(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StoreError, match="cannot note"):
        gone.put(b"1")


def test_half_written_notes_of_a_crash_are_no_notes(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(b"whole")
    (tmp_path / ".000000000009-1.note.part").write_bytes(b"ha")
    again = Spool(tmp_path)
    assert [data for _, data in again.take(10)] == [b"whole"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
