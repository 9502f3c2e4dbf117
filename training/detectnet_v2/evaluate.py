"""``evaluate``: what a model is worth on labelled samples, in every measure that people ask for."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.detectnet_v2 import validate
from training.detectnet_v2.cost import ObjectiveWeights
from training.detectnet_v2.dataset import DetectionDataset
from training.detectnet_v2.predictor import Predictor
from training.detectnet_v2.spec import TrainSpec
from training.evaluation.average_precision import Evaluation, Mode
from training.evaluation.coco_metrics import coco_metrics
from training.evaluation.confusion import Confusion, confusion
from training.samples import Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """``evaluation`` by the spec's rules, ``at_half`` at IoU 0.5; ``coco`` are pycocotools' twelve numbers.

    ``median_batch_s``: the network and the clustering of its outputs, one batch of ``batch_size``.
    """

    kind: str
    images: int
    cost: float
    evaluation: Evaluation
    at_half: Evaluation
    coco: dict[str, float]
    confusion: Confusion
    batch_size: int
    median_batch_s: float

    def lines(self) -> list[str]:
        """For people, with TAO's two headings."""
        mean = self.evaluation.mean_average_precision
        lines = [
            f"Validation cost: {self.cost:.6f}",
            f"Mean average_precision (in %): {100 * (mean or 0):.4f}",
            "",
        ]
        heads = ("AP (in %)", "AP50", "precision", "recall", "F1", "objects")
        lines.append("{:<24} {:>9} {:>7} {:>9} {:>7} {:>6} {:>8}".format("class name", *heads))
        for name, score in self.evaluation.categories.items():
            half = self.at_half.categories[name].average_precision
            lines.append(
                f"{name:<24} {_percent(score.average_precision):>9} {_percent(half):>7} "
                f"{score.precision:>9.3f} {score.recall:>7.3f} {score.f1:>6.3f} {score.objects:>8}"
            )
        coco = "  ".join(f"{name} {value:.3f}" for name, value in self.coco.items())
        lines += [
            "",
            f"COCO: {coco}",
            f"Median Inference Time: {self.median_batch_s:.6f} s a batch of {self.batch_size}",
        ]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.kind,
            "images": self.images,
            "cost": self.cost,
            "mAP": self.evaluation.mean_average_precision,
            "mAP50": self.at_half.mean_average_precision,
            "evaluation": self.evaluation.as_dict(),
            "coco": self.coco,
            "confusion": self.confusion.as_dict(),
            "batch_size": self.batch_size,
            "median_batch_s": self.median_batch_s,
        }


def evaluate_model(
    predictor: Predictor, samples: Sequence[Sample], spec: TrainSpec, *, mode: Mode | None = None
) -> EvaluationReport:
    """Run ``predictor`` over ``samples`` and measure; every sample counts once. ``mode`` replaces the
    spec's.
    """
    seconds: list[float] = []
    mark = [time.perf_counter()]

    def after_batch() -> None:
        seconds.append(time.perf_counter() - mark[0])

    def network(pixels: Any) -> Any:
        mark[0] = time.perf_counter()
        return predictor(pixels)

    outputs = validate.run(
        network,
        samples,
        DetectionDataset(samples, spec, train=False, cache_bytes=0),
        spec,
        grid=predictor.grid,
        after_batch=after_batch,
    )
    evaluation = validate.average_precision(outputs.detections, outputs.truth, spec, mode=mode)
    at_half = validate.average_precision(outputs.detections, outputs.truth, spec, overlap=0.5, mode=mode)
    weights = ObjectiveWeights(spec.cost_function_config)
    report = EvaluationReport(
        kind=predictor.kind,
        images=len(samples),
        cost=float(weights.total(outputs.costs / max(len(samples), 1))) if samples else 0.0,  # type: ignore[arg-type]
        evaluation=evaluation,
        at_half=at_half,
        coco=coco_metrics(outputs.detections, outputs.truth, spec.classes),
        confusion=confusion(outputs.detections, outputs.truth, at_half),
        batch_size=spec.training_config.batch_size_per_gpu,
        median_batch_s=statistics.median(seconds) if seconds else 0.0,
    )
    logger.info("evaluated model=%s images=%d map50=%s", predictor.kind, len(samples), report.at_half.map50)
    return report


def write_report(report: EvaluationReport, folder: Path) -> list[Path]:
    """``evaluation.json``, and the plots of precision over recall and of confusion as PNG."""
    from training.evaluation.plots import plot_confusion, plot_precision_recall

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "evaluation.json"
    path.write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    curves, matrix = folder / "precision_recall.png", folder / "confusion.png"
    plot_precision_recall(report.at_half, curves)
    plot_confusion(report.confusion, matrix)
    return [path, curves, matrix]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
