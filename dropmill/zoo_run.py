"""Trainings of the zoo on a lake: a row in ``runs`` from the beginning, a checkpoint in ``models``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from dropmill.lake_samples import read_samples
from dropmill.pipelines.step_run import StepRun
from ingest.plans import Step, plan_execution, write_runs
from storage.errors import TrainingError
from storage.lake import Lake
from training.samples import Sample
from training.spec_file import plain
from training.zoo.checkpoint import parse_checkpoint
from training.zoo.loop import BEST, LAST
from training.zoo.spec import ZooSpec
from training.zoo.work_dir import WorkDir

_METRICS = {
    "epoch": "epoch",
    "loss": "loss",
    "bbox_mAP": "mAP",
    "bbox_mAP_50": "mAP50",
    "segm_mAP": "mask_mAP",
    "segm_mAP_50": "mask_mAP50",
}


@contextmanager
def zoo_run(lake_url: str, dataset: str, spec: ZooSpec) -> Iterator[ZooRun]:
    """A run by hand on the tables as they are now; what is raised within is written into its row.

    Raises ``TrainingError`` where the data set has no labelled image; nothing is written then.
    """
    Lake.open(lake_url)
    lake = Lake.create(lake_url)
    snapshot = lake.snapshot()
    samples = list(read_samples(lake, dataset, snapshot).samples)
    now = datetime.now(UTC)
    (row,) = plan_execution(
        "by hand",
        [Step(name="train", parameters=json.loads(json.dumps(plain(spec))))],
        dataset,
        snapshot,
        labelled_images=len(samples),
        now=now,
        again=int(now.timestamp() * 1e6),
    )
    # Not "planned" nor "submitted": a service on this lake would take it for one of its own; and not the step
    # of a pipeline, which `dropmill step` could do again.
    step = f"model {spec.model.detector} train"
    write_runs(lake, [{**row, "step": step, "state": "running", "submitted_at": now}])
    run = ZooRun(StepRun(lake, row["run"]), samples)
    try:
        yield run
    except BaseException as error:
        run.step.fail(f"{type(error).__name__}: {error}")
        raise
    run.step.succeed()


class ZooRun:
    """A run and the samples of its snapshot."""

    def __init__(self, step: StepRun, samples: list[Sample]) -> None:
        self.step = step
        self.samples = samples

    def keep(
        self,
        results_dir: str,
        metrics: Mapping[str, float],
        *,
        train: Iterable[Sample],
        val: Iterable[Sample],
    ) -> None:
        """Copy the best checkpoint (the last where nothing was validated) into the lake, with what it saw."""
        folder = WorkDir(results_dir)
        file = BEST if folder.read(BEST) is not None else LAST
        data = folder.read(file)
        if data is None:
            raise TrainingError(f"{results_dir}: no checkpoint; expected {BEST} or {LAST}")
        found = parse_checkpoint(data, folder.path(file))
        for key, name in _METRICS.items():
            if key in metrics:
                self.step.metrics[name] = float(metrics[key])
        path = self.step.folder / file
        path.write_bytes(data)
        about = {"architecture": found.spec.model.detector, "categories": list(found.classes)}
        self.step.keep("checkpoint", path, about)
        self.step.saw({"train": [one.id for one in train], "val": [one.id for one in val]})
