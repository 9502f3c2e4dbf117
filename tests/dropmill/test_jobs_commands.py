"""``dropmill jobs`` on a real cluster: start and follow, list, logs, stop, retry."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from ingest.tasks import start_ray
from tests.ingest.mill import KITTI_CAR, Mill, picture

pytestmark = pytest.mark.slow

_STEPS = """
pipelines:
- {name: cars, when: {manual: true}, steps: [augment]}
- {name: broken, when: {manual: true}, steps: [{masks: {checkpoint: none.pth}, retries: 0}, augment]}
"""


class Commands:
    """``dropmill jobs`` of one lake, on one cluster."""

    def __init__(self, config: Path) -> None:
        self._config = config

    def begin(self, word: str, *more: str) -> subprocess.Popen[str]:
        words = [word, *more, "-c", str(self._config)]
        return subprocess.Popen(
            [sys.executable, "-m", "dropmill", "jobs", *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def __call__(self, word: str, *more: str, status: int = 0) -> str:
        process = self.begin(word, *more)
        said, _ = process.communicate(timeout=400)
        assert process.returncode == status, said
        return said


@pytest.fixture
def jobs(mill: Mill, tmp_path: Path) -> Iterator[Commands]:
    for name in "123":
        mill.write(f"road/image_2/{name}.png", picture(100, 50))
        mill.write(f"road/label_2/{name}.txt", KITTI_CAR.format(1, 1, 50, 40))
    mill.ingest()
    dashboard = start_ray(num_cpus=2, jobs=True)
    assert dashboard
    address = ray.get_runtime_context().gcs_address
    config = tmp_path / "dropmill.yaml"
    config.write_text(
        f"bucket: {mill.folder}\nlake: {mill.lake_folder}\nray: {{address: '{address}'}}\n{_STEPS}"
    )
    yield Commands(config)
    ray.shutdown()


def test_people_start_follow_stop_and_retry_runs_and_read_what_they_wrote(jobs: Commands, mill: Mill) -> None:
    def states() -> dict[str, tuple[str, int]]:
        rows = mill.rows("SELECT run, state, attempt FROM runs")
        return {str(row["run"]): (str(row["state"]), int(str(row["attempt"]))) for row in rows}

    said = jobs("start", "cars", "--dataset", "road", "--follow")
    (first,) = states()
    assert said.splitlines() == [first, f"{first}: submitted", f"{first}: succeeded"]
    assert f"{first}: {{" in jobs("logs", first)
    assert "no Ray cluster takes jobs" in jobs("logs", first, "--ray", "http://127.0.0.1:1", status=1)

    said = jobs("start", "broken", "--dataset", "road", "--follow", status=1)
    broken = next(run for run in states() if run.startswith("broken") and run.endswith("1-masks"))
    assert "none.pth" in said
    assert f"{broken}: failed" in said

    # Called off while it is at work: whoever follows it is told, and it is over.
    following = jobs.begin("start", "cars", "--dataset", "road", "--anew", "--follow")
    try:
        wait_for(lambda: "submitted" in (state for state, _ in states().values()))
        second = next(run for run, (state, _) in states().items() if state == "submitted")
        assert "stopped" in jobs("stop", second)
        assert f"{second}: stopped" in following.communicate(timeout=400)[0]
    finally:
        following.kill()
    assert following.returncode == 1
    assert f"{second}: planned, attempt 2" in jobs("retry", second)
    listed = {row["run"]: row["state"] for row in json.loads(jobs("list", "--json"))}
    assert (listed[first], listed[broken], listed[second]) == ("succeeded", "failed", "planned")
    later = next(run for run in listed if run.startswith("broken") and run.endswith("2-augment"))
    assert "no cluster has been given a job of it" in jobs("logs", later, status=1)


def wait_for(so: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not so():
        assert time.monotonic() - began < 300
        time.sleep(0.1)
