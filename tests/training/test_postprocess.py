from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from defusedxml import ElementTree
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import ConfigError, TrainingError
from training.detectnet_v2.clusters import dbscan, nms
from training.detectnet_v2.postprocess import cluster
from training.detectnet_v2.rasterise import class_indices, rasterise
from training.detectnet_v2.spec import ClusteringAlgorithm, ClusteringConfig, default_spec
from training.evaluation.average_precision import evaluate
from training.evaluation.detections import Detections, Truth
from training.evaluation.matching import box_iou

GRID: dict[str, Any] = {"stride": 16, "scale": 35.0, "offset": 0.5}
ALGORITHMS = list(ClusteringAlgorithm)


def _drawn(
    boxes: Any, names: list[str], classes: tuple[str, ...], width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """What a perfect network would give: the grids that it is trained to reproduce."""
    spec = default_spec(classes, width, height)
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    drawn = rasterise(corners, class_indices(names, classes, {}), np.zeros(len(names), dtype=np.bool_), spec)
    return drawn.cov, drawn.bbox


def _found(
    cov: Any, bbox: Any, configs: dict[str, ClusteringConfig], width: int, height: int, **options: Any
) -> Detections:
    batch = cluster(cov[None], bbox[None], configs=configs, width=width, height=height, **GRID, **options)
    return batch[0]


def _cells(
    values: list[tuple[float, list[float]]], width: int = 160, height: int = 160
) -> tuple[np.ndarray, np.ndarray]:
    """One class; each value (coverage, corners) in a cell of its own, from the top left."""
    shape = (height // 16, width // 16)
    cov, bbox = np.zeros((1, *shape)), np.zeros((4, *shape))
    for i, (coverage, (xmin, ymin, xmax, ymax)) in enumerate(values):
        row, column = divmod(i, shape[1])
        x, y = column * 16 + 0.5, row * 16 + 0.5
        cov[0, row, column] = coverage
        bbox[:, row, column] = np.array([x - xmin, y - ymin, xmax - x, ymax - y]) / 35.0
    return cov, bbox


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_the_rasteriser_draws_is_found_again_to_a_thousandth_of_a_pixel(
    algorithm: ClusteringAlgorithm,
) -> None:
    boxes = [[20.5, 31.25, 95.0, 88.0], [200.0, 40.0, 318.0, 201.5], [120.0, 110.0, 170.0, 150.0]]
    names = ["RBC", "WBC", "RBC"]
    cov, bbox = _drawn(boxes, names, ("RBC", "WBC"), 320, 240)
    configs = {name: ClusteringConfig(clustering_algorithm=algorithm) for name in ("RBC", "WBC")}
    found = _found(cov, bbox, configs, 320, 240)
    rows = [int(np.abs(found.boxes - box).max(axis=1).argmin()) for box in boxes]
    assert sorted(rows) == [0, 1, 2]
    assert found.boxes[rows] == pytest.approx(np.array(boxes), abs=1e-3)
    assert found.categories[rows].tolist() == names
    assert (np.diff(found.scores) <= 0).all()


def test_a_perfect_network_finds_nearly_every_blood_cell(shared_data: Path) -> None:
    folder = shared_data / "bccd-voc"
    files = sorted(folder.rglob("*.xml"))[:80]
    if not files:
        pytest.skip(f"no data: {folder} has no XML files")
    classes = ("RBC", "WBC", "Platelets")
    configs = {name: ClusteringConfig() for name in classes}
    found, truth = {}, {}
    for file in files:
        objects = ElementTree.parse(file).findall("object")
        names = [str(item.findtext("name")) for item in objects]
        corners = [
            [float(str(item.findtext(f"bndbox/{side}"))) for side in ("xmin", "ymin", "xmax", "ymax")]
            for item in objects
        ]
        truth[file.stem] = Truth(corners, names)
        found[file.stem] = _found(*_drawn(corners, names, classes, 640, 480), configs, 640, 480)
    result = evaluate(found, truth, mode="INTEGRATE")
    assert result.map50 is not None
    assert result.map50 > 0.97
    assert sum(score.objects for score in result.categories.values()) > 900


def test_the_confidence_of_a_cluster_is_its_sum_of_coverage_or_its_mean() -> None:
    values = [
        (0.6, [10.0, 10.0, 50.0, 60.0]),
        (0.8, [11.0, 10.0, 52.0, 60.0]),
        (0.4, [10.0, 11.0, 50.0, 62.0]),
    ]
    cov, bbox = _cells(values)
    total = _found(cov, bbox, {"car": ClusteringConfig()}, 160, 160)
    assert total.scores == pytest.approx([1.8])
    weights = np.array([0.6, 0.8, 0.4])[:, None]
    expected = (np.array([box for _, box in values]) * weights).sum(axis=0) / 1.8
    assert total.boxes[0] == pytest.approx(expected)
    mean = _found(cov, bbox, {"car": ClusteringConfig()}, 160, 160, confidence_model="mean_cov")
    assert mean.scores == pytest.approx([0.6])


def test_a_lone_cell_is_an_object_where_its_coverage_reaches_the_sum_asked_for() -> None:
    cov, bbox = _cells([(0.3, [10.0, 10.0, 50.0, 60.0])])
    assert len(_found(cov, bbox, {"car": ClusteringConfig(dbscan_min_samples=0.3)}, 160, 160)) == 1
    assert len(_found(cov, bbox, {"car": ClusteringConfig(dbscan_min_samples=0.31)}, 160, 160)) == 0


def test_suppression_leaves_every_box_its_own_confidence() -> None:
    # The example that one implementation got wrong by sorting coverage and not boxes.
    boxes = [[0.0, 0.0, 30.0, 30.0], [60.0, 0.0, 90.0, 30.0], [120.0, 0.0, 150.0, 30.0]]
    cov, bbox = _cells(list(zip([0.2, 0.9, 0.5], boxes, strict=True)))
    config = ClusteringConfig(clustering_algorithm=ClusteringAlgorithm.NMS)
    found = _found(cov, bbox, {"car": config}, 160, 160)
    assert found.scores.tolist() == [0.9, 0.5, 0.2]
    assert found.boxes == pytest.approx(np.array([boxes[1], boxes[2], boxes[0]]))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_flat_boxes_are_left_out_whatever_the_algorithm(algorithm: ClusteringAlgorithm) -> None:
    cov, bbox = _cells([(0.9, [0.0, 0.0, 60.0, 19.0]), (0.5, [0.0, 0.0, 60.0, 21.0])])
    config = ClusteringConfig(
        clustering_algorithm=algorithm, minimum_bounding_box_height=20, dbscan_eps=0.01, nms_iou_threshold=0.5
    )
    found = _found(cov, bbox, {"car": config}, 160, 160)
    assert found.scores.tolist() == [0.5]


def test_hybrid_drops_noise_and_then_keeps_the_best_cell_of_each_cluster() -> None:
    near = [(0.5, [10.0, 10.0, 60.0, 60.0]), (0.7, [11.0, 10.0, 60.0, 60.0]), (0.6, [10.0, 11.0, 60.0, 60.0])]
    alone = (0.65, [100.0, 100.0, 150.0, 150.0])
    cov, bbox = _cells([*near, alone])
    config = ClusteringConfig(clustering_algorithm=ClusteringAlgorithm.HYBRID, dbscan_min_samples=1.0)
    found = _found(cov, bbox, {"car": config}, 160, 160)
    assert found.scores.tolist() == [0.7]
    assert found.boxes[0] == pytest.approx([11.0, 10.0, 60.0, 60.0])


def test_boxes_are_clipped_to_the_image_and_never_inverted() -> None:
    cov, bbox = _cells([(0.9, [-40.0, -3.0, 500.0, 300.0]), (0.9, [90.0, 20.0, 10.0, 40.0])])
    found = _found(cov, bbox, {"car": ClusteringConfig(minimum_bounding_box_height=0)}, 160, 150)
    expected = np.array([[0.0, 0.0, 160.0, 150.0], [90.0, 20.0, 90.0, 40.0]])
    assert found.boxes == pytest.approx(expected)


def test_classes_take_their_channels_in_order_and_the_default_where_they_have_no_entry() -> None:
    cov, bbox = _drawn([[32.0, 32.0, 96.0, 96.0]], ["b"], ("a", "b"), 160, 160)
    configs = {"default": ClusteringConfig(), "a": ClusteringConfig()}
    assert _found(cov, bbox, configs, 160, 160, classes=("a", "b")).categories.tolist() == ["b"]
    with pytest.raises(ConfigError, match="no clustering_config for class 'b'; known: a"):
        _found(cov, bbox, {"a": ClusteringConfig()}, 160, 160, classes=("a", "b"))


def test_no_coverage_gives_no_detection() -> None:
    for algorithm in ALGORITHMS:
        config = ClusteringConfig(clustering_algorithm=algorithm)
        assert len(_found(np.zeros((1, 4, 5)), np.ones((4, 4, 5)), {"car": config}, 80, 64)) == 0


def test_outputs_that_do_not_fit_or_are_not_numbers_are_refused() -> None:
    config = {"car": ClusteringConfig()}
    with pytest.raises(
        TrainingError, match=r"bbox \(1, 8, 4, 5\); expected \(B, 1, h, w\) and \(B, 4, h, w\)"
    ):
        _found(np.zeros((1, 4, 5)), np.zeros((8, 4, 5)), config, 80, 64)
    with pytest.raises(TrainingError, match="its training diverged"):
        _found(np.full((1, 4, 5), np.nan), np.zeros((4, 4, 5)), config, 80, 64)


def _slow_dbscan(boxes: np.ndarray, weights: np.ndarray, eps: float, min_weight: float) -> list[int]:
    """The algorithm as its paper states it: grow one cluster at a time from unvisited core points."""
    near = [[j for j in range(len(boxes)) if i == j or box_iou(boxes[[i]], boxes[[j]])[0, 0] >= 1 - eps]
            for i in range(len(boxes))]  # fmt: skip
    core = [sum(weights[j] for j in row) >= min_weight for row in near]
    label, count = [-1] * len(boxes), 0
    for seed in range(len(boxes)):
        if not core[seed] or label[seed] >= 0:
            continue
        label[seed] = count
        queue = deque([seed])
        while queue:
            for j in near[queue.popleft()]:
                if label[j] < 0:
                    label[j] = count
                    if core[j]:
                        queue.append(j)
        count += 1
    return label


_QUARTERS = st.integers(0, 4).map(lambda n: n / 4)


@settings(deadline=None, max_examples=200)
@given(
    corners=st.lists(
        st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(0, 8)] * 2, st.integers(1, 4)), max_size=24
    ),
    eps=st.sampled_from([0.0, 0.15, 0.3, 0.5, 0.8, 1.0]),
    min_weight=_QUARTERS.map(lambda n: 2 * n),
)
def test_dbscan_agrees_with_growing_clusters_one_by_one(
    corners: list[tuple[int, ...]], eps: float, min_weight: float
) -> None:
    rows = np.array(corners, dtype=np.float64).reshape(-1, 5)
    boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
    weights = rows[:, 4] / 4
    expected = _slow_dbscan(boxes, weights, eps, min_weight)
    assert dbscan(boxes, weights, eps=eps, min_weight=min_weight).tolist() == expected


def test_dbscan_on_thousands_of_cells_agrees_too() -> None:
    random = np.random.default_rng(7)
    start = random.uniform(0, 300, (1500, 2))
    boxes = np.concatenate([start, start + random.uniform(20, 60, (1500, 2))], axis=1)
    weights = random.random(1500)
    fast = dbscan(boxes, weights, eps=0.3, min_weight=1.2)
    order = random.permutation(1500)
    again = dbscan(boxes[order], weights[order], eps=0.3, min_weight=1.2)
    assert fast.max() > 50
    assert ((fast >= 0)[order] == (again >= 0)).all()
    near = box_iou(boxes, boxes) >= 0.7
    core = near @ weights >= 1.2
    linked = near & core[:, None] & core[None, :]
    assert (fast[:, None] == fast[None, :])[linked].all()
    assert ((near & core[None, :]).any(axis=1) == (fast >= 0)).all()


def test_a_batch_gives_what_its_images_give_one_by_one() -> None:
    random = np.random.default_rng(3)
    drawn = []
    for count in (5, 0, 9, 1):
        start = random.uniform(0, (220, 140), (count, 2))
        boxes = np.concatenate([start, start + random.uniform(30, 100, (count, 2))], axis=1)
        names = random.choice(["a", "b", "c"], count).tolist()
        cov, bbox = _drawn(boxes.clip(0, (320, 240) * 2), names, ("a", "b", "c"), 320, 240)
        drawn.append((cov * random.uniform(0.5, 1, cov.shape), bbox + random.normal(0, 0.03, bbox.shape)))
    configs = {
        name: ClusteringConfig(clustering_algorithm=algorithm, dbscan_eps=eps)
        for name, algorithm, eps in zip("abc", ALGORITHMS, (0.15, 0.4, 0.3), strict=True)
    }
    covs, bboxes = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
    batch = cluster(covs, bboxes, configs=configs, width=320, height=240, **GRID)
    assert sum(map(len, batch)) >= 10
    for together, (cov, bbox) in zip(batch, drawn, strict=True):
        alone = _found(cov, bbox, configs, 320, 240)
        assert together.boxes.tolist() == alone.boxes.tolist()
        assert together.scores.tolist() == alone.scores.tolist()
        assert together.categories.tolist() == alone.categories.tolist()


@settings(deadline=None)
@given(seed=st.integers(0, 999), iou=st.sampled_from([0.1, 0.3, 0.7]))
def test_suppression_keeps_apart_boxes_and_drops_only_what_a_better_one_covers(seed: int, iou: float) -> None:
    random = np.random.default_rng(seed)
    start = random.integers(0, 60, (40, 2))
    boxes = np.concatenate([start, start + random.integers(1, 40, (40, 2))], axis=1).astype(np.float64)
    scores = random.random(40)
    kept = nms(boxes, scores, iou=iou)
    overlap = box_iou(boxes, boxes)
    assert (overlap[np.ix_(kept, kept)][~np.eye(len(kept), dtype=bool)] <= iou).all()
    for row in set(range(40)) - set(kept.tolist()):
        assert any(overlap[row, better] > iou and scores[better] >= scores[row] for better in kept)


def test_a_stricter_configuration_of_one_class_leaves_the_other_alone() -> None:
    boxes = [[20.0, 20.0, 60.0, 60.0], [90.0, 90.0, 150.0, 150.0]]
    cov, bbox = _drawn(boxes, ["a", "b"], ("a", "b"), 160, 160)
    easy = ClusteringConfig()
    strict = replace(easy, dbscan_confidence_threshold=1000.0)
    assert _found(cov, bbox, {"a": easy, "b": strict}, 160, 160).categories.tolist() == ["a"]
