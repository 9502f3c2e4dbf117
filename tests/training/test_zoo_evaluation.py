"""COCO's measures against published numbers, and ONNX files against their networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.errors import ConfigError, ExportError
from tests.training.zoo_samples import blocks
from training.samples import Sample, load_image
from training.zoo.checkpoint import Checkpoint, load_detector
from training.zoo.coco_eval import measure
from training.zoo.detectors import build_detector
from training.zoo.evaluate import measured
from training.zoo.export import export_detector
from training.zoo.predict import Found, find
from training.zoo.results import coco_truth, draw
from training.zoo.spec import ModelSpec, ZooSpec

_BACKENDS = ["pycocotools", "faster_coco_eval"]


@pytest.fixture(scope="module")
def val2014(shared_data: Path) -> dict[str, object]:
    folder = shared_data / "ap-reference" / "coco-val2014-100"
    return {
        name: json.loads((folder / f"instances_val2014_{file}.json").read_text())
        for name, file in (("truth", "100"), ("bbox", "fakebbox100_results"), ("segm", "fakesegm100_results"))
    }


@pytest.mark.parametrize("backend", _BACKENDS)
def test_the_published_numbers_of_cocos_example_come_out(val2014: dict[str, object], backend: str) -> None:
    pytest.importorskip(backend)
    boxes = measure(val2014["truth"], val2014["bbox"], backend=backend).metrics  # type: ignore[arg-type]
    expected = {
        "bbox_mAP": 0.505, "bbox_mAP_50": 0.697, "bbox_mAP_75": 0.573, "bbox_mAP_s": 0.586,
        "bbox_mAP_m": 0.519, "bbox_mAP_l": 0.501, "bbox_AR_1": 0.387, "bbox_AR_10": 0.594,
        "bbox_AR_100": 0.595,
    }  # fmt: skip
    assert {name: round(boxes[name], 3) for name in expected} == expected
    masks = measure(val2014["truth"], val2014["segm"], ["segm"], backend=backend).metrics  # type: ignore[arg-type]
    assert [round(masks[f"segm_{name}"], 3) for name in ("mAP", "mAP_50", "mAP_75")] == [0.320, 0.562, 0.299]


def test_both_packages_measure_every_class_and_proposal_alike(val2014: dict[str, object]) -> None:
    pytest.importorskip("faster_coco_eval")
    one, other = (
        measure(val2014["truth"], val2014["bbox"], ["bbox", "proposal", "proposal_fast"], backend=backend)  # type: ignore[arg-type]
        for backend in ("pycocotools", "faster_coco_eval")
    )
    assert one.metrics == pytest.approx(other.metrics, abs=1e-9)
    for name, values in one.classes["bbox"].items():
        assert values == pytest.approx(other.classes["bbox"][name], abs=1e-9)
    # Areas and crowds apart, the two kinds of proposal recall are the same question.
    assert one.metrics["proposal_AR@100"] == pytest.approx(one.metrics["proposal_fast_AR@100"], abs=2e-3)


def test_results_of_other_images_are_refused(val2014: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="results of the same data"):
        measure(val2014["truth"], [{"image_id": -1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}])  # type: ignore[arg-type]


def test_a_detection_in_an_ignored_region_is_neither_right_nor_wrong() -> None:
    sample = Sample(
        "a", "", 100, 100, None,
        np.array([[10.0, 10, 30, 30], [50, 50, 90, 90]]), ("car", "DontCare"), np.array([False, True]),
    )  # fmt: skip
    boxes = np.array([[10.0, 10, 30, 30], [55, 55, 75, 75], [0, 60, 20, 80]])
    found = Found(boxes, np.array([0.5, 0.9, 0.3]), np.zeros(3, np.int64))
    report = measured([(sample, found)], ["car"])
    assert report.coco.metrics["bbox_mAP"] == pytest.approx(1.0)
    assert report.voc.mean_average_precision == 1.0
    wrong = measured([(sample, Found(boxes + 5, found.scores, found.labels))], ["car"])
    assert wrong.coco.metrics["bbox_mAP"] < 0.2


def test_average_precision_of_voc_is_that_of_either_of_its_years() -> None:
    """Of two objects the better detection finds one: precision 1 up to recall 0.5."""
    boxes = np.array([[10.0, 10, 30, 30], [50, 50, 90, 90]])
    sample = Sample("a", "", 100, 100, None, boxes, ("car", "car"), np.zeros(2, bool))
    found = [(sample, Found(boxes[:1], np.array([0.9]), np.zeros(1, np.int64)))]
    assert measured(found, ["car"]).voc.mean_average_precision == pytest.approx(0.5)
    assert measured(found, ["car"], voc="SAMPLE").voc.mean_average_precision == pytest.approx(6 / 11)


def test_the_truth_of_a_folder_measures_itself_as_perfect(shared_data: Path) -> None:
    from dropmill.folder_samples import read_folder_samples
    from training.zoo.data import classes_of

    samples = read_folder_samples(shared_data / "nuts-coco-masks")[:4]
    classes = classes_of(samples)
    truth = coco_truth(samples, classes)
    results = [
        {key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for one in truth["annotations"]
    ]
    assert measure(truth, results).metrics["bbox_mAP"] == pytest.approx(1.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mask R-CNN of a few steps: enough that its scores differ."""
    from training.zoo.loop import fit
    from training.zoo.spec import DataSpec, TrainSpec

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("mask")
    spec = ZooSpec(
        model=ModelSpec(detector="mask_rcnn", backbone="mobilenet_v3_small", neck_channels=32,
                        short_side=(64,), long_side=96, anchor_sizes=(8, 16, 24, 32, 64)),
        data=DataSpec(transforms=()),
        train=TrainSpec(epochs=2, batch_size=2, optimizer="adamw", lr=1e-3, auto_scale_lr=False,
                        warmup_steps=1, clip_norm=10, tensorboard=False),
    )  # fmt: skip
    fit(spec, blocks(folder, 4), folder / "run", val=blocks(folder, 1, first=4))
    return folder


@pytest.mark.slow
def test_an_exported_detector_finds_in_onnx_runtime_what_it_finds_here(trained: Path) -> None:
    import onnxruntime

    network, checkpoint = load_detector(str(trained / "run" / "last.pt"))
    sample = blocks(trained, 1, first=4)[0]
    report = export_detector(network, checkpoint, trained / "m.onnx", load_image(sample))
    assert report.max_difference["scores"] < 1e-3
    session = onnxruntime.InferenceSession(str(trained / "m.onnx"), providers=["CPUExecutionProvider"])
    other = load_image(blocks(trained, 1, first=9)[0])
    image = other.transpose(2, 0, 1)[None].astype(np.float32) / 255
    boxes, scores, labels, masks = session.run(None, {"images": image})
    found = find(network, [other])[0]
    np.testing.assert_allclose(np.sort(scores), np.sort(found.scores), atol=1e-4)
    assert boxes.shape == (len(found), 4)
    assert set(labels.tolist()) <= {0, 1}
    assert masks.shape[1:] == (1, 64, 96)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(checkpoint.classes)
    picture = draw(other, found.above(0.0), checkpoint.classes)
    assert picture.size == (96, 64)


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["retinanet", "fcos", "ssdlite"])
def test_one_stage_finds_in_onnx_runtime_what_it_finds_here(detector: str, tmp_path: Path) -> None:
    model = ModelSpec(
        detector=detector, backbone="mobilenet_v3_small", neck_channels=64, short_side=(64,), long_side=96,
        input_size=64, score_threshold=1e-4, max_detections=20,
    )  # fmt: skip
    torch.manual_seed(0)
    network = build_detector(model, 2).eval()
    for name, weight in network.named_parameters():
        if weight.dim() > 1:
            # Heads begin with next to equal scores for everything, which would leave nothing to compare.
            torch.nn.init.kaiming_normal_(weight, nonlinearity="relu")
        elif name.endswith("bias") and "norm" not in name:
            torch.nn.init.zeros_(weight)
    checkpoint = Checkpoint(spec=ZooSpec(model=model), classes=("red", "blue"), weights=network.state_dict())
    sample = blocks(tmp_path, 1)[0]
    report = export_detector(network, checkpoint, tmp_path / "m.onnx", load_image(sample))
    assert report.checked > 2
    assert report.max_difference["scores"] < 1e-3
    assert report.max_difference["boxes"] < 0.1


def test_a_transformer_is_not_exported_and_says_where_to_go(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    spec = ZooSpec(model=ModelSpec(detector="rtdetr", backbone="resnet18", input_size=64, neck_channels=32))
    network = build_detector(spec.model, 1)
    with pytest.raises(ExportError, match="optimum"):
        export_detector(
            network, Checkpoint(spec=spec, classes=("a",), weights={}), tmp_path / "x.onnx",
            np.zeros((64, 64, 3), np.uint8),
        )  # fmt: skip
