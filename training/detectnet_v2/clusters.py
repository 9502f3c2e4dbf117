"""Which boxes belong together: DBSCAN on overlap, and greedy suppression."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from training.evaluation.detections import Floats
from training.evaluation.matching import Integers, box_iou

_PAIRS_AT_ONCE = 1 << 20


def dbscan(
    boxes: Floats,
    weights: Floats,
    *,
    eps: float | Floats,
    min_weight: float | Floats,
    groups: Integers | None = None,
) -> Integers:
    """Cluster of each box, -1 for noise, by DBSCAN on the distance 1 - IoU.

    A box is core where the weights within ``eps``, its own among them, sum up to ``min_weight``. Clusters are
    numbered in the order of their first core box; a box at the border of several belongs to the first. Boxes
    of different ``groups`` never meet, so that one call does the work of many; ``eps`` and ``min_weight`` are
    one number, or one a box and the same within a group.
    Source: Ester, Kriegel, Sander, Xu, "A density-based algorithm for discovering clusters", KDD 1996, with
    weights in place of counts.
    """
    least_iou = np.broadcast_to(1.0 - np.asarray(eps, dtype=np.float64), len(boxes))
    first, second = _neighbours(
        boxes, least_iou, np.zeros(len(boxes), dtype=np.int64) if groups is None else groups
    )
    core = np.bincount(first, weights[second], minlength=len(boxes)) >= min_weight
    linked = core[second]
    first, second = first[linked], second[linked]
    root = np.where(core, np.arange(len(boxes)), len(boxes))
    inner = core[first]
    a, b = first[inner], second[inner]
    while True:
        before = root.copy()
        np.minimum.at(root, a, root[b])
        root[core] = root[root[core]]
        if np.array_equal(root, before):
            break
    np.minimum.at(root, first[~inner], root[second[~inner]])
    clusters = np.full(len(boxes), -1, dtype=np.int64)
    member = root < len(boxes)
    clusters[member] = np.unique(root[member], return_inverse=True)[1]
    return clusters


def nms(boxes: Floats, scores: Floats, *, iou: float) -> Integers:
    """Rows that greedy non-maximum suppression keeps, best first: no two of them overlap by more than
    ``iou``.
    """
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[box_iou(boxes[best, None], boxes[left])[0] <= iou]
    return np.array(kept, dtype=np.int64)


def _neighbours(boxes: Floats, least_iou: Floats, groups: Integers) -> tuple[Integers, Integers]:
    """All ordered pairs within a group whose IoU is at least ``least_iou``; each box is its own neighbour.

    Two boxes of IoU t share at least t of either's width, so the left edge of the one lies at most 1 - t of
    the other's width further to the right: along a sorted axis each box meets a short run of others. Groups
    lie one behind the other on that axis, too far apart to meet.
    """
    own = np.arange(len(boxes))
    if not len(boxes):
        return own, own
    extent = boxes[:, 2].max() - boxes[:, 0].min()
    place = groups * (extent + 1.0) + (boxes[:, 0] - boxes[:, 0].min())
    order = np.argsort(place, kind="stable")
    xmin, ymin, xmax, ymax = boxes[order].T.copy()
    place, least = place[order], least_iou[order]
    area = (xmax - xmin) * (ymax - ymin)
    reach = np.where(least > 0, (1.0 - least) * (xmax - xmin), extent)
    # A rounding error in the bound must not lose a pair; the exact test follows.
    end = np.searchsorted(place, place + reach + 16 * np.spacing(place[-1] + extent), side="right")
    lower, upper = [], []
    for i, j in _pairs(end):
        width = np.minimum(xmax[i], xmax[j]) - np.maximum(xmin[i], xmin[j])
        height = np.minimum(ymax[i], ymax[j]) - np.maximum(ymin[i], ymin[j])
        both = width.clip(min=0.0) * height.clip(min=0.0)
        union = area[i] + area[j] - both
        near = np.divide(both, union, out=np.zeros_like(both), where=union > 0) >= least[i]
        lower.append(order[i[near]])
        upper.append(order[j[near]])
    return np.concatenate([own, *lower, *upper]), np.concatenate([own, *upper, *lower])


def _pairs(end: npt.NDArray[np.intp]) -> Iterator[tuple[Integers, Integers]]:
    """Each i with every j from i + 1 to ``end[i]``, about a million pairs at a time."""
    counts = end - np.arange(1, len(end) + 1)
    done = np.concatenate([[0], np.cumsum(counts)])
    start = 0
    while start < len(end):
        stop = max(int(np.searchsorted(done, done[start] + _PAIRS_AT_ONCE, side="right")) - 1, start + 1)
        some = counts[start:stop]
        i = np.repeat(np.arange(start, stop), some)
        yield i, np.arange(len(i)) - np.repeat(done[start:stop] - done[start], some) + i + 1
        start = stop
