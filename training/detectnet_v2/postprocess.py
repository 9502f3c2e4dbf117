"""From the two output grids of DetectNet_v2 to boxes.

1. A cell is a candidate where its coverage is above the threshold; its four numbers are decoded to corners.
2. DBSCAN joins candidates that overlap to clusters: one box each, the mean weighted by coverage. Or NMS keeps
   the best candidate of those that overlap. Or both, NMS among the members of clusters (hybrid).
3. What is too flat or too unsure goes.

The confidence of a cluster is the *sum* of its coverage and can pass 1; the confidence after NMS is the
coverage of one cell. A threshold for the one does not fit the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from storage.errors import ConfigError, TrainingError
from training.detectnet_v2.spec import ClusteringAlgorithm, ClusteringConfig
from training.evaluation.detections import Detections, Floats
from training.evaluation.matching import Integers, box_iou

ConfidenceModel = Literal["aggregate_cov", "mean_cov"]

_PAIRS_AT_ONCE = 1 << 20


def cluster(
    cov: npt.NDArray[np.floating],
    bbox: npt.NDArray[np.floating],
    *,
    configs: Mapping[str, ClusteringConfig],
    stride: float,
    scale: float,
    offset: float,
    width: float,
    height: float,
    classes: Sequence[str] | None = None,
    confidence_model: ConfidenceModel | Mapping[str, str] = "aggregate_cov",
) -> Detections:
    """The detections in one image, best first, from cov (C, h, w) and bbox (4C, h, w).

    Channel c belongs to the c-th key of ``configs``, or to ``classes[c]`` where given; a class that
    ``configs`` lacks then takes its entry ``default``. bbox holds left, top, right, bottom of each class in
    turn, as the rasteriser draws them. Boxes are corners in pixels of the network's input, clipped to
    ``width`` and ``height``. ``mean_cov`` (for all, or by class) makes the confidence of a cluster the mean
    coverage of its cells instead of their sum.

    Raises :class:`TrainingError` for shapes that do not belong together and for numbers that are not finite,
    :class:`ConfigError` for a class without a clustering configuration.
    """
    names = tuple(configs) if classes is None else tuple(classes)
    _check(cov, bbox, names)
    all_boxes, all_scores, categories = [np.zeros((0, 4))], [np.zeros(0)], list[str]()
    for c, name in enumerate(names):
        config = configs.get(name) or configs.get("default")
        if config is None:
            raise ConfigError(f"no clustering_config for class {name!r}; known: {', '.join(sorted(configs))}")
        rows, columns = np.nonzero(cov[c] > config.coverage_threshold)
        coverage = cov[c, rows, columns].astype(np.float64)
        boxes = decode(
            bbox[4 * c : 4 * c + 4, rows, columns],
            rows,
            columns,
            stride=stride,
            scale=scale,
            offset=offset,
            width=width,
            height=height,
        )
        model = confidence_model if isinstance(confidence_model, str) else confidence_model.get(name)
        boxes, scores = _join(boxes, coverage, config, mean=model == "mean_cov")
        all_boxes.append(boxes)
        all_scores.append(scores)
        categories += [name] * len(scores)
    return Detections(np.concatenate(all_boxes), np.concatenate(all_scores), categories).by_score()


def decode(
    values: npt.NDArray[np.floating],
    rows: Integers,
    columns: Integers,
    *,
    stride: float,
    scale: float,
    offset: float,
    width: float,
    height: float,
) -> Floats:
    """Cells to corners (n, 4) in pixels from values (4, n) and the cells' indices.

    The inverse of the rasteriser: with g = index * stride + offset, left = g - scale * L, right = g + scale
    * R, both within the image, and never right of left reversed.
    """
    left, top, right, bottom = np.asarray(values, dtype=np.float64) * scale
    x, y = columns * stride + offset, rows * stride + offset
    xmin, ymin = (x - left).clip(0, width), (y - top).clip(0, height)
    xmax, ymax = np.clip(x + right, xmin, width), np.clip(y + bottom, ymin, height)
    return np.stack([xmin, ymin, xmax, ymax], axis=1)


def dbscan(boxes: Floats, weights: Floats, *, eps: float, min_weight: float) -> Integers:
    """Cluster of each box, -1 for noise, by DBSCAN on the distance 1 - IoU.

    A box is core where the weights within ``eps``, its own among them, sum up to ``min_weight``. Clusters are
    numbered in the order of their first core box; a box at the border of several belongs to the first.
    Source: Ester, Kriegel, Sander, Xu, "A density-based algorithm for discovering clusters", KDD 1996, with
    weights in place of counts.
    """
    first, second = _neighbours(boxes, 1.0 - eps)
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


def _join(boxes: Floats, coverage: Floats, config: ClusteringConfig, *, mean: bool) -> tuple[Floats, Floats]:
    """Candidates of one class to boxes with their confidence."""
    if config.clustering_algorithm is ClusteringAlgorithm.NMS:
        return _suppress(boxes, coverage, config)
    member_of = dbscan(boxes, coverage, eps=config.dbscan_eps, min_weight=config.dbscan_min_samples)
    members = np.flatnonzero(member_of >= 0)
    of, weight = member_of[members], coverage[members]
    total = np.bincount(of, weight).astype(np.float64)
    confidence = total / np.bincount(of) if mean else total
    sure = confidence >= config.dbscan_confidence_threshold
    if config.clustering_algorithm is ClusteringAlgorithm.HYBRID:
        chosen = members[sure[of]]
        return _suppress(boxes[chosen], coverage[chosen], config)
    averaged = (
        np.stack([np.bincount(of, weight * boxes[members, i]) for i in range(4)], axis=1) / total[:, None]
    )
    keep = sure & (averaged[:, 3] - averaged[:, 1] > config.minimum_bounding_box_height)
    return averaged[keep], confidence[keep]


def _suppress(boxes: Floats, coverage: Floats, config: ClusteringConfig) -> tuple[Floats, Floats]:
    # A box that is too flat to be reported must not push out one that is not.
    fit = coverage >= config.nms_confidence_threshold
    fit &= boxes[:, 3] - boxes[:, 1] > config.minimum_bounding_box_height
    boxes, coverage = boxes[fit], coverage[fit]
    kept = nms(boxes, coverage, iou=config.nms_iou_threshold)
    return boxes[kept], coverage[kept]


def _neighbours(boxes: Floats, least_iou: float) -> tuple[Integers, Integers]:
    """All ordered pairs whose IoU is at least ``least_iou``; each box is its own neighbour.

    IoU cannot pass the ratio of the two areas, so only boxes of like area are compared, a block of rows at
    a time.
    """
    order = np.argsort((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable")
    ordered = boxes[order]
    area = (ordered[:, 2] - ordered[:, 0]) * (ordered[:, 3] - ordered[:, 1])
    largest = area / least_iou if least_iou > 0 else np.full(len(area), np.inf)
    # A rounding error in the bound must not lose a pair; the exact test follows.
    end = np.searchsorted(area, largest * (1 + 1e-9), side="right")
    pairs = [(np.arange(len(boxes)),) * 2]
    rows = max(1, _PAIRS_AT_ONCE // max(len(boxes), 1))
    for start in range(0, len(boxes), rows):
        block = ordered[start : start + rows]
        like = ordered[start : end[start + len(block) - 1]]
        i, j = np.nonzero(np.triu(box_iou(block, like) >= least_iou, k=1))
        i, j = order[start + i], order[start + j]
        pairs += [(i, j), (j, i)]
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return first, second


def _check(cov: npt.NDArray[np.floating], bbox: npt.NDArray[np.floating], names: tuple[str, ...]) -> None:
    if cov.ndim != 3 or cov.shape[0] != len(names) or bbox.shape != (4 * len(names), *cov.shape[1:]):
        raise TrainingError(
            f"coverage has shape {cov.shape} and bbox {bbox.shape}; expected ({len(names)}, h, w) and "
            f"({4 * len(names)}, h, w) for the classes {', '.join(names)}"
        )
    if not (np.isfinite(cov).all() and np.isfinite(bbox).all()):
        raise TrainingError(
            "the network's output holds numbers that are not finite; look at the loss: its training diverged"
        )
