"""Which detection found which object of one image.

Two protocols. *VOC* (Everingham et al., "The PASCAL VOC Challenge", IJCV 2010, section 4.2, and its
development kit): each detection asks for the object of its class with the highest IoU; the best-scored
asker gets it, later ones are false positives, without a second choice. *COCO* (cocodataset.org, detection
evaluation): detections choose in the order of their scores among the objects that are still free.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluation.detections import EVERY_CATEGORY, Bools, Detections, Floats, Truth

Integers = npt.NDArray[np.int64]

FALSE, TRUE, IGNORED = 0, 1, 2
"""Verdicts about a detection; an ignored one counts neither way."""


@dataclass(frozen=True, kw_only=True)
class MatchRules:
    """How one evaluation matches; every array has one element per category."""

    names: tuple[str, ...]
    iou: Floats
    smallest: Floats
    """(categories, 2): width and height in pixels below which nothing counts."""
    largest: Floats
    """(categories, 2): width and height in pixels above which nothing counts."""
    inclusive: bool
    """Borders are pixels that belong to the box: a box from 3 to 5 is 3 wide."""
    second_choice: bool
    """COCO's protocol instead of VOC's."""
    max_detections: int | None
    """Best detections per image and category that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Verdicts about one image's detections, in the order given, without those of other categories or past
    the limit; and the objects per category.
    """

    rows: Integers
    category: Integers
    verdict: Integers
    partner: Integers
    """Row of the truth that was found; -1 where none was."""
    counted: Integers
    """(categories,): objects that are to be found."""
    ignored: Integers
    """(categories,): objects that are not."""


def match(found: Detections, truth: Truth, rules: MatchRules) -> Matched:
    """Judge the detections of one image."""
    category = _index(found.categories, rules.names)
    order = np.argsort(-found.scores, kind="stable")
    order = order[category[order] >= 0]
    if rules.max_detections is not None:
        order = order[_rank_within(category[order]) < rules.max_detections]
    order.sort()
    boxes, scores, category = found.boxes[order], found.scores[order], category[order]

    truth_category = _index(truth.categories, rules.names)
    ignore = truth.ignore | _outside(truth.boxes, truth_category, rules)
    # Among equal overlaps the choice must not hang on the order of the label file.
    by_place = np.lexsort((*truth.boxes.T[::-1], ignore))
    objects = by_place[(truth_category[by_place] >= 0) & ~truth.crowd[by_place]]
    overlap = box_iou(boxes, truth.boxes[objects], inclusive=rules.inclusive)
    overlap = np.where(category[:, None] == truth_category[objects], overlap, -1.0)
    threshold = rules.iou[category]

    choose = _choose_free if rules.second_choice else _choose_best
    partner = choose(overlap, threshold, ignore[objects], np.argsort(-scores, kind="stable"))
    has = np.flatnonzero(partner >= 0)
    partner[has] = objects[partner[has]]
    partner[partner == _TAKEN] = -1
    verdict = np.full(len(order), FALSE, dtype=np.int64)
    verdict[has] = np.where(ignore[partner[has]], IGNORED, TRUE)

    excused = _in_crowd(boxes, category, truth, truth_category, threshold, inclusive=rules.inclusive)
    excused |= _outside(boxes, category, rules)
    verdict[excused & (verdict == FALSE)] = IGNORED

    known = truth_category >= 0
    return Matched(
        rows=order,
        category=category,
        verdict=verdict,
        partner=partner,
        counted=np.bincount(truth_category[known & ~ignore], minlength=len(rules.names)),
        ignored=np.bincount(truth_category[known & ignore], minlength=len(rules.names)),
    )


def box_iou(a: Floats, b: Floats, *, inclusive: bool = False) -> Floats:
    """Intersection over union of boxes a (n, 4) and b (m, 4), corners in pixels: (n, m), 0 where both are
    empty.
    """
    both = _intersection(a, b, inclusive=inclusive)
    union = _area(a, inclusive=inclusive)[:, None] + _area(b, inclusive=inclusive) - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


_TAKEN = -2


def _choose_best(overlap: Floats, threshold: Floats, ignore: Bools, by_score: Integers) -> Integers:
    """VOC: the object with the highest IoU or nothing. -1 where nothing overlaps enough, -2 where a
    detection with a better score was there before.
    """
    if overlap.size == 0:
        return np.full(len(overlap), -1, dtype=np.int64)
    best = overlap.argmax(axis=1)
    reach = overlap[np.arange(len(best)), best] >= threshold
    partner: Integers = np.where(reach, best, -1)
    asking = by_score[reach[by_score] & ~ignore[best[by_score]]]
    first = np.unique(best[asking], return_index=True)[1]
    late = np.ones(len(asking), dtype=np.bool_)
    late[first] = False
    partner[asking[late]] = _TAKEN
    return partner


def _choose_free(overlap: Floats, threshold: Floats, ignore: Bools, by_score: Integers) -> Integers:
    """COCO: by falling score the best free object; ignored ones only where no other is left."""
    partner = np.full(len(overlap), -1, dtype=np.int64)
    if overlap.size == 0:
        return partner
    # COCO's own tolerance for IoU that should be equal to the threshold.
    reach = overlap >= np.minimum(threshold, 1 - 1e-10)[:, None]
    hopeful = by_score[np.isin(by_score, np.nonzero(reach)[0])]
    free = np.ones(overlap.shape[1], dtype=np.bool_)
    for row in hopeful:
        wanted = reach[row] & free
        if (wanted & ~ignore).any():
            wanted &= ~ignore
        if wanted.any():
            partner[row] = np.where(wanted, overlap[row], -1.0).argmax()
            free[partner[row]] = False
    return partner


def _in_crowd(
    boxes: Floats,
    category: Integers,
    truth: Truth,
    truth_category: Integers,
    threshold: Floats,
    *,
    inclusive: bool,
) -> Bools:
    """Which detections lie, by their own area, in a crowd region of their class or of all classes."""
    if not truth.crowd.any() or not len(boxes):
        return np.zeros(len(boxes), dtype=np.bool_)
    regions = np.flatnonzero(truth.crowd)
    speaks = (truth.categories[regions] == EVERY_CATEGORY) | (category[:, None] == truth_category[regions])
    both = _intersection(boxes, truth.boxes[regions], inclusive=inclusive)
    own = _area(boxes, inclusive=inclusive)[:, None]
    share = np.divide(both, own, out=np.zeros_like(both), where=own > 0)
    inside: Bools = (speaks & (share >= threshold[:, None])).any(axis=1)
    return inside


def _outside(boxes: Floats, category: Integers, rules: MatchRules) -> Bools:
    """Which boxes are smaller or larger than counts in their category; not those of no category (-1)."""
    result = np.zeros(len(boxes), dtype=np.bool_)
    known = category >= 0
    size, index = (boxes[:, 2:] - boxes[:, :2])[known], category[known]
    result[known] = ((size < rules.smallest[index]) | (size > rules.largest[index])).any(axis=1)
    return result


def _index(categories: npt.NDArray[np.str_], names: tuple[str, ...]) -> Integers:
    """Position of each category in ``names``, -1 for all others."""
    position = {name: i for i, name in enumerate(names)}
    return np.array([position.get(name, -1) for name in categories.tolist()], dtype=np.int64)


def _rank_within(groups: Integers) -> Integers:
    """How many earlier elements have the same value."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    start = np.searchsorted(ordered, ordered, side="left")
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - start
    return ranks


def _intersection(a: Floats, b: Floats, *, inclusive: bool) -> Floats:
    border = 1.0 if inclusive else 0.0
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    size = (high - low + border).clip(min=0.0)
    area: Floats = size[..., 0] * size[..., 1]
    return area


def _area(boxes: Floats, *, inclusive: bool) -> Floats:
    border = 1.0 if inclusive else 0.0
    size = (boxes[:, 2:] - boxes[:, :2] + border).clip(min=0.0)
    area: Floats = size[:, 0] * size[:, 1]
    return area
