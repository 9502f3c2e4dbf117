"""How an execution goes on: a pure function of its rows in ``runs`` and of the states of its jobs.

planned → submitted → succeeded, or failed, or stopped. The next step is submitted when the one before has
succeeded; after one that failed or was stopped the rest is skipped. A row is always written before its job is
submitted, so whatever is cut short is found in the rows and done again under the same name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby

from ingest.plans import Row, slug
from storage.errors import JobError

OPEN = ("planned", "submitted")
"""States of runs that are not over."""
_BROKEN = ("failed", "stopped", "skipped")


class JobState(StrEnum):
    """Where a job stands, as the cluster knows it."""

    UNKNOWN = "unknown"
    """This cluster has never heard of it."""
    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    """It ended with exit status 2: bad input, which another attempt would not make better."""
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A row as it is to be, and whether its job is to be submitted then. ``died`` asks for the reason."""

    row: Row
    submit: bool = False
    died: bool = False


def job_of(row: Row) -> str:
    """The submission id of the row's attempt; the cluster takes each once."""
    attempt = row.get("attempt") or 1
    return str(row["run"]) if attempt == 1 else f"{row['run']}-try{attempt}"


def advance(rows: Iterable[Row], jobs: Mapping[str, JobState], now: datetime) -> list[Change]:
    """What is to be done with the executions of ``rows`` (all rows of each), by the states of their jobs.

    ``jobs`` has the jobs of submitted rows by submission id; those that are absent are left alone.
    """
    changes = []
    for execution in _executions(rows):
        current = next((row for row in execution if row["state"] != "succeeded"), None)
        if current is None:
            continue
        later = [row for row in execution if row is not current and row["state"] == "planned"]
        changes += _advance_one(current, later, jobs.get(job_of(current)), now)
    return changes


def retry(rows: Sequence[Row], run: str, now: datetime) -> list[Row]:
    """The rows that let a run that is over be done again, and the steps after it with it.

    Raises JobError where it is not over, where a step before it has to be done first, or where it is of no
    pipeline.
    """
    chosen = _chosen(rows, run)
    if not chosen.get("execution"):
        raise JobError(f"run {run} is of no pipeline; start its command again instead")
    siblings = _siblings(rows, chosen)
    if busy := [row["run"] for row in siblings if row["state"] == "submitted"]:
        raise JobError(f"run {busy[0]} of the same execution is at work; wait for it, or stop it")
    if chosen["state"] in ("planned", "skipped"):
        raise JobError(f"run {run} is {chosen['state']}: a step before it has to succeed first; retry that")
    later = [row for row in siblings if row["position"] > chosen["position"]]
    again = {"state": "planned", "error": None, "not_before": None, "ended_at": None, "submitted_at": now}
    begun = ("succeeded", "failed", "stopped")
    return [
        {**row, **again, "attempt": (row["attempt"] or 1) + (row["state"] in begun)}
        for row in [chosen, *later]
    ]


def stop(rows: Sequence[Row], run: str, now: datetime) -> list[Row]:
    """The rows after a run and all that comes after it have been called off. JobError where it is over."""
    chosen = _chosen(rows, run)
    if chosen["state"] not in OPEN:
        raise JobError(f"run {run} is over: {chosen['state']}")
    later = [row for row in _siblings(rows, chosen) if row["state"] == "planned" and row is not chosen]
    return [
        {**chosen, "state": "stopped", "error": "stopped by hand", "ended_at": now},
        *_skipped(later, chosen, now),
    ]


def _advance_one(current: Row, later: list[Row], job: JobState | None, now: datetime) -> list[Change]:
    if current["state"] == "planned":
        if current["not_before"] is not None and now < current["not_before"]:
            return []
        return [Change(row={**current, "state": "submitted", "submitted_at": now}, submit=True)]
    if current["state"] in _BROKEN:
        return [Change(row=row) for row in _skipped(later, current, now)]
    match job:
        case JobState.UNKNOWN:
            return [Change(row={**current}, submit=True)]
        case None | JobState.ACTIVE:
            return []
        case JobState.STOPPED:
            ended = {**current, "state": "stopped", "error": "its job was stopped", "ended_at": now}
            return [Change(row=ended), *(Change(row=row) for row in _skipped(later, current, now))]
        case _:
            # Its job is over and has not said in its row that the work is done.
            return _failed(current, later, job, now)


def _failed(current: Row, later: list[Row], job: JobState, now: datetime) -> list[Change]:
    policy = json.loads(current.get("policy") or "{}")
    attempt = current.get("attempt") or 1
    if job is not JobState.REFUSED and attempt <= policy.get("retries", 0):
        wait = timedelta(seconds=policy.get("retry_wait_s", 0.0) * 2 ** (attempt - 1))
        again = {"state": "planned", "attempt": attempt + 1, "not_before": now + wait}
        return [Change(row={**current, **again}, died=True)]
    ended = {**current, "state": "failed", "ended_at": now}
    return [Change(row=ended, died=True), *(Change(row=row) for row in _skipped(later, current, now))]


def _skipped(later: Iterable[Row], current: Row, now: datetime) -> list[Row]:
    why = f"skipped: {current['run']} did not succeed"
    return [{**row, "state": "skipped", "error": why, "ended_at": now} for row in later]


def _executions(rows: Iterable[Row]) -> list[list[Row]]:
    def key(row: Row) -> str:
        return str(row.get("execution") or row["run"])

    ordered = sorted(rows, key=lambda row: (key(row), row.get("position") or 0))
    return [list(group) for _, group in groupby(ordered, key)]


def _siblings(rows: Sequence[Row], chosen: Row) -> list[Row]:
    return [row for row in rows if row.get("execution") and row["execution"] == chosen["execution"]]


def _chosen(rows: Sequence[Row], run: str) -> Row:
    for row in rows:
        if row["run"] == run:
            return row
    near = ", ".join(row["run"] for row in rows if slug(run) in row["run"]) or "see `dropmill jobs list`"
    raise JobError(f"no run {run!r} in the table runs; {near}")
