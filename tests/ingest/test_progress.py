"""How executions go on: by their rows and the states of their jobs, without any cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ingest.dueness import When
from ingest.plans import Step, inputs_of, plan_execution, write_runs
from ingest.progress import JobState, advance, job_of, retry, stop
from ingest.triggers import Pipeline, Triggers, start_by_hand
from quality.gate import Verdict
from quality.limits import Limits
from storage.errors import ConfigError, JobError
from tests.ingest.mill import KITTI_CAR, Mill, picture

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("augment", "train", "prune", "retrain", "export", "evaluate", "promote")
STEPS = tuple(Step(name=name, retries=1, retry_wait_s=10) for name in NAMES)


class FakeJobs:
    """A cluster that takes each name once, and whose jobs do what a test says."""

    address = "http://a-cluster:8265"

    def __init__(self) -> None:
        self.states: dict[str, JobState] = {}
        self.commands: list[Sequence[str]] = []
        self.broken = False

    def submit(
        self, job: str, command: Sequence[str], *, resources: Mapping[str, float] | None = None
    ) -> bool:
        del resources
        if self.broken:
            raise JobError("gone")
        if job in self.states:
            return False
        self.states[job] = JobState.ACTIVE
        self.commands.append(command)
        return True

    def state(self, job: str) -> JobState:
        return self.states.get(job, JobState.UNKNOWN)

    def why_failed(self, job: str) -> str:
        return f"{job} died"


def plan(steps: Sequence[Step] = STEPS, **options: Any) -> list[dict[str, Any]]:
    return plan_execution("p", steps, "road", {"images": 3}, labelled_images=5, now=NOW, **options)


def drop(mill: Mill, *names: str, box: int = 5) -> None:
    for name in names:
        mill.write(f"road/image_2/{name}.png", picture(100, 50))
        mill.write(f"road/label_2/{name}.txt", KITTI_CAR.format(1, 1, box, box))
    mill.ingest()


def finish(mill: Mill, jobs: FakeJobs, run: str, state: str = "succeeded") -> None:
    """What a job does at its end: its row first, then its process."""
    (row,) = mill.lake.sql("SELECT * FROM runs WHERE run = $1", parameters=[run]).to_pylist()
    if state == "succeeded":
        write_runs(mill.lake, [{**row, "state": state}])
    jobs.states[job_of(row)] = JobState.SUCCEEDED if state == "succeeded" else JobState.FAILED


def states(mill: Mill) -> list[object]:
    return [row["state"] for row in mill.rows("SELECT state FROM runs ORDER BY execution, position")]


def test_names_follow_from_what_is_read_and_done() -> None:
    names = [row["run"] for row in plan()]
    assert names == [row["run"] for row in plan()]
    other = (*STEPS[:-1], Step(name="promote", parameters={"margin": 0.1}))
    assert not set(names) & {row["run"] for row in plan(other)}
    assert not set(names) & {row["run"] for row in plan(again=1)}
    assert [json.loads(row["inputs"]) for row in plan()[:5]] == [
        {},
        {"shards": names[0]},
        {"model": names[1]},
        {"shards": names[0], "model": names[2]},
        {"shards": names[0], "model": names[3]},
    ]


def test_steps_that_lack_what_they_work_on_are_refused() -> None:
    with pytest.raises(ConfigError, match="step 1, prune: has no model"):
        inputs_of(["prune"])
    with pytest.raises(ConfigError, match="'polish' is none"):
        inputs_of(["train", "polish"])


@settings(max_examples=60, phases=[Phase.explicit, Phase.generate], deadline=None)
@given(st.lists(st.sampled_from(["ok", "die", "refuse", "stop", "forget", "wait"]), max_size=30))
def test_whatever_happens_to_jobs_steps_go_in_order_and_no_name_is_given_twice(fates: list[str]) -> None:
    rows = {row["run"]: row for row in plan()}
    cluster: dict[str, JobState] = {}
    submitted: list[str] = []
    now = NOW
    for fate in fates:
        now += timedelta(seconds=25)
        jobs = [job_of(row) for row in rows.values() if row["state"] == "submitted"]
        known = {job: cluster.get(job, JobState.UNKNOWN) for job in jobs}
        for change in advance(rows.values(), known, now):
            rows[change.row["run"]] = change.row
            if change.submit and job_of(change.row) not in cluster:
                submitted.append(job_of(change.row))
                cluster[job_of(change.row)] = JobState.ACTIVE
        active = [row for row in rows.values() if row["state"] == "submitted"]
        assert len(active) <= 1
        for row in active:
            match fate:
                case "ok":
                    rows[row["run"]] = {**row, "state": "succeeded"}
                case "forget":
                    cluster.pop(job_of(row), None)
                    submitted.remove(job_of(row))
                case "die" | "refuse" | "stop":
                    cluster[job_of(row)] = {"die": JobState.FAILED, "refuse": JobState.REFUSED}.get(
                        fate, JobState.STOPPED
                    )
    assert len(submitted) == len(set(submitted))
    order = [row["state"] for row in sorted(rows.values(), key=lambda row: row["position"])]
    begun = [state for state in order if state != "succeeded"]
    assert order[: order.index(begun[0])] == ["succeeded"] * order.index(begun[0]) if begun else True
    assert set(begun[1:]) <= {"planned", "skipped"}
    assert all((row["attempt"] or 1) <= 2 for row in rows.values())


def test_a_step_that_dies_is_tried_again_later_and_then_the_rest_is_skipped() -> None:
    first, *later = plan(STEPS[1:3])
    first = {**first, "state": "submitted"}
    (again,) = advance([first, *later], {job_of(first): JobState.FAILED}, NOW)
    assert (again.row["state"], again.row["attempt"], again.died) == ("planned", 2, True)
    assert advance([again.row, *later], {}, NOW + timedelta(seconds=9)) == []
    (second,) = advance([again.row, *later], {}, NOW + timedelta(seconds=10))
    assert second.submit
    assert job_of(second.row) == f"{first['run']}-try2"
    failed, skipped = advance([second.row, *later], {job_of(second.row): JobState.FAILED}, NOW)
    assert (failed.row["state"], skipped.row["state"]) == ("failed", "skipped")
    rows = [failed.row, skipped.row]
    assert [row["state"] for row in retry(rows, first["run"], NOW)] == ["planned", "planned"]
    with pytest.raises(JobError, match="is at work"):
        retry([first, *later], first["run"], NOW)
    with pytest.raises(JobError, match="step before it has to succeed"):
        retry(rows, later[0]["run"], NOW)
    done = [{**row, "state": "succeeded"} for row in rows]
    assert [row["attempt"] for row in retry(done, done[0]["run"], NOW)] == [3, 2]
    refused, _ = advance([first, *later], {job_of(first): JobState.REFUSED}, NOW)
    assert refused.row["state"] == "failed"
    assert [row["state"] for row in stop([first, *later], first["run"], NOW)] == ["stopped", "skipped"]


def test_an_execution_starts_once_and_each_step_when_the_one_before_is_done(mill: Mill) -> None:
    drop(mill, "1", "2")
    jobs = FakeJobs()
    due = Triggers(mill.lake, jobs, [Pipeline(name="p", steps=STEPS[1:3], when=When(new_images=3))])
    assert due.fire(0) == []
    drop(mill, "3")
    assert due.fire(0) == []  # nobody has said that anything changed
    due.note_change()
    (execution,) = due.fire(0)
    due.note_change()
    assert due.fire(0) == []
    assert states(mill) == ["submitted", "planned"]
    given_to = [row["cluster"] for row in mill.rows("SELECT cluster FROM runs ORDER BY position")]
    assert given_to == [FakeJobs.address, None]
    first, second = (str(row["run"]) for row in mill.rows("SELECT run FROM runs ORDER BY position"))
    assert first == f"{execution}-1-train"
    assert due.look_after() == 2
    drop(mill, "4")  # what comes meanwhile is for the next one
    finish(mill, jobs, first)
    assert due.look_after() == 1
    assert states(mill) == ["succeeded", "submitted"]
    assert jobs.commands[1][3:] == ["step", "prune", "--lake", mill.lake.url, "--run", second]
    finish(mill, jobs, second)
    assert due.look_after() == 0
    snapshots = mill.rows("SELECT DISTINCT snapshot FROM runs")
    assert len(snapshots) == 1
    due.note_change()
    assert due.fire(0) == []  # one image is new
    drop(mill, "5", "6")
    due.note_change()
    assert len(due.fire(0)) == 1


def test_a_crash_between_rows_and_job_is_made_good(mill: Mill) -> None:
    drop(mill, "1")
    jobs = FakeJobs()
    pipeline = Pipeline(name="p", steps=STEPS[1:2], when=When(new_images=1))
    jobs.broken = True
    with pytest.raises(JobError):
        Triggers(mill.lake, jobs, [pipeline]).fire(0)
    assert states(mill) == ["submitted"]
    jobs.broken = False
    again = Triggers(mill.lake, jobs, [pipeline])
    assert again.fire(0) == []
    assert again.look_after() == 1
    assert len(jobs.commands) == 1


def test_a_job_that_ends_without_a_word_is_dead_for_the_lake_and_says_why(mill: Mill) -> None:
    drop(mill, "1")
    jobs = FakeJobs()
    due = Triggers(
        mill.lake, jobs, [Pipeline(name="p", steps=(Step(name="train"),), when=When(new_images=1))]
    )
    due.fire(0)
    (row,) = mill.rows("SELECT * FROM runs")
    finish(mill, jobs, str(row["run"]), "died")
    assert due.look_after() == 0
    (row,) = mill.rows("SELECT * FROM runs")
    assert (row["state"], row["error"]) == ("failed", f"{row['run']} died")


def test_every_condition_begins_and_the_same_data_never_twice(mill: Mill) -> None:
    drop(mill, "1", "2")
    jobs = FakeJobs()

    def fired(when: When, at: datetime = NOW) -> int:
        pipeline = Pipeline(name="p", steps=(Step(name="masks"),), when=when)
        started = Triggers(mill.lake, jobs, [pipeline]).fire(0, now=at)
        for row in mill.rows("SELECT run FROM runs WHERE state = 'submitted'"):
            finish(mill, jobs, str(row["run"]))
        return len(started)

    assert fired(When(manual=True)) == 0
    assert fired(When(imbalance=1.5)) == 0  # one class
    assert fired(When(drift=0.1)) == 0
    assert fired(When(every_h=24)) == 1
    assert fired(When(every_h=24), NOW + timedelta(days=2)) == 0  # nothing has changed
    drop(mill, "2", box=6)
    assert fired(When(new_images=1), NOW + timedelta(hours=1)) == 0
    assert fired(When(every_h=24), NOW + timedelta(hours=1)) == 0
    assert fired(When(changed_images=1), NOW + timedelta(hours=1)) == 1
    drop(mill, "2", box=7)
    assert fired(When(every_h=24), NOW + timedelta(days=2)) == 1
    mill.write(
        "road/label_2/1.txt",
        KITTI_CAR.format(1, 1, 9, 9) + 3 * KITTI_CAR.replace("Car", "Van").format(1, 1, 8, 8),
    )
    mill.ingest()
    assert fired(When(imbalance=1.5), NOW + timedelta(days=3)) == 1
    # The same again by hand has to be asked for.
    pipeline = Pipeline(name="p", steps=(Step(name="masks"),))
    with pytest.raises(JobError, match="--anew"):
        start_by_hand(mill.lake, pipeline, "road")
    assert len(start_by_hand(mill.lake, pipeline, "road", anew=True)) == 1
    with pytest.raises(JobError, match="no labelled image"):
        start_by_hand(mill.lake, pipeline, "sea")


def test_drift_and_imbalance_begin_one_execution_whatever_batches_they_come_in(mill: Mill) -> None:
    jobs = FakeJobs()
    hours = count()

    def come(name: str, *kinds: str) -> None:
        mill.write(f"road/image_2/{name}.png", picture(100, 50))
        text = "".join(KITTI_CAR.replace("Car", kind).format(1, n, 5, 5 + n) for n, kind in enumerate(kinds))
        mill.write(f"road/label_2/{name}.txt", text)
        mill.ingest()

    def fired(when: When, name: str) -> int:
        pipeline = Pipeline(name=name, steps=(Step(name="masks"),), when=when)
        triggers = Triggers(mill.lake, jobs, [pipeline], limits=Limits(min_drift_boxes=6))
        started = triggers.fire(0, now=NOW + timedelta(hours=next(hours)))
        for row in mill.rows("SELECT run FROM runs WHERE state = 'submitted'"):
            finish(mill, jobs, str(row["run"]))
        return len(started)

    drifts, uneven = When(drift=0.3), When(imbalance=2)
    come("1", *12 * ["Car"])
    assert (fired(drifts, "drifts"), fired(uneven, "uneven")) == (0, 0)
    assert (fired(When(new_images=1), "drifts"), fired(When(new_images=1), "uneven")) == (1, 1)
    come("2", *3 * ["Van"])
    # Three boxes say nothing of the mix; twelve of one class to three of the other say that it is uneven.
    assert (fired(drifts, "drifts"), fired(uneven, "uneven")) == (0, 1)
    come("3", *3 * ["Van"])
    # Two small batches are one drop.
    assert fired(drifts, "drifts") == 1
    # What it has read is no reason for another one, though classes are as they were.
    come("4", "Car")
    assert (fired(drifts, "drifts"), fired(uneven, "uneven")) == (0, 0)
    come("5", *7 * ["Van"])
    come("6", *14 * ["Car"])
    # The first of two batches is far from all before it, both together are not.
    assert fired(drifts, "drifts") == 1


def test_a_failed_gate_holds_back_and_a_better_set_lets_go_when_all_is_quiet(mill: Mill) -> None:
    for name in "123":
        mill.write(f"road/image_2/{name}.png", picture(100, 50))
        mill.write(f"road/label_2/{name}.txt", KITTI_CAR.format(5, 5, 5, 5))
    mill.ingest()
    when = When(gate=Verdict.PASS, new_images=1, settle_s=5)
    due = Triggers(mill.lake, FakeJobs(), [Pipeline(name="p", steps=STEPS[1:2], when=when)])
    assert due.fire(6) == []
    drop(mill, "1", "2", "3")
    due.note_change()
    assert due.fire(4.9) == []
    assert len(due.fire(5)) == 1


def test_data_sets_are_told_apart_whatever_they_are_called(mill: Mill) -> None:
    for dataset in ("a b", "a-b", "a"):
        mill.write(f"{dataset}/image_2/1.png", picture(100, 50))
        mill.write(f"{dataset}/label_2/1.txt", KITTI_CAR.format(1, 1, 5, 5))
    mill.ingest()
    pipeline = Pipeline(name="p", steps=STEPS[1:2], when=When(new_images=1))
    started = Triggers(mill.lake, FakeJobs(), [pipeline]).fire(0)
    assert len(set(started)) == len(started) == 3


def test_a_lake_of_before_gets_the_new_columns(tmp_path: Path) -> None:
    from deltalake import DeltaTable

    from storage import schemas
    from storage.lake import Lake

    lake = Lake.create(tmp_path / "lake")
    import shutil

    shutil.rmtree(tmp_path / "lake" / "tables" / "runs")
    old = schemas.without(schemas.RUNS, "execution", "position", "inputs", "attempt", "policy", "not_before")
    DeltaTable.create(str(tmp_path / "lake" / "tables" / "runs"), schema=old, name="runs")
    write_runs(Lake.create(lake.url), plan())
    assert Triggers(lake, FakeJobs(), []).look_after() == len(NAMES)


def test_a_run_that_was_called_off_before_its_job_began_is_not_done(mill: Mill) -> None:
    pytest.importorskip("torch")
    from dropmill.pipelines.work import work

    drop(mill, "1")
    (row,) = start_by_hand(mill.lake, Pipeline(name="p", steps=STEPS[:1]), "road")
    write_runs(mill.lake, stop([{**row, "state": "submitted"}], row["run"], NOW))
    with pytest.raises(JobError, match="is stopped; `dropmill jobs retry`"):
        work(mill.lake, row["run"], step="augment")
    assert states(mill) == ["stopped"]
