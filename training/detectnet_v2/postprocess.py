"""From the two output grids of DetectNet_v2 to boxes.

1. A cell is a candidate where its coverage is above the threshold; its four numbers are decoded to corners.
2. DBSCAN joins candidates that overlap to clusters: one box each, the mean weighted by coverage. Or NMS keeps
   the best candidate of those that overlap. Or both, NMS among the members of clusters (hybrid).
3. What is too flat or too unsure goes.

All images and classes of a batch go through one pass: a call of numpy costs as much for one as for all.

The confidence of a cluster is the *sum* of its coverage and can pass 1; the confidence after NMS is the
coverage of one cell. A threshold for the one does not fit the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from storage.errors import ConfigError, TrainingError
from training.detectnet_v2.clusters import dbscan, nms
from training.detectnet_v2.spec import ClusteringAlgorithm, ClusteringConfig
from training.evaluation.detections import Detections, Floats
from training.evaluation.matching import Integers

ConfidenceModel = Literal["aggregate_cov", "mean_cov"]


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
) -> list[Detections]:
    """The detections in each image, best first, from cov (B, C, h, w) and bbox (B, 4C, h, w).

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
    rules = [_rules_of(name, configs) for name in names]
    # As one number is compared: in the precision of the network's output.
    least = np.array([rule.coverage_threshold for rule in rules], dtype=cov.dtype)
    image, channel, row, column = np.nonzero(cov > least[:, None, None])
    boxes = decode(
        bbox.reshape(len(cov), len(names), 4, *cov.shape[2:])[image, channel, :, row, column].T,
        row,
        column,
        stride=stride,
        scale=scale,
        offset=offset,
        width=width,
        height=height,
    )
    cells = _Cells(
        boxes=boxes,
        score=cov[image, channel, row, column].astype(np.float64),
        group=image * len(names) + channel,
    )
    mean = [
        (confidence_model if isinstance(confidence_model, str) else confidence_model.get(name)) == "mean_cov"
        for name in names
    ]
    found = _join(cells, rules, np.array(mean))
    of_image, of_class = np.divmod(found.group, len(names))
    order = np.lexsort((found.group, -found.score, of_image))
    ends = np.searchsorted(of_image[order], np.arange(len(cov) + 1))
    labels = [names[number] for number in of_class[order].tolist()]
    boxes, scores = found.boxes[order], found.score[order]
    return [
        Detections(boxes[start:end], scores[start:end], labels[start:end])
        for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]


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


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """Boxes (n, 4) with their score (n,) and group (n,): image times the number of classes, plus class."""

    boxes: Floats
    score: Floats
    group: Integers

    def select(self, rows: npt.NDArray[np.bool_] | Integers) -> _Cells:
        return _Cells(boxes=self.boxes[rows], score=self.score[rows], group=self.group[rows])


def _rules_of(name: str, configs: Mapping[str, ClusteringConfig]) -> ClusteringConfig:
    config = configs.get(name) or configs.get("default")
    if config is None:
        raise ConfigError(f"no clustering_config for class {name!r}; known: {', '.join(sorted(configs))}")
    return config


def _join(cells: _Cells, rules: Sequence[ClusteringConfig], mean: npt.NDArray[np.bool_]) -> _Cells:
    """Candidates to boxes with their confidence; ``rules`` and ``mean`` by class."""
    how = np.array([rule.clustering_algorithm for rule in rules])
    of_class = cells.group % len(rules)
    alone = cells.select(how[of_class] == ClusteringAlgorithm.NMS)
    joined = cells.select(how[of_class] != ClusteringAlgorithm.NMS)
    clusters, members = _clusters(joined, rules, mean)
    hybrid = how[members.group % len(rules)] == ClusteringAlgorithm.HYBRID
    found = [clusters.select(how[clusters.group % len(rules)] == ClusteringAlgorithm.DBSCAN)]
    for rest in (alone, members.select(hybrid)):
        found += [
            _suppress(rest.select(rest.group == group), rules[group % len(rules)])
            for group in np.unique(rest.group).tolist()
        ]
    return _Cells(
        boxes=np.concatenate([one.boxes for one in found]),
        score=np.concatenate([one.score for one in found]),
        group=np.concatenate([one.group for one in found]),
    )


def _clusters(
    cells: _Cells, rules: Sequence[ClusteringConfig], mean: npt.NDArray[np.bool_]
) -> tuple[_Cells, _Cells]:
    """The boxes of the clusters that are sure and high enough, and the candidates in those that are sure."""
    of_class = cells.group % len(rules)
    eps = np.array([rule.dbscan_eps for rule in rules])
    weight = np.array([rule.dbscan_min_samples for rule in rules])
    cluster_of = dbscan(
        cells.boxes, cells.score, eps=eps[of_class], min_weight=weight[of_class], groups=cells.group
    )
    members = cells.select(cluster_of >= 0)
    of = cluster_of[cluster_of >= 0]
    total = np.bincount(of, members.score).astype(np.float64)
    sides = [np.bincount(of, members.score * members.boxes[:, side]) for side in range(4)]
    boxes = np.stack(sides, axis=1) / total[:, None]
    group = np.zeros(len(total), dtype=np.int64)
    group[of] = members.group
    of_class = group % len(rules)
    confidence = np.where(mean[of_class], total / np.bincount(of), total)
    sure = confidence >= np.array([rule.dbscan_confidence_threshold for rule in rules])[of_class]
    least_height = np.array([rule.minimum_bounding_box_height for rule in rules])[of_class]
    high = boxes[:, 3] - boxes[:, 1] > least_height
    found = _Cells(boxes=boxes, score=confidence, group=group)
    return found.select(sure & high), members.select(sure[of])


def _suppress(cells: _Cells, config: ClusteringConfig) -> _Cells:
    # A box that is too flat to be reported must not push out one that is not.
    fit = cells.score >= config.nms_confidence_threshold
    fit &= cells.boxes[:, 3] - cells.boxes[:, 1] > config.minimum_bounding_box_height
    cells = cells.select(fit)
    return cells.select(nms(cells.boxes, cells.score, iou=config.nms_iou_threshold))


def _check(cov: npt.NDArray[np.floating], bbox: npt.NDArray[np.floating], names: tuple[str, ...]) -> None:
    count = len(names)
    if cov.ndim != 4 or cov.shape[1] != count or bbox.shape != (len(cov), 4 * count, *cov.shape[2:]):
        raise TrainingError(
            f"coverage has shape {cov.shape} and bbox {bbox.shape}; expected (B, {count}, h, w) and "
            f"(B, {4 * count}, h, w) for the classes {', '.join(names)}"
        )
    if not (np.isfinite(cov).all() and np.isfinite(bbox).all()):
        raise TrainingError(
            "the network's output holds numbers that are not finite; look at the loss: its training diverged"
        )
