"""The service as its users run it: a process, a watched folder, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from storage.errors import LakeError
from storage.lake import Lake
from tests.ingest.mill import KITTI_CAR, Mill, picture

pytestmark = pytest.mark.slow

_LIMIT_S = 120.0
_UNFINISHED = "SELECT count(*) AS n FROM batches WHERE state = 'planned'"


class Served:
    """A service on ``drops``; ended, with all that it started, when the test ends."""

    def __init__(self, folder: Path, **config: object) -> None:
        self.folder = folder
        self.bucket = folder / "drops"
        self.bucket.mkdir(exist_ok=True)
        content = {
            "bucket": "drops",
            "lake": "lake",
            "ingest": {"batch_wait_s": 0.3, "settle_s": 0.2},
            **config,
        }
        (folder / "dropmill.yaml").write_text(yaml.safe_dump(content))
        self.log = folder / "log.jsonl"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dropmill", "serve", "-c", str(self.folder / "dropmill.yaml")],
                stderr=log,
                stdout=log,
            )

    def events(self) -> list[dict[str, object]]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def rows(self, query: str) -> list[dict[str, object]]:
        try:
            return Lake.open(self.folder / "lake").sql(query).to_pylist()
        except LakeError:
            return []

    def wait_for(self, so: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not so():
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() - began < _LIMIT_S, self.log.read_text()[-4000:]
            time.sleep(0.05)

    def done(self, objects: int) -> bool:
        rows = self.rows("SELECT count(*) AS n FROM newest WHERE state <> 'removed'")
        return bool(rows) and rows[0]["n"] == objects

    def write(self, key: str, data: bytes | str) -> None:
        path = self.bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    def kill(self) -> None:
        """What ``kill -9`` and a machine that stops have in common: nobody gets to say goodbye."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(children, timeout=10)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    services: list[Served] = []

    def serve(**config: object) -> Served:
        services.append(Served(tmp_path, **config))
        return services[-1]

    yield serve
    for service in services:
        if service.process.poll() is None:
            service.kill()


def pair(service: Served, name: str) -> None:
    service.write(f"d/image_2/{name}.png", picture(100, 50))
    service.write(f"d/label_2/{name}.txt", KITTI_CAR.format(1, 1, 120, 9))


def tables(folder: Path) -> dict[str, list[str]]:
    from ingest.derive import Settings

    return Mill(folder / "drops", folder / "lake", Settings()).tables()


def test_drops_become_rows_whatever_way_files_arrive_and_sigterm_ends_with_zero(
    served: Callable[..., Served],
) -> None:
    service = served()
    pair(service, "before")
    service.wait_for(lambda: service.done(2))

    pair(service, "plain")
    # Renamed into place, from outside the bucket and from a hidden name within it.
    (service.folder / "x.png").write_bytes(picture(100, 50))
    (service.folder / "x.png").rename(service.bucket / "d/image_2/moved.png")
    (service.bucket / "d/image_2/.half.png").write_bytes(picture(100, 50))
    (service.bucket / "d/image_2/.half.png").rename(service.bucket / "d/image_2/renamed.png")
    # A whole tree at once: its files may be there before anybody watches their folder.
    tree = service.folder / "tree" / "deep" / "er"
    tree.mkdir(parents=True)
    (tree / "t.png").write_bytes(picture(100, 50))
    shutil.move(service.folder / "tree", service.bucket / "d" / "tree")
    service.write("d/bad.jpg", b"\xff\xd8\xff\xe0 nothing")
    service.wait_for(lambda: service.done(8))
    assert service.rows("SELECT count(*) AS n FROM images") == [{"n": 5}]
    assert service.rows("SELECT count(*) AS n FROM annotations WHERE corrected") == [{"n": 2}]
    assert service.rows("SELECT key FROM quarantine") == [{"key": "d/bad.jpg"}]

    (service.bucket / "d/label_2/before.txt").unlink()
    service.wait_for(lambda: service.rows("SELECT count(*) AS n FROM labels") == [{"n": 1}])
    shutil.rmtree(service.bucket / "d" / "tree")
    service.wait_for(lambda: service.done(6))

    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(timeout=180) == 0
    assert service.events()[-1]["event"] == "stopped"
    assert {"time", "level", "logger", "event"} <= set(service.events()[0])


def test_a_file_that_grows_is_taken_when_it_is_whole(served: Callable[..., Served]) -> None:
    service = served(ingest={"batch_wait_s": 0.1, "settle_s": 1.0})
    service.wait_for(lambda: any(event["event"] == "serving" for event in service.events()))
    data = picture(300, 300)
    path = service.bucket / "d" / "slow.png"
    path.parent.mkdir()
    with path.open("wb") as file:
        for start in range(0, len(data), len(data) // 8 + 1):
            file.write(data[start : start + len(data) // 8 + 1])
            file.flush()
            os.fsync(file.fileno())
            time.sleep(0.3)  # the writer's own pace, not a wait for anything
    service.wait_for(lambda: service.done(1))
    assert service.rows("SELECT state FROM objects") == [{"state": "done"}]


def test_kill_during_a_batch_and_a_restart_give_the_tables_of_a_quiet_life(
    served: Callable[..., Served], tmp_path: Path
) -> None:
    service = served(ingest={"batch_wait_s": 0.2, "settle_s": 0.1, "batch_objects": 120})
    for number in range(150):
        pair(service, f"{number:04}")
    service.write("d/label_2/lonely.txt", KITTI_CAR.format(1, 1, 5, 5))
    service.write("d/cut.jpg", b"\xff\xd8\xff")
    for _ in range(3):
        service.wait_for(lambda: service.rows(_UNFINISHED) == [{"n": 1}])
        service.kill()
        service.start()
    service.wait_for(lambda: service.done(302))
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(timeout=180) == 0

    quiet = tmp_path / "quiet"
    quiet.mkdir()
    (quiet / "drops").symlink_to(service.bucket)
    from ingest.derive import Settings

    undisturbed = Mill(quiet / "drops", quiet / "lake", Settings())
    undisturbed.ingest()
    assert tables(tmp_path) == undisturbed.tables()
    assert service.rows("SELECT count(*) AS n FROM batches WHERE state <> 'done'") == [{"n": 0}]


def test_a_bucket_that_is_no_folder_ends_with_status_two(tmp_path: Path) -> None:
    (tmp_path / "dropmill.yaml").write_text("bucket: nowhere\nlake: lake\n")
    command = [sys.executable, "-m", "dropmill", "serve", "-c", str(tmp_path / "dropmill.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "nowhere" in ended.stderr
    assert "Traceback" not in ended.stderr
