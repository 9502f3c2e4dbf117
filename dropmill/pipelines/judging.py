"""The steps that judge: candidate and current best on the same images, and whether one replaces the other."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from dropmill.lake_samples import read_samples
from dropmill.pipelines.step_data import ids_of
from dropmill.pipelines.step_run import StepRun
from dropmill.pipelines.steps_config import EvaluateConfig, PromoteConfig
from storage import schemas
from storage.errors import JobError, TrainingError
from storage.lake import Lake
from training.detectnet_v2.checkpoint import load_checkpoint
from training.detectnet_v2.evaluate import evaluate_model
from training.detectnet_v2.predictor import open_predictor
from training.detectnet_v2.spec import AveragePrecisionMode
from training.evaluation import Evaluation
from training.samples import Sample, split_samples

log = logging.getLogger(__name__)

_MEASURED = ("onnx", "checkpoint")
"""What of a run is measured: what its user gets, where it has that."""


@dataclass(frozen=True)
class Score:
    """Mean and average precision by class, at IoU 0.5."""

    map50: float
    by_class: dict[str, float]


def evaluate(run: StepRun) -> None:
    """Measure the candidate, and the current best beside it, on the same images of the pinned snapshot."""
    config = EvaluateConfig.model_validate(run.parameters)
    candidate = run.needed("model")
    split, samples = _samples(run, config.split, _seed(candidate))
    run.saw({split: ids_of(samples)})
    measured = _measure(candidate, samples)
    found = score(measured, _classes(measured))
    run.metrics |= {
        "mAP50": found.map50,
        "test_mAP50" if split == "test" else "exported_mAP50": found.map50,
        "images": len(samples),
        **{f"ap50/{name}": value for name, value in found.by_class.items()},
        "precision50": _mean([one.precision for one in measured.categories.values()]),
        "recall50": _mean([one.recall for one in measured.categories.values()]),
    }
    run.outputs |= {"candidate": candidate.name, "split": split}
    best = current_run(run.lake, run.dataset)
    if best is not None and best != candidate.name:
        run.outputs["current"] = best
        other = _measure(StepRun(run.lake, best), samples)
        run.metrics["current_mAP50"] = score(other, _classes(measured)).map50
        learnt = learnt_of(run.lake, best, run.dataset, ids_of(samples))
        if learnt:
            # An image that has changed its split since, or another seed of the split: it is too good there.
            run.metrics["current_learnt_images"] = len(learnt)
            log.warning(
                "the current model has learnt from images that it is measured on",
                extra={"run": best, "images": len(learnt)},
            )


def promote(run: StepRun) -> None:
    """Make the candidate current where it is better on the images that both were measured on."""
    config = PromoteConfig.model_validate(run.parameters)
    evaluation = run.needed("evaluation")
    measured = json.loads(evaluation.row["metrics"])
    candidate = evaluation.outputs_said["candidate"]
    against = evaluation.outputs_said.get("current")
    best = current_run(run.lake, run.dataset)
    if best not in (against, candidate):
        raise JobError(
            f"{best or 'no model'} is current now, and {candidate} was measured against "
            f"{against or 'none'}; retry {evaluation.name} to measure it against that",
            run=run.name,
        )
    reached, least = measured["mAP50"], config.at_least
    if against is not None:
        least = max(least, measured["current_mAP50"] + config.margin)
    better = reached > least if against is not None else reached >= least
    changed = _with_state(run.lake, [candidate], "current" if better else "rejected")
    if better and best is not None and best != candidate:
        changed += _with_state(run.lake, [best], "retired")
    run.lake.put("models", pa.Table.from_pylist(changed, schema=schemas.MODELS), keys=["model"])
    run.outputs["current" if better else "rejected"] = candidate
    run.metrics |= {"promoted": float(better), "mAP50": reached, "needed_mAP50": least}
    log.info("judged", extra={"run": candidate, "promoted": better, "mAP50": reached, "needed": least})


def score(measured: Evaluation, classes: Sequence[str]) -> Score:
    """Over ``classes``, those with objects in the images; a class that a model does not know counts 0."""
    found = measured.categories
    by_class = {name: (found[name].average_precision or 0.0) if name in found else 0.0 for name in classes}
    return Score(_mean(list(by_class.values())), by_class)


def learnt_of(lake: Lake, run: str, dataset: str, images: Sequence[str]) -> list[str]:
    """Those of some images that a run, or one that it rests on, has learnt from."""
    rows = lake.sql(
        """SELECT DISTINCT s.sample FROM ancestry a JOIN seen s ON s.run = a.rests_on
           WHERE a.run = $1 AND s.dataset = $2 AND s.role IN ('train', 'shards', 'calibration')
             AND list_contains($3, s.sample) ORDER BY 1""",
        parameters=[run, dataset, list(images)],
        max_rows=None,
    )
    return [row["sample"] for row in rows.to_pylist()]


def current_run(lake: Lake, dataset: str) -> str | None:
    """The run whose files are the current model of a data set."""
    rows = lake.sql(
        "SELECT any_value(run) AS run FROM models WHERE dataset = $1 AND state = 'current'",
        parameters=[dataset],
    ).to_pylist()
    return None if rows[0]["run"] is None else str(rows[0]["run"])


def _samples(run: StepRun, split: str, seed: int) -> tuple[str, list[Sample]]:
    read = read_samples(run.lake, run.dataset, run.snapshot)
    test = [sample for sample in read.samples if sample.split == "test"]
    if split == "test" and test:
        return "test", test
    _, val = split_samples(read.samples, seed=seed)
    if not val:
        raise TrainingError(f"data set {run.dataset!r} has no image to measure on; give some the split test")
    return "val", val


def _seed(model: StepRun) -> int:
    path = model.file("checkpoint")
    if model.detector != "detectnet_v2":
        from dropmill.pipelines import zoo_steps

        return zoo_steps.seed_of(path)
    return load_checkpoint(path).spec.random_seed


def _measure(model: StepRun, samples: Sequence[Sample]) -> Evaluation:
    """Average precision at IoU 0.5 over all recalls, whatever the model's own spec would measure."""
    if model.detector != "detectnet_v2":
        from dropmill.pipelines import zoo_steps

        return zoo_steps.measure(model.file("checkpoint"), samples)
    kind = next((kind for kind in _MEASURED if kind in model.outputs_said), None)
    if kind is None:
        raise JobError(f"run {model.name} left no model to measure; its outputs: {model.outputs_said}")
    spec = load_checkpoint(model.file("checkpoint")).spec
    head = spec.model_config.objective_set.bbox
    predictor = open_predictor(model.file(kind), classes=spec.classes, scale=head.scale, offset=head.offset)
    same = replace(
        spec.evaluation_config,
        average_precision_mode=AveragePrecisionMode.INTEGRATE,
        evaluation_box_config={},
    )
    return evaluate_model(predictor, samples, replace(spec, evaluation_config=same)).at_half


def _classes(measured: Evaluation) -> list[str]:
    return [name for name, one in measured.categories.items() if one.average_precision is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _with_state(lake: Lake, runs: Sequence[str], state: str) -> list[dict[str, Any]]:
    rows = lake.sql("SELECT * FROM models WHERE list_contains($1, run)", parameters=[list(runs)])
    return [{**row, "state": state} for row in rows.to_pylist()]
