from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from storage.errors import ConfigError, UnknownKeyError
from training.detectnet_v2.spec import (
    AveragePrecisionMode,
    ClusteringAlgorithm,
    RegularizerType,
    TrainSpec,
    default_spec,
    load_spec,
    parse_spec,
    spec_text,
)
from training.detectnet_v2.spec_jobs import BackendDataType, load_dataset_convert_spec, load_inference_spec

CLASSES = 'cost_function_config { target_classes { name: "car" } }\n'


@pytest.fixture
def documented(shared_data: Path) -> TrainSpec:
    path = shared_data.parent / "specs" / "detectnet_v2_train.prototxt"
    if not path.is_file():
        pytest.skip(f"no spec file of the documentation: {path}")
    return load_spec(path)


def test_the_documentations_training_spec_loads_unmodified(documented: TrainSpec) -> None:
    assert documented.classes == ("car", "cyclist", "pedestrian")
    assert documented.model_config.all_projections
    assert documented.model_config.freeze_blocks == (0.0, 1.0)
    assert documented.postprocessing_config.clustering("car").dbscan_min_samples == 0.05
    assert documented.cost_function_config.target_classes[1].objective("bbox").weight_target == 1.0
    assert documented.training_config.regularizer.type is RegularizerType.L1
    assert documented.training_config.regularizer.weight == 3e-9
    assert documented.evaluation_config.average_precision_mode is AveragePrecisionMode.INTEGRATE
    assert documented.evaluation_config.evaluation_box_config["bicycle"].maximum_width == 9999
    assert documented.dataset_config.target_class_mapping["heavy_truck"] == "car"
    assert documented.dataset_config.validation_fold == 0


def test_a_spec_written_as_text_reads_back_equal(documented: TrainSpec) -> None:
    assert parse_spec(spec_text(documented)) == documented
    built = default_spec(["a", 'b"\\'], 320, 240, amp=True)
    assert parse_spec(spec_text(built)) == built


def test_absent_keys_have_their_documented_defaults() -> None:
    spec = parse_spec(CLASSES)
    assert spec.training_config.batch_size_per_gpu == 32
    assert spec.training_config.num_epochs == 120
    assert spec.evaluation_config.first_validation_epoch == 30
    assert spec.model_config.objective_set.bbox.scale == 35.0
    assert spec.bbox_rasterizer_config.deadzone_radius == 0.67
    assert spec.postprocessing_config.clustering("car").clustering_algorithm is ClusteringAlgorithm.DBSCAN


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_key() -> None:
    with pytest.raises(
        UnknownKeyError, match=r"s.prototxt, line 3, in training_config: .*'batch_size_per_gpu'"
    ):
        parse_spec(CLASSES + "training_config {\n batch_size_per_gpus: 4\n}", "s.prototxt")


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("random_seed: 4.5", "random_seed is '4.5'; expected a whole number"),
        ("random_seed: 1 random_seed: 2", "2 values"),
        ("random_seed { }", "block in braces"),
        ("model_config { arch: resnet }", "expected a string in quotes"),
        ("model_config { use_pooling: maybe }", "expected true or false"),
        ("model_config: 3", "expected a block"),
        ("training_config { regularizer { type: L3 } }", "one of NO_REG, L1, L2"),
        ("training_config { batch_size_per_gpu: 0 }", "batch_size_per_gpu is 0; expected > 0"),
        ("augmentation_config { preprocessing { output_image_width: 100 } }", "multiple of 16"),
        ("augmentation_config { spatial_augmentation { zoom_min: 0 } }", "0 < min <= max"),
        ("model_config { freeze_blocks: 1.5 }", "whole number from 0 on"),
        ('evaluation_config { minimum_detection_ground_truth_overlap { key: "car" value: 2 } }', "at most 1"),
        ('dataset_config { target_class_mapping { kye: "car" } }', "did you mean 'key'"),
        (
            'dataset_config {target_class_mapping {key: "a" value: "car"} target_class_mapping {key: "a"}}',
            "target_class_mapping[a] is there a second time",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(block: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=r"s\.prototxt, line 2") as caught:
        parse_spec(CLASSES + block, "s.prototxt")
    assert complaint in caught.value.message


def test_a_spec_without_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"target_classes is absent"):
        parse_spec("random_seed: 1")


def test_keys_without_a_meaning_are_accepted_with_one_notice(caplog: pytest.LogCaptureFixture) -> None:
    text = CLASSES + 'enc_key: "secret"\ntraining_config { visualizer { clearml_config { project: "p" } } }'
    with caplog.at_level(logging.WARNING):
        assert parse_spec(text) == parse_spec(CLASSES)
    assert len(caplog.records) == 1
    assert "enc_key" in caplog.text
    assert "training_config.visualizer.clearml_config" in caplog.text
    assert "secret" not in caplog.text


def test_the_default_entry_of_a_class_map_stands_for_absent_classes() -> None:
    spec = parse_spec(
        CLASSES + 'postprocessing_config { target_class_config { key: "default" '
        "value { clustering_config { dbscan_eps: 0.4 clustering_algorithm: NMS } } } }"
    )
    assert spec.postprocessing_config.clustering("car").dbscan_eps == 0.4
    assert spec.postprocessing_config.clustering("car").clustering_algorithm is ClusteringAlgorithm.NMS


def test_enums_may_be_numbers_as_protobuf_allows() -> None:
    spec = parse_spec(CLASSES + "evaluation_config { average_precision_mode: 1 }")
    assert spec.evaluation_config.average_precision_mode is AveragePrecisionMode.INTEGRATE


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spec").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_spec(tmp_path / "spec")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_spec(tmp_path / "absent")


def test_mixed_precision_is_asked_for_by_either_of_the_two_keys() -> None:
    spec = default_spec(["car"], 64, 64, amp=False)
    assert not spec.amp
    assert dataclasses.replace(
        spec,
        model_config=parse_spec(
            CLASSES + "model_config { training_precision { backend_floatx: FLOAT16 } }"
        ).model_config,
    ).amp
    assert default_spec(["car"], 64, 64, amp=True).amp


def sibling(shared_data: Path, name: str) -> Path:
    path = shared_data.parent / "specs" / name
    if not path.is_file():
        pytest.skip(f"no spec file of the documentation: {path}")
    return path


def test_the_documentations_inference_spec_loads_unmodified(shared_data: Path) -> None:
    spec = load_inference_spec(sibling(shared_data, "detectnet_v2_inference.prototxt"))
    assert spec.inferencer_config.target_classes == ("car", "cyclist", "pedestrian")
    assert spec.inferencer_config.tensorrt_config is not None
    assert spec.inferencer_config.tensorrt_config.backend_data_type is BackendDataType.INT8
    assert spec.inferencer_config.tensorrt_config.calibrator_config is not None
    assert spec.inferencer_config.tensorrt_config.calibrator_config.batch_size == 16
    assert spec.bbox_handler_config.handler("car").output_map == "car"
    assert spec.bbox_handler_config.handler("cyclist").bbox_color.R == 255


def test_the_documentations_convert_spec_loads_unmodified(shared_data: Path) -> None:
    spec = load_dataset_convert_spec(sibling(shared_data, "detectnet_v2_dataset_convert.prototxt"))
    assert spec.kitti_config is not None
    assert spec.kitti_config.image_extension == ".jpg"
    assert spec.kitti_config.val_split == 20


def test_a_convert_spec_needs_one_source(tmp_path: Path) -> None:
    (tmp_path / "s").write_text('image_directory_path: "x"')
    with pytest.raises(ConfigError, match="expected one of them"):
        load_dataset_convert_spec(tmp_path / "s")
