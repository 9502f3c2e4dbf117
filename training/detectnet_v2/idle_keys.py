"""Keys of a spec that are understood and, beside its other keys, change nothing: they are named."""

from __future__ import annotations

from collections.abc import Iterable

from training.detectnet_v2.rasterise import EVERYTHING
from training.detectnet_v2.spec import STRIDE, DataloaderMode, ModelConfig, SamplingMode, TrainSpec
from training.detectnet_v2.spec_jobs import InferenceSpec, TensorrtConfig

_WITH_CHOICES = ("resnet", "vgg")


def idle_keys(spec: TrainSpec) -> dict[str, str]:
    """Key paths of a training spec to the reason why each has no effect."""
    idle = _model(spec.model_config)
    classes, with_default = set(spec.classes), {*spec.classes, "default"}
    drawn, measured = spec.bbox_rasterizer_config.target_class_config, spec.evaluation_config
    clustered = spec.postprocessing_config.target_class_config
    shown = spec.training_config.visualizer.target_class_config
    overlaps = measured.minimum_detection_ground_truth_overlap
    idle |= _others("bbox_rasterizer_config.target_class_config", drawn, with_default)
    idle |= _others("postprocessing_config.target_class_config", clustered, with_default)
    idle |= _others("evaluation_config.minimum_detection_ground_truth_overlap", overlaps, classes)
    idle |= _others("evaluation_config.evaluation_box_config", measured.evaluation_box_config, classes)
    idle |= _others("training_config.visualizer.target_class_config", shown, classes)
    return idle | _training(spec) | _data(spec)


def idle_inference_keys(spec: InferenceSpec) -> dict[str, str]:
    """The same for the spec of ``inference``."""
    config, handlers = spec.inferencer_config, spec.bbox_handler_config
    idle = {}
    if config.stride != STRIDE:
        idle["inferencer_config.stride"] = f"the networks have {STRIDE}"
    if config.tensorrt_config is not None:
        unset = TensorrtConfig()
        reasons = {
            "uff_model": "a format of the past",
            "caffemodel": "a format of the past",
            "prototxt": "a format of the past",
            "backend_data_type": "the model's file says it",
            "save_engine": "export --engine_file makes engines",
            "calibrator_config": "export --data_type int8 calibrates",
        }
        for key, reason in reasons.items():
            if getattr(config.tensorrt_config, key) != getattr(unset, key):
                idle[f"inferencer_config.tensorrt_config.{key}"] = reason
    if config.target_classes:
        known = {*config.target_classes, "default"}
        where = "bbox_handler_config.classwise_bbox_handler_config"
        idle |= _others(where, handlers.classwise_bbox_handler_config, known)
    return idle


def _model(config: ModelConfig) -> dict[str, str]:
    unset = ModelConfig()
    idle = {}
    if config.num_layers != unset.num_layers and config.arch not in _WITH_CHOICES:
        idle["num_layers"] = f"{config.arch} has one depth"
    if config.all_projections and config.arch != "resnet":
        idle["all_projections"] = f"{config.arch} has no such shortcuts"
    if config.use_pooling and config.arch not in _WITH_CHOICES:
        idle["use_pooling"] = f"{config.arch} has the pooling that it has"
    if config.objective_set.cov.input or config.objective_set.bbox.input:
        idle["objective_set.*.input"] = "both heads read the last features"
    return {f"model_config.{key}": reason for key, reason in idle.items()}


def _training(spec: TrainSpec) -> dict[str, str]:
    config = spec.training_config
    idle = {}
    if config.visualizer.wandb_config is not None and not config.visualizer.enabled:
        idle["training_config.visualizer.wandb_config"] = "visualizer.enabled is false"
    annealing = config.learning_rate.early_stopping_annealing_schedule is not None
    if annealing and spec.evaluation_config.early_stopping_patience_steps:
        idle["evaluation_config.early_stopping_patience_steps"] = (
            "early_stopping_annealing_schedule has its own patience"
        )
    return idle


def _data(spec: TrainSpec) -> dict[str, str]:
    config = spec.dataset_config
    idle = {}
    if config.dataloader_mode is not DataloaderMode.MULTISOURCE:
        idle["dataset_config.dataloader_mode"] = "there is one loader"
    if config.sampling_mode is SamplingMode.PROPORTIONAL:
        idle["dataset_config.sampling_mode"] = "each sample comes once in an epoch, as with USER_DEFINED"
    for source, target in config.target_class_mapping.items():
        if target not in {*spec.classes, *EVERYTHING}:
            idle[f"dataset_config.target_class_mapping[{source}]"] = (
                f"{target} is no target class; such objects are left out"
            )
    return idle


def _others(where: str, entries: Iterable[str], known: set[str]) -> dict[str, str]:
    return {f"{where}[{name}]": "no target class" for name in entries if name not in known}
