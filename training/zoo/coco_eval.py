"""COCO's measures of boxes, masks and proposals, by pycocotools or by faster-coco-eval.

Ground truth and results are COCO's own containers, so that files of others can be measured as well.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from storage.errors import ConfigError, UnknownKeyError
from training.evaluation.matching import box_iou
from training.zoo.spec import METRICS

Backend = Literal["auto", "pycocotools", "faster_coco_eval"]
PROPOSALS = (100, 300, 1000)
_STATS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
_RECALLS = ("AR_1", "AR_10", "AR_100", "AR_s", "AR_m", "AR_l")
_IOUS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True, kw_only=True)
class CocoReport:
    """``metrics`` such as ``bbox_mAP_50``, -1 where there is nothing to measure; ``classes`` has mAP, by IoU
    and by size, of each class, for the metrics bbox and segm.
    """

    backend: str
    metrics: dict[str, float]
    classes: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


def measure(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    metrics: Sequence[str] = ("bbox",),
    *,
    backend: Backend = "auto",
    limits: tuple[int, int, int] = (1, 10, 100),
) -> CocoReport:
    """Measure results against a COCO ground truth.

    ``bbox`` and ``segm``: IoU 0.50 to 0.95, three areas, ``limits`` detections an image. ``proposal``: recall
    of any class at 100, 300 and 1,000 boxes. ``proposal_fast``: the same without areas and crowds, by plain
    matching. ``auto`` takes faster-coco-eval where it is installed. Raises ``ConfigError`` for results that
    are none of that truth, and for boxes that are to be measured as masks.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise UnknownKeyError("metrics", metric, METRICS)
    chosen = _backend(backend)
    known = {image["id"] for image in truth["images"]}
    if strange := sorted({str(one["image_id"]) for one in results if one["image_id"] not in known}):
        raise ConfigError(
            f"results for {len(strange)} images that the truth does not have, first {strange[0]}; expected "
            "results of the same data"
        )
    if "segm" in metrics and any("segmentation" not in one for one in results):
        raise ConfigError("metric segm: results without masks; expected those of mask_rcnn, or bbox")
    values: dict[str, float] = {}
    classes: dict[str, dict[str, dict[str, float]]] = {}
    for metric in metrics:
        if metric == "proposal_fast":
            values |= _fast(truth, results)
        elif metric == "proposal":
            values |= _proposals(truth, results, chosen)
        else:
            found, by_class = _average_precision(truth, results, metric, chosen, limits)
            values |= {f"{metric}_{name}": value for name, value in found.items()}
            classes[metric] = by_class
    return CocoReport(backend=chosen, metrics=values, classes=classes)


def _average_precision(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    metric: str,
    backend: str,
    limits: tuple[int, int, int],
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    # Without its box, a result's area is that of its mask.
    given = (
        results
        if metric == "bbox"
        else [{key: value for key, value in one.items() if key != "bbox"} for one in results]
    )
    judge = _judged(truth, given, metric, backend, max_detections=list(limits))
    names = {one["id"]: str(one["name"]) for one in truth["categories"]}
    if judge is None:
        nothing = 0.0 if any(not one.get("iscrowd") for one in truth["annotations"]) else -1.0
        return dict.fromkeys([*_STATS, *_RECALLS], nothing), {
            name: dict.fromkeys(_STATS, nothing) for name in names.values()
        }
    # [IoU, recall, class, area, detections] and [IoU, class, area, detections]
    precision, recall = (np.asarray(judge.eval[name]) for name in ("precision", "recall"))
    everything = [
        precision[..., 0, -1], precision[0, :, :, 0, -1], precision[5, :, :, 0, -1],
        precision[..., 1, -1], precision[..., 2, -1], precision[..., 3, -1],
    ]  # fmt: skip
    values = dict(zip(_STATS, map(_mean, everything), strict=True))
    recalls = [*(recall[..., 0, number] for number in range(3)), *(recall[..., a, -1] for a in (1, 2, 3))]
    values |= dict(zip(_RECALLS, map(_mean, recalls), strict=True))
    by_class = {
        names[number]: {name: _mean(part[..., place]) for name, part in zip(_STATS, everything, strict=True)}
        for place, number in enumerate(judge.params.catIds)
    }
    return values, by_class


def _proposals(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], backend: str
) -> dict[str, float]:
    judge = _judged(truth, results, "bbox", backend, max_detections=list(PROPOSALS), classes=False)
    names = [*(f"proposal_AR@{number}" for number in PROPOSALS), "proposal_AR_s@1000", "proposal_AR_m@1000",
             "proposal_AR_l@1000"]  # fmt: skip
    if judge is None:
        return dict.fromkeys(names, 0.0)
    recall = np.asarray(judge.eval["recall"])
    parts = [*(recall[..., 0, number] for number in range(3)), *(recall[..., a, 2] for a in (1, 2, 3))]
    return dict(zip(names, map(_mean, parts), strict=True))


def _fast(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Recall of the objects, each matched to one box, the pair with the highest IoU first."""
    objects: dict[Any, list[Any]] = {image["id"]: [] for image in truth["images"]}
    for one in truth["annotations"]:
        if not one.get("iscrowd"):
            objects[one["image_id"]].append(one["bbox"])
    boxes: dict[Any, list[tuple[float, Any]]] = {}
    for one in results:
        boxes.setdefault(one["image_id"], []).append((float(one["score"]), one["bbox"]))
    best: dict[int, list[NDArray[np.float64]]] = {number: [] for number in PROPOSALS}
    for image, wanted in objects.items():
        if not wanted:
            continue
        found = sorted(boxes.get(image, []), key=lambda pair: -pair[0])
        overlap = box_iou(_corners([box for _, box in found]), _corners(wanted))
        for number in PROPOSALS:
            best[number].append(_matched(overlap[:number].copy()))
    total = sum(map(len, objects.values()))
    return {
        f"proposal_fast_AR@{number}": float(
            np.mean([(np.concatenate(found) >= iou - 1e-9).mean() for iou in _IOUS]) if total else -1.0
        )
        for number, found in best.items()
    }


def _matched(overlap: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.zeros(overlap.shape[1])
    for _ in range(min(overlap.shape)):
        row, column = np.unravel_index(overlap.argmax(), overlap.shape)
        result[column] = max(overlap[row, column], 0.0)
        overlap[row, :] = -1
        overlap[:, column] = -1
    return result


def _corners(boxes: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    array = np.array(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], axis=1)


def _judged(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kind: str,
    backend: str,
    *,
    max_detections: list[int],
    classes: bool = True,
) -> Any:
    """The evaluation, matched and accumulated; None where there are no results."""
    if not results:
        return None
    coco, evaluation = _classes(backend)
    with contextlib.redirect_stdout(io.StringIO()):
        gold = coco()
        gold.dataset = dict(truth)
        gold.createIndex()
        judge = evaluation(gold, gold.loadRes([dict(one) for one in results]), kind)
        judge.params.maxDets = max_detections
        judge.params.useCats = int(classes)
        judge.evaluate()
        judge.accumulate()
    return judge


def _backend(wanted: str) -> str:
    if wanted not in {"auto", "pycocotools", "faster_coco_eval"}:
        raise UnknownKeyError("backend", wanted, ["auto", "pycocotools", "faster_coco_eval"])
    if wanted != "auto":
        return wanted
    return "faster_coco_eval" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"


def _classes(backend: str) -> tuple[Any, Any]:
    try:
        if backend == "faster_coco_eval":
            # Not every environment has it, so that it cannot be checked.
            faster = importlib.import_module("faster_coco_eval")
            return faster.COCO, faster.COCOeval_faster
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    except ImportError as error:
        raise ConfigError(
            f"evaluation by {backend} needs that package: pip install dropmill[train] has pycocotools, "
            "dropmill[zoo] has faster-coco-eval"
        ) from error


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0
