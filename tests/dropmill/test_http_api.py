"""The HTTP side of a service that runs: health, metrics, webhook, and what wants the token."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dropmill.http_api import check_binding
from storage.errors import ConfigError, LakeError
from storage.lake import Lake
from tests.ingest.mill import KITTI_CAR, picture

pytestmark = pytest.mark.slow

_LIMIT_S = 120.0


class Running:
    """A service with an HTTP side, on a folder that it is not told of by anything but the webhook."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "drops").mkdir()
        config = {
            "bucket": "drops",
            "lake": "lake",
            # The folder is looked through so seldom that only the webhook can be who told of a file.
            "sources": {"poll_s": 3600, "webhook": {"spool": "spool"}},
            "http": {"port": 0, "cache": "cache"},
            "ingest": {"reconcile_s": 3600},
        }
        self.config = folder / "dropmill.yaml"
        self.config.write_text(yaml.safe_dump(config))
        self.log = folder / "log.jsonl"
        self.process = self.start(self.log)
        self.url = str(self.wait_for_event("http", self.log)["address"])

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "DROPMILL_TOKEN": "t0ken", "DROPMILL_WEBHOOK_SECRET": "s3cret"}
        with log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "dropmill", "serve", "-c", str(self.config)],
                stdout=out,
                stderr=out,
                env=environment,
            )

    def wait_for_event(self, name: str, log: Path) -> dict[str, object]:
        began = time.monotonic()
        while True:
            for line in log.read_text().splitlines() if log.exists() else []:
                if line.startswith("{") and (found := json.loads(line))["event"] == name:
                    return dict(found)
            assert time.monotonic() - began < _LIMIT_S, log.read_text()[-3000:]
            time.sleep(0.05)

    def ask(
        self, path: str, body: bytes | None = None, *, token: str | None = None, url: str | None = None
    ) -> tuple[int, str]:
        request = urllib.request.Request((url or self.url) + path, data=body)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def rows(self, query: str) -> list[dict[str, object]]:
        try:
            return Lake.open(self.folder / "lake").sql(query).to_pylist()
        except LakeError:
            return []

    def wait_for_rows(self, query: str, rows: list[dict[str, object]]) -> None:
        began = time.monotonic()
        while self.rows(query) != rows:
            assert time.monotonic() - began < _LIMIT_S, self.log.read_text()[-3000:]
            time.sleep(0.05)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    service = Running(tmp_path_factory.mktemp("http"))
    yield service
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(timeout=180) == 0


def notification(*keys: str) -> bytes:
    records = [
        {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "drops"}, "object": {"key": key}}}
        for key in keys
    ]
    return json.dumps({"Records": records}).encode()


def test_a_service_tells_how_it_is_and_works_on_what_the_webhook_tells(running: Running) -> None:
    assert running.ask("/healthz")[0] == 200
    running.wait_for_event("serving", running.log)
    began = time.monotonic()
    while running.ask("/readyz")[0] != 200:
        assert time.monotonic() - began < _LIMIT_S
    folder = running.folder / "drops" / "d"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(100, 50))
    (folder / "a.txt").write_text(KITTI_CAR.format(1, 1, 5, 5))
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert running.ask("/events", notification("d/a.png"))[0] == 401
    assert running.ask("/events", notification("d/a.png"), token="wrong")[0] == 401
    assert running.ask("/events", b"what?", token="s3cret")[0] == 400
    for size in (1_000_001, 8_000_000):  # more than the buffers of a connection hold
        assert running.ask("/events", b"x" * size, token="s3cret")[0] == 413
    status, said = running.ask("/events", notification("d/a.png", "d/a.txt", "d/b.png"), token="s3cret")
    assert (status, json.loads(said)) == (202, {"noted": 3})
    running.wait_for_rows("SELECT count(*) AS n FROM newest", [{"n": 3}])
    began = time.monotonic()
    while "dropmill_quarantine_objects 1.0" not in (text := running.ask("/metrics")[1]):
        assert time.monotonic() - began < _LIMIT_S, text
    assert 'dropmill_events_total{action="put"} 3.0' in text
    assert "dropmill_lag_seconds_count 3.0" in text
    assert 'dropmill_queue_depth{source="webhook"}' in text
    told = json.loads(running.ask("/api/v1/now")[1])
    assert (told["service"]["state"], told["may_change"]) == ("serving", True)
    assert '<script type="module"' in running.ask("/")[1]
    # What a form of another site can post is not taken for JSON.
    assert running.ask("/api/v1/quarantine/retry", b'{"all": true}', token="t0ken")[0] == 422
    assert "s3cret" not in running.log.read_text()
    assert "t0ken" not in running.log.read_text()


def test_what_changes_state_wants_the_token(running: Running) -> None:
    running.wait_for_event("serving", running.log)
    folder = running.folder / "drops" / "e"
    folder.mkdir(exist_ok=True)
    (folder / "unheard.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for path in ("/reconcile", "/quarantine/retry", "/quarantine/drop"):
        assert running.ask(path, b"{}")[0] == 401
    assert running.ask("/reconcile", b'{"prefix": "e/"}', token="t0ken")[0] == 202
    running.wait_for_rows("SELECT key FROM quarantine WHERE dataset = 'e'", [{"key": "e/unheard.png"}])
    assert running.ask("/quarantine/drop", b"{}", token="t0ken")[0] == 400
    assert running.ask("/quarantine/drop", b'{"keys": [1]}', token="t0ken")[0] == 400
    assert running.ask("/quarantine/drop", b'{"keys": ["e/unheard.png"]}', token="t0ken")[0] == 202
    running.wait_for_rows("SELECT key FROM quarantine WHERE dataset = 'e'", [])


def test_a_second_service_stands_by_and_says_so(running: Running) -> None:
    log = running.folder / "second.jsonl"
    second = running.start(log)
    try:
        url = str(running.wait_for_event("http", log)["address"])
        running.wait_for_event("standing by", log)
        status, said = running.ask("/readyz", url=url)
        assert (status, json.loads(said)["state"]) == (503, "standby")
        assert running.ask("/events", notification("d/a.png"), token="s3cret", url=url)[0] == 503
        assert running.ask("/readyz")[0] == 200
    finally:
        second.send_signal(signal.SIGTERM)
        assert second.wait(timeout=180) == 0


def test_an_address_that_others_reach_wants_a_token() -> None:
    check_binding("127.0.0.1", None)
    check_binding("::1", None)
    check_binding("0.0.0.0", "t")
    for host in ("0.0.0.0", "::", "example.org"):
        with pytest.raises(ConfigError, match="token"):
            check_binding(host, None)
