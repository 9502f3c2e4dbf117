"""Blocks of the training spec that say how it is trained and measured."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from training.detectnet_v2.spec_network import require

STRIDE = 16  # pixels of the network's input per cell of its output


@dataclass(frozen=True, kw_only=True)
class SoftStartAnnealingSchedule:
    """Learning rate up until ``soft_start``, down from ``annealing`` (shares of all steps), log-linear."""

    min_learning_rate: float = 5e-6
    max_learning_rate: float = 5e-4
    soft_start: float = 0.1
    annealing: float = 0.7

    def __post_init__(self) -> None:
        low, high = self.min_learning_rate, self.max_learning_rate
        require(0 < low <= high, "min_learning_rate, max_learning_rate", (low, high), "0 < min <= max")
        start, end = self.soft_start, self.annealing
        require(
            0 <= start <= end < 1, "soft_start, annealing", (start, end), "0 <= soft_start <= annealing < 1"
        )


@dataclass(frozen=True, kw_only=True)
class EarlyStoppingAnnealingSchedule:
    """Learning rate up for ``soft_start_epochs``, then level until the validation cost has not fallen in
    ``patience_steps`` validations, then down for ``annealing_epochs`` and the end.
    """

    min_learning_rate: float = 5e-6
    max_learning_rate: float = 5e-4
    soft_start_epochs: int = 0
    annealing_epochs: int = 1
    patience_steps: int = 5

    def __post_init__(self) -> None:
        low, high = self.min_learning_rate, self.max_learning_rate
        require(0 < low <= high, "min_learning_rate, max_learning_rate", (low, high), "0 < min <= max")
        require(self.soft_start_epochs >= 0, "soft_start_epochs", self.soft_start_epochs, "0 or more")
        require(self.annealing_epochs >= 0, "annealing_epochs", self.annealing_epochs, "0 or more")
        require(self.patience_steps > 0, "patience_steps", self.patience_steps, "1 or more")


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """The schedule; the one with early stopping goes first where both are given."""

    early_stopping_annealing_schedule: EarlyStoppingAnnealingSchedule | None = None
    soft_start_annealing_schedule: SoftStartAnnealingSchedule = field(
        default_factory=SoftStartAnnealingSchedule
    )


class RegularizerType(enum.IntEnum):
    """What is added to the cost for the size of the weights."""

    NO_REG = 0
    L1 = 1
    L2 = 2


@dataclass(frozen=True, kw_only=True)
class Regularizer:
    """On kernels and biases, not on batch normalisation."""

    type: RegularizerType = RegularizerType.NO_REG
    weight: float = 0.0

    def __post_init__(self) -> None:
        require(self.weight >= 0, "weight", self.weight, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam's constants."""

    epsilon: float = 1e-8
    beta1: float = 0.9
    beta2: float = 0.999

    def __post_init__(self) -> None:
        require(self.epsilon > 0, "epsilon", self.epsilon, "> 0")
        require(
            0 <= self.beta1 < 1 and 0 <= self.beta2 < 1,
            "beta1, beta2",
            (self.beta1, self.beta2),
            "0 to below 1",
        )


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Adam is the only one."""

    adam: Adam = field(default_factory=Adam)


@dataclass(frozen=True, kw_only=True)
class CostScaling:
    """Mixed precision: the cost times 2 to the power of an exponent that follows what stays finite."""

    enabled: bool = False
    initial_exponent: float = 20.0
    increment: float = 0.005
    decrement: float = 1.0


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """A run of Weights & Biases. ``WANDB_MODE=offline`` keeps it in the results folder."""

    NO_MEANING: ClassVar[Mapping[str, str]] = {
        "reinit": "a run is a process of its own",
        "sync_tensorboard": "metrics are logged themselves",
    }

    enabled: bool = True
    project: str = "dropmill"
    entity: str = ""
    name: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    save_code: bool = False


@dataclass(frozen=True, kw_only=True)
class CoverageShown:
    """From which coverage on a cell is shown."""

    coverage_threshold: float = 0.005


@dataclass(frozen=True, kw_only=True)
class Visualizer:
    """TensorBoard files, and perhaps Weights & Biases. Frequencies: scalars each so many steps, pictures each
    so many epochs.
    """

    NO_MEANING: ClassVar[Mapping[str, str]] = {"clearml_config": "ClearML reads the TensorBoard files"}

    enabled: bool = False
    num_images: int = 3
    scalar_logging_frequency: int = 10
    infrequent_logging_frequency: int = 1
    target_class_config: Mapping[str, CoverageShown] = field(default_factory=dict)
    wandb_config: WandbConfig | None = None

    def __post_init__(self) -> None:
        for name in ("scalar_logging_frequency", "infrequent_logging_frequency"):
            require(getattr(self, name) > 0, name, getattr(self, name), "1 or more")
        require(self.num_images >= 0, "num_images", self.num_images, "0 or more")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how fast, with what."""

    batch_size_per_gpu: int = 32
    num_epochs: int = 120
    learning_rate: LearningRate = field(default_factory=LearningRate)
    regularizer: Regularizer = field(default_factory=Regularizer)
    optimizer: Optimizer = field(default_factory=Optimizer)
    cost_scaling: CostScaling = field(default_factory=CostScaling)
    checkpoint_interval: int = 10
    enable_qat: bool = False
    visualizer: Visualizer = field(default_factory=Visualizer)

    def __post_init__(self) -> None:
        require(self.batch_size_per_gpu > 0, "batch_size_per_gpu", self.batch_size_per_gpu, "> 0")
        require(self.num_epochs > 0, "num_epochs", self.num_epochs, "> 0")
        require(
            self.checkpoint_interval >= 0,
            "checkpoint_interval",
            self.checkpoint_interval,
            "0 (means 10) or more",
        )


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The network's input. Without ``enable_auto_resize`` images are cropped or padded right and below.

    ``scale_width`` and ``scale_height`` are factors, 0 is off; the crop is in pixels of the scaled image.
    """

    NO_MEANING: ClassVar[Mapping[str, str]] = {
        "output_image_min": "a key of another network",
        "output_image_max": "a key of another network",
    }

    output_image_width: int = 960
    output_image_height: int = 544
    output_image_channel: int = 3
    enable_auto_resize: bool = False
    crop_left: int = 0
    crop_top: int = 0
    crop_right: int = 0
    crop_bottom: int = 0
    scale_width: float = 0.0
    scale_height: float = 0.0
    min_bbox_width: float = 1.0
    min_bbox_height: float = 1.0

    def __post_init__(self) -> None:
        for name in ("output_image_width", "output_image_height"):
            size = getattr(self, name)
            require(size > 0 and size % STRIDE == 0, name, size, f"a positive multiple of {STRIDE}")
        require(
            self.output_image_channel in {1, 3}, "output_image_channel", self.output_image_channel, "1 or 3"
        )
        require(self.scale_width >= 0 and self.scale_height >= 0, "scale", "negative", "0 (off) or a factor")
        crop = (self.crop_left, self.crop_top, self.crop_right, self.crop_bottom)
        empty = crop == (0, 0, 0, 0)
        right_way = 0 <= crop[0] < crop[2] and 0 <= crop[1] < crop[3]
        require(empty or right_way, "crop (left, top, right, bottom)", crop, "left < right and top < bottom")


@dataclass(frozen=True, kw_only=True)
class SpatialAugmentation:
    """Random geometry: translation in pixels, rotation in radians; a zoom above 1 shows more."""

    hflip_probability: float = 0.5
    vflip_probability: float = 0.0
    zoom_min: float = 1.0
    zoom_max: float = 1.0
    translate_max_x: float = 8.0
    translate_max_y: float = 8.0
    rotate_rad_max: float = 0.0
    rotate_probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("hflip_probability", "vflip_probability", "rotate_probability"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        require(
            0 < self.zoom_min <= self.zoom_max,
            "zoom_min, zoom_max",
            (self.zoom_min, self.zoom_max),
            "0 < min <= max",
        )
        for name in ("translate_max_x", "translate_max_y", "rotate_rad_max"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True)
class ColorAugmentation:
    """Random colour: hue in degrees, the others as shares."""

    color_shift_stddev: float = 0.0
    hue_rotation_max: float = 25.0
    saturation_shift_max: float = 0.2
    contrast_scale_max: float = 0.1
    contrast_center: float = 0.5

    def __post_init__(self) -> None:
        for name in ("color_shift_stddev", "hue_rotation_max", "saturation_shift_max", "contrast_scale_max"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """From image to network input."""

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    spatial_augmentation: SpatialAugmentation = field(default_factory=SpatialAugmentation)
    color_augmentation: ColorAugmentation = field(default_factory=ColorAugmentation)


class AveragePrecisionMode(enum.IntEnum):
    """SAMPLE: the mean over 11 recall points; INTEGRATE: the area under the curve; INTEGRATE_LEGACY: what TAO
    calls INTEGRATE.
    """

    SAMPLE = 0
    INTEGRATE = 1
    INTEGRATE_LEGACY = 2


@dataclass(frozen=True, kw_only=True)
class EvaluationBox:
    """Objects outside of these sizes (pixels) are left out."""

    minimum_height: float = 10
    maximum_height: float = 9999
    minimum_width: float = 10
    maximum_width: float = 9999


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """When and how average precision is measured."""

    average_precision_mode: AveragePrecisionMode = AveragePrecisionMode.SAMPLE
    validation_period_during_training: int = 10
    first_validation_epoch: int = 30
    early_stopping_patience_steps: int = 0
    """Validations without a better mean average precision after which training ends; 0 never."""
    minimum_detection_ground_truth_overlap: Mapping[str, float] = field(default_factory=dict)
    evaluation_box_config: Mapping[str, EvaluationBox] = field(default_factory=dict)

    def __post_init__(self) -> None:
        period = self.validation_period_during_training
        require(period > 0, "validation_period_during_training", period, "> 0")
        patience = self.early_stopping_patience_steps
        require(patience >= 0, "early_stopping_patience_steps", patience, "0 (never) or more")
        for name, overlap in self.minimum_detection_ground_truth_overlap.items():
            require(
                0 < overlap <= 1,
                f"minimum_detection_ground_truth_overlap[{name}]",
                overlap,
                "more than 0, at most 1",
            )


class DataloaderMode(enum.IntEnum):
    """Accepted; there is one loader."""

    MULTISOURCE = 0
    LEGACY = 1
    DEFAULT = 2


class SamplingMode(enum.IntEnum):
    """How samples of several sources are mixed in an epoch: each once, or (uniform) as many of every source.

    ``source_weight`` multiplies the cost of a source's samples in every mode.
    """

    USER_DEFINED = 0
    PROPORTIONAL = 1
    UNIFORM = 2


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where TAO's users kept their data; the pipelines read the lake instead."""

    tfrecords_path: str = ""
    image_directory_path: str = ""
    source_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Sources and the mapping from label names to target classes."""

    data_sources: tuple[DataSource, ...] = ()
    image_extension: str = ""
    target_class_mapping: Mapping[str, str] = field(default_factory=dict)
    validation_fold: int | None = None
    validation_data_source: DataSource | None = None
    dataloader_mode: DataloaderMode = DataloaderMode.MULTISOURCE
    sampling_mode: SamplingMode = SamplingMode.USER_DEFINED
