"""Blocks of the training spec that say what the network is: model, rasteriser, clustering, cost."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from storage.errors import ConfigError


def require(holds: bool, key: str, found: object, expected: str) -> None:
    """``ConfigError`` unless ``holds``; the reader of the file adds file and line."""
    if not holds:
        raise ConfigError(f"{key} is {found}; expected {expected}", key=key, found=found, expected=expected)


class FloatType(enum.IntEnum):
    """``training_precision.backend_floatx``."""

    FLOAT32 = 0
    FLOAT16 = 1


@dataclass(frozen=True, kw_only=True)
class CovObjective:
    """The coverage head."""

    input: str = ""


@dataclass(frozen=True, kw_only=True)
class BboxObjective:
    """The box head: distances are pixels, shifted by ``offset`` and divided by ``scale``."""

    input: str = ""
    scale: float = 35.0
    offset: float = 0.5

    def __post_init__(self) -> None:
        require(self.scale > 0, "scale", self.scale, "> 0")


@dataclass(frozen=True, kw_only=True)
class ObjectiveSet:
    """The two heads."""

    cov: CovObjective = field(default_factory=CovObjective)
    bbox: BboxObjective = field(default_factory=BboxObjective)


@dataclass(frozen=True, kw_only=True)
class TrainingPrecision:
    """FLOAT16 asks for mixed precision."""

    backend_floatx: FloatType = FloatType.FLOAT32


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    NO_MEANING: ClassVar[Mapping[str, str]] = {
        "allow_loaded_model_modification": "a loaded model is never modified",
        "activation": "the activation is ReLU",
        "freeze_pretrained_layers": "use freeze_blocks",
    }

    arch: str = "resnet"
    num_layers: int = 18
    pretrained_model_file: str = ""
    all_projections: bool = False
    use_pooling: bool = False
    use_batch_norm: bool = False
    dropout_rate: float = 0.0
    load_graph: bool = False
    freeze_blocks: tuple[float, ...] = ()
    freeze_bn: bool = False
    objective_set: ObjectiveSet = field(default_factory=ObjectiveSet)
    training_precision: TrainingPrecision = field(default_factory=TrainingPrecision)

    def __post_init__(self) -> None:
        require(0.0 <= self.dropout_rate <= 1.0, "dropout_rate", self.dropout_rate, "0 to 1")
        for block in self.freeze_blocks:
            require(block == int(block) and block >= 0, "freeze_blocks", block, "a whole number from 0 on")


@dataclass(frozen=True, kw_only=True)
class RasterizerTarget:
    """How the boxes of one class are drawn into the grid; radii are shares of the half box."""

    cov_center_x: float = 0.5
    cov_center_y: float = 0.5
    cov_radius_x: float = 0.4
    cov_radius_y: float = 0.4
    bbox_min_radius: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.cov_center_x <= 1, "cov_center_x", self.cov_center_x, "0 to 1")
        require(0 <= self.cov_center_y <= 1, "cov_center_y", self.cov_center_y, "0 to 1")
        require(0 < self.cov_radius_x <= 1, "cov_radius_x", self.cov_radius_x, "more than 0, at most 1")
        require(0 < self.cov_radius_y <= 1, "cov_radius_y", self.cov_radius_y, "more than 0, at most 1")
        require(
            0 < self.bbox_min_radius <= 1, "bbox_min_radius", self.bbox_min_radius, "more than 0, at most 1"
        )


@dataclass(frozen=True, kw_only=True)
class BboxRasterizerConfig:
    """Ground truth to grid."""

    target_class_config: Mapping[str, RasterizerTarget] = field(default_factory=dict)
    deadzone_radius: float = 0.67

    def __post_init__(self) -> None:
        require(0 <= self.deadzone_radius <= 1, "deadzone_radius", self.deadzone_radius, "0 to 1")


class ClusteringAlgorithm(enum.IntEnum):
    """How overlapping candidate boxes become one detection."""

    DBSCAN = 0
    NMS = 1
    HYBRID = 2


@dataclass(frozen=True, kw_only=True)
class ClusteringConfig:
    """Grid to boxes of one class. ``dbscan_min_samples`` is a coverage sum, not a count of cells."""

    NO_MEANING: ClassVar[Mapping[str, str]] = {"neighborhood_size": "the neighbourhood is dbscan_eps"}

    coverage_threshold: float = 0.005
    dbscan_eps: float = 0.15
    dbscan_min_samples: float = 0.05
    minimum_bounding_box_height: float = 4
    clustering_algorithm: ClusteringAlgorithm = ClusteringAlgorithm.DBSCAN
    dbscan_confidence_threshold: float = 0.1
    nms_iou_threshold: float = 0.2
    nms_confidence_threshold: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.coverage_threshold <= 1, "coverage_threshold", self.coverage_threshold, "0 to 1")
        require(0 <= self.dbscan_eps <= 1, "dbscan_eps", self.dbscan_eps, "0 to 1")
        require(self.dbscan_min_samples >= 0, "dbscan_min_samples", self.dbscan_min_samples, "0 or more")
        require(
            self.minimum_bounding_box_height >= 0,
            "minimum_bounding_box_height", self.minimum_bounding_box_height, "0 or more pixels",
        )  # fmt: skip
        require(
            self.dbscan_confidence_threshold >= 0,
            "dbscan_confidence_threshold", self.dbscan_confidence_threshold, "0 or more",
        )  # fmt: skip
        require(0 <= self.nms_iou_threshold <= 1, "nms_iou_threshold", self.nms_iou_threshold, "0 to 1")
        require(
            0 <= self.nms_confidence_threshold <= 1,
            "nms_confidence_threshold",
            self.nms_confidence_threshold,
            "0 to 1",
        )


@dataclass(frozen=True, kw_only=True)
class PostprocessingTarget:
    """One class of ``postprocessing_config``."""

    NO_MEANING: ClassVar[Mapping[str, str]] = {
        "confidence_config": "confidence is the coverage of the cluster"
    }

    clustering_config: ClusteringConfig = field(default_factory=ClusteringConfig)


@dataclass(frozen=True, kw_only=True)
class PostprocessingConfig:
    """Clustering by class; the entry ``default`` stands for classes without their own."""

    target_class_config: Mapping[str, PostprocessingTarget] = field(default_factory=dict)

    def clustering(self, name: str) -> ClusteringConfig:
        """The clustering of class ``name``: its own, else that of ``default``, else defaults."""
        found = self.target_class_config.get(name) or self.target_class_config.get("default")
        return found.clustering_config if found else ClusteringConfig()


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Weights of one head of one class."""

    name: str
    initial_weight: float = 1.0
    weight_target: float = 1.0

    def __post_init__(self) -> None:
        require(self.name in {"cov", "bbox"}, "name", repr(self.name), '"cov" or "bbox"')
        require(self.initial_weight >= 0, "initial_weight", self.initial_weight, "0 or more")
        require(self.weight_target >= 0, "weight_target", self.weight_target, "0 or more")


@dataclass(frozen=True, kw_only=True)
class TargetClass:
    """A class that the network learns; their order is the order of the heads' channels."""

    name: str
    class_weight: float = 1.0
    coverage_foreground_weight: float = 0.05
    objectives: tuple[Objective, ...] = (
        Objective(name="cov", initial_weight=1.0, weight_target=1.0),
        Objective(name="bbox", initial_weight=10.0, weight_target=10.0),
    )

    def __post_init__(self) -> None:
        require(self.class_weight > 0, "class_weight", self.class_weight, "> 0")
        share = self.coverage_foreground_weight
        require(0 < share < 1, "coverage_foreground_weight", share, "between 0 and 1")
        require(
            sorted(o.name for o in self.objectives) == ["bbox", "cov"],
            "objectives", [o.name for o in self.objectives], "one cov and one bbox",
        )  # fmt: skip

    def objective(self, name: str) -> Objective:
        """The objective ``cov`` or ``bbox``."""
        return next(objective for objective in self.objectives if objective.name == name)


@dataclass(frozen=True, kw_only=True)
class CostFunctionConfig:
    """What is minimised."""

    target_classes: tuple[TargetClass, ...] = ()
    enable_autoweighting: bool = True
    max_objective_weight: float = 0.9999
    min_objective_weight: float = 0.0001

    def __post_init__(self) -> None:
        names = [target.name for target in self.target_classes]
        require(len(set(names)) == len(names), "target_classes", names, "each name once")
        low, high = self.min_objective_weight, self.max_objective_weight
        require(
            0 <= low <= high <= 1,
            "min_objective_weight, max_objective_weight",
            (low, high),
            "0 <= min <= max <= 1",
        )
