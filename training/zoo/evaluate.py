"""A detector measured on samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from training.evaluation import Evaluation, Truth
from training.evaluation import evaluate as evaluate_voc
from training.samples import Sample
from training.zoo.coco_eval import Backend, CocoReport, measure
from training.zoo.predict import Found, predict
from training.zoo.results import coco_results, coco_truth

VocMode = Literal["INTEGRATE", "SAMPLE"]


@dataclass(frozen=True, kw_only=True)
class ZooEvaluation:
    """``coco`` has COCO's measures, ``voc`` the AP of each class at IoU 0.5, over all recalls
    (``INTEGRATE``, as VOC does since 2010) or at eleven of them (``SAMPLE``, as it did before).

    ``truth`` and ``results`` are COCO's containers of what was to be found and of what was.
    """

    coco: CocoReport
    voc: Evaluation
    truth: dict[str, Any] = field(repr=False)
    results: list[dict[str, Any]] = field(repr=False)
    found: list[tuple[Sample, Found]] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "images": len(self.found),
            "backend": self.coco.backend,
            "coco": self.coco.metrics,
            "classes": self.coco.classes,
            "voc": self.voc.as_dict(),
        }

    def lines(self) -> list[str]:
        """A table for a terminal."""
        rows = [f"{len(self.found)} images, by {self.coco.backend}"]
        rows += [f"{name:<24}{_number(value)}" for name, value in self.coco.metrics.items()]
        for metric, classes in self.coco.classes.items():
            rows.append(f"{metric + ' of each class':<24}   mAP    50    75 small middle large")
            rows += [
                f"  {name:<22}" + "".join(_number(value) for value in values.values())
                for name, values in classes.items()
            ]
        mean = self.voc.mean_average_precision
        rows.append(f"{'VOC AP at IoU 0.5':<24}{_number(-1 if mean is None else mean)}")
        rows += [
            f"  {name:<22}{_number(-1 if score.average_precision is None else score.average_precision)}"
            f"  precision {score.precision:.3f}, recall {score.recall:.3f} at {score.threshold or 0:.2f}"
            for name, score in self.voc.categories.items()
        ]
        return rows


def evaluate_detector(
    network: nn.Module,
    samples: Sequence[Sample],
    classes: Sequence[str],
    *,
    metrics: Sequence[str] = ("bbox",),
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    backend: Backend = "auto",
    voc: VocMode = "INTEGRATE",
) -> ZooEvaluation:
    """Find objects in all samples and measure them against what is labelled."""
    found = list(predict(network, samples, batch_size=batch_size, device=device))
    return measured(found, classes, metrics=metrics, backend=backend, voc=voc)


def measured(
    found: Sequence[tuple[Sample, Found]],
    classes: Sequence[str],
    *,
    metrics: Sequence[str] = ("bbox",),
    backend: Backend = "auto",
    voc: VocMode = "INTEGRATE",
) -> ZooEvaluation:
    """Measure what was found."""
    results = coco_results((number, one) for number, (_, one) in enumerate(found, start=1))
    truth = coco_truth([sample for sample, _ in found], classes)
    names = [str(number) for number in range(len(found))]
    return ZooEvaluation(
        coco=measure(truth, results, metrics, backend=backend),
        voc=evaluate_voc(
            {name: one.detections(classes) for name, (_, one) in zip(names, found, strict=True)},
            {
                name: Truth(sample.boxes, sample.categories, sample.ignore)
                for name, (sample, _) in zip(names, found, strict=True)
            },
            mode=voc,
            categories=classes,
        ),
        truth=truth,
        results=results,
        found=list(found),
    )


def gathered(found: list[tuple[int, Found]], world: int) -> list[tuple[int, Found]]:
    """What all processes found, in the order of the numbers."""
    if world == 1:
        return found
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, found)
    return sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])


def save_evaluation(folder: Path, report: ZooEvaluation) -> list[Path]:
    """Write ``evaluation.json``, ``truth.json``, ``results.bbox.json``, and of masks ``results.segm.json``.

    The results number images and classes as ``truth.json`` does, with which any COCO tool measures them.
    """
    boxes = [{key: one[key] for key in one if key != "segmentation"} for one in report.results]
    contents: dict[str, Any] = {
        "evaluation.json": report.as_dict(),
        "truth.json": report.truth,
        "results.bbox.json": boxes,
    }
    if any("segmentation" in one for one in report.results):
        contents["results.segm.json"] = report.results
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return [folder / name for name in contents]


def _number(value: float) -> str:
    return f"{value:6.3f}" if value >= 0 else "     -"
