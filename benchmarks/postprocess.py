"""Clusters of 1,000 images: ours beside scikit-learn's DBSCAN, called for each class of each image."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from sklearn.cluster import DBSCAN

from benchmarks.record import record
from training.detectnet_v2.postprocess import cluster, decode
from training.detectnet_v2.rasterise import rasterise
from training.detectnet_v2.spec import ClusteringConfig, default_spec
from training.evaluation.matching import box_iou

CLASSES = ("car", "cyclist", "pedestrian")
WIDTH, HEIGHT, IMAGES, BATCH = 960, 544, 1000, 16
CONFIG = ClusteringConfig(coverage_threshold=0.05, dbscan_eps=0.3, dbscan_min_samples=0.05)
Outputs = list[tuple[np.ndarray, np.ndarray]]


def main() -> None:
    """Measure both on the same outputs, check that they agree, and print."""
    images = _outputs()
    configs = dict.fromkeys(CLASSES, CONFIG)
    place = {"stride": 16, "scale": 35.0, "offset": 0.5, "width": WIDTH, "height": HEIGHT}

    def ours() -> list[int]:
        found = []
        for start in range(0, IMAGES, BATCH):
            covs, bboxes = (np.stack(grids) for grids in zip(*images[start : start + BATCH], strict=True))
            found += [len(one) for one in cluster(covs, bboxes, configs=configs, **place)]
        return found

    def peer() -> list[int]:
        return [sum(_with_sklearn(cov[c], bbox[4 * c : 4 * c + 4]) for c in range(3)) for cov, bbox in images]

    found, seconds = _timed(ours, 3)
    expected, peer_seconds = _timed(peer, 1)
    assert found == expected, "the two disagree about the number of clusters"
    rows = [
        {"what": "dropmill", "seconds": round(seconds, 2), "images/s": round(IMAGES / seconds), "ratio": 1.0},
        {
            "what": "scikit-learn DBSCAN by class and image",
            "seconds": round(peer_seconds, 2),
            "images/s": round(IMAGES / peer_seconds),
            "ratio": round(peer_seconds / seconds, 1),
        },
    ]
    cells = sum(int((cov > CONFIG.coverage_threshold).sum()) for cov, _ in images)
    record(
        "postprocess",
        rows,
        packages=["numpy", "scikit-learn"],
        notes={
            "images": IMAGES,
            "batch": BATCH,
            "input": [WIDTH, HEIGHT],
            "candidate_cells": cells,
            "detections": sum(found),
        },
    )


def _with_sklearn(cov: np.ndarray, bbox: np.ndarray) -> int:
    rows, columns = np.nonzero(cov > CONFIG.coverage_threshold)
    if not len(rows):
        return 0
    boxes = decode(
        bbox[:, rows, columns], rows, columns, stride=16, scale=35.0, offset=0.5, width=WIDTH, height=HEIGHT
    )
    weight = cov[rows, columns].astype(np.float64)
    distance = np.clip(1 - box_iou(boxes, boxes), 0, None)
    np.fill_diagonal(distance, 0)  # a box without area is its own neighbour as well
    # scikit-learn wants a whole number there, so the weights are in units of the spec's.
    labels = DBSCAN(eps=CONFIG.dbscan_eps, min_samples=1, metric="precomputed").fit_predict(
        distance, sample_weight=weight / CONFIG.dbscan_min_samples
    )
    kept = 0
    for label in set(labels) - {-1}:
        own = labels == label
        box = np.average(boxes[own], axis=0, weights=weight[own])
        high = box[3] - box[1] > CONFIG.minimum_bounding_box_height
        kept += bool(high and weight[own].sum() >= CONFIG.dbscan_confidence_threshold)
    return kept


def _outputs() -> Outputs:
    """What a trained network says: rasterised boxes, blurred by noise, and some false coverage."""
    random = np.random.default_rng(0)
    spec = default_spec(CLASSES, WIDTH, HEIGHT)
    found = []
    for _ in range(IMAGES):
        count = int(random.integers(3, 16))
        low = random.uniform((0, 0), (WIDTH - 60, HEIGHT - 60), (count, 2))
        size = random.uniform(40, 220, (count, 2))
        boxes = np.concatenate([low, np.minimum(low + size, (WIDTH, HEIGHT))], axis=1)
        targets = rasterise(boxes, random.integers(0, 3, count), np.zeros(count, bool), spec)
        cov = targets.cov * random.uniform(0.5, 1, targets.cov.shape) + 0.12 * (
            random.random(targets.cov.shape) > 0.995
        )
        bbox = targets.bbox + random.normal(0, 0.04, targets.bbox.shape)
        found.append((cov.astype(np.float32), bbox.astype(np.float32)))
    return found


def _timed(work: Callable[[], list[int]], times: int) -> tuple[list[int], float]:
    best, result = float("inf"), []
    for _ in range(times):
        began = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - began)
    return result, best


if __name__ == "__main__":
    main()
