from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.detectnet_v2.dataset import placement
from training.detectnet_v2.infer import detect, outputs_to_detections
from training.detectnet_v2.model import DetectNetV2, build_model
from training.detectnet_v2.rasterise import rasterise
from training.detectnet_v2.spec import TrainSpec, default_spec, parse_spec, spec_text
from training.detectnet_v2.validate import average_precision, spec_overlaps, truth_of
from training.samples import Sample

WIDTH, HEIGHT = 192, 128


def resizing(spec: TrainSpec, *, on: bool) -> TrainSpec:
    config = spec.augmentation_config
    size = replace(config.preprocessing, enable_auto_resize=on)
    return replace(spec, augmentation_config=replace(config, preprocessing=size))


@pytest.fixture
def model() -> DetectNetV2:
    torch.manual_seed(0)
    return build_model(default_spec(["a", "b"], WIDTH, HEIGHT, num_layers=10))


@pytest.mark.parametrize("resize", [True, False])
def test_detections_are_in_pixels_of_the_image(model: DetectNetV2, resize: bool) -> None:
    spec = resizing(default_spec(["a", "b"], WIDTH, HEIGHT, num_layers=10), on=resize)
    config = spec.augmentation_config.preprocessing
    size = (300, 100)
    boxes = np.array([[20.0, 10.0, 90.0, 70.0], [120.0, 30.0, 180.0, 90.0]])
    placed = placement(*size, config).forward(boxes)
    drawn = rasterise(placed, np.array([0, 1]), np.zeros(2, bool), spec)
    cov, bbox = torch.from_numpy(drawn.cov)[None], torch.from_numpy(drawn.bbox)[None]
    configs = {name: spec.postprocessing_config.clustering(name) for name in spec.classes}
    (found,) = outputs_to_detections(model, cov, bbox, [size], configs, config)
    order = np.argsort(found.categories)
    np.testing.assert_allclose(found.boxes[order], boxes, atol=1e-3)


def test_the_number_of_images_at_once_changes_nothing(model: DetectNetV2) -> None:
    spec = default_spec(["a", "b"], WIDTH, HEIGHT, num_layers=10)
    random = np.random.default_rng(0)
    shapes = [(90, 120), (200, 100), (64, 64)]
    images = [random.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    alone = list(detect(model, images, spec, batch_size=1))
    together = list(detect(model, images, spec, batch_size=3))
    assert len(alone) == 3
    for one, other, (height, width) in zip(alone, together, shapes, strict=True):
        assert len(one) == len(other)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.1)
        assert (one.boxes >= 0).all()
        assert (one.boxes <= [width, height, width, height]).all()


def test_truth_takes_the_classes_of_the_spec_and_regions_that_count_for_all() -> None:
    spec = default_spec(["car"], WIDTH, HEIGHT)
    mapping = replace(spec.dataset_config, target_class_mapping={"van": "car", "car": "car"})
    sample = Sample(
        id="s", uri="", width=10, height=10, split=None,
        boxes=np.tile([1.0, 1, 5, 5], (4, 1)), categories=("Van", "DontCare", "tram", "car"),
        ignore=np.array([False, True, False, True]),
    )  # fmt: skip
    truth = truth_of(sample, replace(spec, dataset_config=mapping))
    assert truth.categories.tolist() == ["car", "*", "car"]
    assert truth.ignore.tolist() == [False, True, True]


def test_average_precision_follows_the_specs_overlap_and_size_limits() -> None:
    from training.evaluation.detections import Detections, Truth

    spec = default_spec(["a"], WIDTH, HEIGHT)
    truth = {"s": Truth([[0, 0, 100, 100], [0, 0, 3, 3]], ["a", "a"])}
    found = {"s": Detections([[0, 0, 100, 60]], [0.9], ["a"])}
    assert average_precision(found, truth, spec).mean_average_precision == pytest.approx(1.0)
    strict = replace(
        spec,
        evaluation_config=replace(spec.evaluation_config, minimum_detection_ground_truth_overlap={"a": 0.7}),
    )
    assert spec_overlaps(strict) == {"a": 0.7}
    assert average_precision(found, truth, strict).mean_average_precision == 0.0
    assert average_precision(found, truth, strict, overlap=0.5).mean_average_precision == pytest.approx(1.0)


def test_taos_integrate_is_behind_a_key_of_the_spec() -> None:
    from training.evaluation.detections import Detections, Truth

    boxes = [[0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60], [40, 40, 60, 60]]
    truth, found = {"s": Truth(boxes, ["a"] * 4)}, {"s": Detections(boxes, [0.9, 0.8, 0.7, 0.6], ["a"] * 4)}
    text = spec_text(default_spec(["a"], WIDTH, HEIGHT))
    assert average_precision(found, truth, parse_spec(text)).mean_average_precision == pytest.approx(1.0)
    legacy = parse_spec(text.replace("mode: INTEGRATE", "mode: INTEGRATE_LEGACY"))
    assert average_precision(found, truth, legacy).mean_average_precision == pytest.approx(3 / 4)
