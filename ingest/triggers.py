"""Triggers: what a change in the lake sets going, exactly once.

An execution is written to ``runs`` as a whole before its first job is submitted, under names that follow from
what it reads and does. After a crash between the two, the same names are submitted again, and the cluster
takes each once.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ingest.dueness import When, why_by_classes, why_due
from ingest.gates import judge_dataset
from ingest.jobs import TakesJobs
from ingest.plans import Row, Step, plan_execution, write_runs
from ingest.progress import OPEN, advance, job_of
from quality.gate import Thresholds
from quality.limits import Limits
from storage.errors import JobError
from storage.lake import Lake

log = logging.getLogger(__name__)

GATE_REFUSES = "gate refuses a run"
"""The event in the log that tells why nothing was started."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Steps, one after the other, and when they begin."""

    name: str
    steps: tuple[Step, ...]
    when: When = field(default_factory=When)
    dataset: str | None = None
    """None: every data set of the lake, each for itself."""


class Triggers:
    """Decides which executions are due, submits the jobs of their steps, and takes note of how these end."""

    def __init__(
        self,
        lake: Lake,
        jobs: TakesJobs,
        pipelines: Sequence[Pipeline],
        *,
        thresholds: Thresholds | None = None,
        limits: Limits | None = None,
        python: str = sys.executable,
        options: Sequence[str] = (),
    ) -> None:
        self._lake = lake
        self._jobs = jobs
        self._pipelines = pipelines
        self._thresholds = thresholds or Thresholds()
        self._limits = limits or Limits()
        self._command = [python, "-m", "dropmill", "step"]
        self._options = list(options)
        self._refused: dict[tuple[str, str], tuple[str, ...]] = {}
        self._unchecked = set(range(len(pipelines)))
        self._seen_runs = -1

    def note_change(self) -> None:
        """Say that the lake has changed, or that a run has ended: every pipeline is to be looked at again."""
        self._unchecked = set(range(len(self._pipelines)))

    def fire(self, quiet_s: float, *, now: datetime | None = None) -> list[str]:
        """Start every execution that is due, nothing having been committed for ``quiet_s``; their names."""
        at = now or datetime.now(UTC)
        started = []
        for index, pipeline in enumerate(self._pipelines):
            timed = pipeline.when.every_h is not None
            if (index not in self._unchecked and not timed) or quiet_s < pipeline.when.settle_s:
                continue
            self._unchecked.discard(index)
            for dataset in datasets_of(self._lake, pipeline):
                rows = self._due(pipeline, dataset, at)
                if rows:
                    write_runs(self._lake, rows)
                    started.append(str(rows[0]["execution"]))
        if started:
            self.look_after(now=at)
        return started

    def look_after(self, *, now: datetime | None = None) -> int:
        """Let every execution go on; returns how many runs are not over yet.

        Submits what is due and what the cluster has forgotten, and marks what died.
        """
        version = self._lake.table("runs").version()
        if version == self._seen_runs:
            return 0
        rows = self._open_executions()
        states = {job_of(row): self._jobs.state(job_of(row)) for row in rows if row["state"] == "submitted"}
        # A job writes its end before its process ends: rows that are read after the states know of it.
        rows = self._open_executions() if states else rows
        changes = advance(rows, states, now or datetime.now(UTC))
        for change in changes:
            if change.submit:
                change.row["cluster"] = self._jobs.address
            if change.died:
                why = self._jobs.why_failed(_before(rows, change.row))
                change.row["error"] = why
                log.error(
                    "job died", extra={"run": change.row["run"], "why": why, "then": change.row["state"]}
                )
        write_runs(self._lake, [change.row for change in changes if change.row not in rows])
        for change in changes:
            if change.submit:
                self._submit(change.row)
        ended = {change.row["run"] for change in changes if change.row["state"] not in OPEN}
        active = sum(row["state"] in OPEN and row["run"] not in ended for row in rows)
        self._seen_runs = version if not active and not changes else -1
        return active

    def _submit(self, run: Row) -> None:
        command = [*self._command, run["step"], "--lake", self._lake.url, "--run", run["run"], *self._options]
        self._jobs.submit(job_of(run), command, resources=_resources(run))

    def _open_executions(self) -> list[Row]:
        """All rows of executions that are not over. Runs without an execution are others' work."""
        rows = self._lake.sql(
            """SELECT * FROM runs WHERE execution IN (
                   SELECT execution FROM runs WHERE state IN ('planned', 'submitted'))"""
        )
        return list(rows.to_pylist())

    def _due(self, pipeline: Pipeline, dataset: str, now: datetime) -> list[Row]:
        """The rows of an execution that has to be started now; none where none has."""
        when = pipeline.when
        if when.manual:
            return []
        earlier = self._lake.sql(
            """SELECT * FROM runs WHERE pipeline = $1 AND dataset = $2 AND execution IS NOT NULL
               ORDER BY submitted_at, position""",
            parameters=[pipeline.name, dataset],
        ).to_pylist()
        if any(row["state"] in OPEN for row in earlier):
            return []
        snapshot = self._lake.snapshot()
        last = earlier[-1] if earlier else None
        reason = why_due(self._lake, dataset, when, snapshot, last, now=now)
        if reason is None:
            return []
        state = judge_dataset(self._lake, dataset, self._thresholds, limits=self._limits, versions=snapshot)
        reason = reason or why_by_classes(
            self._lake, dataset, when, state, snapshot, last, limits=self._limits
        )
        if not reason:
            return []
        if not state.gate.verdict.at_least(when.gate):
            self._say_refusal(pipeline, dataset, state.gate.reasons)
            return []
        self._refused.pop((pipeline.name, dataset), None)
        rows = plan_execution(
            pipeline.name, pipeline.steps, dataset, snapshot, labelled_images=state.labelled_images, now=now
        )
        if any(row["run"] == rows[0]["run"] for row in earlier):
            return []
        log.info(
            "pipeline due",
            extra={"run": rows[0]["execution"], "because": reason, "gate": state.gate.verdict.value},
        )
        return rows

    def _say_refusal(self, pipeline: Pipeline, dataset: str, reasons: tuple[str, ...]) -> None:
        if self._refused.get((pipeline.name, dataset)) != reasons:
            self._refused[pipeline.name, dataset] = reasons
            log.warning(
                GATE_REFUSES,
                extra={"pipeline": pipeline.name, "dataset": dataset, "reasons": list(reasons)},
            )


def start_by_hand(lake: Lake, pipeline: Pipeline, dataset: str, *, anew: bool = False) -> list[Row]:
    """Plan an execution on the data as they are now, whatever ``when`` says; a service submits its jobs.

    Raises JobError where the same has been done already and ``anew`` is not set.
    """
    now = datetime.now(UTC)
    snapshot = lake.snapshot()
    rows = lake.sql(
        "SELECT count(*) AS n FROM images WHERE dataset = $1 AND labelled", parameters=[dataset]
    ).to_pylist()
    labelled = int(rows[0]["n"])
    if not labelled:
        raise JobError(f"{lake.url}: data set {dataset!r} has no labelled image; see `dropmill status`")
    known = {row["run"] for row in lake.sql("SELECT run FROM runs").to_pylist()}
    again = 0
    while True:
        planned = plan_execution(
            pipeline.name,
            pipeline.steps,
            dataset,
            snapshot,
            labelled_images=labelled,
            now=now,
            again=again,
        )
        if planned[0]["run"] not in known:
            break
        if not anew:
            raise JobError(
                f"{planned[0]['execution']} has done this on the same data already; give --anew to do it "
                "once more, or `dropmill jobs retry` a run of it"
            )
        again += 1
    write_runs(lake, planned)
    return planned


def datasets_of(lake: Lake, pipeline: Pipeline) -> list[str]:
    """The data sets that a pipeline is for."""
    if pipeline.dataset is not None:
        return [pipeline.dataset]
    rows = lake.sql("SELECT DISTINCT dataset FROM images WHERE labelled ORDER BY 1")
    return [row["dataset"] for row in rows.to_pylist()]


def _before(rows: Sequence[Row], changed: Row) -> str:
    """The job of a row before it was changed: a retry has another name."""
    return next(job_of(row) for row in rows if row["run"] == changed["run"])


def _resources(run: Row) -> Mapping[str, float]:
    found: Mapping[str, float] = json.loads(run.get("policy") or "{}").get("resources", {})
    return found
