"""What a spec says in vain is said to its user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.detectnet_v2.idle_keys import idle_inference_keys, idle_keys
from training.detectnet_v2.rasterise import EVERY_CLASS, class_indices
from training.detectnet_v2.spec import load_spec, parse_spec
from training.detectnet_v2.spec_jobs import load_inference_spec

ANNEALING = "training_config {learning_rate {early_stopping_annealing_schedule {}}}"
CLASSES = 'cost_function_config { target_classes { name: "car" } }\n'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('model_config { arch: "googlenet" num_layers: 50 }', "model_config.num_layers"),
        ('model_config { arch: "vgg" num_layers: 16 all_projections: true }', "model_config.all_projections"),
        ('model_config { arch: "mobilenet_v2" use_pooling: true }', "model_config.use_pooling"),
        ('model_config { objective_set { cov { input: "x" } } }', "model_config.objective_set.*.input"),
        (
            'bbox_rasterizer_config {target_class_config {key: "cars"} target_class_config {key: "default"}}',
            "bbox_rasterizer_config.target_class_config[cars]",
        ),
        (
            "training_config { visualizer { wandb_config { } } }",
            "training_config.visualizer.wandb_config",
        ),
        ("dataset_config { dataloader_mode: LEGACY }", "dataset_config.dataloader_mode"),
        ("dataset_config { sampling_mode: PROPORTIONAL }", "dataset_config.sampling_mode"),
        (
            'dataset_config { target_class_mapping { key: "van" value: "cars" } }',
            "dataset_config.target_class_mapping[van]",
        ),
        (
            f"evaluation_config {{early_stopping_patience_steps: 3}} {ANNEALING}",
            "evaluation_config.early_stopping_patience_steps",
        ),
    ],
)
def test_a_key_that_changes_nothing_is_named(text: str, key: str) -> None:
    assert list(idle_keys(parse_spec(CLASSES + text))) == [key]


def test_a_spec_that_is_heard_has_no_such_key() -> None:
    mapping = 'dataset_config { target_class_mapping { key: "van" value: "car" } }'
    assert idle_keys(parse_spec(CLASSES + mapping)) == {}


def test_the_documentations_specs_name_classes_that_are_no_targets(shared_data: Path) -> None:
    specs = shared_data.parent / "specs"
    if not specs.is_dir():
        pytest.skip(f"no specs: {specs} is not a folder")
    found = idle_keys(load_spec(specs / "detectnet_v2_train.prototxt"))
    assert "evaluation_config.evaluation_box_config[person]" in found
    said = idle_inference_keys(load_inference_spec(specs / "detectnet_v2_inference.prototxt"))
    assert set(said) == {
        f"inferencer_config.tensorrt_config.{key}"
        for key in ("backend_data_type", "save_engine", "calibrator_config")
    }


def test_a_region_that_nobody_looked_at_may_be_mapped_to_itself() -> None:
    found = class_indices(["DontCare"], ["car"], {"car": "car", "dontcare": "dontcare"})
    assert np.array_equal(found, [EVERY_CLASS])
