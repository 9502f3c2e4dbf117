"""Average precision and what goes with it, over a whole data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from training.evaluation.detections import Detections, EvaluationError, Floats, Truth
from training.evaluation.matching import IGNORED, TRUE, Integers, MatchRules, match

Mode = Literal["SAMPLE", "INTEGRATE", "INTEGRATE_LEGACY", "COCO"]

_COCO_RECALLS = np.linspace(0.0, 1.0, 101)
_COCO_MAX_DETECTIONS = 100


@dataclass(frozen=True, kw_only=True)
class SizeLimits:
    """Width and height in pixels within which objects and detections count. Objects outside are ignored,
    and so are detections outside that found nothing.
    """

    minimum_width: float = 0.0
    minimum_height: float = 0.0
    maximum_width: float = float("inf")
    maximum_height: float = float("inf")


@dataclass(frozen=True, kw_only=True)
class CategoryScore:
    """How well one category is detected. ``precision`` to ``false_negatives`` hold at ``threshold``, the
    score that gives the best F1 (None, and nothing detected, where no threshold finds anything).
    """

    category: str
    average_precision: float | None
    """In [0, 1]; None where the data set has no object of this category that counts."""
    iou: float
    objects: int
    ignored_objects: int
    detections: int
    """Detections that count as true or false; at any score."""
    ignored_detections: int
    threshold: float | None
    precision: float
    recall: float
    f1: float
    true_positives: int
    false_positives: int
    false_negatives: int
    curve: Floats = field(repr=False, compare=False)
    """(n, 3): score, recall and precision of each operating point, by falling score."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of all categories. ``mean_average_precision`` is the plain mean over those that have
    objects, None where none has.
    """

    mode: Mode
    images: int
    mean_average_precision: float | None
    categories: dict[str, CategoryScore]

    @property
    def map50(self) -> float | None:
        """The mean AP, where it was measured at IoU 0.5; an error otherwise."""
        others = {score.category: score.iou for score in self.categories.values() if score.iou != 0.5}
        if others:
            raise EvaluationError(f"not measured at IoU 0.5 but at {others}; use mean_average_precision")
        return self.mean_average_precision

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON and the lake, without the curves."""
        hidden = ("curve", "category")
        return {
            "mode": self.mode,
            "images": self.images,
            "mean_average_precision": self.mean_average_precision,
            "categories": {
                name: {key: value for key, value in vars(score).items() if key not in hidden}
                for name, score in self.categories.items()
            },
        }


def evaluate(
    detections: Mapping[str, Detections],
    truth: Mapping[str, Truth],
    *,
    iou: float | Mapping[str, float] = 0.5,
    mode: Mode = "SAMPLE",
    inclusive: bool = False,
    categories: Iterable[str] | None = None,
    size_limits: SizeLimits | Mapping[str, SizeLimits] | None = None,
) -> Evaluation:
    """Measure detections against truth; both are keyed by image, and every image of ``truth`` takes part.

    ``iou`` is the overlap in (0, 1] from which a detection counts, for all or per category. ``categories``
    defaults to those that have objects. ``inclusive`` counts the border pixels into a box, as VOC does with
    its integer coordinates. Modes:

    - ``SAMPLE``: mean of the interpolated precision at the 11 recalls 0, 0.1 ... 1 (VOC 2007).
    - ``INTEGRATE``: area under the interpolated precision over all recalls (VOC 2010 and later).
    - ``INTEGRATE_LEGACY``: the number that DetectNet_v2 of TAO calls INTEGRATE. It leaves out the first
      step of the curve, so that a perfect detector on n objects has 1 - 1/n. For comparison with old logs
      only.
    - ``COCO``: 101 recalls, COCO's matching, at most 100 detections per image and category; pycocotools' AP
      at this IoU. Detections with equal scores count in the order of the sorted image keys, then as given;
      in the other modes they form one operating point, so that no order matters.

    Raises :class:`EvaluationError` for detections of images that ``truth`` lacks and for unusable arguments.
    """
    if mode not in get_args(Mode):
        raise EvaluationError(f"mode {mode!r} is unknown; expected one of {', '.join(get_args(Mode))}")
    if unknown := sorted(set(detections) - set(truth)):
        raise EvaluationError(
            f"detections for {len(unknown)} images that the truth does not have, first {unknown[0]!r}; "
            "give an empty Truth for images that hold no object"
        )
    names = tuple(dict.fromkeys(categories)) if categories is not None else _present(truth)
    rules = _rules(names, iou, size_limits, inclusive=inclusive, coco=mode == "COCO")

    nothing = Detections.empty()
    counted = np.zeros(len(names), dtype=np.int64)
    ignored = np.zeros(len(names), dtype=np.int64)
    parts: list[tuple[Integers, Floats, Integers]] = []
    for image in sorted(truth):
        found = detections.get(image, nothing)
        judged = match(found, truth[image], rules)
        counted += judged.counted
        ignored += judged.ignored
        parts.append((judged.category, found.scores[judged.rows], judged.verdict))
    columns = zip(*parts, strict=True) if parts else iter([()] * 3)
    category, scores, verdicts = (np.concatenate([np.zeros(0), *column]) for column in columns)

    result = {
        name: _score(
            name,
            scores[category == i],
            verdicts[category == i],
            objects=int(counted[i]),
            ignored_objects=int(ignored[i]),
            iou=float(rules.iou[i]),
            mode=mode,
        )
        for i, name in enumerate(names)
    }
    known = [score.average_precision for score in result.values() if score.average_precision is not None]
    return Evaluation(
        mode=mode,
        images=len(truth),
        mean_average_precision=float(np.mean(known)) if known else None,
        categories=result,
    )


def _score(
    name: str,
    scores: Floats,
    verdicts: Integers,
    *,
    objects: int,
    ignored_objects: int,
    iou: float,
    mode: Mode,
) -> CategoryScore:
    counts = verdicts != IGNORED
    order = np.argsort(-scores[counts], kind="stable")
    ordered = scores[counts][order]
    hits = np.cumsum(verdicts[counts][order] == TRUE)
    seen = np.arange(1, len(ordered) + 1)
    if mode != "COCO":
        last_of_its_score = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
        ordered, hits, seen = ordered[last_of_its_score], hits[last_of_its_score], seen[last_of_its_score]
    precision = hits / seen
    recall = hits / objects if objects else np.zeros(len(hits))

    f1 = 2 * hits / (seen + objects)
    best = int(f1.argmax()) if hits.any() else None
    true_positives = 0 if best is None else int(hits[best])
    false_positives = 0 if best is None else int(seen[best]) - true_positives
    return CategoryScore(
        category=name,
        average_precision=_average(hits, precision, objects, mode) if objects else None,
        iou=iou,
        objects=objects,
        ignored_objects=ignored_objects,
        detections=int(counts.sum()),
        ignored_detections=int((~counts).sum()),
        threshold=None if best is None else float(ordered[best]),
        precision=0.0 if best is None else float(precision[best]),
        recall=0.0 if best is None else float(recall[best]),
        f1=0.0 if best is None else float(f1[best]),
        true_positives=true_positives,
        false_positives=false_positives,
        false_negatives=objects - true_positives,
        curve=np.stack([ordered, recall, precision], axis=1),
    )


def _average(hits: Integers, precision: Floats, objects: int, mode: Mode) -> float:
    """The area under precision over recall = hits / objects, by one of the four rules."""
    if not len(hits):
        return 0.0
    # The best precision at this recall or any larger one: it never rises along the curve.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if mode == "SAMPLE":
        # Whole numbers, because 3 of 10 objects must reach the recall 0.3.
        return float(np.append(envelope, 0.0)[np.searchsorted(hits * 10, np.arange(11) * objects)].mean())
    if mode == "COCO":
        wanted = np.searchsorted(hits / objects, _COCO_RECALLS, side="left")
        return float(np.append(envelope, 0.0)[wanted].mean())
    if mode == "INTEGRATE":
        return float((np.diff(hits, prepend=0) * envelope).sum() / objects)
    reached, starts = np.unique(hits, return_index=True)
    before_last = precision[: starts[-1]]
    heights = np.maximum.accumulate(before_last[::-1])[::-1][starts[:-1]]
    return float((np.diff(reached) * heights).sum() / objects)


def _present(truth: Mapping[str, Truth]) -> tuple[str, ...]:
    return tuple(
        sorted({name for image in truth.values() for name in image.categories[~image.ignore].tolist()})
    )


def _rules(
    names: tuple[str, ...],
    iou: float | Mapping[str, float],
    limits: SizeLimits | Mapping[str, SizeLimits] | None,
    *,
    inclusive: bool,
    coco: bool,
) -> MatchRules:
    if isinstance(iou, Mapping) and (missing := [name for name in names if name not in iou]):
        raise EvaluationError(f"no IoU threshold for {', '.join(missing)}; known: {', '.join(sorted(iou))}")
    thresholds = np.array(
        [iou[name] if isinstance(iou, Mapping) else iou for name in names], dtype=np.float64
    )
    if not ((thresholds > 0) & (thresholds <= 1)).all():
        raise EvaluationError(f"IoU threshold {iou}; expected numbers above 0 and up to 1")
    anything = SizeLimits()
    per_name = [
        limits.get(name, anything) if isinstance(limits, Mapping) else limits or anything for name in names
    ]
    return MatchRules(
        names=names,
        iou=thresholds,
        smallest=np.array([[lim.minimum_width, lim.minimum_height] for lim in per_name]).reshape(-1, 2),
        largest=np.array([[lim.maximum_width, lim.maximum_height] for lim in per_name]).reshape(-1, 2),
        inclusive=inclusive,
        second_choice=coco,
        max_detections=_COCO_MAX_DETECTIONS if coco else None,
    )
