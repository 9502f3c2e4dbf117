"""Triggers: what a change in the lake sets going, exactly once.

A run is written to ``runs`` before its job is submitted, under a name that follows from the runs before it.
After a crash between the two, the same name is submitted again, and the cluster takes each name once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ingest.gates import judge_dataset
from ingest.jobs import Jobs, JobState
from quality.gate import Thresholds, Verdict
from quality.limits import Limits
from storage import schemas
from storage.errors import LakeError
from storage.lake import Lake

log = logging.getLogger(__name__)

GATE_REFUSES = "gate refuses a run"
"""The event in the log that tells why nothing was started."""


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """When a step runs: the gate is at least ``gate``, and that many labelled images are new."""

    pipeline: str
    step: str
    """The subcommand of ``dropmill`` that does it, such as ``model detectnet_v2 train``."""
    gate: Verdict = Verdict.WARN
    new_labelled_images: int = 1
    dataset: str | None = None
    """None: every data set of the lake, each for itself."""
    settle_s: float = 0.0
    """Nothing has been committed for so long."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What the step is told; goes into ``runs`` as it is."""


class Triggers:
    """Decides which runs are due, starts their jobs, and takes note of jobs that died."""

    def __init__(
        self,
        lake: Lake,
        jobs: Jobs,
        triggers: Sequence[Trigger],
        *,
        thresholds: Thresholds | None = None,
        limits: Limits | None = None,
        python: str = sys.executable,
    ) -> None:
        self._lake = lake
        self._jobs = jobs
        self._triggers = triggers
        self._thresholds = thresholds or Thresholds()
        self._limits = limits or Limits()
        self._python = python
        self._refused: dict[tuple[str, str], tuple[str, ...]] = {}
        self._unchecked = set(range(len(triggers)))

    def note_change(self) -> None:
        """Say that the lake has changed, or that a run has ended: every trigger is to be looked at again."""
        self._unchecked = set(range(len(self._triggers)))

    def fire(self, quiet_s: float) -> list[str]:
        """Start every run that is due, nothing having been committed for ``quiet_s``; returns their names."""
        started = []
        for index in sorted(self._unchecked):
            trigger = self._triggers[index]
            if quiet_s < trigger.settle_s:
                continue
            self._unchecked.discard(index)
            for dataset in self._datasets(trigger):
                run = self._due(trigger, dataset)
                if run is not None:
                    self._lake.put("runs", pa.Table.from_pylist([run], schema=schemas.RUNS), keys=["run"])
                    self._submit(run)
                    started.append(str(run["run"]))
        return started

    def look_after(self) -> int:
        """Submit again what is not on the cluster, mark what died; returns how many runs are not over yet."""
        active = 0
        for row in self._lake.sql("SELECT * FROM runs WHERE state = 'submitted'").to_pylist():
            state = self._jobs.state(row["run"])
            if state is JobState.UNKNOWN:
                self._submit(row)
                active += 1
            elif state is JobState.ACTIVE:
                active += 1
            elif self._still_submitted(row["run"]):
                self._fail(row)
        return active

    def _submit(self, run: dict[str, Any]) -> None:
        command = [self._python, "-m", "dropmill", *run["step"].split()]
        self._jobs.submit(run["run"], [*command, "--lake", self._lake.url, "--run", run["run"]])

    def _still_submitted(self, run: str) -> bool:
        # The job writes its end itself, before its process ends: look again before calling it dead.
        rows = self._lake.sql("SELECT state FROM runs WHERE run = $1", parameters=[run]).to_pylist()
        return bool(rows) and rows[0]["state"] == "submitted"

    def _fail(self, row: dict[str, Any]) -> None:
        why = self._jobs.why_failed(row["run"])
        log.error("job died", extra={"run": row["run"], "why": why})
        row = {**row, "state": "failed", "error": why, "ended_at": datetime.now(UTC)}
        self._lake.put("runs", pa.Table.from_pylist([row], schema=schemas.RUNS), keys=["run"])

    def _datasets(self, trigger: Trigger) -> list[str]:
        if trigger.dataset is not None:
            return [trigger.dataset]
        rows = self._lake.sql("SELECT DISTINCT dataset FROM images WHERE labelled ORDER BY 1")
        return [row["dataset"] for row in rows.to_pylist()]

    def _due(self, trigger: Trigger, dataset: str) -> dict[str, Any] | None:
        """The row of a run that has to be started now, or None."""
        snapshot = self._lake.snapshot()
        earlier = self._lake.sql(
            "SELECT * FROM runs WHERE pipeline = $1 AND step = $2 AND dataset = $3 ORDER BY submitted_at",
            parameters=[trigger.pipeline, trigger.step, dataset],
        ).to_pylist()
        if any(row["state"] == "submitted" for row in earlier):
            return None
        new = self._new_labelled(dataset, snapshot, earlier[-1] if earlier else None)
        if new < max(trigger.new_labelled_images, 1):
            return None
        state = judge_dataset(self._lake, dataset, self._thresholds, limits=self._limits, versions=snapshot)
        if not state.gate.verdict.at_least(trigger.gate):
            self._say_refusal(trigger, dataset, state.gate.reasons)
            return None
        self._refused.pop((trigger.pipeline, dataset), None)
        words = [_slug(trigger.pipeline), _slug(dataset), _slug(trigger.step.split()[-1])]
        name = "-".join([*words, str(len(earlier) + 1)])
        log.info("run due", extra={"run": name, "new_labelled_images": new, "gate": state.gate.verdict.value})
        return {
            "run": name,
            "pipeline": trigger.pipeline,
            "step": trigger.step,
            "dataset": dataset,
            "state": "submitted",
            "snapshot": json.dumps(snapshot),
            "parameters": json.dumps(trigger.parameters),
            "metrics": "{}",
            "outputs": "{}",
            "labelled_images": state.labelled_images,
            "submitted_at": datetime.now(UTC),
        }

    def _new_labelled(self, dataset: str, snapshot: dict[str, int], last: dict[str, Any] | None) -> int:
        """Labelled images, or new versions of images, that the last run had not."""
        now = self._labelled(dataset, snapshot["images"])
        if last is None:
            return len(now)
        try:
            return len(now - self._labelled(dataset, json.loads(last["snapshot"])["images"]))
        except LakeError:
            # That version has been vacuumed away: count instead of comparing.
            return max(len(now) - int(last["labelled_images"] or 0), 0)

    def _labelled(self, dataset: str, version: int) -> set[tuple[str, str]]:
        rows = self._lake.sql(
            "SELECT sample, version FROM images WHERE dataset = $1 AND labelled",
            parameters=[dataset],
            versions={"images": version},
        ).arrow()
        return set(zip(rows["sample"].to_pylist(), rows["version"].to_pylist(), strict=True))

    def _say_refusal(self, trigger: Trigger, dataset: str, reasons: tuple[str, ...]) -> None:
        if self._refused.get((trigger.pipeline, dataset)) != reasons:
            self._refused[trigger.pipeline, dataset] = reasons
            log.warning(
                GATE_REFUSES,
                extra={"pipeline": trigger.pipeline, "dataset": dataset, "reasons": list(reasons)},
            )


def _slug(name: str) -> str:
    """A name that is safe in addresses; where that changes it, a digest keeps it apart from its likes."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "x"
    return slug if slug == name else f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
