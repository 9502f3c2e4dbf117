"""The specs of DetectNet_v2's other commands: inference and dataset_convert."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

from training.detectnet_v2.binding import bind
from training.detectnet_v2.prototext import parse
from training.detectnet_v2.spec import log_notices, read_spec_text
from training.detectnet_v2.spec_network import ClusteringConfig, require
from training.detectnet_v2.spec_training import STRIDE

T = TypeVar("T")


class Parser(enum.IntEnum):
    """What form a model for TensorRT has; all but ONNX files are formats of the past."""

    ETLT = 0
    UFF = 1
    CAFFE = 2


class BackendDataType(enum.IntEnum):
    """Precision of an engine."""

    FP32 = 0
    FP16 = 1
    INT8 = 2


@dataclass(frozen=True, kw_only=True)
class CalibratorConfig:
    """Where int8 ranges come from."""

    calibration_cache: str = ""
    calibration_tensorfile: str = ""
    n_batches: int = 10
    batch_size: int = 8


@dataclass(frozen=True, kw_only=True)
class TltConfig:
    """A trained model."""

    model: str = ""


@dataclass(frozen=True, kw_only=True)
class TensorrtConfig:
    """An engine, or what it is built from."""

    parser: Parser = Parser.ETLT
    etlt_model: str = ""
    uff_model: str = ""
    caffemodel: str = ""
    prototxt: str = ""
    backend_data_type: BackendDataType = BackendDataType.FP32
    save_engine: bool = False
    trt_engine: str = ""
    calibrator_config: CalibratorConfig | None = None


@dataclass(frozen=True, kw_only=True)
class InferencerConfig:
    """The network and its input; ``target_classes`` in the order of its channels."""

    NO_MEANING: ClassVar[Mapping[str, str]] = {
        "input_nodes": "the model names its own",
        "output_nodes": "the model names its own",
        "enc_key": "models are not encrypted",
    }

    tlt_config: TltConfig | None = None
    tensorrt_config: TensorrtConfig | None = None
    batch_size: int = 1
    image_height: int = 384
    image_width: int = 1248
    image_channels: int = 3
    gpu_index: int = 0
    target_classes: tuple[str, ...] = ()
    stride: int = STRIDE

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size", self.batch_size, "> 0")
        for name in ("image_width", "image_height"):
            size = getattr(self, name)
            require(size > 0 and size % STRIDE == 0, name, size, f"a positive multiple of {STRIDE}")
        require(self.image_channels in {1, 3}, "image_channels", self.image_channels, "1 or 3")


@dataclass(frozen=True, kw_only=True)
class BboxColor:
    """Of a drawn box, 0 to 255."""

    R: int = 0
    G: int = 255
    B: int = 0

    def __post_init__(self) -> None:
        for name in ("R", "G", "B"):
            require(0 <= getattr(self, name) <= 255, name, getattr(self, name), "0 to 255")


@dataclass(frozen=True, kw_only=True)
class ClasswiseBboxHandler:
    """How the boxes of a class are made, named (``output_map``) and drawn."""

    clustering_config: ClusteringConfig = field(default_factory=ClusteringConfig)
    confidence_model: str = "aggregate_cov"
    output_map: str = ""
    bbox_color: BboxColor = field(default_factory=BboxColor)

    def __post_init__(self) -> None:
        known = ("aggregate_cov", "mean_cov")
        require(self.confidence_model in known, "confidence_model", self.confidence_model, " or ".join(known))


@dataclass(frozen=True, kw_only=True)
class BboxHandlerConfig:
    """What is written for each image."""

    NO_MEANING: ClassVar[Mapping[str, str]] = {"wandb_config": "nothing is sent anywhere"}

    kitti_dump: bool = False
    disable_overlay: bool = True
    overlay_linewidth: int = 1
    classwise_bbox_handler_config: Mapping[str, ClasswiseBboxHandler] = field(default_factory=dict)
    postproc_classes: tuple[str, ...] = ()

    def handler(self, name: str) -> ClasswiseBboxHandler:
        """That of class ``name``: its own, else that of ``default``, else the documented defaults."""
        given = self.classwise_bbox_handler_config
        return given.get(name) or given.get("default") or ClasswiseBboxHandler()


@dataclass(frozen=True, kw_only=True)
class InferenceSpec:
    """The spec of ``inference``."""

    inferencer_config: InferencerConfig = field(default_factory=InferencerConfig)
    bbox_handler_config: BboxHandlerConfig = field(default_factory=BboxHandlerConfig)


@dataclass(frozen=True, kw_only=True)
class KittiConfig:
    """Where KITTI labels lie and how they are divided; ``val_split`` in per cent."""

    NO_MEANING: ClassVar[Mapping[str, str]] = {
        "point_clouds_dir": "point clouds are not read",
        "calibrations_dir": "calibrations are not read",
    }

    root_directory_path: str = ""
    image_dir_name: str = ""
    label_dir_name: str = ""
    kitti_sequence_to_frames_file: str = ""
    image_extension: str = ".png"
    num_partitions: int = 2
    num_shards: int = 10
    partition_mode: str = "random"
    val_split: float = 20

    def __post_init__(self) -> None:
        require(
            self.partition_mode in {"random", "sequence"},
            "partition_mode",
            self.partition_mode,
            "random or sequence",
        )
        require(0 <= self.val_split < 100, "val_split", self.val_split, "0 to below 100")
        require(self.num_partitions > 0, "num_partitions", self.num_partitions, "> 0")
        require(self.num_shards >= 0, "num_shards", self.num_shards, "0 (means 1) or more")


@dataclass(frozen=True, kw_only=True)
class CocoConfig:
    """Where COCO files lie."""

    root_directory_path: str = ""
    img_dir_names: tuple[str, ...] = ()
    annotation_files: tuple[str, ...] = ()
    num_partitions: int = 2
    num_shards: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SampleModifierConfig:
    """Which samples are taken, and how often."""

    filter_samples_containing_only: tuple[str, ...] = ()
    dominant_target_classes: tuple[str, ...] = ()
    minimum_target_class_imbalance: Mapping[str, float] = field(default_factory=dict)
    num_duplicates: int = 0
    max_training_samples: int = 0
    source_to_target_class_mapping: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetConvertSpec:
    """The spec of ``dataset_convert``."""

    NO_MEANING: ClassVar[Mapping[str, str]] = {
        "image_directory_path": "images lie below root_directory_path; training has its own"
    }

    kitti_config: KittiConfig | None = None
    coco_config: CocoConfig | None = None
    target_class_mapping: Mapping[str, str] = field(default_factory=dict)
    sample_modifier_config: SampleModifierConfig | None = None

    def __post_init__(self) -> None:
        one = (self.kitti_config is None) != (self.coco_config is None)
        require(one, "kitti_config, coco_config", "neither or both", "one of them")


def load_inference_spec(path: str | Path) -> InferenceSpec:
    """Read the spec of ``inference``; errors and notices as in ``load_spec``."""
    return _load(path, InferenceSpec)


def load_dataset_convert_spec(path: str | Path) -> DatasetConvertSpec:
    """Read the spec of ``dataset_convert``; errors and notices as in ``load_spec``."""
    return _load(path, DatasetConvertSpec)


def _load(path: str | Path, schema: type[T]) -> T:
    spec, notices = bind(parse(read_spec_text(Path(path)), str(path)), schema, str(path))
    log_notices(str(path), notices)
    return spec
