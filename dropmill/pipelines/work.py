"""Do a run of the table ``runs``: what the jobs of a pipeline call, and people who train by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from dropmill.pipelines.model_card import write_card
from dropmill.pipelines.step_run import StepRun
from ingest.plans import Step, plan_execution, write_runs
from storage.errors import ConfigError, DropmillError, JobError
from storage.lake import Lake

log = logging.getLogger(__name__)

_STEPS = {
    "masks": "data_steps",
    "augment": "data_steps",
    "train": "learning",
    "prune": "shrinking",
    "retrain": "learning",
    "quantise": "shrinking",
    "export": "shrinking",
    "evaluate": "judging",
    "promote": "judging",
}
_CALLED_OFF = ("stopped", "skipped")
_WITH_CARD = ("export", "evaluate", "promote")


def work(lake: Lake, name: str, *, step: str | None = None, mine: bool = False) -> StepRun:
    """Do a run, from where an earlier attempt was cut short; its row says so when it is done.

    ``step`` is what the caller takes it for. Where it fails, the row is left to whoever started the run, who
    alone knows whether this was an error or the end of the machine; with ``mine`` it is marked.
    """
    run = StepRun(lake, name)
    kind = run.row["step"]
    if kind not in _STEPS or (step is not None and step != kind):
        raise ConfigError(f"run {name} is of the step {kind!r}; expected {step or ' or '.join(_STEPS)}")
    if run.row["state"] == "succeeded":
        log.info("run is done already", extra={"run": name})
        return run
    if run.row["state"] in _CALLED_OFF and not mine:
        # It can be called off after its row says that it is submitted, and before its job is there.
        raise JobError(f"run {name} is {run.row['state']}; `dropmill jobs retry` lets it be done again")
    # Imported here: masks need no torch, and training no Ray Data.
    do: Callable[[StepRun], str | None] = getattr(import_module(f"dropmill.pipelines.{_STEPS[kind]}"), kind)
    try:
        note = do(run)
        if kind in _WITH_CARD:
            write_card(run)
    except Exception as error:
        if mine:
            run.fail(str(error))
        if isinstance(error, DropmillError):
            raise
        raise DropmillError(f"run {name}: {type(error).__name__}: {error}") from error
    run.succeed(note)
    return run


def work_by_hand(
    lake: Lake, dataset: str, steps: Mapping[str, Mapping[str, Any]] | Sequence[tuple[str, Mapping[str, Any]]]
) -> list[StepRun]:
    """Do steps one after the other, here and now, on the tables as they are; they are runs as any others.

    Raises ConfigError where the data set has no labelled image.
    """
    labelled = lake.sql(
        "SELECT count(*) AS n FROM images WHERE dataset = $1 AND labelled", parameters=[dataset]
    ).to_pylist()[0]["n"]
    if not labelled:
        known = [row["dataset"] for row in lake.sql("SELECT DISTINCT dataset FROM images").to_pylist()]
        raise ConfigError(
            f"{lake.url}: no labelled image in data set {dataset!r}; data sets: {sorted(known)}"
        )
    pairs = list(steps.items()) if isinstance(steps, Mapping) else list(steps)
    now = datetime.now(UTC)
    rows = plan_execution(
        "by hand",
        [Step(name=name, parameters=parameters) for name, parameters in pairs],
        dataset,
        lake.snapshot(),
        labelled_images=labelled,
        now=now,
        again=int(now.timestamp() * 1e6),
    )
    done = []
    for row in rows:
        # Not "planned" nor "submitted": a service on this lake would take it for one of its own.
        write_runs(lake, [{**row, "state": "running", "submitted_at": datetime.now(UTC)}])
        done.append(work(lake, row["run"], mine=True))
    return done
