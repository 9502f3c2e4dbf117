"""The training spec of DetectNet_v2: every key with its default, read from protobuf text.

Keys and defaults are those of the TAO documentation; ``load_spec`` reads its users' files unmodified. Where a
key is absent its documented default holds (not protobuf's zero), except that pictures are only rotated when
asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from storage.errors import ConfigError
from training.detectnet_v2.binding import bind, unbind
from training.detectnet_v2.prototext import format_text, parse
from training.detectnet_v2.spec_network import (
    BboxObjective,
    BboxRasterizerConfig,
    ClusteringAlgorithm,
    ClusteringConfig,
    CostFunctionConfig,
    CovObjective,
    FloatType,
    ModelConfig,
    Objective,
    ObjectiveSet,
    PostprocessingConfig,
    PostprocessingTarget,
    RasterizerTarget,
    TargetClass,
    TrainingPrecision,
    require,
)
from training.detectnet_v2.spec_training import (
    STRIDE,
    Adam,
    AugmentationConfig,
    AveragePrecisionMode,
    ColorAugmentation,
    CostScaling,
    DataloaderMode,
    DatasetConfig,
    DataSource,
    EarlyStoppingAnnealingSchedule,
    EvaluationBox,
    EvaluationConfig,
    LearningRate,
    Optimizer,
    Preprocessing,
    Regularizer,
    RegularizerType,
    SamplingMode,
    SoftStartAnnealingSchedule,
    SpatialAugmentation,
    TrainingConfig,
    Visualizer,
    WandbConfig,
)

__all__ = [
    "STRIDE",
    "Adam",
    "AugmentationConfig",
    "AveragePrecisionMode",
    "BboxObjective",
    "BboxRasterizerConfig",
    "ClusteringAlgorithm",
    "ClusteringConfig",
    "ColorAugmentation",
    "CostFunctionConfig",
    "CostScaling",
    "CovObjective",
    "DataSource",
    "DataloaderMode",
    "DatasetConfig",
    "EarlyStoppingAnnealingSchedule",
    "EvaluationBox",
    "EvaluationConfig",
    "FloatType",
    "LearningRate",
    "ModelConfig",
    "Objective",
    "ObjectiveSet",
    "Optimizer",
    "PostprocessingConfig",
    "PostprocessingTarget",
    "Preprocessing",
    "RasterizerTarget",
    "Regularizer",
    "RegularizerType",
    "SamplingMode",
    "SoftStartAnnealingSchedule",
    "SpatialAugmentation",
    "TargetClass",
    "TrainSpec",
    "TrainingConfig",
    "TrainingPrecision",
    "Visualizer",
    "WandbConfig",
    "default_spec",
    "load_spec",
    "log_notices",
    "parse_spec",
    "read_spec_text",
    "spec_text",
]

logger = logging.getLogger(__name__)

_MAX_SPEC_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """The whole training spec."""

    NO_MEANING: ClassVar[Mapping[str, str]] = {
        "loss_mask_label_filter": "boxes marked as ignore are masked in the cost",
        "dataset_export_config": "use dropmill dataset annotations convert",
        "enc_key": "models are not encrypted",
        "encryption_key": "models are not encrypted",
        "key": "models are not encrypted",
    }

    random_seed: int = 42
    model_config: ModelConfig = field(default_factory=ModelConfig)
    bbox_rasterizer_config: BboxRasterizerConfig = field(default_factory=BboxRasterizerConfig)
    postprocessing_config: PostprocessingConfig = field(default_factory=PostprocessingConfig)
    cost_function_config: CostFunctionConfig = field(default_factory=CostFunctionConfig)
    training_config: TrainingConfig = field(default_factory=TrainingConfig)
    augmentation_config: AugmentationConfig = field(default_factory=AugmentationConfig)
    evaluation_config: EvaluationConfig = field(default_factory=EvaluationConfig)
    dataset_config: DatasetConfig = field(default_factory=DatasetConfig)

    def __post_init__(self) -> None:
        require(
            bool(self.classes), "cost_function_config.target_classes", "absent", "one block for every class"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the network's classes, in channel order."""
        return tuple(target.name for target in self.cost_function_config.target_classes)

    @property
    def amp(self) -> bool:
        """Whether the spec asks for mixed precision."""
        precision = self.model_config.training_precision.backend_floatx
        return self.training_config.cost_scaling.enabled or precision is FloatType.FLOAT16

    def rasterizer(self, name: str) -> RasterizerTarget:
        """How class ``name`` is drawn."""
        targets = self.bbox_rasterizer_config.target_class_config
        return targets.get(name) or targets.get("default") or RasterizerTarget()


def load_spec(path: str | Path) -> TrainSpec:
    """Read a training spec; keys without a meaning here are accepted with one notice in the log.

    Raises ``PrototextError``, ``UnknownKeyError`` (naming the nearest key) or ``ConfigError``, with file and
    line.
    """
    return parse_spec(read_spec_text(Path(path)), str(path))


def parse_spec(text: str, path: str = "<spec>") -> TrainSpec:
    """``load_spec`` for a text; ``path`` is only used in messages."""
    spec, notices = bind(parse(text, path), TrainSpec, path)
    log_notices(path, notices)
    return spec


def spec_text(spec: TrainSpec) -> str:
    """The spec as text that ``parse_spec`` reads back to an equal spec."""
    return format_text(unbind(spec))


def default_spec(
    classes: Sequence[str],
    width: int,
    height: int,
    *,
    epochs: int = 80,
    batch_size: int = 16,
    max_learning_rate: float = 5e-4,
    min_learning_rate: float = 5e-6,
    validation_period: int = 10,
    num_layers: int = 18,
    amp: bool = True,
    seed: int = 42,
    class_weights: Mapping[str, float] | None = None,
    foreground_weight: float = 0.05,
) -> TrainSpec:
    """A spec for a pipeline that has no spec file: the documentation's sample values, with images resized.

    ``width`` and ``height`` of the network's input are pixels, multiples of 16. Three values differ from the
    samples because short trainings measure better with them: mixed precision, coverage and boxes of equal
    weight (1 to 10 there), and clusters of boxes that overlap by 0.7 (0.85 there). ``class_weights`` lets
    rare or small classes count for more.
    """
    weights = class_weights or {}
    objectives = (
        Objective(name="cov", initial_weight=1.0, weight_target=1.0),
        Objective(name="bbox", initial_weight=10.0, weight_target=1.0),
    )
    clustering = ClusteringConfig(dbscan_eps=0.3)
    schedule = SoftStartAnnealingSchedule(
        min_learning_rate=min_learning_rate, max_learning_rate=max_learning_rate
    )
    return TrainSpec(
        random_seed=seed,
        model_config=ModelConfig(num_layers=num_layers, use_batch_norm=True),
        bbox_rasterizer_config=BboxRasterizerConfig(
            target_class_config={name: RasterizerTarget() for name in classes}
        ),
        postprocessing_config=PostprocessingConfig(
            target_class_config={name: PostprocessingTarget(clustering_config=clustering) for name in classes}
        ),
        cost_function_config=CostFunctionConfig(
            target_classes=tuple(
                TargetClass(
                    name=name,
                    class_weight=weights.get(name, 1.0),
                    coverage_foreground_weight=foreground_weight,
                    objectives=objectives,
                )
                for name in classes
            )
        ),
        training_config=TrainingConfig(
            batch_size_per_gpu=batch_size,
            num_epochs=epochs,
            learning_rate=LearningRate(soft_start_annealing_schedule=schedule),
            regularizer=Regularizer(type=RegularizerType.L1, weight=3e-9),
            cost_scaling=CostScaling(enabled=amp),
        ),
        augmentation_config=AugmentationConfig(
            preprocessing=Preprocessing(
                output_image_width=width, output_image_height=height, enable_auto_resize=True
            )
        ),
        evaluation_config=EvaluationConfig(
            average_precision_mode=AveragePrecisionMode.INTEGRATE,
            validation_period_during_training=validation_period,
            first_validation_epoch=1,
            minimum_detection_ground_truth_overlap=dict.fromkeys(classes, 0.5),
            evaluation_box_config={
                name: EvaluationBox(minimum_height=4, minimum_width=4) for name in classes
            },
        ),
    )


def read_spec_text(path: Path) -> str:
    """The text of a spec file, or ``ConfigError``."""
    try:
        if path.stat().st_size > _MAX_SPEC_BYTES:
            raise ConfigError(
                f"{path}: more than {_MAX_SPEC_BYTES >> 20} MiB; expected a spec file", path=str(path)
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}; expected a spec in protobuf text", path=str(path)
        ) from None


def log_notices(path: str, notices: Mapping[str, str]) -> None:
    """Say once which keys were accepted without a meaning."""
    if notices:
        said = "; ".join(f"{key} ({reason})" for key, reason in notices.items())
        logger.warning("%s: accepted without effect: %s", path, said)
