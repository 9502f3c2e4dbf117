"""The spec of a detector: every key with its default, its unit, and what it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from storage.errors import UnknownKeyError
from training.spec_file import read_spec

_OF_PYRAMIDS = ("short_side", "long_side", "anchor_sizes")
_WITHOUT_EFFECT = {
    **dict.fromkeys(("faster_rcnn", "mask_rcnn", "retinanet", "fcos"), ("input_size", "queries")),
    "ssdlite": (*_OF_PYRAMIDS, "queries"),
    **dict.fromkeys(("rtdetr", "dfine"), (*_OF_PYRAMIDS, "neck", "head", "nms_threshold")),
}
"""Keys of the model that steer nothing in a detector."""
METRICS = ("bbox", "segm", "proposal", "proposal_fast")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The network. Empty or 0: what the detector takes by itself."""

    detector: str = "faster_rcnn"
    backbone: str = "resnet50"
    """A registered name, or ``timm:<name>`` for any model of timm that gives features."""
    backbone_weights: str = ""
    """A local file of ImageNet weights, matched by name and shape, or in the order of the tensors."""
    frozen_stages: int = 0
    """Stages of the backbone that are not trained, counted from the image: 0 to 5."""
    norm: str = "frozen"
    """Batch norms of the backbone: frozen (statistics and weights stay), batch, or sync."""
    neck: str = ""
    neck_channels: int = 256
    head: str = ""
    short_side: tuple[int, ...] = (800,)
    """Pixels of the shorter side that images are resized to; of several, training draws one per sample and
    epoch, and evaluation takes the last."""
    long_side: int = 1333
    """Pixels that the longer side has at most."""
    input_size: int = 320
    """Side of the square input of ssdlite and of the transformers, in pixels."""
    anchor_sizes: tuple[int, ...] = ()
    """Side of the anchors in pixels, one for each level of the pyramid."""
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    """Per image."""
    imports: tuple[str, ...] = ()
    """Python files that register parts of your own."""
    queries: int = 300
    """Of the transformers."""

    def __post_init__(self) -> None:
        if self.norm not in {"frozen", "batch", "sync"}:
            raise ValueError(f"norm: found {self.norm!r}; expected frozen, batch or sync")
        if not 0 <= self.frozen_stages <= 5:
            raise ValueError(f"frozen_stages: found {self.frozen_stages}; expected 0 to 5")
        if not self.short_side or min(self.short_side) < 32 or self.long_side < max(self.short_side):
            raise ValueError(
                f"short_side: found {list(self.short_side)} with long_side {self.long_side}; expected 32 or "
                "more, and no more than the long side"
            )
        if self.input_size < 32 or self.neck_channels < 1 or self.max_detections < 1 or self.queries < 1:
            raise ValueError(
                "input_size, neck_channels, max_detections, queries: expected 32, 1, 1, 1 or more"
            )


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which samples, and what is done to them in training."""

    classes: tuple[str, ...] = ()
    """In this order; empty: all that have objects. Objects of other classes are left out."""
    transforms: tuple[str, ...] = ("flip",)
    filter_empty: bool = False
    """Leave out training images without objects (else they are negative samples)."""
    min_size: float = 1.0
    """Pixels: objects that are narrower or lower are ignored in training."""
    workers: int = 0
    """Processes that read pictures, of each training process."""
    val_share: float = 0.2
    """Of the training samples, where the data has no split named val."""


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """The course of a training; ``lr`` is the rate for ``base_batch`` images an update, of all processes."""

    epochs: int = 12
    batch_size: int = 2
    """Images of a step, in each process."""
    accumulate: int = 1
    """Steps whose gradients are added before the optimiser moves."""
    optimizer: str = "sgd"
    """sgd or adamw."""
    lr: float = 0.02
    base_batch: int = 16
    auto_scale_lr: bool = True
    """Take the rate in proportion to the images that one update sees."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    """Updates in which the rate grows linearly from ``warmup_factor`` of itself."""
    warmup_factor: float = 0.001
    schedule: str = "step"
    """step, cosine or constant."""
    milestones: tuple[int, ...] = (8, 11)
    """Epochs after which the rate is multiplied by ``gamma``."""
    gamma: float = 0.1
    amp: bool = False
    clip_norm: float = 0.0
    """Length that gradients are cut to; 0: as they are."""
    ema: float = 0.0
    """Share that the moving average of the weights keeps at an update, such as 0.999; 0: none."""
    seed: int = 0
    group_by_shape: bool = True
    """Put wide images with wide ones and tall with tall: less padding."""
    validate_every: int = 1
    metrics: tuple[str, ...] = ()
    """Of bbox, segm, proposal, proposal_fast; empty: bbox, and segm where the detector gives masks."""
    keep_checkpoints: int = 0
    """Checkpoints of single epochs that stay beside last and best."""
    load_from: str = ""
    """A checkpoint whose weights are taken, by name and shape; the training begins at epoch 0."""
    resume_from: str = ""
    """A checkpoint that the training goes on from: weights, optimiser, epoch. Without it, ``last.pt`` of the
    results folder, where there is one."""
    tensorboard: bool = True

    def __post_init__(self) -> None:
        if self.optimizer not in {"sgd", "adamw"}:
            raise ValueError(f"optimizer: found {self.optimizer!r}; expected sgd or adamw")
        if self.schedule not in {"step", "cosine", "constant"}:
            raise ValueError(f"schedule: found {self.schedule!r}; expected step, cosine or constant")
        for key in ("epochs", "batch_size", "accumulate", "base_batch", "validate_every"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: found {getattr(self, key)}; expected 1 or more")
        if not self.lr > 0 or not 0 <= self.ema < 1:
            raise ValueError(f"lr, ema: found {self.lr}, {self.ema}; expected above 0, and 0 to below 1")
        for metric in self.metrics:
            if metric not in METRICS:
                raise UnknownKeyError("train.metrics", metric, METRICS)


@dataclass(frozen=True, kw_only=True)
class ZooSpec:
    """All of it."""

    model: ModelSpec = field(default_factory=ModelSpec)
    data: DataSpec = field(default_factory=DataSpec)
    train: TrainSpec = field(default_factory=TrainSpec)


def without_effect(spec: ZooSpec) -> list[str]:
    """Keys that were set, and steer nothing with the spec's other keys."""
    unset = ZooSpec()
    found = [
        f"model.{key}"
        for key in _WITHOUT_EFFECT.get(spec.model.detector, ())
        if getattr(spec.model, key) != getattr(unset.model, key)
    ]
    of_schedules = {"milestones": "step", "gamma": "step"}
    found += [
        f"train.{key}"
        for key, schedule in of_schedules.items()
        if spec.train.schedule != schedule and getattr(spec.train, key) != getattr(unset.train, key)
    ]
    if spec.train.optimizer != "sgd" and spec.train.momentum != unset.train.momentum:
        found.append("train.momentum")
    return found


def load_spec(path: Path | None, overrides: Sequence[str] = (), *, detector: str = "") -> ZooSpec:
    """Read a YAML file with ``key=value`` overrides; ``detector`` wins over ``model.detector``.

    Relative paths in ``model.imports`` are from the folder of the file. Raises ``ConfigError``.
    """
    spec = read_spec(ZooSpec, path, overrides)
    base = path.parent if path is not None else Path()
    files = tuple(str((base / file).resolve()) for file in spec.model.imports)
    model = replace(spec.model, imports=files, detector=detector or spec.model.detector)
    return replace(spec, model=model)
