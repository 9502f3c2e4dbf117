from __future__ import annotations

import contextlib
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.average_precision import SizeLimits, evaluate
from training.evaluation.detections import Detections, EvaluationError, Truth

MODES: tuple[Any, ...] = ("SAMPLE", "INTEGRATE", "COCO")


def _boxes(*lefts: float) -> list[Any]:
    """Squares of 10 pixels that stand apart."""
    return [[x, 0.0, x + 10.0, 10.0] for x in lefts]


def _one_image(hits: str, objects: int) -> tuple[dict[str, Detections], dict[str, Truth]]:
    """Detections by falling score, T for one that finds the next object and F for one that finds nothing."""
    free = iter(range(objects))
    lefts = [100.0 * next(free) if hit == "T" else 100.0 * i + 50.0 for i, hit in enumerate(hits)]
    scores = [1.0 - 0.01 * i for i in range(len(hits))]
    return (
        {"a": Detections(_boxes(*lefts), scores, ["car"] * len(hits))},
        {"a": Truth(_boxes(*(100.0 * i for i in range(objects))), ["car"] * objects)},
    )


def _rows(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines() if line.strip()]


@pytest.fixture(scope="module")
def voc(shared_data: Path) -> tuple[dict[str, Detections], dict[str, Truth], dict[str, Any]]:
    folder = shared_data / "ap-reference" / "voc-map"
    if not folder.is_dir():
        pytest.skip(f"no reference: {folder} is absent")
    truth, found = {}, {}
    for file in (folder / "ground-truth").glob("*.txt"):
        rows = _rows(file)
        truth[file.stem] = Truth([[float(v) for v in row[1:]] for row in rows], [row[0] for row in rows])
        rows = _rows(folder / "detection-results" / file.name)
        boxes = [[float(v) for v in row[2:]] for row in rows]
        found[file.stem] = Detections(boxes, [float(row[1]) for row in rows], [row[0] for row in rows])
    expected = json.loads((shared_data / "expected-counts.json").read_text())["ap-reference/voc-map"]
    return found, truth, expected


@pytest.fixture(scope="module")
def coco(shared_data: Path) -> tuple[dict[str, Detections], dict[str, Truth], Any]:
    """Detections and truth as ours, and pycocotools' precision array (IoU, recall, class, area, limit)."""
    tools = pytest.importorskip("pycocotools.cocoeval")
    api = pytest.importorskip("pycocotools.coco")
    folder = shared_data / "ap-reference" / "coco-val2014-100"
    if not folder.is_dir():
        pytest.skip(f"no reference: {folder} is absent")
    with contextlib.redirect_stdout(io.StringIO()):
        labels = api.COCO(str(folder / "instances_val2014_100.json"))
        results = labels.loadRes(str(folder / "instances_val2014_fakebbox100_results.json"))
        judge = tools.COCOeval(labels, results, "bbox")
        judge.evaluate()
        judge.accumulate()
    names = {number: category["name"] for number, category in labels.cats.items()}

    def columns(rows: list[dict[str, Any]]) -> tuple[list[list[float]], list[str]]:
        corners = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
        return corners, [names[row["category_id"]] for row in rows]

    truth, found = {}, {}
    for number in labels.imgs:
        rows = labels.imgToAnns[number]
        truth[f"{number:012d}"] = Truth(*columns(rows), crowd=[row["iscrowd"] for row in rows])
        rows = results.imgToAnns[number]
        boxes, categories = columns(rows)
        found[f"{number:012d}"] = Detections(boxes, [row["score"] for row in rows], categories)
    order = [names[number] for number in judge.params.catIds]
    return found, truth, (judge.eval["precision"], order)


def test_the_voc_reference_has_its_published_ap_in_every_class(voc: Any) -> None:
    found, truth, expected = voc
    result = evaluate(found, truth, mode="INTEGRATE", inclusive=True)
    assert result.mean_average_precision == pytest.approx(expected["mAP_percent"] / 100, abs=5e-5)
    measured = {name: score.average_precision for name, score in result.categories.items()}
    assert measured == pytest.approx({k: v / 100 for k, v in expected["AP_percent"].items()}, abs=5.1e-5)
    assert sum(score.objects for score in result.categories.values()) == expected["ground_truth_boxes"]


@pytest.mark.parametrize(("iou", "index"), [(0.5, 0), (0.75, 5), (0.95, 9)])
def test_coco_mode_equals_pycocotools_in_every_class(coco: Any, iou: float, index: int) -> None:
    found, truth, (precision, order) = coco
    result = evaluate(found, truth, mode="COCO", iou=iou)
    theirs = dict(zip(order, precision[index, :, :, 0, 2].mean(axis=0), strict=True))
    assert result.categories
    for name, score in result.categories.items():
        assert score.average_precision == pytest.approx(theirs[name], abs=1e-9), name
    known = [value for value in theirs.values() if value > -1]
    assert result.mean_average_precision == pytest.approx(np.mean(known), abs=1e-9)


def test_the_protocols_differ_by_little_on_the_same_detections(coco: Any) -> None:
    found, truth, _ = coco
    sample, integrate, coco_ap = (
        evaluate(found, truth, mode=mode).mean_average_precision for mode in ("SAMPLE", "INTEGRATE", "COCO")
    )
    assert coco_ap == pytest.approx(0.6970, abs=1e-4)
    assert integrate == pytest.approx(coco_ap, abs=0.005)
    assert sample == pytest.approx(coco_ap, abs=0.01)


def test_the_three_rules_on_a_curve_worked_out_by_hand() -> None:
    # Precision at the hits: 1, 2/3, 3/4, 4/6 of 5 objects; the best at or after each: 1, 3/4, 3/4, 4/6.
    found, truth = _one_image("TFTTFT", objects=5)
    by_mode = {
        mode: evaluate(found, truth, mode=mode).mean_average_precision
        for mode in (*MODES, "INTEGRATE_LEGACY")
    }
    assert by_mode["INTEGRATE"] == pytest.approx((1 + 3 / 4 + 3 / 4 + 4 / 6) / 5)
    assert by_mode["SAMPLE"] == pytest.approx((3 * 1 + 4 * 3 / 4 + 2 * 4 / 6) / 11)
    assert by_mode["INTEGRATE_LEGACY"] == pytest.approx(0.5)
    # 21 of the 101 recalls are at most 1/5, 40 more at most 3/5, 20 more at most 4/5.
    assert by_mode["COCO"] == pytest.approx((21 + 40 * 3 / 4 + 20 * 4 / 6) / 101)


def test_three_of_ten_objects_reach_the_recall_of_three_tenths() -> None:
    found, truth = _one_image("TTT", objects=10)
    assert evaluate(found, truth).mean_average_precision == pytest.approx(4 / 11)


def test_the_legacy_rule_gives_a_perfect_detector_less_than_one() -> None:
    found, truth = _one_image("T" * 10, objects=10)
    assert evaluate(found, truth, mode="INTEGRATE_LEGACY").mean_average_precision == pytest.approx(0.9)


def test_the_operating_point_is_the_one_of_the_best_f1() -> None:
    found, truth = _one_image("TFTTFFF", objects=4)
    score = evaluate(found, truth).categories["car"]
    assert (score.true_positives, score.false_positives, score.false_negatives) == (3, 1, 1)
    assert (score.precision, score.recall, score.f1) == (3 / 4, 3 / 4, 3 / 4)
    assert score.threshold == pytest.approx(0.97)
    assert score.curve[:, 1].max() == 3 / 4


def test_a_second_detection_of_an_object_is_false() -> None:
    truth = {"a": Truth(_boxes(0.0), ["car"])}
    boxes: list[Any] = [*_boxes(0.0), [0.0, 0.0, 10.0, 9.0]]
    found = {"a": Detections(boxes, [0.5, 0.9], ["car", "car"])}
    score = evaluate(found, truth, mode="INTEGRATE").categories["car"]
    assert (score.detections, score.average_precision) == (2, 1.0)
    assert score.curve[-1].tolist() == [0.5, 1.0, 0.5]


def test_only_coco_gives_a_detection_a_second_choice() -> None:
    truth = {"a": Truth([[0, 0, 10, 10], [0, 2, 10, 12]], ["car", "car"])}
    found = {"a": Detections([[0.0, 0.0, 10.0, 10.0], [0.0, 0.5, 10.0, 10.5]], [0.9, 0.8], ["car", "car"])}
    assert evaluate(found, truth, mode="INTEGRATE").mean_average_precision == pytest.approx(0.5)
    assert evaluate(found, truth, mode="COCO").mean_average_precision == pytest.approx(1.0)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_found_of_ignored_objects_counts_neither_way(mode: Any) -> None:
    truth = {"a": Truth(_boxes(0.0, 100.0), ["car", "car"], ignore=[False, True])}
    found = {"a": Detections(_boxes(100.0, 0.0), [0.9, 0.8], ["car", "car"])}
    score = evaluate(found, truth, mode=mode).categories["car"]
    assert score.average_precision == pytest.approx(1.0)
    assert (score.objects, score.ignored_objects) == (1, 1)
    assert (score.detections, score.ignored_detections, score.false_positives) == (1, 1, 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_dontcare_region_excuses_every_class_by_the_detections_own_area(mode: Any) -> None:
    region = [200.0, 0.0, 400.0, 200.0]
    truth = {"a": Truth([*_boxes(0.0), *_boxes(50.0), region], ["car", "bus", "DontCare"])}
    small: list[Any] = [[210.0, 10.0, 220.0, 20.0], [230.0, 10.0, 240.0, 20.0], [195.0, 10.0, 215.0, 20.0]]
    found = {"a": Detections([*small, *_boxes(0.0)], [0.9, 0.8, 0.7, 0.1], ["car", "bus", "car", "car"])}
    result = evaluate(found, truth, mode=mode)
    assert set(result.categories) == {"car", "bus"}
    assert result.categories["car"].ignored_detections == 2
    assert result.categories["car"].average_precision == pytest.approx(1.0)
    assert result.categories["bus"].ignored_detections == 1


def test_a_crowd_of_one_class_does_not_excuse_another() -> None:
    truth = {"a": Truth([[0, 0, 100, 100], *_boxes(500.0)], ["bus", "car"], crowd=[True, False])}
    found = {"a": Detections(_boxes(20.0, 500.0), [0.9, 0.8], ["car", "car"])}
    assert evaluate(found, truth, mode="INTEGRATE").categories["car"].average_precision == pytest.approx(0.5)


def test_size_limits_take_out_small_objects_and_what_small_detections_claim() -> None:
    truth = {"a": Truth([[0, 0, 4, 4], [50, 0, 90, 40]], ["car", "car"])}
    found = {"a": Detections([[0, 0, 4, 4], [20, 0, 23, 3], [50, 0, 90, 40]], [0.9, 0.8, 0.7], ["car"] * 3)}
    limits = SizeLimits(minimum_width=10, minimum_height=10)
    score = evaluate(found, truth, size_limits={"car": limits}).categories["car"]
    assert (score.objects, score.detections, score.ignored_detections) == (1, 1, 2)
    assert score.average_precision == pytest.approx(1.0)


def test_a_class_without_objects_has_no_ap_and_does_not_pull_the_mean_down() -> None:
    found, truth = _one_image("TT", objects=2)
    result = evaluate(found, truth, categories=["car", "bus"])
    assert result.categories["bus"].average_precision is None
    assert result.mean_average_precision == 1.0
    assert json.loads(json.dumps(result.as_dict()))["categories"]["bus"]["average_precision"] is None


def test_nothing_to_find_and_nothing_found_has_no_mean() -> None:
    result = evaluate({}, {"a": Truth.empty()})
    assert (result.mean_average_precision, result.images) == (None, 1)
    assert evaluate({}, {}).mean_average_precision is None


def test_an_undetected_class_has_ap_zero() -> None:
    score = evaluate({}, {"a": Truth(_boxes(0.0), ["car"])}, mode="COCO").categories["car"]
    assert (score.average_precision, score.threshold, score.false_negatives) == (0.0, None, 1)


def test_thresholds_can_differ_by_class() -> None:
    truth = {"a": Truth(_boxes(0.0, 100.0), ["car", "bus"])}
    found = {"a": Detections([[0, 0, 10, 6], [100, 0, 110, 6]], [0.9, 0.9], ["car", "bus"])}
    result = evaluate(found, truth, iou={"car": 0.7, "bus": 0.5})
    assert {name: score.average_precision for name, score in result.categories.items()} == {
        "car": 0,
        "bus": 1,
    }
    with pytest.raises(EvaluationError, match=r"not measured at IoU 0\.5 but at \{'car': 0\.7\}"):
        _ = result.map50


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Detections([[0, 0, 1]], [1.0], ["a"]), r"shape \(1, 3\); expected \(1, 4\)"),
        (lambda: Detections([[0, 0, 1, float("nan")]], [1.0], ["a"]), "box 0 is .*nan"),
        (lambda: Detections(_boxes(0.0), [float("inf")], ["a"]), "1 of them not finite"),
        (lambda: Detections(_boxes(0.0), [0.1, 0.2], ["a"]), "2 scores for 1 categories"),
        (lambda: Truth(_boxes(0.0), ["a"], ignore=[True, False]), "2 values in ignore for 1 boxes"),
        (lambda: evaluate({"b": Detections.empty()}, {}), "first 'b'"),
        (lambda: evaluate({}, {}, mode="VOC"), "mode 'VOC' is unknown; expected one of SAMPLE"),  # type: ignore[arg-type]
        (lambda: evaluate({}, {"a": Truth(_boxes(0.0), ["a"])}, iou=50), "IoU threshold 50"),
        (lambda: evaluate({}, {"a": Truth(_boxes(0.0), ["a"])}, iou={"b": 0.5}), "no IoU threshold for a"),
    ],
)
def test_unusable_input_is_refused_with_what_was_found(make: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message) as caught:
        make()
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


_CLASSES = ("car", "bus")
_CORNER = st.integers(0, 60)


@st.composite
def _scenes(draw: st.DrawFn) -> tuple[dict[str, Detections], dict[str, Truth]]:
    def boxes(count: int) -> list[list[int]]:
        return [
            [x, y, x + w, y + h]
            for x, y, w, h in (
                (draw(_CORNER), draw(_CORNER), draw(st.integers(1, 30)), draw(st.integers(1, 30)))
                for _ in range(count)
            )
        ]

    found, truth = {}, {}
    for image in "abc"[: draw(st.integers(1, 3))]:
        n, m = draw(st.integers(0, 6)), draw(st.integers(0, 6))
        classes = st.sampled_from(_CLASSES)
        # Few different scores, so that many are equal.
        scores = [draw(st.sampled_from([0.1, 0.5, 0.9])) for _ in range(n)]
        found[image] = Detections(boxes(n), scores, [draw(classes) for _ in range(n)])
        ignore = [draw(st.booleans()) for _ in range(m)]
        truth[image] = Truth(boxes(m), [draw(classes) for _ in range(m)], ignore)
    return found, truth


def _shuffled(scene: tuple[Mapping[str, Detections], Mapping[str, Truth]], seed: int) -> Any:
    random = np.random.default_rng(seed)
    found, truth = scene
    images = random.permutation(sorted(truth)).tolist()
    turned = {}
    for image in images:
        rows = random.permutation(len(truth[image]))
        old = truth[image]
        turned[image] = Truth(old.boxes[rows], old.categories[rows], old.ignore[rows])
    return {
        image: found[image].select(random.permutation(len(found[image]))) for image in images[::-1]
    }, turned


@settings(deadline=None)
@given(scene=_scenes(), seed=st.integers(0, 99), mode=st.sampled_from(["SAMPLE", "INTEGRATE"]))
def test_no_order_of_images_boxes_or_objects_changes_anything(scene: Any, seed: int, mode: Any) -> None:
    assert evaluate(*_shuffled(scene, seed), mode=mode) == evaluate(*scene, mode=mode)


@settings(deadline=None)
@given(scene=_scenes(), mode=st.sampled_from(MODES), inclusive=st.booleans())
def test_ap_lies_between_zero_and_one_and_the_counts_add_up(scene: Any, mode: Any, inclusive: bool) -> None:
    found, truth = scene
    result = evaluate(found, truth, mode=mode, inclusive=inclusive, categories=_CLASSES)
    for score in result.categories.values():
        assert score.average_precision is None or 0 <= score.average_precision <= 1
        assert (score.average_precision is None) == (score.objects == 0)
        assert score.true_positives + score.false_negatives == score.objects
    total = sum(score.detections + score.ignored_detections for score in result.categories.values())
    assert total == sum(len(image) for image in found.values())


@settings(deadline=None)
@given(scene=_scenes(), mode=st.sampled_from(MODES))
def test_the_truth_itself_is_a_perfect_detection(scene: Any, mode: Any) -> None:
    _, truth = scene
    distinct = {}
    for name, image in truth.items():
        rows = np.unique(image.boxes, axis=0, return_index=True)[1]
        distinct[name] = Truth(image.boxes[rows], image.categories[rows], image.ignore[rows])
    found = {
        name: Detections(image.boxes, np.linspace(0.1, 1, len(image)), image.categories)
        for name, image in distinct.items()
    }
    result = evaluate(found, distinct, mode=mode)
    assert all(score.average_precision == pytest.approx(1.0) for score in result.categories.values())
    assert all(score.false_positives == score.false_negatives == 0 for score in result.categories.values())
