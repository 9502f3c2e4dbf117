"""Jobs on a real cluster: started once, their ends told apart, stopped, and given what they need."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import ray

from ingest.dueness import When
from ingest.jobs import Jobs
from ingest.plans import Step
from ingest.progress import JobState
from ingest.tasks import start_ray
from ingest.triggers import Pipeline, Triggers
from storage.errors import JobError
from tests.ingest.mill import KITTI_CAR, Mill, picture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def jobs(another_cluster: None) -> Iterator[Jobs]:
    address = start_ray(num_cpus=2, jobs=True)
    assert address
    yield Jobs(address, runtime_env={"env_vars": {"DROPMILL_SAID": "hello from the configuration"}})
    ray.shutdown()


def wait_for(so: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not so():
        assert time.monotonic() - began < 300
        time.sleep(0.1)


def test_a_job_starts_once_gets_its_environment_and_says_how_it_ended(jobs: Jobs) -> None:
    assert jobs.state("said") is JobState.UNKNOWN
    # A cluster that has just been started takes jobs after a while.
    said = "echo $DROPMILL_SAID; echo at $RAY_ADDRESS."
    wait_for(lambda: jobs.submit("said", ["sh", "-c", said], resources={"cpus": 1}))
    assert jobs.submit("said", ["echo", "twice"]) is False
    assert jobs.submit("dies", ["sh", "-c", "echo dropmill: too bad; exit 1"])
    assert jobs.submit("refused", ["sh", "-c", "exit 2"])
    assert jobs.submit("stays", ["sleep", "600"])
    wait_for(lambda: jobs.state("said") is not JobState.ACTIVE)
    assert jobs.state("said") is JobState.SUCCEEDED
    wait_for(lambda: "hello from the configuration" in jobs.log("said"))
    assert f"at {ray.get_runtime_context().gcs_address}." in jobs.log("said")
    assert "twice" not in jobs.log("said")
    wait_for(lambda: JobState.ACTIVE not in (jobs.state("dies"), jobs.state("refused")))
    assert (jobs.state("dies"), jobs.state("refused")) == (JobState.FAILED, JobState.REFUSED)
    assert jobs.why_failed("dies") == "too bad"
    assert jobs.stop("stays")
    wait_for(lambda: jobs.state("stays") is not JobState.ACTIVE)
    assert jobs.state("stays") is JobState.STOPPED
    with pytest.raises(JobError, match="nobody"):
        jobs.log("nobody")


def test_an_execution_whose_step_cannot_be_done_says_why_in_its_rows(mill: Mill, jobs: Jobs) -> None:
    mill.write("road/image_2/1.png", picture(100, 50))
    mill.write("road/label_2/1.txt", KITTI_CAR.format(1, 1, 5, 5))
    mill.ingest()
    steps = (Step(name="masks", parameters={"checkpoint": "/no/such/file.pth"}), Step(name="augment"))
    due = Triggers(
        mill.lake,
        jobs,
        [Pipeline(name="broken", steps=steps, when=When(new_images=1))],
    )
    due.fire(0)
    wait_for(lambda: due.look_after() == 0)
    failed, skipped = mill.rows("SELECT state, error, attempt FROM runs ORDER BY position")
    assert (failed["state"], skipped["state"]) == ("failed", "skipped")
    assert "/no/such/file.pth" in str(failed["error"])


def test_an_address_where_no_cluster_is_says_so() -> None:
    with pytest.raises(JobError, match="no Ray cluster takes jobs"):
        Jobs("http://127.0.0.1:1")
