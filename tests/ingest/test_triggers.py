"""Triggers: what is due, started once, and looked after, on a real cluster that takes jobs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
import ray

from ingest.jobs import Jobs, JobState
from ingest.tasks import start_ray
from ingest.triggers import Trigger, Triggers
from quality.gate import Thresholds, Verdict
from storage.errors import JobError
from tests.ingest.mill import KITTI_CAR, Mill, picture

pytestmark = pytest.mark.slow

# A step that ends at once: the job is real, its work is none.
STEP = "model detectnet_v2 train --help"


@pytest.fixture(scope="module")
def jobs() -> Iterator[Jobs]:
    address = start_ray(num_cpus=2, jobs=True)
    assert address
    yield Jobs(address)
    ray.shutdown()


def drop(mill: Mill, *names: str) -> None:
    for name in names:
        mill.write(f"road/image_2/{name}.png", picture(100, 50))
        mill.write(f"road/label_2/{name}.txt", KITTI_CAR.format(1, 1, 5, 5))
    mill.ingest()


def triggers(mill: Mill, jobs: Jobs, name: str, **options: object) -> Triggers:
    trigger = Trigger(pipeline=name, step=STEP, **options)  # type: ignore[arg-type]
    return Triggers(mill.lake, jobs, [trigger])


def wait_for(so: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not so():
        assert time.monotonic() - began < 90
        time.sleep(0.1)


def test_a_run_starts_once_when_enough_is_new_and_again_when_enough_is_new_again(
    mill: Mill, jobs: Jobs
) -> None:
    drop(mill, "1", "2")
    due = triggers(mill, jobs, "enough", new_labelled_images=3)
    assert due.fire(0) == []
    drop(mill, "3")
    assert due.fire(0) == []  # nobody has said that anything changed
    due.note_change()
    (run,) = due.fire(0)
    assert run.startswith("enough-road-")
    due.note_change()
    assert due.fire(0) == []
    (row,) = mill.rows("SELECT * FROM runs")
    assert (row["state"], row["labelled_images"], row["dataset"]) == ("submitted", 3, "road")
    assert json.loads(str(row["snapshot"]))["images"] == mill.lake.table("images").version()

    wait_for(lambda: jobs.state(run) is not JobState.ACTIVE)
    assert jobs.state(run) is JobState.SUCCEEDED
    assert "Usage" in jobs.log(run)
    # The job ended without having said so in its row: for the lake it died.
    assert due.look_after() == 0
    (row,) = mill.rows("SELECT state, error FROM runs")
    assert row["state"] == "failed"

    due.note_change()
    assert due.fire(0) == []
    drop(mill, "4", "5", "6")
    due.note_change()
    (second,) = due.fire(0)
    assert second != run


def test_a_crash_between_row_and_job_is_made_good_and_a_second_submission_is_none(
    mill: Mill, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(mill, "1")
    due = triggers(mill, jobs, "crash")
    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "submit", lambda *_args, **_options: (_ for _ in ()).throw(JobError("gone")))
        with pytest.raises(JobError):
            due.fire(0)
    (row,) = mill.rows("SELECT run, state FROM runs")
    run = str(row["run"])
    assert jobs.state(run) is JobState.UNKNOWN
    again = triggers(mill, jobs, "crash")
    assert again.fire(0) == []  # the run is there already
    assert again.look_after() == 1
    assert jobs.state(run) is not JobState.UNKNOWN
    assert jobs.submit(run, ["echo", "twice"]) is False
    wait_for(lambda: jobs.state(run) is JobState.SUCCEEDED)
    assert "twice" not in jobs.log(run)


def test_a_failed_gate_holds_a_run_back_and_a_better_set_lets_it_go(mill: Mill, jobs: Jobs) -> None:
    for name in "123":
        mill.write(f"road/image_2/{name}.png", picture(100, 50))
        mill.write(f"road/label_2/{name}.txt", KITTI_CAR.format(5, 5, 5, 5))
    mill.ingest()
    trigger = Trigger(pipeline="gate", step=STEP, gate=Verdict.PASS)
    due = Triggers(mill.lake, jobs, [trigger], thresholds=Thresholds())
    assert due.fire(0) == []
    drop(mill, "1", "2", "3")
    due.note_change()
    assert len(due.fire(0)) == 1


def test_a_run_waits_until_all_is_quiet(mill: Mill, jobs: Jobs) -> None:
    drop(mill, "1")
    due = triggers(mill, jobs, "quiet", settle_s=5.0)
    assert due.fire(4.9) == []
    assert len(due.fire(5.0)) == 1


def test_a_job_that_fails_says_why_in_its_row(mill: Mill, jobs: Jobs) -> None:
    drop(mill, "1")
    due = Triggers(mill.lake, jobs, [Trigger(pipeline="broken", step="sql nonsense")])
    (run,) = due.fire(0)
    wait_for(lambda: jobs.state(run) is JobState.FAILED)
    due.look_after()
    (row,) = mill.rows("SELECT state, error FROM runs")
    assert row["state"] == "failed"
    assert "No such option" in str(row["error"]) or "nonsense" in str(row["error"])


def test_data_sets_are_told_apart_whatever_they_are_called(mill: Mill, jobs: Jobs) -> None:
    for dataset in ("a b", "a-b", "a/b"):
        first = dataset.split("/", maxsplit=1)[0]
        mill.write(f"{first}/image_2/1.png", picture(100, 50))
        mill.write(f"{first}/label_2/1.txt", KITTI_CAR.format(1, 1, 5, 5))
    mill.ingest()
    runs = triggers(mill, jobs, "names").fire(0)
    assert len(set(runs)) == len(runs) == 3


def test_an_address_where_no_cluster_is_says_so() -> None:
    with pytest.raises(JobError, match="no Ray cluster takes jobs"):
        Jobs("http://127.0.0.1:1")
